"""The crops of a training, and objects that are large compared with them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unetzoo.checks import DENOMINATOR

CROP = 256
"""The most pixels of a crop's side by default."""
Size = tuple[int, int]


def crop_of(asked: int | Size | None, sizes: Sequence[Size] = ()) -> Size:
    """Return (height, width) of the crops.

    Args:
        asked: their side, or height and width; None: :data:`CROP`, or less where most images are smaller.
        sizes: of the training images.
    """
    if asked is None:
        asked = min([CROP, *([round(statistics.median(min(size) for size in sizes))] if sizes else [])])
    return (asked, asked) if isinstance(asked, int) else (asked[0], asked[1])


def half_of(crop: Size) -> int:
    """Return the side of the square that an object must fill to be large for the crops."""
    return -(-min(crop) // 2)


def largest_object(target: Tensor, pixels: Sequence[int], crop: Size, *, multilabel: bool) -> int:
    """Return the side of the largest square that one class fills; 0 if it is smaller than half a crop's side.

    Long lines are thin: a square tells a large object from a large number of pixels.

    Args:
        target: (H, W), or for multilabel (classes, H, W).
        pixels: of each class, and of the background before them unless ``multilabel``.
        crop: (height, width) of the crops; the result is 0 for an image that is not larger in both directions.
    """
    found, least = 0, half_of(crop)
    if any(side <= most for side, most in zip(target.shape[-2:], crop, strict=True)):
        return 0
    for k, count in enumerate(pixels):
        if (multilabel or k > 0) and count >= max(least, found + 1) ** 2:
            mask = target[k] == 1 if multilabel else target == k
            found = max(found, largest_square(mask.numpy(), max(least, found + 1)))
    return found


def largest_square(mask: NDArray[np.bool_], least: int = 1) -> int:
    """Return the side of the largest square within a mask (H, W); 0 where there is none of ``least`` pixels a side."""
    # The number of mask pixels above and to the left of each corner gives the number in any square.
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int32 if mask.size < 2**31 else np.int64)
    np.cumsum(mask, axis=0, out=table[1:, 1:])
    np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
    if not _has_square(table, least):
        return 0
    low, high = least, min(*mask.shape, math.isqrt(int(table[-1, -1]))) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _has_square(table, middle) else (low, middle)
    return low


def _has_square(table: NDArray[np.signedinteger], side: int) -> bool:
    """Return whether the mask of a table of sums has a filled square of this side."""
    if side >= min(table.shape):
        return False
    inside = table[side:, side:] - table[side:, :-side]
    inside -= table[:-side, side:]
    inside += table[:-side, :-side]
    return bool(inside.max() == side * side)


def parts_of(objects: Sequence[tuple[int, Size]], crop: Size) -> int:
    """Return the number by which to divide image sides, so that a typical object is smaller than half a crop.

    It is at most the number that makes a typical image fit into a crop: smaller images would only lose detail.

    Args:
        objects: side of the largest square of each image that has a large one, and the image's (height, width).
        crop: (height, width) of the crops.
    """
    fits = int(statistics.median(side for side, _ in objects)) // half_of(crop) + 1
    whole = math.ceil(statistics.median(min(h / crop[0], w / crop[1]) for _, (h, w) in objects))
    return min(fits, whole, DENOMINATOR)
