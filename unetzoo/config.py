"""The record of how a model was built: frozen, checked when it is made, and JSON-able.

It depends on encoders and decoders, whose own options it holds, and the model depends on it. Initial weights are not
part of it: a model that is reloaded never needs them.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from unetzoo.checks import (
    LARGEST,
    class_name_problems,
    class_problems,
    flag,
    one_of,
    pixel_task,
    resize_problems,
    unknown,
    whole,
)
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS, Options, options_of
from unetzoo.errors import ConfigError
from unetzoo.files import strict_json
from unetzoo.nn.layers import NORMS, ConvStyle
from unetzoo.registry import OWN, suggest

FORMAT_VERSION = 6
CONFIG_KEY = "unetzoo_config"
"""Key under which model files hold this record."""
NORMALISATIONS = ("fixed", "image")
PIXELS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64")
"""Pixel types that training images may have."""
SUGGESTED = 100
"""Number of unknown names in a record for which similar names are suggested."""


def _with_doublings(values: dict[str, Any]) -> dict[str, Any]:
    """Add what version 1 left out: the plain encoder's channels double at all levels."""
    options = values.get("encoder_options")
    if values.get("encoder") != "plain" or not isinstance(options, Mapping):
        return values
    return {**values, "encoder_options": {**options, "doublings": 4}}


def _with_normalisation(values: dict[str, Any]) -> dict[str, Any]:
    """Add what version 2 left out: all images are normalised alike."""
    return {**values, "normalisation": "fixed"}


def _with_size(values: dict[str, Any]) -> dict[str, Any]:
    """Add what version 3 left out: images are used at their own size."""
    return {**values, "resize": 1.0}


def _with_steps(values: dict[str, Any]) -> dict[str, Any]:
    """Add what version 4 left out: stages of U-Net have two convolutions, and skip connections have no gates."""
    options = values.get("decoder_options")
    if values.get("decoder") != "unet" or not isinstance(options, Mapping):
        return values
    return {**values, "decoder_options": {**options, "convolutions": 2, "attention": False}}


