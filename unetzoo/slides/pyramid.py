"""Slides that are TIFFs: their levels from the headers only, and windows of them by tifffile."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unetzoo import extras
from unetzoo.errors import InputError
from unetzoo.images import TiffImage, ifd, joined, nodata, pages_of
from unetzoo.images.ifd import Page
from unetzoo.slides.asking import has_slide_suffix
from unetzoo.slides.levels import LARGEST_BLOCK, Level, Levels, check_sides
from unetzoo.slides.microns import ON_A_MAP, WANTED, microns_of

_ALIKE = (ifd.BITS, ifd.SAMPLES, ifd.FORMAT, ifd.PLANAR)
_TAGS = (
    *(*WANTED, *_ALIKE, ifd.WIDTH, ifd.HEIGHT, ifd.SUB_PAGES, ifd.SUBFILE, ifd.STRIP_ROWS, ifd.TILE_WIDTH),
    *(ifd.TILE_HEIGHT, ifd.OFFSETS, ifd.COUNTS, ifd.TILE_OFFSETS, ifd.TILE_COUNTS, *ON_A_MAP, ifd.ORIENTATION),
)
_MOST = 64
"""The most smaller copies that are looked at."""
_SMALLEST_STEP = 1.2


@dataclass(frozen=True)
class _Copy:
    """A level: its size, and the pages of each plane's channels, by the offset of their tags."""

    level: Level
    planes: tuple[tuple[int, ...], ...]


class TiffLevels(Levels):
    """The levels of a TIFF: pages of the chain, or sub-pages, that are smaller copies of the first.

    Args:
        path: of the file.
        planes: which planes to read, if it has several; see ``unetzoo.images.read_image``.
        keeping: closes the file.

    Raises:
        ConfigError: tifffile or zarr is not installed.
        InputError: the file cannot be read as a slide.
    """

    def __init__(self, path: Path, planes: str | int | None, keeping: contextlib.ExitStack) -> None:
        self._image = TiffImage(path)
        if self._image.orientation != 1:
            raise InputError(
                f"{str(path)!r} is not stored upright (orientation {self._image.orientation}): save it upright"
            )
        self._image.check_direct()
        pages = pages_of(path, _TAGS)
        _check_no_map(path, pages[0])
        self._what = planes
        self._copies = _copies(path, pages, self._image.stack.chosen(planes, path))
        self.levels = [copy.level for copy in self._copies]
        self.mpp, self.alpha = microns_of(pages[0]), self._image.alpha
        self._axes = "YX" if self._image.samples == 1 else "SYX" if self._image.is_planar else "YXS"
        self._zarr = extras.needed("zarr", "slides", extra="big")
        self._file = keeping.enter_context(self._image.opened(extras.needed("tifffile", "slides", extra="big")))
        self._arrays: dict[int, Any] = {}
        first = self.window(0, 0, 1, 0, 1)
        self.channels, self.dtype = first.shape[0], first.dtype

    def window(self, level: int, top: int, bottom: int, left: int, right: int) -> Tensor:
        """Return pixels of a level, see :class:`Levels`."""
        planes = [
            torch.cat([self._part(page, top, bottom, left, right) for page in channels])
            for channels in self._copies[level].planes
        ]
        return joined(planes, self._what)

    def _part(self, offset: int, top: int, bottom: int, left: int, right: int) -> Tensor:
        import numpy as np

        if offset not in self._arrays:
            self._arrays[offset] = self._zarr.open(self._image.page_at(self._file, offset).aszarr(), mode="r")
        cut = {"Y": slice(top, bottom), "X": slice(left, right), "S": slice(None)}
        part = np.asarray(self._arrays[offset][tuple(cut[axis] for axis in self._axes)])
        part = part[None] if part.ndim == 2 else part if self._axes[0] == "S" else part.transpose(2, 0, 1)
        image = torch.from_numpy(np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("=")))
        return image.float() if image.is_floating_point() else image


