"""Objects that touch come apart: seeds in a landscape, grown by scikit-image's watershed inside each connected part.

A summit of the landscape is a seed where it rises by more than a given height above the saddle over which one gets to
a higher one; of summits of the same height that are joined above that, one seed is made. Each part is looked at by
itself, inside its box: what comes of it does not depend on what else is in the image, and a part that lies whole in a
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
"""Pixels, of the Gaussian that blurs distances to edges."""
_SAMPLES = 100_000
"""Points on straight ways between summits of a part, at most."""


def check_separable(split: float = 1.0) -> None:
    """Raise if objects cannot be separated by so many pixels; by 0 they are connected components.

    Raises:
        ConfigError: SciPy is not installed, or scikit-image, which components do without.
    """
    ndimage()
    if split:
        extras.needed("skimage.segmentation", _PURPOSE)


def separable(split: float) -> bool:
    """Return whether what separates objects by so many pixels is installed."""
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

    Every pixel of a component is in one of its objects; a component with less than two seeds is one object.

    Args:
        numbers, values: (H, W) and (n,), as :func:`unetzoo.objects.components.components` returns them.
        rise: above 0; how far a summit must rise above a saddle, in pixels.
        connectivity: that of the components.
        edges: (H, W), where a network sees objects end. None: nothing is known of that.

    The landscape is the Euclidean distance in pixels from each pixel's centre to the nearest one that is outside of its
    component, or an edge; with edges, whose ends are ragged, blurred by a Gaussian of a pixel, and for objects of less
    than 2 · rise from their middles to their edges a saddle of half as much is low enough. The image's border is no
    edge: an object that it cuts is as wide as what is seen of it lets it be.

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
        # With a pixel around it, as far as the image goes: what lies farther away is as that one is.
        box = (
            slice(max(down.start - 1, 0), min(down.stop + 1, height)),
            slice(max(across.start - 1, 0), min(across.stop + 1, width)),
        )
        inside = numbers[box] == k
        deep = inside if edges is None else inside & ~edges[box]
        if deep.all() or not deep.any():
            continue  # nothing to be far from, or nothing that is
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
    """Return heights of which the low ones rise by ``rise`` where they double, those from 2 · ``rise`` on as they are.

    Of objects five pixels wide, three are no edges: their middles are less than a pixel above what is between two that
    touch, but more than twice as high.
    """
    low = rise * (1 + np.log2(np.maximum(heights, rise / 8) / rise))
    return np.where(heights < 2 * rise, low, heights)


def summits(
    heights: NDArray[np.floating[Any]], inside: NDArray[np.bool_], rise: float, connectivity: int
) -> tuple[NDArray[np.int32], int]:
    """Return the seeds of a landscape inside a part, as numbers from 1 up, and how many there are.

    Of one seed it is not said where it is: all of the part is given.

    They are the regional maxima of its H-maxima transform (Soille 2003, Morphological Image Analysis, 6.3), the
    reconstruction by dilation of the landscape lowered by H. ``skimage.morphology.h_maxima`` is another thing: of a
    ridge of equal heights with a dip of less than H it makes two.
    """
    if connectivity == 2 and _is_one_hill(heights, inside, rise):
        return inside.astype(np.int32), 1
    skimage = extras.needed("skimage.morphology", _PURPOSE)
    structure = ndimage().generate_binary_structure(2, connectivity)
    # In double precision, and below all heights outside, where nothing is reached.
    known = np.where(inside, heights.astype(np.float64), -np.inf)
    low = known[inside].min() - rise - 1
    known = np.where(inside, known, low)
    lowered = np.where(inside, known - rise, low)
    rebuilt = skimage.reconstruction(lowered, known, "dilation", footprint=structure)
    found, count = ndimage().label(skimage.local_maxima(rebuilt, connectivity=connectivity) & inside, structure)
    # Of land all of one height, without anything around it, local_maxima finds none.
    return (found, count) if count > 1 else (inside.astype(np.int32), 1)


def _is_one_hill(heights: NDArray[np.floating[Any]], inside: NDArray[np.bool_], rise: float) -> bool:
    """Return whether the straight way from each summit to the highest one falls by no more than ``rise``.

    Then there is one seed. Of most objects this is so, and takes a tenth of the time of finding out in general.
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
    """Return the seeds grown downhill until they meet: numbers inside, 0 outside and where no seed reaches."""
    watershed = extras.needed("skimage.segmentation", _PURPOSE).watershed
    grown: NDArray[np.int32] = watershed(-heights, seeds, mask=inside, connectivity=connectivity)
    return grown.astype(np.int32, copy=False)


def _could_be_two(down: slice, across: slice, rise: float, size: tuple[int, ...]) -> bool:
    """Return whether a box has room for two summits of distances, each more than ``rise`` above a saddle of 1 or more.

    A summit of t has a disc of radius t around it; from one to another it falls by at most half of the way, and by 0.7
    more as pixels have centres. Towards the image's border there is always room.
    """
    need = 2 * (rise + 1)
    sides = down.stop - down.start, across.stop - across.start
    cut = down.start == 0 or across.start == 0 or down.stop == size[0] or across.stop == size[1]
    return bool(cut or (min(sides) + 1 > need and max(sides) + 1 > need + 2**0.5 * (rise - 0.71)))
