"""The flat registry: every decoder on every encoder, by name. The names are computed, not listed."""

from __future__ import annotations

import fnmatch
import functools
import inspect
import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from unetzoo import trained
from unetzoo.config import CONFIG_KEY, ModelConfig, pair_problem
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS, Options, options_of
from unetzoo.errors import ConfigError, WeightsError
from unetzoo.files.finding import Contents
from unetzoo.files.notes import Note
from unetzoo.model import SegmentationModel
from unetzoo.plain import plain, plain_tuple
from unetzoo.pretrained import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    fill_encoder,
    names_weights,
    pretrained_problems,
    read_pretrained,
)
from unetzoo.registry import OWN, Registry, check_name, suggest

Builder = Callable[..., SegmentationModel]
B = TypeVar("B", bound=Builder)

PRESETS: Registry[Builder] = Registry("model")
"""The names that :func:`register_model` added, and their builders."""

F = TypeVar("F", bound=Callable[..., SegmentationModel])


def _own_names_first(function: F) -> F:
    """Send the arguments as they were given, without defaults, to a user's own builder."""

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
    **options: Any,
) -> SegmentationModel:
    """Build a segmentation network by name.

    Args:
        name: one of ``list_models()``, or an alias such as "unet_resnet34". ``unetzoo.create`` also takes what
            ``from_pretrained`` does, "nuclei" or "hf-hub:owner/name", with its arguments, in evaluation mode.
        pretrained: weights of the encoder. False: none. True: torchvision's default for it. A name such as
            "IMAGENET1K_V1". A file (.pth, .pt, .pth.tar, .ckpt, .bin, .safetensors) that holds the encoder, whatever
            it is wrapped in; ``FILE::place`` for the other of two that it holds. The log says what was taken.
        in_channels: channels of the images.
        num_classes: channels of the logits; for ``task="instances"`` there is one more, of the edges of objects.
        input_policy: how pretrained weights take other channel counts than those that they are for, RGB's or the
            file's: "repeat" (cyclic copies, scaled to the same sum of channels; the default), "mean", "sum" (what a
            grey image copied to all gives; the default for 1 channel), "keep_rgb" (the first kept, the rest new).
        norm: "batch", "group", "instance", "layer" or None; "auto" is the paper's.
        conv_bias: a bias in all convolutions of decoder and plain encoder. None: only where there is no norm.
        dropout: probability of dropping an element of the deepest map in training.
        deep_supervision: heads at several depths, for ``training_outputs``.
        classification_guided: suppress classes judged absent from an image.
        task: "binary", "multiclass", "multilabel" or "instances"; None: binary for one class, otherwise multiclass.
        class_names: one name a class.
        mean, std: normalisation of images in [0, 1], per channel. None: ImageNet's with pretrained weights that are
            for 3 channels, and 3 channels, otherwise none; those of the model in a file that this package saved.
        normalisation: "fixed" by these; "image": of each image by its own mean and standard deviation. None: "fixed",
            or that of the model in such a file.
        resize: factor of the sides of images, at which ``Predictor`` shows them: 0.5, or another fraction of small
            numbers.
        **options: the encoder's and decoder's own; ``model_info(name).options`` lists them.

    Raises:
        ConfigError: lists all that is wrong with the arguments.
        WeightsError: the pretrained weights are missing, damaged or for another network.
    """
    in_channels, num_classes = plain(in_channels), plain(num_classes)
    if norm == "auto":
        pair = _pair(name)
        norm = _default_norm(*pair) if pair else "batch"
    given = mean is not None or std is not None or normalisation == "image"
    assumed = not given and pretrained is not False and in_channels == 3
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if assumed else (mean, std)
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
    }
    config = _configure(name, common, options, pretrained, input_policy)
    if pretrained is False:
        return SegmentationModel(config)
    spec = ENCODERS[config.encoder]
    contents = read_pretrained(spec, pretrained)
    model = SegmentationModel(config)
    known, done, doubtful = fill_encoder(model.encoder, spec, contents, input_policy, config.decoder)
    said = _said(contents)
    if assumed and known != 3:
        model.config = config.replace(mean=None, std=None)
    elif assumed and said is not None and normalisation in (None, said.normalisation):
        model.config = config.replace(mean=said.mean, std=said.std, normalisation=said.normalisation)
    if not names_weights(spec, pretrained):
        assumption = "those of the model in it" if said is not None else "taken as ImageNet's"
        whose = "" if given else f"; mean and std: {'none' if model.config.mean is None else assumption}"
        Note(f"{contents.path}: {done}{whose}", doubtful).log()
    return model


