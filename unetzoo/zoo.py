"""Building networks by name: every decoder on every encoder. The names are computed, not listed."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from unetzoo.config import CONFIG_KEY, ModelConfig
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS, Options, options_of
from unetzoo.errors import ConfigError, WeightsError
from unetzoo.files.finding import Contents
from unetzoo.files.notes import Note
from unetzoo.files.plain import plain, plain_tuple
from unetzoo.model import SegmentationModel
from unetzoo.naming import PRESETS, Builder, absent_encoder, meant, names, pair_of, resolve, unknown_model
from unetzoo.pretrained import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    fill_encoder,
    names_weights,
    normalisation_of,
    pretrained_problems,
    read_pretrained,
)
from unetzoo.printing import counted
from unetzoo.registry import check_name, suggest

B = TypeVar("B", bound=Builder)

F = TypeVar("F", bound=Callable[..., SegmentationModel])


def _own_names_first(function: F) -> F:
    """Pass the arguments as given, without defaults, to a user's own builder."""

    @functools.wraps(function)
    def create(name: str, **arguments: Any) -> SegmentationModel:
        return _build_custom(name, arguments) if name in PRESETS else function(name, **arguments)

    return cast(F, create)


@_own_names_first
def create(
    name: str,
    *,
    pretrained: bool | str | os.PathLike[str] = False,
    in_channels: int = 3,
    num_classes: int = 1,
    input_policy: str | None = None,
    norm: str | None = "auto",
    conv_bias: bool | None = None,
    dropout: float = 0.0,
    deep_supervision: bool = False,
    classification_guided: bool = False,
    task: str | None = None,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    normalisation: str | None = None,
    resize: float = 1.0,
    pixels: str | None = None,
    **options: Any,
) -> SegmentationModel:
    """Build a segmentation network by name.

    Args:
        name: one of ``list_models()``, or an alias such as "unet_resnet34". ``unetzoo.create`` also takes what
            ``from_pretrained`` does, "nuclei" or "hf-hub:owner/name", with its arguments, in evaluation mode.
        pretrained: weights of the encoder. False: none. True: the default weights of torchvision or timm. A name of
            such weights, as "IMAGENET1K_V1". A file (.pth, .pt, .pth.tar, .ckpt, .bin, .safetensors) that holds the
            encoder, whatever it is wrapped in; ``FILE::place`` selects the other one if it holds two. The log says
            what was taken.
        in_channels: channels of the images.
        num_classes: channels of the logits; ``task="instances"`` adds one more for the edges of objects.
        input_policy: how to adapt pretrained weights, which are for RGB or for the channels of the file, to another
            number of channels: "repeat" (cyclic copies, scaled to the same sum of channels; the default), "mean",
            "sum" (the response to a grey image copied to all channels; the default for 1 channel), "keep_rgb" (the
            first ones kept, the rest new).
        norm: "batch", "group", "instance", "layer" or None; "auto" is the paper's.
        conv_bias: a bias in all convolutions of decoder and plain encoder. None: only if there is no norm.
        dropout: probability of dropping an element of the deepest map in training.
        deep_supervision: heads at several depths, for ``training_outputs``.
        classification_guided: suppress classes judged absent from an image.
        task: "binary", "multiclass", "multilabel" or "instances"; None: binary for one class, otherwise multiclass.
        class_names: one name per class.
        mean, std: normalisation of images in [0, 1], per channel. None: ImageNet's if there are pretrained weights for
            3 channels and in_channels is 3, otherwise none; for a file that this package saved, those of its model.
        normalisation: "fixed": by mean and std; "image": each image by its own mean and standard deviation. None:
            "fixed", or that of the model in such a file.
        resize: factor by which ``Predictor`` resizes the sides of images for the network: 0.5, or another fraction of
            small numbers.
        pixels: pixel type of the training images, such as "int16", if it is to be recorded: ``Predictor`` then treats
            uint16 images of the same numbers alike. None: that of the model in such a file.
        **options: the encoder's and decoder's own; ``model_info(name).options`` lists them.

    Raises:
        ConfigError: lists all that is wrong with the arguments.
        WeightsError: the pretrained weights are missing, damaged or for another network.
    """
    in_channels, num_classes = plain(in_channels), plain(num_classes)
    pair = meant(name)
    if norm == "auto":
        norm = _default_norm(*pair) if pair else "batch"
    given = mean is not None or std is not None or normalisation == "image"
    assumed = not given and pretrained is not False and in_channels == 3
    if assumed:
        mean, std = normalisation_of(ENCODERS[pair[1]], pretrained) if pair else (IMAGENET_MEAN, IMAGENET_STD)
    common = {
        "in_channels": in_channels,
        "num_classes": num_classes,
        "norm": norm,
        "conv_bias": norm is None if conv_bias is None else conv_bias,
        "dropout": dropout,
        "deep_supervision": deep_supervision,
        "classification_guided": classification_guided,
        "task": ("binary" if num_classes == 1 else "multiclass") if task is None else task,
        "class_names": plain_tuple(class_names),
        "mean": plain_tuple(mean),
        "std": plain_tuple(std),
        "normalisation": "fixed" if normalisation is None else normalisation,
        "resize": plain(resize),
        "pixels": pixels,
    }
    config = _configure(name, common, options, pretrained, input_policy)
    if pretrained is False:
        return SegmentationModel(config)
    return _pretrained(config, pretrained, input_policy, None if given else normalisation or "")


