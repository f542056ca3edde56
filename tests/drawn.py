"""Networks that are there at once, and their files.

Weights are cut from numbers drawn once: to draw those of a ResNet takes longer than to run it.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unetzoo


@functools.cache
def noise(dtype: torch.dtype) -> Tensor:
    """Return numbers between -1 and 1, enough for the largest tensor of weights."""
    return torch.rand(2**24, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 2 - 1


def drawn(name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a value for the tensor ``name`` of a state dict: no statistic is 0 or 1, no scale 1, no bias 0."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    numbers = like.numel()
    start = zlib.crc32(name.encode()) % (noise(dtype).numel() - numbers)
    values = noise(dtype)[start : start + numbers].reshape(like.shape)
    if like.ndim == 3:  # what scales the channels of a residual branch
        return 0.2 * (1 + 0.5 * values)
    if like.ndim > 1:
        return values * math.sqrt(6 / like.shape[1:].numel())
    if name.endswith(("bias", "running_mean")):
        return values * 0.3
    # Of the deepest networks' blocks, so that what they add up to does not leave the range of their activations.
    residual = "layer" in name or "trunk_output" in name
    return (1 + 0.5 * values) * (0.7 if residual else 0.5 if "features" in name else 1)


def fill(module: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Give a module on the meta device weights and statistics that are trivial nowhere."""
    state = {name: drawn(name, tensor, dtype) for name, tensor in module.state_dict().items()}
    module.load_state_dict(state, assign=True)
    return module


def quick(name: str, **options: object) -> unetzoo.SegmentationModel:
    """Build ``name`` as ``create`` does, in training mode, with weights of :func:`fill`."""
    with unetzoo.model.on_meta():
        model = unetzoo.create(name, **options)
    return fill(model, torch.float32)


def small(**options: object) -> unetzoo.SegmentationModel:
    """Return a small U-Net of torch's own weights whose masks have both foreground and background."""
    torch.manual_seed(0)
    network = unetzoo.create("unet", base_channels=4, **options)
    with torch.no_grad():
        network.head.conv.weight.mul_(8)
    return network


def saved(path: Path, **options: object) -> Path:
    """Write the network of :func:`small`."""
    unetzoo.save(small(**options), path)
    return path


def white(**options: object) -> unetzoo.SegmentationModel:
    """Return a small U-Net that finds what is brighter than black, pixel by pixel."""
    model = unetzoo.create("unet", base_channels=4, **options)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.zero_()
            if name.startswith(("encoder.levels.0", "decoder.convs.3", "head")) and name.endswith("weight"):
                weights[(..., weights.shape[-2] // 2, weights.shape[-1] // 2) if weights.ndim == 4 else ...] = 1
        model.head.conv.bias.fill_(-0.1)
    return model.eval()


LARGE = 2**18
"""Numbers of a tensor from which on it is cut from others: networks of few channels are drawn as they are."""
FILLERS = {name: getattr(nn.init, name) for name in ("normal_", "kaiming_normal_", "kaiming_uniform_")}
"""torch's own."""


@functools.cache
def normal_noise() -> Tensor:
    return torch.randn(2**23, generator=torch.Generator().manual_seed(0))


def _scale(name: str, mean: float = 0.0, std: float = 1.0, **options: Any) -> float | None:
    """Return by how much a filler scales what is drawn, before the fan if it is ``kaiming``; None for another mean."""
    if name == "normal_":
        return None if mean else std
    gain = nn.init.calculate_gain(options.get("nonlinearity", "leaky_relu"), options.get("a", 0))
    return gain * (math.sqrt(3) if "uniform" in name else 1)


def cut_draws(patch: pytest.MonkeyPatch) -> None:
    """Let torch's fillers cut large tensors from numbers drawn once, at a place that torch's generator says.

    Distribution, and dependence on the seed, are torch's; a tenth of the suite's time went into drawing.
    """

    def cutting(name: str) -> Callable[..., Tensor]:
        def fill(tensor: Tensor, *values: Any, **options: Any) -> Tensor:
            if tensor.is_meta:
                return tensor
            numbers = tensor.numel()
            plain = type(tensor.detach()) is Tensor and tensor.dtype == torch.float32 and tensor.is_contiguous()
            usual = plain and tensor.is_cpu and not values and "generator" not in options
            scale = _scale(name, **options) if usual and LARGE <= numbers < 2**23 else None
            if scale is None:
                return FILLERS[name](tensor, *values, **options)
            if "kaiming" in name:
                scale /= math.sqrt(nn.init._calculate_correct_fan(tensor, options.get("mode", "fan_in")))
            numbers_drawn = noise(torch.float32) if "uniform" in name else normal_noise()
            start = int(torch.randint(len(numbers_drawn) - numbers, ()))
            torch.mul(numbers_drawn[start : start + numbers].view(tensor.shape), scale, out=tensor.detach())
            return tensor

        return fill

    for name in FILLERS:
        patch.setattr(nn.init, name, cutting(name))


def own_draws(patch: pytest.MonkeyPatch) -> None:
    """Let torch draw again."""
    for name, filler in FILLERS.items():
        patch.setattr(nn.init, name, filler)
