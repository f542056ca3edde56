"""Where a stained slide has tissue, by a rule that leaves none out, so that the empty glass need not be computed.

Tissue is found on a small copy of the slide, with one pixel for 32 × 32 pixels of level 0. It is where the copy is more
saturated than Otsu's threshold (Otsu 1979, as in scikit-image's ``threshold_otsu``), but at most 20 of 255, or where it
is darker than 200 of 255; and two pixels of the copy around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 32
"""Pixels of level 0 per pixel of the copy, down and across."""
SATURATED, DARK = 20, 200
"""Of 255: everything with a higher saturation, and with a lower value (the largest of R, G, B), is tissue."""
AROUND = 2
"""Pixels of the copy that are added around the tissue."""


@dataclass(frozen=True, eq=False)
class Tissue:
    """Where an image has tissue.

    Attributes:
        cells: (rows, columns) bool, the pixels of the copy.
        steps: pixels of the copy per pixel of the image, down and across.
    """

    cells: Tensor
    steps: tuple[float, float]

    def rows(self, first: int, last: int, width: int) -> Tensor:
        """Return where rows of the image have tissue, (last - first, width) bool, by the centres of pixels."""
        return self.cells[self._at(first, last, 0)][:, self._at(0, width, 1)]

    def any(self, top: int, bottom: int, left: int, right: int) -> bool:
        """Return whether any pixel of a window has tissue; only pixels inside the image count."""
        down, across = self._at(max(top, 0), max(bottom, 1), 0), self._at(max(left, 0), max(right, 1), 1)
        return bool(self.cells[int(down[0]) : int(down[-1]) + 1, int(across[0]) : int(across[-1]) + 1].any())

    @property
    def share(self) -> float:
        """The share of the slide that is tissue."""
        return float(self.cells.double().mean())

    def _at(self, first: int, last: int, axis: int) -> Tensor:
        places = (torch.arange(first, last, dtype=torch.float64) + 0.5) * self.steps[axis]
        return places.long().clamp_(max=self.cells.shape[axis] - 1)


def tissue_in(copy: Tensor) -> Tensor:
    """Return where a small copy of a slide has tissue.

    Args:
        copy: (3, H, W) uint8, RGB.

    Returns:
        (H, W) bool.
    """
    largest, least = copy.amax(0).long(), copy.amin(0).long()
    saturation = torch.where(largest > 0, 255 * (largest - least) // largest.clamp(min=1), 0)
    found = (saturation > min(otsu(saturation), SATURATED)) | (largest < DARK)
    return F.max_pool2d(found[None].float(), 2 * AROUND + 1, stride=1, padding=AROUND)[0] > 0


def otsu(values: Tensor) -> int:
    """Return the threshold of 0…255 that splits the values into two classes with the least variance inside them."""
    counts = torch.bincount(values.flatten(), minlength=256).double()
    levels = torch.arange(256, dtype=torch.float64)
    below, sums = counts.cumsum(0), (counts * levels).cumsum(0)
    above = below[-1] - below
    between = below * above * (sums / below.clamp(min=1) - (sums[-1] - sums) / above.clamp(min=1)) ** 2
    return int(between.argmax())
