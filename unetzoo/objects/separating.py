"""Separates touching objects: seeds in a landscape, grown by scikit-image's watershed inside each connected component.

A summit of the landscape is a seed if it rises by more than a given height above the saddle that leads to a higher
summit; summits of the same height that are joined above that level become one seed. Each component is processed
separately, inside its box: its result does not depend on the rest of the image, and a component that is completely in a
strip of the image is divided there as in the whole image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetzoo import extras
from unetzoo.errors import ConfigError
from unetzoo.objects.components import in_reading_order, ndimage

_PURPOSE = "objects that are split"
_REACH = 4
"""Radius, in pixels, of the Gaussian that blurs distances to edges."""
_SAMPLES = 100_000
"""Largest number of points on straight paths between the summits of a component."""


def check_separable(split: float = 1.0) -> None:
    """Raise if the packages for ``split`` are not installed; with 0, objects are connected components.

    Raises:
        ConfigError: SciPy is not installed, or scikit-image, which connected components do not need.
    """
    ndimage()
    if split:
        extras.needed("skimage.segmentation", _PURPOSE)


def separable(split: float) -> bool:
    """Return whether the packages for ``split`` are installed."""
    try:
        check_separable(split)
    except ConfigError:
        return False
    return True


def separated(
    numbers: NDArray[np.int32],
    values: NDArray[np.int64],
    rise: float,
    connectivity: int,
    edges: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return components divided into objects, numbered in reading order of their first pixels.

    Every pixel of a component is in one of its objects; a component with fewer than two seeds is one object.

    Args:
        numbers, values: (H, W) and (n,), as :func:`unetzoo.objects.components.components` returns them.
        rise: above 0; how far a summit must rise above a saddle, in pixels.
        connectivity: connectivity of the components.
        edges: (H, W), where the network predicts that objects end. None: unknown.

    The landscape is the Euclidean distance in pixels from each pixel's centre to the nearest pixel that is outside its
    component, or an edge. With edges, which are ragged, it is blurred by a Gaussian of one pixel, and for objects of
    less than 2 · rise from the middle to the edge, a saddle of half that height is low enough. The image's border is
    not an edge: an object that it cuts counts as wide as its visible part allows.

    Returns:
        Numbers (H, W), and the value of each object.

    Raises:
        ConfigError: scikit-image or SciPy is not installed.
    """
    check_separable()
    found, parts, origins = numbers.copy(), len(values), list(range(len(values)))
    height, width = numbers.shape
    for k, (down, across) in enumerate(ndimage().find_objects(numbers), 1):
        if edges is None and not _could_be_two(down, across, rise, numbers.shape):
            continue
        # With a margin of one pixel, inside the image: pixels farther away do not matter.
        box = (
            slice(max(down.start - 1, 0), min(down.stop + 1, height)),
            slice(max(across.start - 1, 0), min(across.stop + 1, width)),
        )
        inside = numbers[box] == k
        deep = inside if edges is None else inside & ~edges[box]
        if deep.all() or not deep.any():
            continue  # there is no outside to measure from, or no inside
        heights = ndimage().distance_transform_edt(deep)
        if edges is not None:
            heights = _steep(ndimage().gaussian_filter(heights, 1.0, mode="nearest", radius=_REACH), rise)
        seeds, count = summits(heights, inside, rise, connectivity)
        if count > 1:
            grown = basins(heights, seeds, inside, connectivity)
            np.add(grown, parts - 1, out=found[box], where=grown > 1)  # the first keeps the component's number
            parts += count - 1
            origins += [k - 1] * (count - 1)
    return in_reading_order(found, values[origins])


def _steep(heights: NDArray[np.floating[Any]], rise: float) -> NDArray[np.floating[Any]]:
    """Return heights where low ones rise by ``rise`` whenever they double; those from 2 · ``rise`` on are unchanged.

    Of an object five pixels wide, three pixels are not edges: its middle is less than a pixel above the saddle to a
    touching object, but more than twice as high.
    """
    low = rise * (1 + np.log2(np.maximum(heights, rise / 8) / rise))
    return np.where(heights < 2 * rise, low, heights)


