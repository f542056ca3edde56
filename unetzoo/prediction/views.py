"""Test-time augmentation: a network sees an image rotated and mirrored, and its output is transformed back."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class View(NamedTuple):
    """A way to look at an image: mirrored, then transposed; at a scale.

    Attributes:
        flips: the dimensions that are mirrored: 2 (rows), 3 (columns), or both.
        transposed: whether rows and columns are then swapped.
        scale: scale of the sides, applied before both.
    """

    flips: tuple[int, ...] = ()
    transposed: bool = False
    scale: float = 1.0

    def apply(self, images: Tensor, unit: int) -> Tensor:
        """Return (N, C, H, W) in this view; if the view is scaled, sides become multiples of ``unit``."""
        if self.scale != 1:
            size = [max(1, round(side * self.scale / unit)) * unit for side in images.shape[-2:]]
            images = F.interpolate(images, size, mode="bilinear", antialias=self.scale < 1)
        images = images.flip(self.flips) if self.flips else images
        return images.transpose(2, 3) if self.transposed else images

    def undo(self, logits: Tensor, size: torch.Size) -> Tensor:
        """Transform the logits (N, classes, …) of this view back to the image, whose height and width are ``size``."""
        logits = logits.transpose(2, 3) if self.transposed else logits
        logits = logits.flip(self.flips) if self.flips else logits
        if self.scale == 1:
            return logits
        return F.interpolate(logits, size, mode="bilinear", antialias=self.scale > 1)


_FLIPS = ((), (2,), (3,), (2, 3))
VIEWS = {
    "none": (View(),),
    "flips": tuple(View(flips) for flips in _FLIPS),
    "d4": tuple(View(flips, transposed) for transposed in (False, True) for flips in _FLIPS),
}
"""Name → views: the image unchanged; mirrored along each axis and both; all eight symmetries of a square."""


def views(name: str, scales: tuple[float, ...]) -> tuple[View, ...]:
    """Return all views with this name at all scales."""
    return tuple(view._replace(scale=scale) for scale in scales for view in VIEWS[name])