def is_slide(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a slide, by its name or by its contents: the one rule of every function and command."""
    return has_slide_suffix(path) or is_pyramid(path)


def is_pyramid(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a slide by its contents: a tiled TIFF with smaller copies of itself and µm a pixel.

    Tiles tell levels from thumbnails; µm a pixel tells slides from other images with smaller copies. GeoTIFFs and
    images with nodata are not slides, as their resolution is that of a map. Nor is a file that cannot be read.
    """
    path = Path(path)
    try:
        (first,) = pages_of(path, _TAGS, most=1) or (None,)
        return first is not None and microns_of(first) is not None and smaller_copies(path) > 0
    except (InputError, OSError):
        return False


def smaller_copies(path: str | os.PathLike[str]) -> int:
    """Return how many smaller copies of its first page a tiled TIFF has, with or without µm a pixel.

    0 for maps and images with nodata, in which GDAL keeps copies for fast display, and for files that cannot be read.
    """
    path = Path(path)
    try:
        (first,) = pages_of(path, _TAGS, most=1) or (None,)
        if first is None or ifd.TILE_WIDTH not in first.tags or first.number(ifd.ORIENTATION, 1) != 1:
            return 0
        if set(ON_A_MAP) & set(first.tags) or nodata(path) is not None:
            return 0
        below = ifd.pages_at(path, first.numbers(ifd.SUB_PAGES)[:_MOST], _TAGS)
        pages = (*below, *pages_of(path, _TAGS, most=_MOST)[1:])
        return len({_size(page) for page in pages if _is_copy(page, first)})
    except (InputError, OSError):
        return 0


def _check_no_map(path: Path, first: Page) -> None:
    if set(ON_A_MAP) & set(first.tags) or nodata(path) is not None:
        raise InputError(
            f"{str(path)!r} is on a map, or has nodata: its resolution is that of the map, not in µm. Leave mpp and "
            "level out, or resample it with GDAL: gdalwarp -tr 10 10"
        )


def _copies(path: Path, pages: list[Page], chosen: list[tuple[int, ...]]) -> list[_Copy]:
    """Return the levels, the finest first, for which all chosen planes have a page."""
    first = pages[0]
    sizes: dict[tuple[int, int], list[list[int]]] = {}
    for channels in chosen:
        of_plane: dict[tuple[int, int], list[int]] = {}
        for number in channels:
            if number >= len(pages):
                raise InputError(f"{str(path)!r} has planes without pages of their own: save it as a pyramid, by pages")
            subs = ifd.pages_at(path, pages[number].numbers(ifd.SUB_PAGES)[:_MOST], _TAGS)
            more = pages[1:] if len(chosen) == len(channels) == 1 else []
            for size, offset in _pages_by_size(path, pages[number], [*subs, *more[:_MOST]]).items():
                of_plane.setdefault(size, []).append(offset)
        for size, offsets in of_plane.items():
            sizes.setdefault(size, []).append(offsets)
    full = {size: planes for size, planes in sizes.items() if [len(p) for p in planes] == [len(c) for c in chosen]}
    found: list[_Copy] = []
    whole = _size(first)
    for size in sorted(full, reverse=True):
        level = Level(*size, tuple(_down(a, b) for a, b in zip(whole, size, strict=True)))  # type: ignore[arg-type]
        found.append(_Copy(level, tuple(map(tuple, full[size]))))
    return found


def _pages_by_size(path: Path, whole: Page, others: list[Page]) -> dict[tuple[int, int], int]:
    """Return size → offset of the tags, for a page and its smaller copies."""
    found = {_size(whole): whole.offset}
    _check_blocks(path, whole)
    for page in others:
        if _is_copy(page, whole) and _size(page) not in found:
            _check_blocks(path, page)
            found[_size(page)] = page.offset
    return found


def _is_copy(page: Page, whole: Page) -> bool:
    """Return whether a page is a smaller copy: of the same kind and, except for rounding, of the same shape."""
    if any(page.tags.get(code, (0, None))[1] != whole.tags.get(code, (0, None))[1] for code in _ALIKE):
        return False
    if (ifd.TILE_WIDTH in page.tags) != (ifd.TILE_WIDTH in whole.tags):  # a thumbnail, which is rarely tiled
        return False
    (height, width), (rows, columns) = _size(page), _size(whole)
    if min(height, width) < 1 or columns < _SMALLEST_STEP * width or rows < _SMALLEST_STEP * height:
        return False
    down = _down(columns, width) if width > height else _down(rows, height)
    return abs(height * down - rows) <= down + 1 and abs(width * down - columns) <= down + 1


def _down(whole: int, part: int) -> float:
    """Return how many pixels of a side become one of its copy: a whole number if sides are cut or rounded."""
    near = round(whole / part)
    return float(near) if abs(part * near - whole) < near else whole / part


def _size(page: Page) -> tuple[int, int]:
    return page.number(ifd.HEIGHT, 0), page.number(ifd.WIDTH, 0)


def _check_blocks(path: Path, page: Page) -> None:
    """Check that a page does not claim more than its file can hold, and is stored in small parts.

    Raises:
        InputError: it does not; the message has the values.
    """
    rows, columns = _size(page)
    check_sides(path, rows, columns)
    samples, planes = page.number(ifd.SAMPLES, 1), 1
    if page.number(ifd.PLANAR, 1) == 2:
        samples, planes = 1, samples
    if ifd.TILE_WIDTH in page.tags:
        height, width = page.number(ifd.TILE_HEIGHT, 0), page.number(ifd.TILE_WIDTH, 0)
        lists = page.numbers(ifd.TILE_OFFSETS), page.numbers(ifd.TILE_COUNTS)
    else:
        height, width = min(page.number(ifd.STRIP_ROWS, rows), rows), columns
        lists = page.numbers(ifd.OFFSETS), page.numbers(ifd.COUNTS)
    if height < 1 or width < 1:
        raise InputError(f"{str(path)!r} has tiles of {width}×{height} pixels: it is damaged")
    size = height * width * samples * max(page.numbers(ifd.BITS, (8,))) // 8
    if size > LARGEST_BLOCK:
        raise InputError(
            f"{str(path)!r} is stored in parts of {width}×{height} pixels, {size:,} bytes each, and each must be read "
            "as a whole: save it in tiles of 512×512"
        )
    count = math.ceil(rows / height) * math.ceil(columns / width) * planes
    end = path.stat().st_size
    offsets, counts = lists
    if len(offsets) < count or len(counts) < count or any(a + n > end for a, n in zip(offsets, counts, strict=False)):
        raise InputError(f"{str(path)!r} cannot be read as a slide: it is cut off after {end:,} bytes")
