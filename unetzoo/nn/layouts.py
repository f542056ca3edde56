"""Memory layout of maps: channels last or first, whichever is faster for the next convolution.

torch's convolutions are faster with the channels last, but copy the weight into that order at every call. If a layer
has many more weights than numbers in its maps, as at the bottom of a network, the copies cost more than they save.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unetzoo.nn.programs import transformed

HEAVY = 2.25
"""Weights per number in the input and output maps from which the usual layout is faster; for a 3×3 convolution
of C to C channels, this means up to 2 C pixels per batch. In half precision it is four times as high, because the
arithmetic is faster and copies are cheap."""

HEAVY_IN_TRAINING = 3
"""The same for forward and backward pass together: below 2.25 channels last is faster, between them both are alike."""


def settled(part: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, pixels: int | None = None) -> Tensor:
    """Return ``part(x)``, computed in the layout that suits it, and laid out as ``x`` is.

    The usual layout is used only on the CPU, for a weight that does not itself have the channels last, and without
    gradients: a copy would be kept for backward.

    Args:
        part: a convolution, or a stage of them.
        x: (N, C, H, W).
        weight: (O, C, K, L), of the convolution, or the largest of the stage.
        pixels: of the batch's output, where they are not about those of ``x``.
    """
    if torch.is_grad_enabled() or transformed():
        return part(x)
    pixels = x[:, 0].numel() if pixels is None else pixels
    if not _heavy(x, weight, pixels * (len(weight) + weight.shape[1]), HEAVY):
        return part(x)
    return part(x.contiguous()).contiguous(memory_format=torch.channels_last)


def heavy_in_training(x: Tensor, weight: Tensor, out: int) -> bool:
    """Whether a convolution of ``x`` to ``out`` numbers is faster in the usual layout, with its backward pass."""
    return not transformed() and _heavy(x, weight, x.numel() + out, HEAVY_IN_TRAINING)


def _heavy(x: Tensor, weight: Tensor, numbers: int, least: float) -> bool:
    """Whether ``weight`` has ``least`` times as many numbers as its maps, and only these have the channels last."""
    last = [tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (x, weight)]
    if x.device.type != "cpu" or last != [True, False]:
        return False
    return weight.numel() >= (least if weight.dtype.itemsize >= 4 else 4 * least) * numbers
