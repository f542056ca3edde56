"""Windows: the part of an image or a mask from which a result is made, with fill values outside the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision import tv_tensors

from unetzoo import images
from unetzoo.augmentation._base import bare, like

IGNORED = -100
"""Value of mask pixels that count in no loss and no metric."""
Size = tuple[int, int]
"""Height and width."""


def turned(size: Size, low: float, high: float) -> tuple[float, float]:
    """Return height and width that cover a rectangle rotated by any angle from ``low`` to ``high`` degrees."""
    turns = [math.radians(low + (high - low) * k / 180) for k in range(181)]
    cos, sin = [abs(math.cos(turn)) for turn in turns], [abs(math.sin(turn)) for turn in turns]
    height, width = size
    return (
        max(height * c + width * s for c, s in zip(cos, sin, strict=True)),
        max(width * c + height * s for c, s in zip(cos, sin, strict=True)),
    )


def grown(size: Size, covered: tuple[float, float], margin: float = 0, shrink: float = 1) -> Size:
    """Return ``(covered + margin) / shrink`` and what interpolation needs, by an even number more, to stay centred."""
    height, width = (
        side + 2 * max(0, math.ceil(((cover + margin) / shrink - side) / 2) + 1)
        for side, cover in zip(size, covered, strict=True)
    )
    return height, width


def unfolded(inpt: Tensor) -> Tensor:
    """Return a copy with the values that transforms use: an image's integers scaled, a mask's as int64."""
    values = bare(inpt)
    if isinstance(inpt, tv_tensors.Mask):
        return like(inpt, values.to(torch.int64, copy=True, memory_format=torch.contiguous_format))
    if values.is_floating_point():
        return like(inpt, values.clone(memory_format=torch.contiguous_format))
    return like(inpt, images.scaled(values.contiguous()))


def random_window(
    image: Tensor, mask: Tensor, crop: Size, size: Size, wanted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return a window of ``size`` around a random crop, which is inside the image, or contains it if it is smaller.

    If the middle of the crop, half as high and wide, has no pixel that is ``wanted``, the crop is moved: one of these,
    drawn with equal chances, becomes its central pixel, or is as near to it as the image's border allows. Pixels in the
    middle stay in the crop under any rotation. Only the pixels in the window are :func:`unfolded`.

    Args:
        image, mask: of the same height and width.
        crop, size: in pixels.
        wanted: (H, W) bool, True somewhere; None: no pixels in particular.
    """
    ranges = [sorted((0, whole - side)) for whole, side in zip(image.shape[-2:], crop, strict=True)]
    first = [int(torch.randint(low, high + 1, ())) for low, high in ranges]
    middle = tuple(slice(max(0, at + side // 4), at + side - side // 4) for at, side in zip(first, crop, strict=True))
    if wanted is not None and not wanted[middle].any():
        places = wanted.reshape(-1).nonzero()
        about = divmod(int(places[int(torch.randint(len(places), ()))]), wanted.shape[1])
        for axis, (low, high) in enumerate(ranges):
            if low == 0:  # else all of the image is in the crop
                first[axis] = min(max(about[axis] - crop[axis] // 2, 0), high)
    top, left = (at - (needed - side) // 2 for at, side, needed in zip(first, crop, size, strict=True))
    window, labels = (_framed(unfolded(_inside(inpt, top, left, size)), top, left, size) for inpt in (image, mask))
    return window, labels


def centre(inpt: Tensor, size: Size) -> Tensor:
    """Return the window in the middle."""
    height, width = inpt.shape[-2:]
    if (height, width) == size:
        return inpt
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return _framed(_inside(inpt, top, left, size), top, left, size)


def _inside(inpt: Tensor, top: int, left: int, size: Size) -> Tensor:
    """Return the part of the window at (top, left) that is inside an image or mask."""
    inside = bare(inpt)[..., max(top, 0) : max(top + size[0], 0), max(left, 0) : max(left + size[1], 0)]
    return like(inpt, inside)


def _framed(inside: Tensor, top: int, left: int, size: Size) -> Tensor:
    """Return the window at (top, left) from its part ``inside``; the rest is filled with its mean, or IGNORED."""
    values = bare(inside)
    if values.shape[-2:] == size:
        return inside
    if isinstance(inside, tv_tensors.Mask):
        whole = values.new_full((*values.shape[:-2], *size), IGNORED)
    else:
        whole = values.mean((-2, -1), keepdim=True).expand(*values.shape[:-2], *size).clone()
    height, width = values.shape[-2:]
    down, right = max(-top, 0), max(-left, 0)
    whole[..., down : down + height, right : right + width] = values
    return like(inside, whole)