def _pretrained(
    config: ModelConfig, pretrained: bool | str | os.PathLike[str], policy: str | None, wanted: str | None
) -> SegmentationModel:
    """Return a network whose encoder has pretrained weights.

    Args:
        config: of the network.
        pretrained, policy: as :func:`create` takes them.
        wanted: None if mean and standard deviation were given. Otherwise those of ``config`` are assumed, unless a
            file records others with this normalisation, or with any if this is empty.
    """
    spec = ENCODERS[config.encoder]
    contents = read_pretrained(spec, pretrained)
    model = SegmentationModel(config)
    known, done, doubtful = fill_encoder(model.encoder, spec, contents, policy, config.decoder)
    said = _said(contents)
    assumed = wanted is not None and config.in_channels == 3
    if assumed and known != 3:
        model.config = config.replace(mean=None, std=None)
    elif assumed and said is not None and wanted in ("", said.normalisation):
        model.config = config.replace(
            mean=said.mean, std=said.std, normalisation=said.normalisation, pixels=config.pixels or said.pixels
        )
    if not names_weights(spec, pretrained):
        seen = "ImageNet's" if config.mean == IMAGENET_MEAN else "those of published weights"
        assumption = "those of the model in it" if said is not None else f"taken as {seen}"
        whose = "" if wanted is None else f"; mean and std: {'none' if model.config.mean is None else assumption}"
        Note(f"{contents.path}: {done}{whose}", doubtful).log()
    return model


def _said(contents: Contents) -> ModelConfig | None:
    """Return the record of a model of this package in a file, None if there is none."""
    record = contents.text.get(CONFIG_KEY)
    try:
        return None if record is None else ModelConfig.from_json(record)
    except ConfigError as error:
        raise WeightsError(f"{contents.path}: {error}") from error


def from_config(config: ModelConfig) -> SegmentationModel:
    """Build the network that ``config`` describes, with new random weights.

    Raises:
        ConfigError: not a ``ModelConfig``.
    """
    if not isinstance(config, ModelConfig):
        raise ConfigError(f"a ModelConfig is needed, not {type(config).__name__}: see ModelConfig.from_dict")
    return SegmentationModel(config)


def register_model(name: str) -> Callable[[B], B]:
    """Add a name to the zoo: decorates a builder, a function of keyword arguments that returns a module.

    The name joins ``list_models``, ``create``, the command line, comparisons and torch.hub. The builder's
    signature says which arguments exist; with ``**options`` it takes any, and should pass them to ``create``.

        >>> @register_model("small_nuclei")
        ... def small_nuclei(**options):
        ...     "U-Net on a ResNet-18 that keeps resolution."
        ...     return create("resunet18", stem_stride=2, **options)

    Raises:
        ConfigError: the name is taken, or cannot be a name.
    """
    check_name("model", name)
    if name in names():
        raise ConfigError(f"the model name {name!r} is taken; choose another")

    def decorate(builder: B) -> B:
        PRESETS.register(name, builder)
        return builder

    return decorate


def signature(name: str) -> dict[str, Any]:
    """Return argument → default for all arguments that ``create`` takes for a name or alias.

    Raises:
        ConfigError: the name is unknown.
    """
    name = resolve(name)
    if name in PRESETS:
        parameters = inspect.signature(PRESETS[name]).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}
    decoder, encoder = pair_of(name)
    shared = _shared_defaults()
    shared["norm"] = _default_norm(decoder, encoder)
    if not DECODERS[decoder].supervisable:
        del shared["deep_supervision"], shared["classification_guided"]
    if ENCODERS[encoder].weights is None:
        del shared["pretrained"], shared["input_policy"]
    own = [options_of(options) for options in _own_options(decoder, encoder, {})]
    for key in {*own[0], *own[1]} & _shared_defaults().keys() | own[0].keys() & own[1].keys():
        raise ConfigError(f"{name}: {key!r} is the name of two options; rename that of your decoder or encoder")
    return {**shared, **own[0], **own[1]}


def _shared_defaults() -> dict[str, Any]:
    parameters = inspect.signature(create).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _default_norm(decoder: str, encoder: str) -> str | None:
    """Return the paper's norm, or the encoder's first norm if it does not take that."""
    upper, spec = DECODERS[decoder], ENCODERS[encoder]
    usual = upper.default_norm if spec.default_norm == "auto" else spec.default_norm
    return usual if usual in spec.norms else spec.norms[0]


