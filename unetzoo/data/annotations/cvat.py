"""CVAT's XML of images ("CVAT for images 1.1"): one file for all of them.

https://docs.cvat.ai/docs/manual/advanced/xml_format. Polygons, boxes and ellipses, and masks as run lengths of the
pixels of their box, row after row, outside first. ``z_order`` says what is on top; if it is equal, shapes later in the
file are. Shapes of the same ``group_id`` and label are one object. A label "background" cuts a hole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetzoo.data.annotations import parsing
from unetzoo.data.annotations._base import Annotation, Document, Drawing, Faults, grouped, register_annotation_format
from unetzoo.data.annotations.regions import Ellipse, NoArea, Part, Pixels, Polygons, Region, Size, box

Attributes = Mapping[str, str]
_NO_AREA = {"polyline": "a line", "points": "a point", "cuboid": "a cuboid", "skeleton": "a skeleton"}
_NO_CLASSES = ("tag", "points", "polyline", "cuboid", "skeleton")
"""Label types whose shapes have no area."""


def _recognises(path: Path) -> bool:
    return parsing.xml_start(path)[:1] == ("annotations",) and "track" not in parsing.xml_start(path)


@register_annotation_format("cvat", title="CVAT XML for images", suffixes=(".xml",), recognises=_recognises, many=True)
def read(path: Path) -> Document:
    """Read a CVAT file."""
    reader = _Reader()
    parsing.parse_xml(path, reader.start, reader.text, reader.end)
    drawings = {}
    for name, image in reader.images.items():
        ordered = sorted(image.shapes, key=lambda shape: shape[0])
        drawings[name] = Drawing(path, grouped((group, one) for _, group, one in ordered), image.size)
    return Document(drawings, tuple(reader.names), tuple(reader.faults.sentences), listed=True)


@dataclass
class _Image:
    size: Size
    shapes: list[tuple[int, str | None, Annotation]] = field(default_factory=list)
    """Order, group, and annotation."""


class _Reader:
    """Takes the elements of a file as they come."""

    def __init__(self) -> None:
        self.images: dict[str, _Image] = {}
        self.names: dict[str, None] = {}
        self.faults = Faults()
        self._path: list[str] = []
        self._image: _Image | None = None
        self._label: dict[str, str] = {}
        self._count = 0

    def start(self, tag: str, attributes: Attributes) -> None:
        self._path.append(tag)
        if tag == "image":
            self._image = self._opened(attributes)
            self._count = 0
        elif self._path[-2:-1] == ["image"]:
            self._count += 1
            if self._image is not None:
                self._add(tag, attributes, self._image)
        elif self._path[-2:] == ["labels", "label"]:
            self._label = {}

    def text(self, data: str) -> None:
        if self._path[-3:-1] == ["labels", "label"]:
            self._label[self._path[-1]] = self._label.get(self._path[-1], "") + data

    def end(self, tag: str) -> None:
        if self._path[-2:] == ["labels", "label"] and self._label.get("type") not in _NO_CLASSES:
            self.names |= dict.fromkeys(filter(None, [self._label.get("name")]))
        elif tag == "image":
            self._image = None
        self._path.pop()

    def _opened(self, attributes: Attributes) -> _Image | None:
        name = attributes.get("name", "")
        try:
            size = _whole(attributes, "height"), _whole(attributes, "width")
            if not name or min(size) < 1 or name in self.images:
                raise ValueError("a unique name, width and height are needed")
        except ValueError as error:
            self.faults.add(f"image {name or len(self.images) + 1!r}", error)
            return None
        return self.images.setdefault(name, _Image(size))

    def _add(self, tag: str, attributes: Attributes, image: _Image) -> None:
        if tag == "tag":
            return  # it describes the whole image
        try:
            if tag not in _SHAPES and tag not in _NO_AREA:
                raise ValueError("this shape is not known")
            label = attributes.get("label", "")
            if not label:
                raise ValueError("a label is needed")
            region = NoArea(_NO_AREA[tag]) if tag in _NO_AREA else _SHAPES[tag](attributes)
            if isinstance(region, _Runs) and (region.height > image.size[0] or region.width > image.size[1]):
                raise ValueError(f"its mask of {region.width}×{region.height} pixels is larger than the image")
            order = _whole(attributes, "z_order") if "z_order" in attributes else 0
        except ValueError as error:
            self.faults.add(f"image {next(reversed(self.images))!r}, shape {self._count} ({tag:.40})", error)
            return
        if tag in _SHAPES:
            self.names.setdefault(label)
        image.shapes.append((order, attributes.get("group_id"), Annotation(label, region)))


@dataclass(frozen=True, eq=False)
class _Runs:
    """Run lengths of a box: numbers of pixels that are outside, inside, outside, …, row after row.

    Attributes:
        left, top, width, height: of the box.
        counts: of pixels; their sum is the number of all pixels.
    """

    left: int
    top: int
    width: int
    height: int
    counts: NDArray[np.int64]

    def pixels(self, size: Size) -> Part:
        """Return the pixels inside, see ``Region``."""
        inside = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts).reshape(self.height, self.width)
        return Pixels(self.left, self.top, inside).pixels(size)

    @property
    def fingerprint(self) -> str:
        """See ``Region``."""
        place = f"{self.left} {self.top} {self.width} {self.height}".encode()
        return hashlib.sha256(place + self.counts.tobytes()).hexdigest()


def _polygon(attributes: Attributes) -> Region:
    try:
        points = [[float(number) for number in pair.split(",")] for pair in attributes.get("points", "").split(";")]
    except ValueError:
        raise ValueError("points must be written as x,y;x,y;…") from None
    return Polygons(((parsing.corners(points),),))


def _box(attributes: Attributes) -> Region:
    left, top, right, bottom = (_number(attributes, name) for name in ("xtl", "ytl", "xbr", "ybr"))
    return box(left, top, right, bottom, _number(attributes, "rotation", 0))


def _ellipse(attributes: Attributes) -> Region:
    x, y, across, down = (_number(attributes, name) for name in ("cx", "cy", "rx", "ry"))
    if across <= 0 or down <= 0:
        raise ValueError("rx and ry above 0 are needed")
    return Ellipse(x, y, across, down, _number(attributes, "rotation", 0))


def _mask(attributes: Attributes) -> Region:
    left, top, width, height = (_whole(attributes, name) for name in ("left", "top", "width", "height"))
    try:
        counts = [int(text) for text in attributes.get("rle", "").split(",")]
    except ValueError:
        raise ValueError("rle must be whole numbers, separated by commas") from None
    if width < 1 or height < 1 or min(counts) < 0 or sum(counts) != width * height:
        raise ValueError(f"rle has {sum(counts)!s:.20} pixels, but its box is {width}×{height}")
    return _Runs(left, top, width, height, np.array(counts, np.int64))


_SHAPES: dict[str, Callable[[Attributes], Region]] = {
    "polygon": _polygon,
    "box": _box,
    "ellipse": _ellipse,
    "mask": _mask,
}


def _number(attributes: Attributes, name: str, default: float | None = None) -> float:
    try:
        found = float(attributes[name]) if default is None or name in attributes else default
    except (KeyError, ValueError):
        found = float("nan")
    if not parsing.is_place(found):
        raise ValueError(f"{name}={attributes.get(name)!r:.60}: a finite number is needed")
    return found


def _whole(attributes: Attributes, name: str) -> int:
    found = _number(attributes, name)
    if found != int(found):
        raise ValueError(f"{name}={attributes[name]!r:.60}: a whole number is needed")
    return int(found)
