"""Networks whose weights are cut from numbers drawn once: to draw those of a ResNet takes longer than to run it."""

from __future__ import annotations

import functools
import math
import zlib

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
    return (1 + 0.5 * values) * (0.7 if "layer" in name else 1)


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
