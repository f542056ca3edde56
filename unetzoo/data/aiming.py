"""Crops that must hold foreground, so that training sees rare and small classes.

As in nnU-Net (Isensee et al. 2021, Nature Methods, supplementary note 2) a share of the crops must hold foreground: a
class is drawn from those in the image, with equal chances, however few pixels it has. nnU-Net always places the crop
around one of its pixels; here only if the crop would otherwise have none of the class in its middle. So foreground that
is everywhere is seen as often as it occurs: if crops are always placed around it, networks predict too much of it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def share_problems(share: float) -> list[str]:
    """Return what is wrong with a share of the crops."""
    if 0 <= share <= 1:
        return []
    return [f"foreground_crops={share!r}: give a share of the crops, from 0 to 1"]


def drawn_class(target: Tensor, task: str, share: float) -> Tensor | None:
    """Return the pixels of a randomly drawn class; None for all draws but a share, or without any foreground.

    Args:
        target: (H, W) of binary and multi-class, (classes, H, W) of multi-label, as a data set has it; for instances
            the numbers of objects follow the classes. Pixels below 0 do not count, and 0 is the background.
        task: of the labels.
        share: of the draws that give a class, from 0 to 1.

    Returns:
        (H, W) bool, True somewhere.
    """
    if not share or torch.rand(()) >= share:
        return None
    values = target.numpy()
    if task in ("binary", "multiclass"):
        found = np.bincount(np.maximum(values, 0).ravel())
        present = np.flatnonzero(found[1:]) + 1
        return target == int(present[_drawn(len(present))]) if len(present) else None
    planes = (values[:-1] if task == "instances" else values) == 1
    present = np.flatnonzero(planes.any(axis=(1, 2)))
    return torch.from_numpy(planes[present[_drawn(len(present))]]) if len(present) else None


def _drawn(count: int) -> int:
    return int(torch.randint(count, ()))
