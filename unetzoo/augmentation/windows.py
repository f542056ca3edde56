"""Windows: the part of an image or a mask that a result is made of, and what lies outside of the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision import tv_tensors

from unetzoo.augmentation._base import bare, like

IGNORED = -100
"""Of pixels in masks that count in no loss and no metric."""
Size = tuple[int, int]
"""Height and width."""


def turned(size: Size, low: float, high: float) -> tuple[float, float]:
    """Return height and width that cover a rectangle turned by anything from ``low`` to ``high`` degrees."""
    turns = [math.radians(low + (high - low) * k / 180) for k in range(181)]
    cos, sin = [abs(math.cos(turn)) for turn in turns], [abs(math.sin(turn)) for turn in turns]
    height, width = size
    return (
        max(height * c + width * s for c, s in zip(cos, sin, strict=True)),
        max(width * c + height * s for c, s in zip(cos, sin, strict=True)),
    )


def grown(size: Size, covered: tuple[float, float], margin: float = 0, shrink: float = 1) -> Size:
    """Return ``(covered + margin) / shrink`` and what interpolation needs; by an even number more, to stay centred."""
    height, width = (
        side + 2 * max(0, math.ceil(((cover + margin) / shrink - side) / 2) + 1)
        for side, cover in zip(size, covered, strict=True)
    )
    return height, width


def random_window(image: Tensor, mask: Tensor, crop: Size, size: Size) -> tuple[Tensor, Tensor]:
    """Return a window of ``size`` about a crop at random: inside of the image, or about it where that is smaller."""
    corner = []
    for whole, side, needed in zip(image.shape[-2:], crop, size, strict=True):
        low, high = sorted((0, whole - side))
        corner.append(int(torch.randint(low, high + 1, ())) - (needed - side) // 2)
    return _window(image, corner[0], corner[1], size), _window(mask, corner[0], corner[1], size)


def centre(inpt: Tensor, size: Size) -> Tensor:
    """Return the window in the middle."""
    height, width = inpt.shape[-2:]
    return _window(inpt, (height - size[0]) // 2, (width - size[1]) // 2, size)


def _window(inpt: Tensor, top: int, left: int, size: Size) -> Tensor:
    """Return the part of an image or mask at (top, left): outside, the mean of what is inside, or IGNORED."""
    values = bare(inpt)
    height, width = values.shape[-2:]
    rows = slice(max(top, 0), min(top + size[0], height))
    columns = slice(max(left, 0), min(left + size[1], width))
    inside = values[..., rows, columns]
    if inside.shape[-2:] != size:
        if isinstance(inpt, tv_tensors.Mask):
            whole = values.new_full((*values.shape[:-2], *size), IGNORED)
        else:
            whole = inside.mean((-2, -1), keepdim=True).expand(*values.shape[:-2], *size).clone()
        whole[..., rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = inside
        inside = whole
    return like(inpt, inside)
