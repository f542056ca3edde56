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
    """

    pixels: Tensor
    alpha: bool = False