def _own_options(decoder: str, encoder: str, given: Mapping[str, Any]) -> tuple[Options, Options]:
    """Return the options of the encoder and of the decoder, with those of ``given`` that are theirs."""
    spec, upper = ENCODERS[encoder], DECODERS[decoder]
    kinds = (spec.options, upper.Options)
    as_set = ({**upper.encoder_defaults, **given}, {**upper.defaults(spec.maps), **spec.decoder_defaults, **given})
    mine = [
        {key: value for key, value in values.items() if key in kind.__dataclass_fields__}
        for kind, values in zip(kinds, as_set, strict=True)
    ]
    return kinds[0](**mine[0]), kinds[1](**mine[1])


def _configure(
    name: str, common: Mapping[str, Any], options: Mapping[str, Any], pretrained: Any, policy: str | None
) -> ModelConfig:
    """Return the configuration of a pair, or raise one error that lists all that is wrong."""
    pair = meant(name)
    problems = [] if pair else [unknown_model(name)]
    decoder, encoder = pair or ("unet", "plain")
    encoder_options, decoder_options = _own_options(decoder, encoder, options)
    if pair:
        known = signature(name)
        unknown = [key for key in options if key not in known]
        answered = {key: said for key in unknown if (said := _of_smp(key, options[key], decoder)) is not None}
        problems += [answered.get(key) or _unknown_option(key, known) for key in unknown]
        if len(answered) < len(unknown):
            problems[-1] += f" (options here: {', '.join(known)})"
        problems += pretrained_problems(ENCODERS[encoder], pretrained, common["norm"], policy)
    try:
        config = ModelConfig(
            decoder=decoder,
            encoder=encoder,
            decoder_options=decoder_options,
            encoder_options=encoder_options,
            **common,
        )
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(f"cannot create {name!r}", problems)
    return config


SMP = {
    "encoder_weights": "pretrained=True here, for ImageNet's weights; the default is none",
    "classes": "num_classes=… here",
    "encoder_depth": "the number of decoder_channels=… here in smp_… networks, and levels=… in UNet++",
    "decoder_attention_type": "attention='scse' here, in smp_… networks",
    "decoder_interpolation": "upsampling=… here",
    "decoder_use_norm": "decoder_norm=… here in smp_… networks, else norm=…",
    "decoder_use_batchnorm": "decoder_norm=… here in smp_… networks, else norm=…",
    "activation": "not needed here: model(images) gives logits, model.predict(images) probabilities",
    "aux_params": "classification_guided=True here",
}
"""Argument of segmentation_models_pytorch → its counterpart here; docs/coming_from_smp.md has more."""
SMP_ENCODER = ("encoder_name", "encoder", "backbone")
"""Names of the encoder argument in smp and other packages; here the encoder is part of the name."""


def _of_smp(key: str, value: object, decoder: str) -> str | None:
    """Return the counterpart of an argument of segmentation_models_pytorch; None for other arguments."""
    if key in SMP:
        return f"{key!r} of segmentation_models_pytorch is {SMP[key]}"
    return f"{key!r}: the encoder is part of the name; {_with_encoder(value, decoder)}" if key in SMP_ENCODER else None


def _with_encoder(encoder: object, decoder: str) -> str:
    """Return the name of a decoder on the encoder that was given, or an alternative."""
    wanted = str(encoder)
    if wanted.startswith("tu-"):
        return f"give '{decoder}_timm/{wanted.removeprefix('tu-')}', which needs pip install 'unetzoo[timm]'"
    upper = (decoder, f"smp_{decoder}", "smp_unetplusplus" if decoder == "unetpp" else "")
    found = [ENCODERS[wanted].names(one)[0] for one in upper if one in DECODERS and wanted in ENCODERS]
    named = [repr(name) for name in found if meant(name)]
    if named:
        return f"give {' or, for the network of smp, '.join(named)}"
    known = "unetzoo.list_models() gives all names"
    return absent_encoder(wanted, decoder) or f"such as 'resunet34'; there is no encoder {wanted!r:.100} ({known})"


def _unknown_option(key: str, known: Mapping[str, Any]) -> str:
    elsewhere = [
        name
        for name, kind in (
            *((name, decoder.Options) for name, decoder in DECODERS.items()),
            *((spec.names("unet")[0], spec.options) for spec in ENCODERS.values()),
        )
        if key in kind.__dataclass_fields__
    ]
    more = f" and {counted(len(elsewhere) - 3, 'other')}" if len(elsewhere) > 3 else ""
    belongs = f"; it is an option of {', '.join(map(repr, elsewhere[:3]))}{more}" if elsewhere else ""
    return f"unknown option {key!r}{belongs or suggest(key, known)}"


def _build_custom(name: str, arguments: Mapping[str, Any]) -> SegmentationModel:
    builder = PRESETS[name]
    parameters = inspect.signature(builder).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        unknown = [_unknown_option(key, parameters) for key in arguments if key not in parameters]
        if unknown:
            unknown[-1] += f" (options here: {', '.join(parameters)})"
            raise ConfigError(f"cannot create {name!r}", unknown)
    model = builder(**arguments)
    if not isinstance(model, SegmentationModel):
        raise ConfigError(
            f"the builder of {name!r} returned {type(model).__name__}: a SegmentationModel is needed, from "
            "create() or from_config(); to add another kind of network, register a decoder or an encoder"
        )
    return model
