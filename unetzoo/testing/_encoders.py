"""Checks of an encoder: of its maps alone, and under a decoder."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unetzoo.config import pair_problem
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS, Encoder
from unetzoo.files.checkpoints import complete, misfits
from unetzoo.nn.layers import ConvStyle
from unetzoo.nn.meta import on_meta
from unetzoo.testing import _models
from unetzoo.testing._models import Pair
from unetzoo.testing._running import NORMS, dead_parameters, difference, disturb, norms_in, run

_SIZES = ((48, 64), (37, 51), (1, 1), (33, 2), (5, 70))


def check_encoder(name: str) -> None:
    """Check a registered encoder, alone and under decoders, against the contract of encoders.

    It takes some seconds. Nothing is downloaded; files are written to a temporary folder.

    Args:
        name: under which it is registered.

    Raises:
        ConfigError: no encoder has that name.
        ContractError: lists everything that is wrong.
    """
    ENCODERS[name]
    alone = (
        maps_asked_for, strides, sizes_rounded_up, channels_of_images, image_convolution, gradients, encoder_types,
        maps_of_images_apart, norms, freezing, pretrained_weights, decoders_above,
    )  # fmt: skip
    under = [decoder for decoder in DECODERS if pair_problem(decoder, name) is None]
    pair = Pair("unet" if "unet" in under else under[0], name) if under else None
    together = (
        _models.listing, _models.configuration, _models.any_size, _models.checkpointing, _models.meta, _models.saving,
        _models.optimizing, _models.exporting,
    )  # fmt: skip
    checks = [partial(check, name) for check in (building, *alone)]
    run(f"the encoder {name!r}", [*checks, *(partial(check, pair) for check in together if pair is not None)])


def _build(name: str, in_channels: int = 3, norm: str | None = "batch", depth: int | None = None) -> Encoder:
    spec = ENCODERS[name]
    norm = norm if norm in spec.norms else spec.norms[0]
    style = ConvStyle(norm, bias=norm is None, activation=spec.activation)
    return spec.build(in_channels, style, _options(name), spec.maps if depth is None else depth)


def _options(name: str) -> Any:
    options = ENCODERS[name].options
    return options(**{"base_channels": 8} if name == "plain" else {})


def _on_meta(name: str, **arguments: Any) -> Encoder:
    with on_meta():
        return _build(name, **arguments)


def _disturbed(name: str, **arguments: Any) -> Encoder:
    encoder = _build(name, **arguments)
    disturb(encoder)
    return encoder


def building(name: str) -> Iterator[str]:
    """It can be built, and has its descriptions."""
    spec, encoder = ENCODERS[name], _build(name)
    if not isinstance(encoder, Encoder):
        yield f"build returns {type(encoder).__name__}: a subclass of unetzoo.Encoder is needed"
        return
    for attribute in ("title", "paper"):
        if not getattr(spec, attribute):
            yield f"{attribute} is empty: give it as register_encoder(…, {attribute}=…)"
    maps = encoder(torch.randn(2, 3, 64, 64))
    if not isinstance(maps, list) or not all(isinstance(each, Tensor) for each in maps):
        yield f"forward returns {type(maps).__name__}: a list of tensors, finest first, is needed"
        return
    found = {"maps": len(maps), "channels": len(encoder.channels), "strides": len(encoder.strides)}
    found["stages()"] = len(encoder.stages())
    if len(set(found.values())) > 1:
        yield f"maps, channels, strides and stages() must have the same length; they have {found}"


def maps_asked_for(name: str) -> Iterator[str]:
    """It gives as many maps as its argument ``depth``: the first maps of a deeper encoder."""
    whole = _on_meta(name)
    if len(whole.channels) != ENCODERS[name].maps:
        yield f"with depth={ENCODERS[name].maps} it gives {len(whole.channels)} maps: see register_encoder(…, maps=…)"
    for depth in range(1, len(whole.channels)):
        encoder = _on_meta(name, depth=depth)
        if len(encoder.channels) != depth or len(encoder(torch.empty(2, 3, 32, 32, device="meta"))) != depth:
            yield f"with depth={depth} it gives {len(encoder.channels)} maps: use the argument depth"
        elif (encoder.channels, encoder.strides) != (whole.channels[:depth], whole.strides[:depth]):
            yield f"with depth={depth} its maps are not the first {depth} of all maps"


def strides(name: str) -> Iterator[str]:
    """Strides are whole numbers, each of which divides the next."""
    encoder = _build(name)
    for what, values in (("strides", encoder.strides), ("channels", encoder.channels)):
        if not isinstance(values, tuple) or not all(type(value) is int and value >= 1 for value in values):
            yield f"{what} are {values!r}: a tuple of whole numbers from 1 up is needed"
            return
    for finer, coarser in zip(encoder.strides, encoder.strides[1:], strict=False):
        if coarser % finer:
            yield f"strides are {encoder.strides}: {finer} does not divide {coarser}"


def sizes_rounded_up(name: str) -> Iterator[str]:
    """A map at stride s of an H × W image is ceil(H / s) × ceil(W / s), whatever H and W."""
    encoder = _build(name).eval()
    for height, width in _SIZES:
        with torch.no_grad():
            maps = encoder(torch.randn(2, 3, height, width))
        for number, (found, channels, stride) in enumerate(zip(maps, encoder.channels, encoder.strides, strict=True)):
            wanted = (2, channels, -(-height // stride), -(-width // stride))
            if found.shape != wanted:
                yield (
                    f"map {number} of a {height} × {width} image is {tuple(found.shape)}; {wanted} is needed, for "
                    f"channels[{number}]={channels} and strides[{number}]={stride}, rounded up"
                )


def channels_of_images(name: str) -> Iterator[str]:
    """It takes images of any number of channels."""
    for channels in (1, 3, 13):
        encoder = _on_meta(name, in_channels=channels)
        if encoder.in_channels != channels:
            yield f"built for {channels} channels, its in_channels is {encoder.in_channels}"
        encoder(torch.empty(2, channels, 40, 40, device="meta"))


def image_convolution(name: str) -> Iterator[str]:
    """``image_convolution`` names the convolution whose weight is the only one that depends on the image channels."""
    three, five = (_on_meta(name, in_channels=channels) for channels in (3, 5))
    others = five.state_dict()
    depend = [key for key, tensor in three.state_dict().items() if tensor.shape != others[key].shape]
    said = three.image_convolution
    if said is None and len(depend) == 1 and depend[0].endswith(".weight"):
        yield f"only {depend[0]} depends on in_channels: set image_convolution = {depend[0].removesuffix('.weight')!r}"
    elif said is not None and depend != [f"{said}.weight"]:
        yield f"image_convolution is {said!r}, but {', '.join(depend) or 'nothing'} depends on in_channels"


def gradients(name: str) -> Iterator[str]:
    """Gradients reach every parameter."""
    encoder = _disturbed(name).train()
    problems: list[str] = []
    for _ in range(3):  # stochastic depth, for example, may leave a block out once
        maps = encoder(torch.randn(2, 3, 64, 64))
        torch.stack([(each - 1).square().mean() for each in maps]).sum().backward()  # type: ignore[no-untyped-call]
        problems = list(dead_parameters(encoder))
        if not problems:
            break
    yield from problems


def encoder_types(name: str) -> Iterator[str]:
    """Maps have the type of the weights."""
    encoder, images = _disturbed(name).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = copy.deepcopy(encoder).double()(images.double())
        for dtype, allowed in ((torch.float64, 0.0), (torch.float32, 1e-3), (torch.bfloat16, 0.4)):
            for number, found in enumerate(copy.deepcopy(encoder).to(dtype)(images.to(dtype))):
                if found.dtype != dtype:
                    yield f"map {number} of a {dtype} encoder is {found.dtype}"
                elif difference(found, expected[number]) > allowed:
                    wrong = difference(found, expected[number])
                    yield f"map {number} in {dtype} differs from that in float64 by {wrong:.2g} of its spread"


def maps_of_images_apart(name: str) -> Iterator[str]:
    """In evaluation mode, the maps of an image depend neither on the others in its batch nor on chance."""
    encoder, images = _disturbed(name).eval(), torch.randn(3, 3, 48, 64)
    with torch.no_grad():
        together, again, alone = encoder(images), encoder(images), encoder(images[:1])
    for number, found in enumerate(together):
        if not torch.equal(found, again[number]):
            yield f"in evaluation mode map {number} of the same images differs a second time"
        if difference(found[:1], alone[number]) > 1e-3:
            yield f"in evaluation mode map {number} of an image depends on the others in its batch"


def norms(name: str) -> Iterator[str]:
    """The norm is the given one everywhere, or the encoder declares that it has its own."""
    spec = ENCODERS[name]
    own = norms_in(_on_meta(name, norm=spec.norms[0]))
    for norm in spec.norms:
        encoder = _on_meta(name, norm=norm) if spec.own_norm else _build(name, norm=norm)
        found = norms_in(encoder)
        given = ", ".join(sorted(found)) or "no norm"
        if spec.own_norm is None and found != set(NORMS[norm]):
            yield f"norm={norm!r} gives {given}: use make_norm(style.norm, channels), or register norms= or own_norm="
        if spec.own_norm is not None and found != own:
            yield f"norm={norm!r} gives {given}, but own_norm={spec.own_norm!r} says that norm is only for the decoder"
        if not spec.own_norm and not all(each.isfinite().all() for each in encoder(torch.randn(2, 3, 40, 40))):
            yield f"with norm={norm!r} maps are not finite"


def freezing(name: str) -> Iterator[str]:
    """``freeze`` freezes the first stages, including statistics, and no others; all stages are the complete encoder."""
    encoder = _disturbed(name)
    for stages in range(len(encoder.channels) + 1):
        encoder.freeze(stages)
        before = copy.deepcopy(encoder.state_dict())
        encoder.train()(torch.randn(2, 3, 64, 64))
        frozen = {id(tensor) for modules in encoder.stages()[:stages] for m in modules for tensor in _tensors(m)}
        for key, tensor in encoder.named_buffers():
            if id(tensor) in frozen and not torch.equal(tensor, before[key]):
                yield f"freeze({stages}) does not keep {key}: train() must leave frozen stages alone"
        for key, parameter in encoder.named_parameters():
            if (id(parameter) in frozen) == parameter.requires_grad:
                yield f"freeze({stages}) {'does not freeze' if parameter.requires_grad else 'freezes'} {key}"
    left = [key for key, parameter in encoder.named_parameters() if parameter.requires_grad]
    if left:
        yield f"no stage has {', '.join(left[:3])}: stages() must return the modules of each map"


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def pretrained_weights(name: str) -> Iterator[str]:
    """After ``from_torchvision``, torchvision's tensors match those of the encoder name by name."""
    spec = ENCODERS[name]
    if not isinstance(spec.weights, str):
        return
    from torchvision import models

    if not hasattr(models, spec.weights):
        yield f"weights={spec.weights!r}: torchvision.models has no such enum"
        return
    enum = getattr(models, spec.weights)
    network = next(key for key in models.list_models(models) if models.get_model_weights(key) is enum)
    theirs = models.get_model(network, weights=None).state_dict()  # not on meta: RegNets compute with tensors' values
    with on_meta():
        for depth in range(1, spec.maps + 1):
            encoder = _build(name, norm=spec.weights_norms[0], depth=depth)
            wanted = encoder.state_dict()
            for problem in misfits(wanted, complete(encoder.from_torchvision(theirs), wanted))[:3]:
                yield f"of {network}'s tensors, for {depth} maps, {problem}: see from_torchvision"


def decoders_above(name: str) -> Iterator[str]:
    """Every decoder that can use it works with it; if none can, the reasons are given."""
    found = 0
    for decoder in DECODERS:
        if pair_problem(decoder, name) is not None:
            continue
        found += 1
        model = Pair(decoder, name).create_on_meta(**Pair(decoder, name).supervised())
        for height, width in Pair(decoder, name).sizes(model)[:2]:
            border = 2 * model.decoder.border
            logits = model(torch.empty(2, 3, height, width, device="meta"))
            if logits.shape != (2, 1, height - border, width - border):
                yield f"under {decoder}, logits of a {height} × {width} image have shape {tuple(logits.shape)}"
    if not found:
        yield "; ".join(["no decoder can use it", *(str(pair_problem(decoder, name)) for decoder in DECODERS)])
