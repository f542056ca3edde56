"""The pixels that an object covers, in any way in which a format draws it.

Coordinates are in pixels along their edges, x to the right and y down: the upper left pixel covers 0…1 in both, and has
its centre at (0.5, 0.5). A region gives its pixels within its own bounding box, so that thousands of small objects in a
large image are cheap.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unetzoo.errors import InputError

Size = tuple[int, int]
Ring = NDArray[np.float64]
"""(corners, 2), x and y; the last corner is joined to the first."""
NO_BOXES = "a box is not a mask: export segmentation (polygons or RLE) from the tool"
"""The fix for files that hold boxes, in any format."""


@dataclass(frozen=True, eq=False)
class Part:
    """Pixels of an image: those that ``inside``, (H, W), marks in the rows from ``top`` and columns from ``left``."""

    top: int
    left: int
    inside: NDArray[np.bool_]

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns in the image."""
        height, width = self.inside.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


class Region(Protocol):
    """The pixels that an object covers."""

    def pixels(self, size: Size) -> Part:
        """Return the pixels inside, in an image of (height, width); parts outside the image are cut off.

        Raises:
            InputError: the region cannot be drawn on an image of this size.
        """
        ...

    @property
    def fingerprint(self) -> str:
        """Text that differs between different regions."""
        ...


@dataclass(frozen=True, eq=False)
class Polygons:
    """The union of one or more polygons: a pixel is covered if its centre is in one of them.

    Attributes:
        parts: each is a tuple of rings, which are one polygon by the even-odd rule: its outline, then its holes.
        relative: whether coordinates are shares of width and height.
    """

    parts: tuple[tuple[Ring, ...], ...]
    relative: bool = False

    def pixels(self, size: Size) -> Part:
        """Return the pixels inside, see :class:`Region`."""
        scale = np.array([size[1], size[0]], np.float64) if self.relative else 1.0
        return united([fill([ring * scale for ring in rings], size) for rings in self.parts])

    @property
    def fingerprint(self) -> str:
        """See :class:`Region`."""
        return _digest(str(self.relative), *(ring for rings in self.parts for ring in (*rings, np.empty(0))))


@dataclass(frozen=True, eq=False)
class Pixels:
    """Single pixels.

    Attributes:
        left, top: of the first column and row; they may be outside the image.
        inside: (H, W) bool.
    """

    left: int
    top: int
    inside: NDArray[np.bool_]

    def pixels(self, size: Size) -> Part:
        """Return the pixels within the image, see :class:`Region`."""
        top, left = max(self.top, 0), max(self.left, 0)
        height, width = self.inside.shape
        bottom, right = min(self.top + height, size[0]), min(self.left + width, size[1])
        rows = slice(top - self.top, max(bottom, top) - self.top)
        columns = slice(left - self.left, max(right, left) - self.left)
        return Part(top, left, self.inside[rows, columns])

    @property
    def fingerprint(self) -> str:
        """See :class:`Region`."""
        return _digest(f"{self.left} {self.top} {self.inside.shape}", np.packbits(self.inside))


@dataclass(frozen=True)
class Ellipse:
    """Pixels whose centres are in an ellipse.

    Attributes:
        x, y: its centre.
        across, down: its radii, along x and y before rotation.
        degrees: of rotation, clockwise on the screen.
    """

    x: float
    y: float
    across: float
    down: float
    degrees: float = 0.0

    def pixels(self, size: Size) -> Part:
        """Return the pixels inside, see :class:`Region`."""
        cosine, sine = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        reach = math.hypot(self.across * cosine, self.down * sine), math.hypot(self.across * sine, self.down * cosine)
        (left, right), (top, bottom) = (
            (min(max(math.floor(at - half), 0), most), max(min(math.ceil(at + half), most), 0))
            for at, half, most in zip((self.x, self.y), reach, size[::-1], strict=True)
        )
        x = np.arange(left, max(left, right)) + 0.5 - self.x
        y = np.arange(top, max(top, bottom))[:, None] + 0.5 - self.y
        along, beside = (x * cosine + y * sine) / self.across, (y * cosine - x * sine) / self.down
        return Part(top, left, along**2 + beside**2 <= 1)

    @property
    def fingerprint(self) -> str:
        """See :class:`Region`."""
        return _digest(repr(self))


