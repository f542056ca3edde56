"""An image as it was read: its pixels, and what the file says about them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Raster:
    """An image as it was read.

    Attributes:
        pixels: (C, H, W), upright.
        alpha: whether the last channel is opacity by the file: in a TIFF by ExtraSamples, in others by their mode.
        missing: (C, H, W) bool, the missing values; None if there are none. ``pixels`` have the least value of their
            band there.
    """

    pixels: Tensor
    alpha: bool = False
    missing: Tensor | None = None
