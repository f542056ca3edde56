"""Slides as predictors read them: by rows, at the requested pixel size, with only some rows in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unetzoo.errors import InputError
from unetzoo.images import explained
from unetzoo.prediction.inputs import LoadedImage
from unetzoo.prediction.opened import OpenedRows
from unetzoo.prediction.pixel_size import size_of
from unetzoo.slides import Levels, Slide, Tissue, is_pyramid, open_slide, resampled, side_of, taps, tissue_in
from unetzoo.slides.tissue import CELL

BLOCK = 2**23
"""Bytes of a level that are resampled together."""
LONGEST = 4096
"""Rows of a level that are resampled together."""


class SlideRows(OpenedRows):
    """A slide that is open, of which only the requested rows are read.

    Args:
        slide: the slide, and how to read it.
        planes: which planes are meant, if it has several; see ``unetzoo.images.read_image``.

    Raises:
        ConfigError: the package that reads it is not installed.
        InputError: it cannot be read in this way; or its file lacks needed information, and the message says what it
            has.
    """

    def __init__(self, slide: Slide, planes: str | int | None = None) -> None:
        self.slide, self.asked = slide, f" {slide.settings()}"
        super().__init__(slide.path, planes)

    def _begin(self) -> None:
        levels = open_slide(self.path, self.planes, self._open)
        chosen = levels.chosen(self.slide)
        size_of(self.path.name, levels.mpp, self.slide.mpp_stored)  # warns if they differ
        self._levels = levels
        self._image = _Scaled(levels, chosen.level, chosen.steps)
        self.height, self.width = self._image.height, self._image.width
        self.alpha, self.scale, self.mpp = levels.alpha, chosen.down, chosen.mpp
        rgb = levels.dtype == torch.uint8 and levels.channels - levels.alpha == 3
        if self.slide.background == "skip" and rgb:
            self.tissue = Tissue(tissue_in(_copy_of(levels)), (chosen.down[0] / CELL, chosen.down[1] / CELL))

    def rows(self, first: int, last: int) -> Tensor:
        """Return some rows, see :class:`Rows`."""
        with explained(self.path):
            return self._image.rows(first, last)

    def small(self, height: int, width: int) -> Tensor:
        """Return the slide at a smaller size, see :class:`Rows`, from the nearest finer level."""
        with explained(self.path):
            return _in_size(self._levels, height, width)[:3]


class _Scaled:
    """A level at another size, by rows.

    Args:
        levels: levels of the slide.
        level: number of the level.
        steps: pixels of the level per new pixel, down and across.
    """

    def __init__(self, levels: Levels, level: int, steps: tuple[float, float]) -> None:
        self._levels, self._level, self._steps = levels, level, steps
        self._size = levels.levels[level].height, levels.levels[level].width
        self.height, self.width = (side_of(side, step) for side, step in zip(self._size, steps, strict=True))

    def rows(self, first: int, last: int) -> Tensor:
        """Return rows (C, last - first, width)."""
        if self._steps == (1.0, 1.0):
            return self._levels.window(self._level, first, last, 0, self.width)
        found = torch.empty(self._levels.channels, last - first, self.width, dtype=self._levels.dtype)
        for top, bottom in _parts(first, last, max(1, int(LONGEST / self._steps[0]))):
            down, above = self._taps(0, top, bottom)
            tall = int(down[0].max()) + 1
            pixel = tall * self._levels.channels * self._levels.dtype.itemsize * self._steps[1]
            for left, right in _parts(0, self.width, max(64, int(BLOCK / pixel))):
                across, beside = self._taps(1, left, right)
                wide = int(across[0].max()) + 1
                part = self._levels.window(self._level, above, above + tall, beside, beside + wide)
                found[:, top - first : bottom - first, left:right] = resampled(part, down, across)
        return found

    def _taps(self, axis: int, first: int, last: int) -> tuple[tuple[Tensor, Tensor], int]:
        """Return :func:`taps` counted from the first pixel that any of them needs, and the index of this pixel."""
        indices, weights = taps(first, last, self._size[axis], self._steps[axis])
        begin = int(indices.min())
        return (indices - begin, weights), begin


def _parts(first: int, last: int, most: int) -> Iterator[tuple[int, int]]:
    for begin in range(first, last, most):
        yield begin, min(begin + most, last)


def _copy_of(levels: Levels) -> Tensor:
    """Return a small RGB copy of a slide, whose pixels have sides of :data:`CELL` pixels of level 0."""
    level = max((k for k, one in enumerate(levels.levels) if max(one.down) <= CELL), default=0)
    down = levels.levels[level].down
    return _whole(_Scaled(levels, level, (CELL / down[0], CELL / down[1])))[:3]


def _in_size(levels: Levels, height: int, width: int) -> Tensor:
    """Return a slide at a smaller size."""
    fine = (k for k, one in enumerate(levels.levels) if one.height >= height and one.width >= width)
    level = max(fine, default=0)
    size = levels.levels[level].height, levels.levels[level].width
    return _whole(_Scaled(levels, level, (size[0] / height, size[1] / width)))


def _whole(image: _Scaled) -> Tensor:
    return torch.cat([image.rows(*part) for part in _parts(0, image.height, 64)], dim=1)


def microns_of(slide: Slide, planes: str | int | None = None) -> tuple[float, float] | None:
    """Return µm per pixel of a slide as it is read, down and across; None if unknown.

    Raises:
        ConfigError: the package that reads it is not installed.
        InputError: it cannot be read in this way.
    """
    with contextlib.ExitStack() as keeping, explained(slide.path):
        levels = open_slide(Path(slide.path), planes, keeping)
        size_of(Path(slide.path).name, levels.mpp, slide.mpp_stored)
        return levels.chosen(slide).mpp


def known(source: Any) -> Any:
    """Return a predictor's input; the path of a pyramid becomes a slide without a given level."""
    return Slide(source) if isinstance(source, str | os.PathLike) and is_pyramid(source) else source


def loaded(slide: Slide, planes: str | int | None = None) -> LoadedImage:
    """Return a slide in memory.

    Raises:
        ConfigError: the package that reads it is not installed.
        InputError: it cannot be read in this way; or it is too large for memory.
    """
    from PIL import Image

    with SlideRows(slide, planes) as source:
        pixels = source.height * source.width
        if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
            raise InputError(
                f"{str(slide.path)!r} has {source.width}×{source.height} pixels at this size, too many for memory: use "
                "'unetzoo predict' or write_mask, which write its mask by rows; or give a larger mpp=…"
            )
        image = LoadedImage(source.rows(0, source.height), source.name, alpha=source.alpha)
        image.tissue, image.scale, image.mpp = source.tissue, source.scale, source.mpp
    return image
