"""The grid of an image: the positions of its windows, and how their predictions are joined.

Windows are laid out on each axis separately, so that the weight of a pixel is the product of a weight for its row and
one for its column. They begin at multiples of the network's stride: then max-pooling sees the same groups of pixels as
in the whole image, and a window gives exactly the same result for its inner pixels.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

BLENDS = ("gaussian", "linear", "crop")


@dataclass(frozen=True)
class Axis:
    """The windows along one side of an image.

    Attributes:
        length: length of the side in pixels.
        window: length of each window in pixels, a multiple of the stride. Windows may extend beyond the end of the
            side.
        starts: first pixels of the windows, multiples of the stride.
        blend: how windows are joined, one of :data:`BLENDS`, see :func:`lay_out`.
        weights: (windows, window) float32: how much each pixel of each window counts. For each pixel, the weights of
            all windows that contain it have the sum 1.
    """

    length: int
    window: int
    starts: tuple[int, ...]
    blend: str
    weights: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", _weights(self.starts, self.window, self.blend))

    def parts(self, k: int) -> tuple[slice, slice]:
        """Return the pixels of window ``k`` that count, as positions in the window and along the side."""
        inside = self.weights[k].nonzero()
        first, last = int(inside[0]), int(inside[-1]) + 1
        return slice(first, last), slice(self.starts[k] + first, self.starts[k] + last)

    def window_at(self, pixel: int) -> int:
        """Return which window starts at a pixel; at the end of the side, where none does, the number of windows."""
        return len(self.starts) if pixel == self.length else self.starts.index(pixel)


@dataclass(frozen=True)
class Grid:
    """The tiles of an image. They are laid out once and passed on, because the free memory may change.

    Attributes:
        down: rows of tiles.
        across: columns of tiles.
    """

    down: Axis
    across: Axis

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.down.starts) * len(self.across.starts)

    def record(self) -> dict[str, dict[str, Any]]:
        """Return the grid as values for JSON, from which :meth:`of` restores it."""
        return {
            name: {"length": axis.length, "window": axis.window, "starts": list(axis.starts), "blend": axis.blend}
            for name, axis in (("down", self.down), ("across", self.across))
        }

    @classmethod
    def of(cls, record: Any) -> Grid:
        """Return the grid of a :meth:`record`.

        Raises:
            KeyError, TypeError, ValueError: the record is not valid.
        """
        axes = (record[name] for name in ("down", "across"))
        return cls(*(Axis(**{**axis, "starts": tuple(axis["starts"])}) for axis in axes))


def rounded_up(value: int, unit: int) -> int:
    """Return the smallest multiple of ``unit`` that is at least ``value``."""
    return -(-value // unit) * unit


def lay_out(length: int, window: int | None, overlap: int, unit: int, blend: str) -> Axis:
    """Return the windows of a side, spread evenly.

    Args:
        length: length of the side in pixels.
        window: length of a window in pixels, rounded up to a multiple of ``unit``; None: one window covers everything.
        overlap: smallest number of pixels that neighbouring windows share, less than a window.
        unit: stride of the network.
        blend: "crop": each pixel counts in the window whose middle is nearest; "linear" and "gaussian": where windows
            overlap, both count, with weights that grow with the distance from their edges. The Gaussian's standard
            deviation is an eighth of the window (Isensee et al. 2021, nnU-Net, supplementary note 4).
    """
    whole = rounded_up(length, unit)
    window = whole if window is None else min(rounded_up(window, unit), whole)
    count = 1 if window == whole else -(-(whole - overlap) // (window - overlap))
    while True:
        last = whole - window
        starts = tuple(k * last // max(count - 1, 1) // unit * unit for k in range(count))
        if all(b - a <= window - overlap for a, b in itertools.pairwise(starts)):
            return Axis(length, window, starts, blend)
        count += 1  # rounding has put two of them too far apart


def _weights(starts: tuple[int, ...], window: int, blend: str) -> Tensor:
    rows = torch.arange(window) + 0.5
    weights = torch.zeros(len(starts), window)
    if blend == "crop":
        ends = [(a + window + b) // 2 for a, b in itertools.pairwise(starts)]
        for k, (begin, end) in enumerate(zip([0, *ends], [*ends, starts[-1] + window], strict=True)):
            weights[k, begin - starts[k] : end - starts[k]] = 1
        return weights
    if blend == "linear":
        weights[:] = torch.minimum(rows, window - rows)
    else:
        weights[:] = torch.exp(-0.5 * ((rows - window / 2) / (window / 8)) ** 2)
    total = torch.zeros(starts[-1] + window)
    for k, start in enumerate(starts):
        total[start : start + window] += weights[k]
    for k, start in enumerate(starts):
        weights[k] /= total[start : start + window]
    return weights