def _with_pixels(values: dict[str, Any]) -> dict[str, Any]:
    """Add what version 5 left out: the pixel type of the training images is unknown."""
    return {**values, "pixels": None}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: _with_doublings,
    2: _with_normalisation,
    3: _with_size,
    4: _with_steps,
    5: _with_pixels,
}
"""Format version → function that turns its record into one of the next version. Version 1 is the first."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """How a model was built.

    Attributes:
        decoder, encoder: names in the registries.
        decoder_options, encoder_options: frozen dataclasses of that decoder's and encoder's own options.
        in_channels: channels of the images, from 1 up.
        num_classes: classes, from 1 up; the logits have as many channels, and one more for ``task="instances"``.
        norm: "batch", "group", "instance", "layer" (over the channels of each pixel), or None. It is only the
            decoder's if the encoder has a norm of its own.
        conv_bias: whether the convolutions before the heads have a bias. Always True without a norm; with one,
            torchvision's encoders still have none, as their weights have none.
        dropout: probability, from 0 to below 1, of dropping an element of the deepest map in training, as
            at the end of the contracting path of the 2015 paper (section 3.1).
        deep_supervision: whether there are heads for ``training_outputs`` in addition to the main one.
        classification_guided: whether a classification-guided module suppresses classes judged absent.
        task: "binary" (1 class, sigmoid), "multiclass" (softmax), "multilabel" (sigmoid per class), or "instances"
            (sigmoid per class, and for one more map that separates objects: see :mod:`unetzoo.objects`).
        class_names: one name per class, or None.
        mean, std: per-channel normalisation of images in [0, 1] that the model expects, or None.
        normalisation: "fixed": all images by ``mean`` and ``std``; "image": each image by the mean and the standard
            deviation of its own values, channel by channel, as in nnU-Net: see ``unetzoo.images.prepare``.
        resize: factor by which the sides of images are resized for the network; 1 for their own size.
        pixels: pixel type of the training images, such as "int16"; uint16 if they were uint8 and uint16; None if it
            is unknown. ``unetzoo.images.white`` says what follows from it.

    Raises:
        ConfigError: lists all that is wrong.
    """

    decoder: str
    encoder: str
    decoder_options: Options
    encoder_options: Options
    in_channels: int = 3
    num_classes: int = 1
    norm: str | None = "batch"
    conv_bias: bool = False
    dropout: float = 0.0
    deep_supervision: bool = False
    classification_guided: bool = False
    task: str = "binary"
    class_names: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    normalisation: str = "fixed"
    resize: float = 1.0
    pixels: str | None = None

    def __post_init__(self) -> None:
        problems = self._problems()
        if problems:
            raise ConfigError(f"cannot configure {self.decoder!r} on {self.encoder!r}", problems)

    @property
    def name(self) -> str:
        """The model's usual name in the zoo."""
        return ENCODERS[self.encoder].names(self.decoder)[0]

    @property
    def channels(self) -> int:
        """Number of channels of the logits, one per class, and for instances also the map that separates objects."""
        return self.num_classes + (self.task == "instances")

    @property
    def pixel_task(self) -> str:
        """The task of the mask, ``task`` itself, or for instances "binary" with one class, "multilabel" with more."""
        return pixel_task(self.task, self.num_classes)

    @property
    def style(self) -> ConvStyle:
        """The settings that all convolutions of the model share."""
        padded = DECODERS[self.decoder].border == 0
        return ConvStyle(self.norm, self.conv_bias, padded, ENCODERS[self.encoder].activation)

    def replace(self, **changes: Any) -> ModelConfig:
        """Return a copy with ``changes``, which is checked again. Options of encoder and decoder have their own names.

        Raises:
            ConfigError: there is no such option, or the copy would be wrong.
        """
        for part in ("encoder_options", "decoder_options"):
            options = changes.get(part, getattr(self, part))
            own = {key: changes.pop(key) for key in options_of(options) if key in changes}
            if own:
                changes[part] = dataclasses.replace(options, **own)
        known = [*options_of(self), *options_of(self.encoder_options), *options_of(self.decoder_options)]
        unknown = [f"unknown option {key!r}{suggest(key, known)}" for key in changes if key not in options_of(self)]
        if unknown:
            raise ConfigError("cannot change the configuration", unknown)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-able values, for :meth:`from_dict`."""
        record: dict[str, Any] = {"format_version": FORMAT_VERSION}
        for name, value in options_of(self).items():
            if isinstance(value, Options):
                value = dict(options_of(value))
            record[name] = list(value) if isinstance(value, tuple) else value
        return record

    def to_json(self) -> str:
        """Return the record as JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Read what :meth:`to_json` wrote.

        Raises:
            ConfigError: not JSON, or not a record of a model.
        """
        try:
            record = strict_json.loads(text)
        except ValueError as error:
            fix = "; it looks like a path: read the file first" if str(text).endswith(".json") else ""
            raise ConfigError(f"the configuration is not JSON: {error}{fix}") from error
        return cls.from_dict(record)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ModelConfig:
        """Read what :meth:`to_dict` wrote: nothing missing, nothing unknown.

        Raises:
            ConfigError: lists all that is wrong.
        """
        if not isinstance(record, Mapping):
            raise ConfigError(f"a configuration is a dictionary, not {type(record).__name__}")
        values = dict(record)
        if "format_version" not in values:
            raise ConfigError("not a configuration of a model: format_version: missing")
        version = values.pop("format_version")
        if type(version) is not int or version < 1:
            raise ConfigError(f"format_version={version!r}: a whole number from 1 up is needed")
        for older in range(version, FORMAT_VERSION):
            values = MIGRATIONS[older](values)
        if version > FORMAT_VERSION:
            raise ConfigError(
                f"format_version={version} is newer than the {FORMAT_VERSION} known here: upgrade unetzoo"
            )
        problems = _key_problems("", values, cls) or _part_problems(values)
        if problems:
            raise ConfigError("not a configuration of a model", problems)
        values["decoder_options"] = DECODERS[values["decoder"]].Options(**values["decoder_options"])
        values["encoder_options"] = ENCODERS[values["encoder"]].options(**values["encoder_options"])
        for name in ("class_names", "mean", "std"):
            if isinstance(values[name], list):
                values[name] = tuple(values[name])
        return cls(**values)

    def _problems(self) -> list[str]:
        found = [] if self.decoder in DECODERS else [unknown("decoder", self.decoder, DECODERS)]
        if self.encoder not in ENCODERS:
            found.append(unknown("encoder", self.encoder, ENCODERS))
        found += _common_problems(options_of(self))
        if self.decoder in DECODERS and self.encoder in ENCODERS:
            found += self._part_problems()
        return found

    def _part_problems(self) -> list[str]:
        decoder, encoder = DECODERS[self.decoder], ENCODERS[self.encoder]
        found = []
        impossible = pair_problem(self.decoder, self.encoder)
        if impossible is not None:
            found.append(impossible)
        if self.norm in (*NORMS, None):
            found += [f"{problem} with {encoder.title}" for problem in one_of("norm", self.norm, encoder.norms)]
        for part, options, allowed in (
            ("decoder", self.decoder_options, decoder.Options),
            ("encoder", self.encoder_options, encoder.options),
        ):
            if type(options) is not allowed:
                found.append(f"{part}_options: {allowed.__name__} is needed, not {type(options).__name__}")
                return found
        maps = max(encoder.maps, decoder.fewest_maps)  # too few of them are reported above
        if decoder.border and self.resize != 1:
            found.append(f"resize={self.resize!r}: {self.decoder} takes only images of certain sizes; leave it out")
        found += decoder.problems(self.decoder_options, self.deep_supervision is True, maps)
        found += self.encoder_options.problems()
        if not decoder.supervisable:
            found += [
                f"{name}=True: {self.decoder} has no such heads; use unet"
                for name in ("deep_supervision", "classification_guided")
                if getattr(self, name) is True
            ]
        return found


def pair_problem(decoder: str, encoder: str) -> str | None:
    """Return why the decoder cannot be combined with the encoder, None if it can; both are registered."""
    problem = DECODERS[decoder].encoder_problem(ENCODERS[encoder])
    return None if problem is None else f"{decoder} {problem}"


def _common_problems(values: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each wrong value among the arguments that all models take."""
    task, classes, names = values["task"], values["num_classes"], values["class_names"]
    found = whole("in_channels", values["in_channels"], 1, LARGEST) + class_problems(task, classes)
    found += class_name_problems(names, classes)
    if isinstance(names, list):
        found.append(f"class_names={names!r:.100}: a tuple is needed, as a configuration is immutable")
    for name in ("conv_bias", "deep_supervision", "classification_guided"):
        found += flag(name, values[name])
    norm, dropout = values["norm"], values["dropout"]
    found += one_of("norm", norm, (*NORMS, None))
    if task == "instances" and values["classification_guided"] is True:
        found.append(
            "classification_guided=True: task='instances' has a map of edges, which is not a class; leave it out"
        )
    if norm is None and values["conv_bias"] is False:
        found.append("conv_bias=False: without a norm every convolution has a bias; leave it out")
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        found.append(f"dropout={dropout!r}: a probability from 0 to below 1 is needed")
    return found + _channel_problems(values) + resize_problems(values["resize"])


