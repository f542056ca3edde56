"""Resampling of a level to pixels of another size, in windows, with the same result as for the whole level.

The filter is the triangle that Pillow and torch call bilinear with antialiasing: a new pixel is the weighted mean of
the pixels that it and half of each neighbour cover. Sums run over pixels in the same order in every window, so that
values are the same to the last bit in any window.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def side_of(length: int, step: float) -> int:
    """Return how many new pixels a side of ``length`` has, with ``step`` old pixels per new one."""
    return max(1, round(length / step))


def taps(first: int, last: int, length: int, step: float) -> tuple[Tensor, Tensor]:
    """Return the old pixels from which new ones are made, and their weights.

    Args:
        first, last: range of the new pixels, without the last.
        length: of the old side.
        step: old pixels per new one.

    Returns:
        Indices and weights, both (new, old): int64 within the side, and float32 whose rows have the sum 1.
    """
    support = max(1.0, step)
    middle = (torch.arange(first, last, dtype=torch.float64) + 0.5) * step
    middle.clamp_(max=length)  # for a last pixel that reaches beyond the end
    low = (middle - support + 0.5).floor().long()
    indices = low[:, None] + torch.arange(math.ceil(2 * support) + 1)
    weights = (1 - (indices + 0.5 - middle[:, None]).abs() / support).clamp_(min=0)
    weights[(indices < 0) | (indices >= length)] = 0
    return indices.clamp_(0, length - 1), (weights / weights.sum(1, keepdim=True)).float()


def resampled(part: Tensor, down: tuple[Tensor, Tensor], across: tuple[Tensor, Tensor]) -> Tensor:
    """Return the new pixels of a window of old ones, in the same type; whole numbers are rounded.

    Args:
        part: (C, H, W), the window.
        down, across: from :func:`taps`, with indices relative to the window.
    """
    kind = part.dtype
    values = part.double() if kind in (torch.int32, torch.uint32) else part.float()
    for dim, (indices, weights) in ((1, down), (2, across)):
        shape = (-1, 1) if dim == 1 else (1, -1)
        total = torch.zeros(1)
        for k in range(indices.shape[1]):
            share = values.index_select(dim, indices[:, k]).mul_(weights[:, k].view(shape))
            total = share if k == 0 else total.add_(share)
        values = total
    if kind.is_floating_point:
        return values.to(kind)
    bounds = torch.iinfo(kind)
    return values.round_().clamp_(bounds.min, bounds.max).to(kind)
