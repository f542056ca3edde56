"""The tags of a TIFF file, page by page, without its pixels.

TIFF 6.0 (Adobe, 1992), section 2, and BigTIFF. No claim beyond the end of the file is believed: values there are left
out, and the chain of pages ends where it would return to an earlier page.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from unetzoo.errors import InputError

SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 254, 256, 257, 258, 259, 262, 266
DESCRIPTION, OFFSETS, ORIENTATION, SAMPLES, STRIP_ROWS, COUNTS = 270, 273, 274, 277, 278, 279
X_RESOLUTION, Y_RESOLUTION, PLANAR, RESOLUTION_UNIT, PREDICTOR = 282, 283, 284, 296, 317
PALETTE, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, SUB_PAGES = 320, 322, 323, 324, 325, 330
EXTRA_SAMPLES, FORMAT = 338, 339
DEPTH, STK_PLANES, NODATA = 32997, 33629, 42113
"""Tags by their names in TIFF 6.0; DEPTH is SGI's, STK_PLANES MetaMorph's, NODATA GDAL's."""
_FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d"}
_FORMATS |= {13: "I", 16: "Q", 17: "q", 18: "Q"}
"""Type of a value → its format for :mod:`struct`."""
_SIZES = {kind: struct.calcsize("=" + letters) for kind, letters in _FORMATS.items()}
LONGEST = 1 << 24
"""The most bytes of a value that is read: OME-XML of thousands of planes has some megabytes."""

_Tags = dict[int, tuple[int, Any]]


@dataclass(frozen=True)
class Page:
    """A page of a TIFF.

    Attributes:
        offset: of its tags, in bytes.
        is_little: whether its numbers are little-endian.
        tags: code → type and value: text, bytes, a number, or a tuple of numbers; for rationals numerators and
            denominators in turn.
    """

    offset: int
    is_little: bool
    tags: _Tags

    def numbers(self, code: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Return the numbers of a tag; ``default`` if it is missing or has none."""
        value = self.tags.get(code, (0, default))[1]
        if isinstance(value, int):
            return (value,)
        return value if isinstance(value, tuple) and all(isinstance(number, int) for number in value) else default

    def number(self, code: int, default: int) -> int:
        """Return the number of a tag, or the first of several."""
        return self.numbers(code, (default,))[0]

    def text(self, code: int) -> str:
        """Return the text of a tag; empty if it is missing."""
        value = self.tags.get(code, (2, ""))[1]
        return value if isinstance(value, str) else ""


def is_tiff(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins like a TIFF or BigTIFF."""
    if not Path(path).is_file():  # a zarr array is a folder
        return False
    with Path(path).open("rb") as stream:
        return _kind(stream.read(4)) is not None


def pages_of(path: str | os.PathLike[str], codes: Collection[int], most: int | None = None) -> list[Page]:
    """Return the pages of a TIFF with the wanted tags; an empty list for other files.

    Args:
        path: of the file.
        codes: the wanted tags.
        most: the most pages to look at; None for all.

    Raises:
        InputError: the file is cut off before the first page's tags.
    """
    if not is_tiff(path):
        return []
    wanted = frozenset(codes)
    with Path(path).open("rb") as stream:
        found = []
        for page in _pages(stream, wanted):
            found.append(page)
            if most is not None and len(found) == most:
                break
    if not found:
        raise InputError(f"{str(path)!r} cannot be read as an image: it is a TIFF without pages, perhaps cut off")
    return found


def ends_well(path: str | os.PathLike[str], last: Page) -> bool:
    """Return whether a TIFF ends with this page: if it points to another page, that one was cut off.

    Args:
        path: of the file.
        last: the last of its pages.
    """
    with Path(path).open("rb") as stream:
        kind = _kind(stream.read(4))
        assert kind is not None
        order, big = kind
        stream.seek(last.offset)
        (count,) = struct.unpack(order + ("Q" if big else "H"), stream.read(8 if big else 2))
        stream.seek(count * (20 if big else 12), os.SEEK_CUR)
        size = 8 if big else 4
        return stream.read(size) == bytes(size)


def pages_at(path: str | os.PathLike[str], offsets: Collection[int], codes: Collection[int]) -> list[Page]:
    """Return the pages of a TIFF whose tags begin at these offsets, as from its tag of sub-pages.

    Args:
        path: of the file.
        offsets: in bytes; those without a valid page are left out.
        codes: the wanted tags.
    """
    wanted = frozenset(codes)
    with Path(path).open("rb") as stream:
        kind = _kind(stream.read(4))
        if kind is None:
            return []
        end = os.fstat(stream.fileno()).st_size
        found = (_page(stream, offset, kind, wanted, end) for offset in dict.fromkeys(offsets))
        return [page for page in found if page is not None]


def _kind(head: bytes) -> tuple[str, bool] | None:
    """Return the byte order, and whether it is a BigTIFF."""
    return {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}.get(head)


def _pages(stream: BinaryIO, wanted: frozenset[int]) -> Iterator[Page]:
    kind = _kind(stream.read(4))
    assert kind is not None
    order, big = kind
    number, size = ("Q", 8) if big else ("I", 4)
    if big:
        stream.seek(8)
    end = os.fstat(stream.fileno()).st_size
    seen: set[int] = set()
    while len(text := stream.read(size)) == size:
        (offset,) = struct.unpack(order + number, text)
        if offset in seen:
            return
        seen.add(offset)
        page = _page(stream, offset, kind, wanted, end)
        if page is None:
            return
        yield page
        stream.seek(offset)
        (count,) = struct.unpack(order + ("Q" if big else "H"), stream.read(8 if big else 2))
        stream.seek(count * (20 if big else 12), os.SEEK_CUR)


def _page(stream: BinaryIO, offset: int, kind: tuple[str, bool], wanted: frozenset[int], end: int) -> Page | None:
    """Return the page whose tags begin at ``offset``; None if they are not inside the file."""
    order, big = kind
    if not 0 < offset < end:
        return None
    stream.seek(offset)
    head = stream.read(8 if big else 2)
    if len(head) < (8 if big else 2):
        return None
    (count,) = struct.unpack(order + ("Q" if big else "H"), head)
    width = 20 if big else 12
    if offset + len(head) + count * width > end:
        return None
    entries = stream.read(count * width)
    return Page(offset, order == "<", _tags(stream, entries, order, big, wanted, end))


def _tags(stream: BinaryIO, entries: bytes, order: str, big: bool, wanted: frozenset[int], end: int) -> _Tags:
    found: _Tags = {}
    inside = 8 if big else 4
    for code, kind, count, stored in struct.iter_unpack(f"{order}HH{'Q8s' if big else 'I4s'}", entries):
        if code not in wanted or code in found or kind not in _FORMATS or not count:
            continue
        field, size = stored, _SIZES[kind] * count
        if size > inside:
            (offset,) = struct.unpack(order + ("Q" if big else "I"), stored)
            if size > LONGEST or offset + size > end:
                continue
            stream.seek(offset)
            field = stream.read(size)
        found[code] = kind, _value(field[:size], order, kind, count)
    return found


def _value(field: bytes, order: str, kind: int, count: int) -> Any:
    if kind == 2:
        try:
            return field.decode().rstrip("\0")
        except UnicodeDecodeError:
            return field.decode("latin-1").rstrip("\0")
    if kind == 7:
        return field
    each = len(_FORMATS[kind])
    numbers = struct.unpack(f"{order}{count * each}{_FORMATS[kind][0]}", field)
    return numbers[0] if len(numbers) == 1 else numbers
