"""Checks of a decoder: of its features alone, and on encoders."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unetzoo.config import pair_problem
from unetzoo.decoders import DECODERS, Decoder
from unetzoo.encoders import ENCODERS, Encoder
from unetzoo.files.torch_files import first_line
from unetzoo.nn.convolutions import Source
from unetzoo.nn.layers import ConvStyle
from unetzoo.testing import _models
from unetzoo.testing._models import Pair
from unetzoo.testing._running import NORMS, dead_parameters, norms_in, run

_ENCODERS = ("plain", "resnet18")
"""Encoders whose finest map has the image's size, and half of it."""


def check_decoder(name: str) -> None:
    """Check a registered decoder against its contract, on two encoders, and on fewer maps than these give.

    It takes some seconds; files are written to a temporary folder.

    Args:
        name: under which it is registered.

    Raises:
        ConfigError: no decoder has that name.
        ContractError: lists everything that is wrong.
    """
    DECODERS[name]
    able = [encoder for encoder in ENCODERS if pair_problem(name, encoder) is None]
    pairs = [Pair(name, encoder) for encoder in _ENCODERS if encoder in able] or [Pair(name, able[0])]
    each = (
        _models.any_size, features, decoder_gradients, _models.supervision, _models.checkpointing, _models.optimizing,
        pruning,
    )  # fmt: skip
    once = (
        _models.listing, _models.configuration, channels_and_classes, decoder_norms, numbers_of_maps, _models.types,
        _models.images_apart, _models.meta, _models.saving, _models.exporting,
    )  # fmt: skip
    checks = [partial(building, name, pairs), *(partial(check, pairs[0]) for check in once)]
    run(f"the decoder {name!r}", [*checks, *(partial(check, pair) for check in each for pair in pairs)])


def building(name: str, pairs: list[Pair]) -> Iterator[str]:
    """It can be built, and has its descriptions."""
    decoder = DECODERS[name]
    for attribute in ("title", "paper", "summary"):
        if not getattr(decoder, attribute, ""):
            yield f"{attribute} is missing: set {attribute} = … in the class"
    for pair in pairs:
        model = pair.create()
        images = pair.images(model)
        given = model.decoder(model.encoder(images), images.shape[-2:], False)
        said = [feature.channels for feature in model.decoder.features]
        if not isinstance(given, list | tuple):
            yield f"forward returns {type(given).__name__}: a list of features, the main one first, is needed"
        elif _shape(given[0])[1:2] != tuple(said[:1]):
            yield f"the main feature has shape {_shape(given[0])}; features gives {said} channels, the main one first"
        else:
            model(images)
            continue
        return