def _said(contents: Contents) -> ModelConfig | None:
    """Return the record of a model of this package in a file, None where there is none."""
    record = contents.text.get(CONFIG_KEY)
    try:
        return None if record is None else ModelConfig.from_json(record)
    except ConfigError as error:
        raise WeightsError(f"{contents.path}: {error}") from error


def from_config(config: ModelConfig) -> SegmentationModel:
    """Build the network that ``config`` records, with new random weights.

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


def list_models(
    pattern: str | Iterable[str] = "*", *, exclude: str | Iterable[str] = (), pretrained: bool = False
) -> list[str]:
    """Return names of the zoo in natural order (resunet18 before resunet101), for ``create``.

    Args:
        pattern: a wildcard or several, such as "unetpp_*"; an alias counts as its name. One that has "timm/" in it is
            for timm's encoders, too, which are not listed otherwise: "unet_timm/convnext*".
        exclude: a wildcard or several, of names to leave out; a whole alias counts as its name.
        pretrained: instead the names of the trained models that come with the package, for ``from_pretrained``.
    """
    known = {name: name for name in trained.names()} if pretrained else {**names(), **_of_families(pattern)}
    found = {known[name] for name in filter(_matcher(pattern), known)}
    unwanted = _matcher(exclude)
    found -= {usual for name, usual in known.items() if unwanted(usual) or name in _patterns(exclude)}
    return sorted(found, key=_natural)


def names() -> dict[str, str]:
    """Return alias or name → name, for the whole zoo."""
    usual = {name: _pair_names(*pair)[0] for name, pair in index().items()}
    return {**usual, **{name: name for name in PRESETS}}


def _of_families(patterns: str | Iterable[str]) -> dict[str, str]:
    """Return name → name of the pairs on encoders of the families that the patterns name."""
    found: dict[str, str] = {}
    for prefix, members in ENCODERS.families().items():
        wanted = [pattern for pattern in _patterns(patterns) if prefix in pattern]
        if wanted:
            fits = _matcher(wanted)
            every = (f"{decoder}_{prefix}{member}" for decoder in DECODERS for member in members())
            found |= {name: name for name in every if fits(name)}
    return found


def is_known(name: object) -> bool:
    """Return whether a text is a name or an alias, or such as those on an encoder of a family have."""
    return isinstance(name, str) and (name in names() or _of_family(name) is not None)


def resolve(name: str) -> str:
    """Return the usual name for a name or alias.

    Raises:
        ConfigError: it is unknown; suggests the nearest.
    """
    if isinstance(name, str) and (pair := _of_family(name)) is not None:
        problem = pair_problem(*pair)
        if problem is not None:
            raise ConfigError(f"{name!r} cannot be built: {problem}")
        return name
    known = names()
    if not isinstance(name, str) or name not in known:
        raise ConfigError(_unknown(name))
    return known[name]


def signature(name: str) -> dict[str, Any]:
    """Return argument → default of all that ``create`` takes for a name or alias.

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


def index() -> dict[str, tuple[str, str]]:
    """Return name or alias → decoder and encoder.

    Raises:
        ConfigError: a decoder or encoder was registered whose names are those of another pair.
    """
    found: dict[str, tuple[str, str]] = {}
    for pair in itertools.product(DECODERS, ENCODERS):
        if pair_problem(*pair) is not None:
            continue
        for name in _pair_names(*pair):
            if name in found:
                raise ConfigError(f"the model name {name!r} is taken: it stands for {found[name]} and for {pair}")
            found[name] = pair
    return found


def pair_of(name: str) -> tuple[str, str]:
    """Return the decoder and the encoder of a usual name or alias that is a pair's."""
    return _of_family(name) or index()[name]


