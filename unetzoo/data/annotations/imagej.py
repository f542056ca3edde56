"""ImageJ's regions of interest: a ``.roi``, or a ``.zip`` of them, as the ROI Manager saves them for an image.

https://imagej.net/ij/developer/source/ij/io/RoiDecoder.java.html, read by roifile. Polygons, freehand and traced
outlines, rectangles, ovals, and composites of several outlines, whose holes are kept. A class is the name that
somebody gave, without the number that ImageJ adds to equal names ("nucleus", "nucleus-1"); names of digits, which
ImageJ gives by default, are not classes. Later regions in the file are on top. An
empty archive means that there are no objects.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unetzoo import extras
from unetzoo.data.annotations import parsing
from unetzoo.data.annotations._base import Annotation, Document, Drawing, Faults, register_annotation_format
from unetzoo.data.annotations.regions import Ellipse, NoArea, Polygons, Region, Ring, box
from unetzoo.errors import InputError

_MAGIC = b"Iout"
_LARGEST = 2**28
"""The most bytes of the regions of a file when they are unpacked."""
_MOST = 2**20
"""The most regions of a file."""
_NO_AREA = {3: "a line", 4: "a line", 5: "a line", 6: "an empty region", 9: "an angle", 10: "a point"}
_RECTANGLE, _OVAL = 1, 2
_OUTLINES = (0, 7, 8)
_TEXT, _IMAGE = 1, 4
_DAMAGED = (ValueError, TypeError, IndexError, OverflowError, RuntimeError, UnicodeDecodeError, struct.error)
_STEPS = 16
"""Number of straight pieces of a curve."""


def _recognises(path: Path) -> bool:
    if path.suffix.lower() == ".roi":
        with path.open("rb") as stream:
            return stream.read(4) == _MAGIC
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            return not names or any(name.lower().endswith(".roi") for name in names)
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return False


@register_annotation_format("imagej", title="ImageJ ROIs", suffixes=(".roi", ".zip"), recognises=_recognises)
def read(path: Path) -> Document:
    """Read a file of regions."""
    roifile = extras.needed("roifile", f"{str(path)!r}, regions of ImageJ", error=InputError)
    faults, annotations, places = Faults(), [], set()
    for name, data in _files(path, faults):
        try:
            roi = roifile.ImagejRoi.frombytes(data)
            annotations.append(Annotation(_kind(roi.name or Path(name).stem), _region(roi)))
            places.add((roi.position, roi.z_position, roi.t_position))
        except _DAMAGED as error:
            faults.add(f"region {name!r}", error)
    if len(places - {(0, 0, 0)}) > 1:
        faults.add("regions", "they are on several planes of a stack: save those of each plane in a file of its own")
    names = dict.fromkeys(str(one.kind) for one in annotations if one.kind)
    return Document({"": Drawing(path, tuple(annotations))}, tuple(names), tuple(faults.sentences))


def _files(path: Path, faults: Faults) -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes of the regions."""
    if path.suffix.lower() == ".roi":
        yield path.name, path.read_bytes()
        return
    with zipfile.ZipFile(path) as archive:
        inside = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".roi")]
        # No more of an entry is read than the size that it states.
        if sum(entry.file_size for entry in inside) > _LARGEST or len(inside) > _MOST:
            raise InputError(
                f"{str(path)!r} holds {len(inside)} regions of more than {_LARGEST // 2**20} MiB: split it into several"
            )
        for entry in inside:
            try:
                yield entry.filename, archive.read(entry)
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, zlib.error) as error:
                faults.add(f"region {entry.filename!r}", error)


def _kind(name: str) -> str:
    return "" if re.fullmatch(r"[\d-]*", name) else re.sub(r"-\d+$", "", name)


def _region(roi: Any) -> Region:
    """Return the region of an ROI.

    Raises:
        ValueError: says what is wrong.
    """
    if roi.subtype in (_TEXT, _IMAGE):
        return NoArea("a text" if roi.subtype == _TEXT else "an image")
    if roi.roitype in _NO_AREA:
        return NoArea(_NO_AREA[roi.roitype])
    if roi.roitype in _OUTLINES:
        return Polygons(((parsing.corners(np.asarray(roi.coordinates(), np.float64).tolist()),),))
    if roi.roitype not in (_RECTANGLE, _OVAL):
        raise ValueError(f"type {int(roi.roitype)} is not known")
    if roi.multi_coordinates is not None:
        return Polygons((tuple(_rings(roi.multi_coordinates.tolist())),))
    if roi.rounded_rect_arc_size and roi.roitype == _RECTANGLE:
        raise ValueError("rectangles with round corners are not read: draw a polygon")
    left, top, right, bottom = float(roi.left), float(roi.top), float(roi.right), float(roi.bottom)
    if roi.subpixelrect and roi.widthd and roi.heightd:
        left, top, right, bottom = roi.xd, roi.yd, roi.xd + roi.widthd, roi.yd + roi.heightd
    if not all(map(parsing.is_place, (left, top, right, bottom))) or left >= right or top >= bottom:
        raise ValueError("left, top, right and bottom must be finite, with left < right and top < bottom")
    if roi.roitype == _RECTANGLE:
        return box(left, top, right, bottom)
    return Ellipse((left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2)


def _rings(path: list[float]) -> Iterator[Ring]:
    """Yield the outlines of a composite: moves, lines, curves and ends, each followed by its points."""
    points: list[list[float]] = []
    at = 0
    while at < len(path):
        step = path[at]
        if step not in (0, 1, 2, 3, 4):
            raise ValueError(f"step {step!r:.20} of a composite is not known")
        count = 0 if step == 4 else max(int(step), 1)
        given = [path[k : k + 2] for k in range(at + 1, at + 1 + 2 * count, 2)]
        at += 1 + 2 * count
        if step == 0:
            if points:
                yield parsing.corners(points)
            points = []
        points += _curve([*points[-1:], *given]) if step in (2, 3) else given
    if points:
        yield parsing.corners(points)


def _curve(points: list[list[float]]) -> list[list[float]]:
    """Return corners along a Bézier curve, without its first point (de Casteljau)."""
    found = []
    for share in np.linspace(0, 1, _STEPS + 1)[1:]:
        left = parsing.corners(points)
        while len(left) > 1:
            left = left[:-1] * (1 - share) + left[1:] * share
        found.append(left[0].tolist())
    return found
