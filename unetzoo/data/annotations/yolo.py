"""YOLO's segmentation: ``class x1 y1 x2 y2 …``, one polygon a line, in a text file for each image.

Coordinates are shares of width and height. An empty file says that there is nothing. Classes count from 0, without a
background; their names stand in ``data.yaml`` or ``classes.txt``, and if there is neither, they go by their numbers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetzoo.data.annotations._base import Annotation, Document, Drawing, register_annotation_format
from unetzoo.data.annotations.regions import Polygons
from unetzoo.errors import InputError

_SLACK = 0.01
"""By how much coordinates may lie outside the image, as rounding and augmentation leave them."""


@register_annotation_format("yolo", title="YOLO text", suffixes=(".txt",), recognises=lambda path: True)
def read(path: Path) -> Document:
    """Return what a text file of polygons says."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} cannot be read as text: {error}") from error
    found, problems = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            kind, ring = _parsed(line)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
        else:
            found.append(Annotation(kind, Polygons(((ring,),), relative=True)))
    return Document({"": Drawing(path, tuple(found))}, problems=tuple(problems))


def _parsed(line: str) -> tuple[int, NDArray[np.float64]]:
    """Return class and corners, (corners, 2).

    Raises:
        ValueError: what is wrong with the line.
    """
    first, *rest = line.split()
    if not first.isdecimal():
        raise ValueError(f"a class is a whole number from 0 up, not {first!r}")
    try:
        numbers = [float(text) for text in rest]
    except ValueError:
        raise ValueError("coordinates are numbers") from None
    if len(numbers) == 4:
        raise ValueError("4 numbers are a box; a polygon has 6 or more")
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"{len(numbers)} numbers; x and y of 3 corners or more are needed")
    if not all(-_SLACK <= number <= 1 + _SLACK for number in numbers):
        raise ValueError("coordinates are shares of width and height, from 0 to 1")
    return int(first), np.array(numbers, np.float64).reshape(-1, 2)
