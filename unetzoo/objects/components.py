"""Connected components of planes of classes, found by SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetzoo import extras


def ndimage() -> Any:
    """Return ``scipy.ndimage``.

    Raises:
        ConfigError: SciPy is not installed.
    """
    return extras.needed("scipy.ndimage", "objects")


def components(plane: NDArray[Any], connectivity: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the components of equal values above 0, numbered in reading order of their first pixels.

    Args:
        plane: (H, W) integers.
        connectivity: 1: pixels are connected that share an edge; 2: an edge or a corner.

    Returns:
        Numbers (H, W) from 1 up, 0 where ``plane`` is 0; and the value of each component, (n,).
    """
    scipy = ndimage()
    structure = scipy.generate_binary_structure(2, connectivity)
    numbers, values = np.zeros(plane.shape, np.int32), list[int]()
    for value, box in enumerate(scipy.find_objects(plane), 1):
        if box is None:
            continue
        found, count = scipy.label(plane[box] == value, structure)
        np.add(found, len(values), out=numbers[box], where=found > 0)
        values += [value] * count
    return in_reading_order(numbers, np.array(values, np.int64))


def told_apart(plane: NDArray[Any], ids: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the objects given by ids, as :func:`components` does: pixels of equal value with one id that is not 0.

    Args:
        plane: (H, W) integers.
        ids: (H, W), of any type.
    """
    at = np.flatnonzero((plane > 0) & (ids != 0))
    values, known = plane.ravel()[at].astype(np.int64), ids.ravel()[at]
    # Runs of equal pixels are sorted, because they are far fewer.
    starts = np.flatnonzero(np.r_[True, (values[1:] != values[:-1]) | (known[1:] != known[:-1])][: len(at)])
    _, order = np.unique(known[starts], return_inverse=True)
    highest = int(plane.max()) + 1
    pairs, which = np.unique(order * highest + values[starts], return_inverse=True)
    numbers = np.zeros(plane.shape, np.int32)
    numbers.ravel()[at] = np.repeat(which + 1, np.diff(starts, append=len(at)))
    return in_reading_order(numbers, pairs % highest)


def areas(plane: NDArray[Any], connectivity: int) -> NDArray[np.int64]:
    """Return the areas in pixels of the components, class by class; twice as fast as :func:`components`."""
    scipy = ndimage()
    structure = scipy.generate_binary_structure(2, connectivity)
    found = [np.empty(0, np.int64)]
    for value, box in enumerate(scipy.find_objects(plane), 1):
        if box is not None:
            found.append(np.bincount(scipy.label(plane[box] == value, structure)[0].ravel())[1:])
    return np.concatenate(found)


def in_reading_order(
    numbers: NDArray[np.int32], values: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return numbers 1…n (H, W) and the n values that go with them, renumbered in the order of their first pixels."""
    at = np.flatnonzero(numbers)
    first = np.zeros(len(values) + 1, np.int64)
    first[numbers.ravel()[at][::-1]] = at[::-1]  # the last of several writes stays: that of the first pixel
    order = np.argsort(first[1:])
    new = np.zeros(len(values) + 1, np.int32)
    new[order + 1] = np.arange(1, len(values) + 1)
    return new[numbers], values[order]


def redrawn(ids: NDArray[Any], plane: NDArray[Any]) -> NDArray[np.int32]:
    """Return numbers of the objects of a mask that was changed after its objects were known.

    An object keeps the pixels that the mask still has; cut into parts, it is several objects. Pixels that the mask has
    in addition belong to the object that most of them touch, corners included, or are objects of their own.

    Args:
        ids: (H, W), the objects before, connected each; 0 is none.
        plane: (H, W), not 0 in the mask as it is now.
    """
    scipy = ndimage()
    structure = scipy.generate_binary_structure(2, 2)
    _, dense = np.unique(ids, return_inverse=True)
    dense = dense.reshape(ids.shape) + int(ids.min() > 0)  # numbers may be anything; find_objects needs small ones
    numbers, values = components(np.where(plane != 0, dense, 0), 2)
    before, count = numbers.copy(), len(values)
    added = scipy.label((plane != 0) & (numbers == 0), structure)[0]
    for k, (down, across) in enumerate(scipy.find_objects(added), 1):
        box = slice(max(down.start - 1, 0), down.stop + 1), slice(max(across.start - 1, 0), across.stop + 1)
        inside = added[box] == k
        around = before[box][scipy.binary_dilation(inside, structure)]
        touched = np.bincount(around[around > 0])
        count += 0 if touched.any() else 1
        numbers[box][inside] = touched.argmax() if touched.any() else count
    return numbers
