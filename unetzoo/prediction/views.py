"""Test-time augmentation: a network sees an image turned and mirrored, and what it says is turned back."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class View(NamedTuple):
    """A way to look at an image: mirrored, then transposed; at a scale.

    Attributes:
        flips: the dimensions that are mirrored: of 2 (rows) and 3 (columns).
        transposed: whether rows and columns then change places.
        scale: of the sides, before both.
    """

    flips: tuple[int, ...] = ()
    transposed: bool = False
    scale: float = 1.0

    def apply(self, images: Tensor, unit: int) -> Tensor:
        """Return (N, C, H, W) as this view shows it; sides that are scaled are multiples of ``unit``."""
        if self.scale != 1:
            size = [max(1, round(side * self.scale / unit)) * unit for side in images.shape[-2:]]
            images = F.interpolate(images, size, mode="bilinear", antialias=self.scale < 1)
        images = images.flip(self.flips) if self.flips else images
        return images.transpose(2, 3) if self.transposed else images

    def undo(self, logits: Tensor, size: torch.Size) -> Tensor:
        """Return logits (N, classes, …) of such a view as those of the image, whose height and width are ``size``."""
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
"""Name → the views: as it is; mirrored at each axis and both; all eight symmetries of a square."""


def views(name: str, scales: tuple[float, ...]) -> tuple[View, ...]:
    """Return all views of that name at all scales."""
    return tuple(view._replace(scale=scale) for scale in scales for view in VIEWS[name])