def summits(
    heights: NDArray[np.floating[Any]], inside: NDArray[np.bool_], rise: float, connectivity: int
) -> tuple[NDArray[np.int32], int]:
    """Return the seeds of a landscape inside a component, as numbers from 1 up, and how many there are.

    If there is only one seed, it is the whole component.

    Seeds are the regional maxima of the landscape's H-maxima transform (Soille 2003, Morphological Image Analysis,
    6.3), the reconstruction by dilation of the landscape lowered by H. ``skimage.morphology.h_maxima`` differs: it
    finds two maxima on a ridge of equal heights with a dip of less than H.
    """
    if connectivity == 2 and _is_one_hill(heights, inside, rise):
        return inside.astype(np.int32), 1
    skimage = extras.needed("skimage.morphology", _PURPOSE)
    structure = ndimage().generate_binary_structure(2, connectivity)
    # In double precision; outside, the landscape is below all heights, so that nothing spreads there.
    known = np.where(inside, heights.astype(np.float64), -np.inf)
    low = known[inside].min() - rise - 1
    known = np.where(inside, known, low)
    lowered = np.where(inside, known - rise, low)
    rebuilt = skimage.reconstruction(lowered, known, "dilation", footprint=structure)
    found, count = ndimage().label(skimage.local_maxima(rebuilt, connectivity=connectivity) & inside, structure)
    # If the landscape is flat and fills the array, local_maxima finds nothing.
    return (found, count) if count > 1 else (inside.astype(np.int32), 1)


def _is_one_hill(heights: NDArray[np.floating[Any]], inside: NDArray[np.bool_], rise: float) -> bool:
    """Return whether the straight path from each summit to the highest one falls by no more than ``rise``.

    Then there is one seed. This is true for most objects, and takes a tenth of the time of the general method.
    """
    known = np.where(inside, heights, -np.inf)
    y, x = np.nonzero((ndimage().maximum_filter(known, 3) == known) & inside)
    tops = known[y, x]
    best = tops.argmax()
    steps = int(max(np.abs(y - y[best]).max(), np.abs(x - x[best]).max())) + 1
    if len(y) * steps > _SAMPLES:
        return False
    way = np.linspace(0, 1, steps)
    down = np.rint(y[:, None] + (y[best] - y)[:, None] * way).astype(np.intp)
    across = np.rint(x[:, None] + (x[best] - x)[:, None] * way).astype(np.intp)
    lowest: NDArray[np.float64] = known[down, across].min(1)
    return bool((lowest >= tops - rise).all())


def basins(
    heights: NDArray[np.floating[Any]], seeds: NDArray[np.int32], inside: NDArray[np.bool_], connectivity: int
) -> NDArray[np.int32]:
    """Grow the seeds downhill until they meet: numbers inside, 0 outside and where no seed reaches."""
    watershed = extras.needed("skimage.segmentation", _PURPOSE).watershed
    grown: NDArray[np.int32] = watershed(-heights, seeds, mask=inside, connectivity=connectivity)
    return grown.astype(np.int32, copy=False)


def _could_be_two(down: slice, across: slice, rise: float, size: tuple[int, ...]) -> bool:
    """Return whether a box has room for two summits of distances, each more than ``rise`` above a saddle of 1 or more.

    A summit of height t has a disc of radius t around it; between two summits the height falls by at most half of their
    distance, and by 0.7 more because pixels have centres. At the image's border there is always room.
    """
    need = 2 * (rise + 1)
    sides = down.stop - down.start, across.stop - across.start
    cut = down.start == 0 or across.start == 0 or down.stop == size[0] or across.stop == size[1]
    return bool(cut or (min(sides) + 1 > need and max(sides) + 1 > need + 2**0.5 * (rise - 0.71)))
