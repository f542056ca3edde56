"""Ground-truth masks of images that exceed memory, read some rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from unetzoo.data import drawn, masks
from unetzoo.data.annotations import Drawing
from unetzoo.data.annotations.regions import Polygons, Region, United
from unetzoo.data.labels import Labels
from unetzoo.data.listing import Sample
from unetzoo.errors import InputError

Bands = Callable[[int, int], Tensor]
"""Takes the first row and the one after the last; returns the target of these rows, (H, W), or (classes, H, W)."""


def of_values(sample: Sample, labels: Labels, rows: Callable[[int, int], Tensor]) -> Bands:
    """Return the bands of a mask that is an image.

    Args:
        sample: whose mask it is, one file.
        labels: what the mask means.
        rows: returns some of its rows, (C, H, W), as they are stored.

    The bands raise ``InputError`` for values outside the classes, and if two bands have different values of white.
    """
    assert isinstance(sample.mask, Path)
    path, whites = sample.mask, set[int]()

    def band(first: int, last: int) -> Tensor:
        found = masks.of_values(path, rows(first, last), labels)
        if found.outside:
            raise InputError(f"{str(path)!r}, from row {first}: {masks.explain(found.outside, labels, sample)}")
        whites.update([] if found.white is None else [found.white])
        if len(whites) > 1:
            listed = " and ".join(map(str, sorted(whites)))
            raise InputError(f"{str(path)!r} has both {listed} as white: save it with one of them")
        if labels.pixel_task != "multilabel":
            return found.target[0]
        if labels.task == "instances":
            masks.uncover(found.target)
        return found.target

    return band


def of_drawing(drawing: Drawing, labels: Labels, size: tuple[int, int], scale: tuple[float, float]) -> Bands:
    """Return the bands of annotations drawn on level 0 of a slide.

    Args:
        drawing: polygons.
        labels: the classes.
        size: height and width of the image.
        scale: pixels of level 0 per pixel of the image, down and across.

    Raises:
        InputError: the drawing has shapes that are not polygons; or objects without a class, where others have one.
    """
    drawn.check_classes(drawing, labels)  # a band has only some of the objects
    moved = [replace(one, region=_moved(one.region, scale, 0, drawing)) for one in drawing.annotations]
    reach = [_rows_of(one.region) for one in moved]

    def band(first: int, last: int) -> Tensor:
        chosen = [one for one, (top, bottom) in zip(moved, reach, strict=True) if top < last and bottom > first]
        here = tuple(replace(one, region=_moved(one.region, (1.0, 1.0), first, drawing)) for one in chosen)
        return drawn.target_of(Drawing(drawing.source, here), labels, (last - first, size[1]))

    return band


def _moved(region: Region, scale: tuple[float, float], top: int, drawing: Drawing) -> Region:
    """Return a region in smaller pixels, whose rows count from ``top``."""
    if isinstance(region, United):
        return United(tuple(_moved(one, scale, top, drawing) for one in region.regions))
    if not isinstance(region, Polygons) or region.relative:
        raise InputError(f"{str(drawing.source)!r}: annotations of slides must be polygons, in pixels of level 0")
    down, across = scale
    smaller, shift = np.array([across, down]), np.array([0.0, top])
    return Polygons(tuple(tuple(ring / smaller - shift for ring in rings) for rings in region.parts))


def _rows_of(region: Region) -> tuple[float, float]:
    """Return the top and the bottom of a region."""
    if isinstance(region, United):
        ends = [_rows_of(one) for one in region.regions]
        return min(top for top, _ in ends), max(bottom for _, bottom in ends)
    assert isinstance(region, Polygons)
    heights = np.concatenate([ring[:, 1] for rings in region.parts for ring in rings])
    return float(heights.min()), float(heights.max())
