"""LabelMe's JSON: a file for each image, with the objects that were drawn on it as ``shapes``.

https://github.com/wkentaro/labelme (``_label_file.py``). Shapes of the same ``group_id`` and label are one object. A
mask is a PNG in base64, and the first of its points is the pixel of its upper left corner. ``__ignore__`` does not
count, and ``_background_`` cuts a hole. Later shapes in the file are on top. AnyLabeling writes the same format.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetzoo.data.annotations import parsing
from unetzoo.data.annotations._base import Annotation, Document, Drawing, Faults, grouped, register_annotation_format
from unetzoo.data.annotations.regions import Ellipse, NoArea, Part, Pixels, Polygons, Region, Ring, Size, box
from unetzoo.errors import InputError
from unetzoo.images import open_png

_POLYGONS = ("polygon", "oriented_rectangle", "rotation", "quadrilateral")
_NO_AREA = {"line": "a line", "linestrip": "a line", "point": "a point", "points": "a point"}


def _recognises(path: Path) -> bool:
    found = parsing.json_of(path)
    return parsing.has(found, shapes=list) and ("imagePath" in found or "version" in found)


@register_annotation_format("labelme", title="LabelMe JSON", suffixes=(".json",), recognises=_recognises)
def read(path: Path) -> Document:
    """Read a LabelMe file."""
    found, faults = parsing.json_of(path), Faults()
    size = _size(found, faults)
    shapes = []
    for k, shape in enumerate(found["shapes"], 1):
        try:
            shapes.append(_shape(shape, size))
        except ValueError as error:
            faults.add(f"shape {k}", error)
    names = dict.fromkeys(str(one.kind) for _, one in shapes)
    return Document({"": Drawing(path, grouped(shapes), size)}, tuple(names), tuple(faults.sentences))


@dataclass(frozen=True, eq=False)
class _Png:
    """A mask of an object, as the bytes of its file.

    Attributes:
        left, top: the image pixel of its first pixel.
        png: its bytes.
    """

    left: int
    top: int
    png: bytes

    def pixels(self, size: Size) -> Part:
        """Return the pixels that are not black, see ``Region``."""
        return Pixels(self.left, self.top, _decoded(self.png)).pixels(size)

    @property
    def fingerprint(self) -> str:
        """See ``Region``."""
        return hashlib.sha256(f"{self.left} {self.top} ".encode() + self.png).hexdigest()


def _size(found: Mapping[str, Any], faults: Faults) -> Size | None:
    size = found.get("imageHeight"), found.get("imageWidth")
    if size == (None, None):
        return None
    if not all(type(side) is int and side > 0 for side in size):
        faults.add("imageHeight and imageWidth", f"{size!r:.60}: two whole numbers are needed")
        return None
    return size  # type: ignore[return-value]


def _shape(found: Any, size: Size | None) -> tuple[int | str | None, Annotation]:
    """Return the group and the annotation.

    Raises:
        ValueError: says what is wrong.
    """
    if not parsing.has(found, label=str, points=list):
        raise ValueError("a label and points are needed")
    group = found.get("group_id")
    if group is not None and not isinstance(group, int | str):
        raise ValueError(f"group_id {group!r:.60}: a number is needed")
    return group, Annotation(found["label"], _region(found, found.get("shape_type") or "polygon", size))


def _region(found: Mapping[str, Any], kind: str, size: Size | None) -> Region:
    if kind in _POLYGONS:
        return Polygons(((parsing.corners(found["points"]),),))
    if kind in _NO_AREA:
        return NoArea(_NO_AREA[kind])
    if kind not in ("rectangle", "circle", "mask"):
        raise ValueError(f"shape_type {kind!r:.60}: polygon, rectangle, circle or mask is needed")
    points = parsing.corners(found["points"], 2)
    if kind == "mask":
        return _mask(found.get("mask"), points, size)
    if kind == "circle":
        (x, y), edge = points[0], points[1]
        radius = math.dist((x, y), edge)
        return Ellipse(float(x), float(y), radius, radius) if radius else NoArea("a circle without a radius")
    return box(*points.min(0).tolist(), *points.max(0).tolist())


def _mask(text: Any, points: Ring, size: Size | None) -> Region:
    if not isinstance(text, str):
        raise ValueError("its mask has no PNG")
    try:
        png = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"its mask is not base64: {error}") from None
    (left, top), (right, bottom) = points.astype(int).tolist()
    wanted = right - left + 1, bottom - top + 1
    try:
        with open_png(png) as file:
            found = file.size
    except InputError as error:
        raise ValueError(f"its mask: {error}") from None
    if found != wanted:
        raise ValueError(f"its mask has {found[0]}×{found[1]} pixels, but its points span {wanted[0]}×{wanted[1]}")
    if size is not None and (wanted[0] > size[1] or wanted[1] > size[0]):
        raise ValueError(f"its mask of {wanted[0]}×{wanted[1]} pixels is larger than the image")
    return _Png(left, top, png)


def _decoded(png: bytes) -> NDArray[np.bool_]:
    try:
        with open_png(png) as file:
            return np.asarray(file.convert("L")) > 0
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"its mask cannot be read: {error}") from error
