"""An image as it was read: its pixels, and what the file says of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Raster:
    """An image as it was read.

    Attributes:
        pixels: (C, H, W), upright.
        alpha: whether the file calls the last channel opacity: a TIFF by ExtraSamples, others by their mode.
        missing: (C, H, W) bool, which values were not measured; None where all were. ``pixels`` have the least value of
            their band there.
    """

    pixels: Tensor
    alpha: bool = False
    missing: Tensor | None = None
