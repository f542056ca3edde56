"""Crops that hold foreground: where a training crop is to lie, so that rare and small classes are seen.

As nnU-Net does (Isensee et al. 2021, Nature Methods, supplementary note 2): for a share of the crops a class is drawn
among those that the image has, then a pixel of it, about which the crop lies. So each class of an image is aimed at
alike, however few pixels it has.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Pixel = tuple[int, int]
"""Row and column."""


def share_problems(share: float) -> list[str]:
    """Return what is wrong with a share of the crops."""
    if 0 <= share <= 1:
        return []
    return [f"foreground_crops={share!r}: a share of the crops, from 0 to 1, is needed"]


def drawn_pixel(target: Tensor, task: str, share: float) -> Pixel | None:
    """Return a pixel of a class that is drawn first, each alike; None for all but a share, or without any foreground.

    Args:
        target: (H, W) of binary and multi-class, (classes, H, W) of multi-label, as a data set has it; for instances
            the numbers of objects are behind the classes. Pixels below 0 do not count, and 0 is the background.
        task: of the labels.
        share: of the draws that give a pixel, from 0 to 1.
    """
    if not share or torch.rand(()) >= share:
        return None
    values = target.numpy()
    if task in ("binary", "multiclass"):
        found = np.bincount(np.maximum(values, 0).ravel())
        present = np.flatnonzero(found[1:]) + 1
        inside = values == present[_drawn(len(present))] if len(present) else None
    else:
        planes = (values[:-1] if task == "instances" else values) == 1
        present = np.flatnonzero(planes.any(axis=(1, 2)))
        inside = planes[present[_drawn(len(present))]] if len(present) else None
    if inside is None:
        return None
    places = np.flatnonzero(inside)
    row, column = divmod(int(places[_drawn(len(places))]), inside.shape[1])
    return row, column


def _drawn(count: int) -> int:
    return int(torch.randint(count, ()))
