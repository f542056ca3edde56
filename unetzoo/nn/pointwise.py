"""1×1 convolutions, and linear layers over channels, with the faster of the two libraries that torch has for them.

oneDNN's convolutions use all that a processor has. With a single thread, as in workers, torch gives 1×1 convolutions to
its matrix product instead, and linear layers with any number of threads: MKL's, which uses half of the width of an AMD
processor's registers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetzoo.nn.programs import by_modes, transformed

FEWEST = 4
"""Channels out below which the matrix product is as fast or faster."""
FEWEST_FIRST = 64
"""Channels in and out, of maps that have their channels first, below which it is."""

SMALL = 20480
"""Numbers of the map of one image up to which torch never takes oneDNN, and a dilation would bring a slow loop."""

FEW_PIXELS = 512
"""Pixels of a batch up to which oneDNN's matrix product is faster than its convolution, which reorders the weight."""


def free_dilation(x: Tensor, weight: Tensor) -> int:
    """Return the dilation for a convolution that has none: 2 where it says nothing, and brings the faster library.

    A 1×1 kernel is the same at every dilation; but with one torch always takes oneDNN.

    Args:
        x: (N, C, H, W), what is convolved.
        weight: (O, C, K, L).
    """
    if weight.shape[2:] != (1, 1) or not by_onednn(x, weight) or torch.get_num_threads() > 1:
        return 1
    last = x.is_contiguous(memory_format=torch.channels_last)
    return 2 if last or min(weight.shape[:2]) >= FEWEST_FIRST else 1


def is_product(pixels: int, x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`by_product` is the faster way to so many pixels of a batch, and needs no derivative."""
    few = pixels <= FEW_PIXELS and weight.shape[2:] == (1, 1)
    return few and not torch.is_grad_enabled() and multiplies(x, weight)


def multiplies(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's matrix product may compute what is made of these: no mode would miss an operator."""
    return by_onednn(x, weight) and not by_modes() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(
    rows: Tensor, columns: Tensor, bias: Tensor | None = None, act: tuple[str, list[Any]] = ("none", [])
) -> Tensor:
    """Return oneDNN's (…, K) · (C, K)ᵀ + bias (C,), with an activation by oneDNN's name; it has no derivative."""
    name, scalars = act
    found: Tensor = torch.ops.mkldnn._linear_pointwise.default(rows, columns, bias, name, scalars, "")
    return found


def by_product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, act: tuple[str, list[Any]] = ("none", [])
) -> Tensor:
    """Return the 1×1 convolution (N, O, H, W) of ``x`` (N, C, H, W), channels last, by a matrix product."""
    return product(x.permute(0, 2, 3, 1), weight.flatten(1), bias, act).permute(0, 3, 1, 2)


def by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether torch itself runs this, on the CPU in float32, and oneDNN could compute it, and gain."""
    if transformed():  # a compiler has no threads to ask for
        return False
    fits = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and len(weight) >= FEWEST
    return fits and (len(x) > 1 or x.numel() > SMALL) and has_onednn()


def has_onednn() -> bool:
    """Whether torch has oneDNN, and may use it."""
    return bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)  # type: ignore[no-untyped-call]


class PointwiseLinear(nn.Linear):
    """A linear layer over the channels of maps (…, C), for inference."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, O) of ``x`` (…, C)."""
        if not by_onednn(x, self.weight) or x.numel() <= SMALL or not x.is_contiguous():
            return super().forward(x)
        pixels = x.view(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
        out = F.conv2d(pixels, self.weight[:, :, None, None], self.bias, dilation=2)
        return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(self.weight))


def make_pointwise(network: nn.Module) -> None:
    """Let the linear layers of ``network`` be computed in this way; the modules stay in place."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = PointwiseLinear