@dataclass(frozen=True, eq=False)
class United:
    """Several regions that are one object.

    Attributes:
        regions: two or more.
    """

    regions: tuple[Region, ...]

    def pixels(self, size: Size) -> Part:
        """Return the pixels in any of them, see :class:`Region`."""
        return united([region.pixels(size) for region in self.regions])

    @property
    def fingerprint(self) -> str:
        """See :class:`Region`."""
        return _digest(" ".join(region.fingerprint for region in self.regions))


@dataclass(frozen=True)
class NoArea:
    """A shape without pixels, such as a line: an error if its class is used, and none if only other classes are.

    Attributes:
        what: it is, with an article.
    """

    what: str

    def pixels(self, size: Size) -> Part:
        """Raise ``InputError``."""
        raise InputError(f"{self.what} has no area: draw it as a polygon, delete it, or name the other classes only")

    @property
    def fingerprint(self) -> str:
        """See :class:`Region`."""
        return _digest(self.what)


def box(left: float, top: float, right: float, bottom: float, degrees: float = 0.0) -> Polygons:
    """Return a rectangle, rotated clockwise about its centre."""
    x, y = (left + right) / 2, (top + bottom) / 2
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)
    if degrees:
        corners = (corners - [x, y]) @ np.array([(cosine, sine), (-sine, cosine)]) + [x, y]
    return Polygons(((corners,),))


def fill(rings: Sequence[Ring], size: Size) -> Part:
    """Return the pixels whose centres are in a polygon of several rings, by the even-odd rule.

    Raises:
        InputError: a coordinate is not finite.
    """
    height, width = size
    corners = rings[0] if len(rings) == 1 else np.concatenate(rings)
    if not np.isfinite(corners).all():
        raise InputError("a corner of a polygon is not finite")
    following = np.concatenate([part for ring in rings for part in (ring[1:], ring[:1])])
    (low_x, low_y), (high_x, high_y) = corners.min(0).tolist(), corners.max(0).tolist()
    left, top = math.floor(min(width, max(0.0, low_x))), math.floor(min(height, max(0.0, low_y)))
    right, bottom = math.ceil(max(left, min(width, high_x))), math.ceil(max(top, min(height, high_y)))
    (x, y), (next_x, next_y) = corners.T, following.T
    # Rows that an edge crosses: those whose centres are at or below its upper end, and above its lower end.
    first, last = (
        np.minimum(np.maximum(np.ceil(end - 0.5), top), bottom).astype(np.int64)
        for end in (np.minimum(y, next_y), np.maximum(y, next_y))
    )
    counts = last - first
    edge = np.repeat(np.arange(len(counts)), counts)
    row = np.arange(len(edge)) + np.repeat(first - counts.cumsum() + counts, counts)
    at = x[edge] + (row + 0.5 - y[edge]) * (next_x[edge] - x[edge]) / (next_y[edge] - y[edge])
    column = np.minimum(np.maximum(np.ceil(at - 0.5), left), right).astype(np.int64)
    # Every crossing swaps inside and outside for all pixels to its right.
    turns = np.zeros((bottom - top, right - left + 1), np.int32)
    np.add.at(turns, (row - top, column - left), 1)
    return Part(top, left, turns.cumsum(1, dtype=np.int32)[:, :-1] % 2 == 1)


def united(parts: Sequence[Part]) -> Part:
    """Return the union of several parts."""
    if len(parts) == 1:
        return parts[0]
    parts = [part for part in parts if part.inside.size] or list(parts[:1])
    top, left = min((part.top for part in parts), default=0), min((part.left for part in parts), default=0)
    bottom = max((part.slices[0].stop for part in parts), default=0)
    right = max((part.slices[1].stop for part in parts), default=0)
    inside = np.zeros((bottom - top, right - left), bool)
    for part in parts:
        rows, columns = part.slices
        inside[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] |= part.inside
    return Part(top, left, inside)


def _digest(text: str, *arrays: NDArray[np.generic]) -> str:
    found = hashlib.sha256(text.encode())
    for array in arrays:
        found.update(f" {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