def _pair(name: object) -> tuple[str, str] | None:
    """Return the decoder and encoder that a name or alias stands for, None where there are none."""
    return (_of_family(name) or index().get(name)) if isinstance(name, str) else None


def _of_family(name: str) -> tuple[str, str] | None:
    """Return decoder and encoder of a name whose encoder is one of a family, such as "unet_timm/convnextv2_tiny"."""
    for prefix in ENCODERS.families():
        decoder, _, member = name.partition(f"_{prefix}")
        if member and decoder in DECODERS:
            return decoder, f"{prefix}{member}"
    return None


def _pair_names(decoder: str, encoder: str) -> tuple[str, ...]:
    return ENCODERS[encoder].names(decoder)


def _shared_defaults() -> dict[str, Any]:
    parameters = inspect.signature(create).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _default_norm(decoder: str, encoder: str) -> str | None:
    """Return the paper's norm, or the encoder's first where it has another choice."""
    usual, norms = DECODERS[decoder].default_norm, ENCODERS[encoder].norms
    return usual if usual in norms else norms[0]


def _own_options(decoder: str, encoder: str, given: Mapping[str, Any]) -> tuple[Options, Options]:
    """Return the options of the encoder and of the decoder, with those ``given`` that are theirs."""
    spec, upper = ENCODERS[encoder], DECODERS[decoder]
    kinds = (spec.options, upper.Options)
    as_set = ({**upper.encoder_defaults, **given}, {**upper.defaults(spec.maps), **given})
    mine = [
        {key: value for key, value in values.items() if key in kind.__dataclass_fields__}
        for kind, values in zip(kinds, as_set, strict=True)
    ]
    return kinds[0](**mine[0]), kinds[1](**mine[1])


def _configure(
    name: str, common: Mapping[str, Any], options: Mapping[str, Any], pretrained: Any, policy: str | None
) -> ModelConfig:
    """Return the configuration of a pair, or raise one error that lists all that is wrong."""
    pair = _pair(name)
    problems = [] if pair else [_unknown(name)]
    decoder, encoder = pair or ("unet", "plain")
    encoder_options, decoder_options = _own_options(decoder, encoder, options)
    if pair:
        known = signature(name)
        unknown = [key for key in options if key not in known]
        problems += [_unknown_option(key, known) for key in unknown]
        if unknown:
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


def impossible(name: object) -> str | None:
    """Return why the pair that would have this name is not in the zoo; None where the name is no pair's."""
    for pair in itertools.product(DECODERS, ENCODERS):
        problem = pair_problem(*pair)
        if problem is not None and name in _pair_names(*pair):
            return f"{name!r} cannot be built: {problem}"
    return None


def _unknown(name: object) -> str:
    reason = impossible(name)
    if reason is not None:
        return reason
    saved = str(name).count("/") == 1 or str(name).endswith(".safetensors") or name in trained.names()
    near = suggest(str(name), names())
    fix = "; unetzoo.from_pretrained takes saved models" if saved else "" if near else OWN
    return f"unknown model {name!r}{near}{fix} (unetzoo.list_models() gives all names)"


def _unknown_option(key: str, known: Mapping[str, Any]) -> str:
    elsewhere = [
        title
        for title, kind in (
            *((spec.title, spec.options) for spec in ENCODERS.values()),
            *((decoder.title, decoder.Options) for decoder in DECODERS.values()),
        )
        if key in kind.__dataclass_fields__
    ]
    belongs = f"; it is an option of {elsewhere[0]} networks" if elsewhere else ""
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
            "create() or from_config(); a network of another form is a decoder or an encoder to register"
        )
    return model


def _matcher(patterns: str | Iterable[str]) -> Callable[[str], bool]:
    wanted = _patterns(patterns)
    return lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)


def _patterns(patterns: str | Iterable[str]) -> tuple[str, ...]:
    listed = (patterns,) if isinstance(patterns, str) else tuple(patterns) if isinstance(patterns, Iterable) else None
    if listed is None or not all(isinstance(pattern, str) for pattern in listed):
        raise ConfigError(f"{patterns!r}: a wildcard such as 'unetpp_*', or several, is needed")
    return listed


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