def _channel_problems(values: Mapping[str, Any]) -> list[str]:
    found = []
    for name in ("mean", "std"):
        value = values[name]
        if value is None:
            continue
        if type(value) is not tuple or not all(type(v) in (int, float) and abs(v) <= sys.float_info.max for v in value):
            found.append(f"{name}={value!r:.100}: a list or tuple of finite numbers is needed")
        elif len(value) != values["in_channels"]:
            found.append(f"{name}: {len(value)} numbers for in_channels={values['in_channels']!r}")
        elif name == "std" and any(v <= 0 for v in value):
            found.append(f"std={value!r}: numbers above 0 are needed")
    if (values["mean"] is None) != (values["std"] is None):
        found.append("mean and std go together: give both or neither")
    found += one_of("normalisation", values["normalisation"], NORMALISATIONS)
    found += one_of("pixels", values["pixels"], (*PIXELS, None))
    if values["normalisation"] == "image" and (values["mean"], values["std"]) != (None, None):
        found.append("normalisation='image': each image is normalised by its own mean and std; leave out mean and std")
    return found


def _key_problems(prefix: str, values: Mapping[str, Any], expected: type[ModelConfig | Options]) -> list[str]:
    fields = list(expected.__dataclass_fields__)
    found = [f"{prefix}{key}: missing" for key in fields if key not in values]
    unknown = [key for key in values if key not in fields]
    # Looking for similar names takes time, and a crafted file may hold a hundred thousand unknown names.
    found += [
        f"{prefix}{key}: unknown{suggest(str(key), fields) if number < SUGGESTED else ''}"
        for number, key in enumerate(unknown)
    ]
    return found


def _part_problems(values: Mapping[str, Any]) -> list[str]:
    """Return what keeps the options of decoder and encoder from being read."""
    found = []
    for part, known in (("decoder", DECODERS), ("encoder", ENCODERS)):
        name, options = values[part], values[f"{part}_options"]
        if not isinstance(name, str) or name not in known:
            found.append(f"{unknown(part, name, known)}{OWN}")
        elif not isinstance(options, Mapping):
            found.append(f"{part}_options: a dictionary is needed, not {type(options).__name__}")
        else:
            declared = DECODERS[name].Options if part == "decoder" else ENCODERS[name].options
            found += _key_problems(f"{part}_options.", options, declared)
    return found
