"""Information about the networks of the zoo, for people: facts, help texts, and the entry points of torch.hub."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unetzoo import markup
from unetzoo.config import ModelConfig
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS, EncoderSpec, options_of
from unetzoo.model import SegmentationModel
from unetzoo.naming import PRESETS, Builder, names, pair_of, resolve
from unetzoo.nn.layers import NORMS
from unetzoo.nn.meta import on_meta
from unetzoo.pretrained import available_weights
from unetzoo.zoo import create, signature


@dataclass(frozen=True, repr=False)
class ModelInfo:
    """Facts about a network of the zoo, without building it.

    Attributes:
        name, aliases: in the zoo.
        architecture, encoder: as written in papers.
        paper: of the architecture.
        encoder_paper: of the encoder.
        summary: one line.
        parameters: their number at default options.
        published: millions of parameters according to the published table, or None if there is no such number.
        channels, strides: of the encoder's maps, finest first.
        pretrained: names of published weights, the default first; empty if there are none.
        options: name → default, for all arguments of ``create`` for this name.
        meanings: name → what that argument means, and what is allowed.
    """

    name: str
    aliases: tuple[str, ...]
    architecture: str
    encoder: str
    paper: str
    encoder_paper: str
    summary: str
    parameters: int
    published: float | None
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    pretrained: tuple[str, ...]
    options: Mapping[str, Any]
    meanings: Mapping[str, str]

    def facts(self) -> dict[str, str]:
        """Return title → text for all that is not an option; the first title is the name."""
        published = "" if self.published is None else f" (published: {self.published:.2f}M)"
        maps = zip(self.channels, self.strides, strict=True)
        return {
            self.name: f"{self.architecture} on {self.encoder}: {self.summary}",
            "aliases": ", ".join(self.aliases) or "–",
            "parameters": f"{self.parameters:,}{published}",
            "maps": ", ".join(f"{channels} channels at stride {stride}" for channels, stride in maps),
            "paper": self.paper,
            "encoder paper": self.encoder_paper,
            "pretrained": ", ".join(self.pretrained) or "–",
        }

    def __repr__(self) -> str:
        return f"ModelInfo({self.name!r}: {self.architecture} on {self.encoder}, {self.parameters:,} parameters)"

    def _repr_html_(self) -> str:
        (name, said), *facts = self.facts().items()
        meanings = {option: meaning.replace("``", "") for option, meaning in self.meanings.items()}
        options = [[option, repr(default), meanings.get(option, "")] for option, default in self.options.items()]
        tables = markup.table([["", ""], *facts]), markup.table([["option", "default", "meaning"], *options])
        parts = (f'<div class="words">{table}</div>' for table in tables)
        return markup.shown(f"{name}: {said}", parts)


def model_info(name: str) -> ModelInfo:
    """Return the facts about a name. Nothing is allocated.

    Raises:
        ConfigError: the name is unknown.
    """
    name = resolve(name)
    with on_meta():
        return info_of(name, create(name))


def info_of(name: str, model: SegmentationModel) -> ModelInfo:
    """Return the facts about a usual name; ``model`` is that network at default options."""
    custom = name in PRESETS
    options = _preset_options(name, model.config) if custom else signature(name)
    explained = _explained(model.config.name)
    decoder, encoder = DECODERS[model.config.decoder], ENCODERS[model.config.encoder]
    return ModelInfo(
        name=name,
        aliases=tuple(alias for alias, target in names().items() if target == name and alias != name),
        architecture=decoder.title,
        encoder=encoder.title,
        paper=decoder.paper,
        encoder_paper=encoder.paper,
        summary=(inspect.getdoc(PRESETS[name]) or "").partition("\n")[0] if custom else decoder.summary,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        published=None if custom else decoder.published.get(model.config.encoder),
        channels=model.encoder.channels,
        strides=model.encoder.strides,
        pretrained=available_weights(encoder),
        options=options,
        meanings={key: explained[key] for key in options if key in explained},
    )


def meanings(documented: object, section: str) -> dict[str, str]:
    """Return name → its description in a section ("Args", "Attributes") of a docstring."""
    found: dict[str, str] = {}
    entries: list[str] = []
    text = (inspect.getdoc(documented) or "").partition(f"{section}:\n")[2].partition("\n\n")[0]
    for line in text.splitlines():
        entry = re.match(r"    (\*{0,2}\w+(?:, \w+)*): (.*)", line)
        if entry:
            entries = entry[1].split(", ")
        for name in entries:
            found[name] = entry[2] if entry else f"{found[name]} {line.strip()}"
    return found


def hub_entries() -> dict[str, Builder]:
    """Return name or alias → function of keyword arguments, with its help text: the entry points of ``hubconf.py``."""
    return {name: _hub_entry(name) for name in names()}


def _hub_entry(name: str) -> Builder:
    def entry(**options: Any) -> SegmentationModel:
        return create(name, **options)

    explained = _explained(name)
    arguments = "".join(
        f"\n    {key} = {default!r}: {explained.get(key, '')}" for key, default in signature(name).items()
    )
    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"""{_describe(name)}

The model takes images (N, in_channels, H, W) of any height and width, and returns logits
(N, num_classes, H, W). It is the model that unetzoo.create({name!r}) returns.

Arguments, by name, with their defaults:{arguments}

Example:
    model = torch.hub.load("<owner>/unetzoo", {name!r}, num_classes=4)
"""
    return entry


def _explained(name: str) -> dict[str, str]:
    """Return argument → meaning for a name of the zoo; for a user's own name, those that all names share."""
    explained = meanings(create, "Args")
    if name not in PRESETS:
        decoder, encoder = pair_of(name)
        explained["norm"] += _norm_of(ENCODERS[encoder])
        explained |= meanings(ENCODERS[encoder].options, "Attributes")
        explained |= meanings(DECODERS[decoder].Options, "Attributes")
    return explained


def _norm_of(encoder: EncoderSpec) -> str:
    """Return a note on ``norm`` for encoders that have norms of their own, or do not take all norms."""
    if encoder.own_norm is not None:
        return f" It applies to the decoder only: {encoder.title} always has its own {encoder.own_norm}."
    if set(encoder.norms) != {*NORMS, None}:
        return f" {encoder.title} takes {', '.join(map(repr, encoder.norms))}."
    return ""


def _describe(name: str) -> str:
    """Return a description of a name in a few lines, without building it."""
    if name in PRESETS:
        return inspect.getdoc(PRESETS[name]) or name
    pair = pair_of(name)
    decoder, encoder = DECODERS[pair[0]], ENCODERS[pair[1]]
    return (
        f"{decoder.title} on the {encoder.title} encoder: {decoder.summary}.\n\n"
        f"Paper: {decoder.paper}\nEncoder: {encoder.paper}"
    )


def _preset_options(name: str, config: ModelConfig) -> dict[str, Any]:
    """Return the arguments of a user's builder; if it takes any, also those of its network, as it sets them."""
    declared = signature(name)
    if all(p.kind is not p.VAR_KEYWORD for p in inspect.signature(PRESETS[name]).parameters.values()):
        return declared
    as_set = {**options_of(config), **options_of(config.encoder_options), **options_of(config.decoder_options)}
    return {**{key: as_set.get(key, value) for key, value in signature(config.name).items()}, **declared}
