"""Outlines along the edges of pixels, for all components of an image together.

A boundary turns only at points where four pixels meet. Each turn is found from those four, and is joined to the next
turn in its row and to the next one in its column, because along a line of the grid, the ends of a component's edges
alternate between opening and closing. This makes rings of turns, which are put in order by doubling: every turn learns
which turn is 1, 2, 4, 8, … turns ahead. No loop runs over pixels, turns or rings.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Rings(NamedTuple):
    """Closed outlines, component by component: first the outer outline, then those of the holes.

    Attributes:
        corners: (n, 2) int64, x and y of all turns, ring after ring; each ring starts with its upper left turn and
            has the component on its right, seen with y down: shoelace areas are positive around a component and
            negative around a hole.
        starts: (rings,) int64, where each ring starts in ``corners``.
        owners: (rings,) int64, the number of the component.
    """

    corners: NDArray[np.int64]
    starts: NDArray[np.int64]
    owners: NDArray[np.int64]


def trace(numbers: NDArray[np.int32]) -> Rings:
    """Return the outlines of the components of ``numbers`` (H, W), where 0 is background.

    Each number must be one component whose pixels are connected by edges. Then no ring touches itself; rings may touch
    each other in single points.
    """
    owner, y, x, right, down, leaves = _turns(numbers)
    order = np.argsort(_key(owner, y, x, right, numbers.shape))
    owner, y, x, down, leaves = (column[order] for column in (owner, y, x, down, leaves))
    index = np.arange(len(owner))
    in_row = index ^ 1
    in_column = np.empty_like(index)
    order = np.argsort(_key(owner, x, y, down, numbers.shape[::-1]))
    in_column[order] = order.reshape(-1, 2)[:, ::-1].ravel()
    first, place = _rings(np.where(leaves, in_row, in_column))
    corners = np.empty((len(owner), 2), np.int64)
    corners[place] = np.stack([x, y], 1)
    starts = index[first == index]
    return Rings(corners, place[starts], owner[starts])


def _turns(numbers: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the turns of all outlines as columns of (6, n).

    The rows: number of the component, y, x, whether the edge in the image's row runs right from here, whether the edge
    in the column runs down, and whether the ring leaves along the row.
    """
    padded = np.pad(numbers, 1)
    four = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    straight = (four[0] == four[1]) & (four[2] == four[3]) | (four[0] == four[2]) & (four[1] == four[3])
    y, x = np.nonzero(~straight)
    pixels = [pixel[y, x].astype(np.int64) for pixel in four]
    found = []
    for k, own in enumerate(pixels):
        right, down = k % 2, k // 2
        beside, stacked, across = pixels[k ^ 1], pixels[k ^ 2], pixels[k ^ 3]
        convex = (own > 0) & (beside != own) & (stacked != own)
        # Where a component touches itself at a corner, the ring follows the other pixel, so as not to touch itself.
        flipped = (across == own)[convex] ^ down
        found.append(_rows(own[convex], y[convex], x[convex], right, flipped, right == down))
        concave = (across > 0) & (own != across) & (beside == across) & (stacked == across)
        found.append(_rows(across[concave], y[concave], x[concave], right, down, right != down))
    return np.concatenate(found, 1)


def _rows(*columns: Any) -> NDArray[np.int64]:
    return np.stack(np.broadcast_arrays(*columns)).astype(np.int64)


def _key(
    number: NDArray[np.int64],
    line: NDArray[np.int64],
    place: NDArray[np.int64],
    forward: NDArray[np.int64],
    shape: tuple[int, ...],
) -> NDArray[np.int64]:
    """Return a key that sorts by number, then line, then place in the line, then direction."""
    key: NDArray[np.int64] = ((number * (shape[0] + 1) + line) * (shape[1] + 1) + place) * 2 + forward
    return key


def _rings(following: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each element of a permutation the smallest of its cycle, and its place in a list of the cycles.

    The cycles are listed in the order of their smallest elements, and each starts with its smallest element.
    """
    index = np.arange(len(following))
    first, ahead = index, following
    while True:
        least = np.minimum(first, first[ahead])
        if np.array_equal(least, first):
            break
        first, ahead = least, ahead[ahead]
    ahead = np.where(first == index, index, following)
    steps = (first != index).astype(np.int64)  # steps to the smallest element
    while not np.array_equal(ahead, first):
        steps += steps[ahead]
        ahead = ahead[ahead]
    lengths = np.bincount(first, minlength=len(index))
    starts = np.cumsum(lengths) - lengths
    return first, starts[first] + np.where(steps == 0, 0, lengths[first] - steps)