def features(pair: Pair) -> Iterator[str]:
    """``forward`` returns the features described in ``features``: the main one, and with ``deep`` all of them."""
    supervised = DECODERS[pair.decoder].supervisable
    model = pair.create(**{"deep_supervision": True} if supervised else {}).eval()
    said = model.decoder.features
    for height, width in pair.sizes(model)[:2]:
        with torch.no_grad():
            maps = model.encoder(torch.randn(2, 3, height, width))
            for deep in (False, True) if supervised else (False,):
                given = model.decoder(list(maps), (height, width), deep)
                if len(given) != (len(said) if deep else 1):
                    yield f"with deep={deep} forward returns {len(given)} features; features has {len(said)} of them"
                for number, (feature, source) in enumerate(zip(said, given, strict=False)):
                    shape, size = _shape(source), (-(-height // feature.stride), -(-width // feature.stride))
                    wanted = (2, feature.channels, *size)
                    if shape != (wanted if model.decoder.border == 0 else (*wanted[:2], *shape[2:])):
                        yield (
                            f"feature {number} of a {height} × {width} image is {shape}; {wanted} is needed, as "
                            f"features says {feature}"
                        )


def _shape(source: Source) -> tuple[int, ...]:
    """Return the shape that a source has after its pending operation."""
    if isinstance(source, Tensor):
        return tuple(source.shape)
    return (*source.x.shape[:2], *getattr(source, "size", source.x.shape[2:]))


def decoder_gradients(pair: Pair) -> Iterator[str]:
    """Gradients reach every parameter, with all heads and with only the main one."""
    for options in ({}, pair.supervised()) if pair.supervised() else ({},):
        model = pair.create(**options).train()
        outputs = model.training_outputs(pair.images(model))
        wanted = [outputs.logits, *outputs.deep, *([] if outputs.presence is None else [outputs.presence])]
        torch.stack([(logits - 1).square().mean() for logits in wanted]).sum().backward()  # type: ignore[no-untyped-call]
        for problem in dead_parameters(model.decoder, "decoder"):
            yield problem if options else f"{problem}; without deep supervision"


def channels_and_classes(pair: Pair) -> Iterator[str]:
    """Images may have any channels, and logits any classes."""
    for channels, classes in ((1, 1), (3, 4), (13, 2)):
        model = pair.create_on_meta(in_channels=channels, num_classes=classes)
        logits = model(torch.empty(1, channels, *pair.sizes(model)[0], device="meta"))
        if logits.shape[1] != classes:
            yield f"there are {logits.shape[1]} logits with num_classes={classes} and in_channels={channels}"


def decoder_norms(pair: Pair) -> Iterator[str]:
    """The decoder has no norm other than the given one."""
    for norm in ENCODERS[pair.encoder].norms:
        model = pair.create(norm=norm).train()
        foreign = norms_in(model.decoder) - set(NORMS[norm])
        if foreign:
            listed = ", ".join(sorted(foreign))
            yield f"norm={norm!r} gives {listed}: use ConvNormAct, or make_norm(style.norm, channels)"
        if not model(pair.images(model)).isfinite().all():
            yield f"with norm={norm!r} logits are not finite"


def numbers_of_maps(pair: Pair) -> Iterator[str]:
    """It works on encoders with few maps and with many, from ``fewest_maps`` to ``most_maps``."""
    decoder, spec = DECODERS[pair.decoder], ENCODERS[pair.encoder]
    for maps in range(decoder.fewest_maps, min(decoder.most_maps, spec.maps) + 1):
        options = decoder.Options(**decoder.defaults(maps))
        problems = decoder.problems(options, False, maps)
        if problems:
            yield f"on an encoder of {maps} maps its defaults are refused ({problems[0]}): see defaults, or fewest_maps"
            continue
        style = ConvStyle(decoder.default_norm, decoder.default_norm is None, padded=decoder.border == 0)
        encoder = spec.build(3, style, pair.encoder_options(), decoder.depth(options, maps))
        try:
            _forward(decoder, encoder, style, options)
        except Exception as error:
            yield f"on {maps} maps it fails ({type(error).__name__}: {first_line(error)}): see fewest_maps and depth"


def _forward(decoder: type[Decoder], encoder: Encoder, style: ConvStyle, options: Any) -> None:
    built = decoder(encoder, style, options, False)
    side = built.input_side(64)
    with torch.no_grad():
        built(encoder(torch.randn(2, 3, side, side)), (side, side), False)


def pruning(pair: Pair) -> Iterator[str]:
    """The pruned decoder gives the same output as the head of its level before."""
    model = pair.create_on_meta()
    if not model.decoder.prunable:
        return
    model = pair.create(deep_supervision=True).eval()
    images = pair.images(model)
    with torch.no_grad():
        outputs = model.training_outputs(images)
        for level in range(1, model.decoder.prunable + 1):
            head = model.decoder.pruned(model.config.decoder_options, level).head
            expected = (outputs.logits, *outputs.deep)[head]
            if not torch.equal(model.prune(level)(images), expected):
                yield f"prune({level}) does not give the output of head {head} of the complete network: see pruned"
