"""Slides read by OpenSlide: formats of several files, with overlapping parts, or special variants of TIFF."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import torch
from torch import Tensor

from unetzoo import extras
from unetzoo.errors import InputError
from unetzoo.slides.asking import is_microns
from unetzoo.slides.levels import Level, Levels, check_sides


class OpenSlideLevels(Levels):
    """The levels of a slide, 8-bit RGB. Parts that were not scanned have the background colour that the file names.

    If a file says which part of it is the slide (``openslide.bounds-x`` and so on, mainly in MIRAX), only this part is
    read, and its upper left pixel is (0, 0), as in QuPath.

    Args:
        path: of the file.
        keeping: closes the file.

    Raises:
        ConfigError: OpenSlide is not installed.
        InputError: OpenSlide cannot read the file.
    """

    def __init__(self, path: Path, keeping: contextlib.ExitStack) -> None:
        openslide = extras.needed("openslide", f"{str(path)!r}, a slide that OpenSlide reads")
        try:
            self._slide = keeping.enter_context(openslide.OpenSlide(path))
        except openslide.OpenSlideError as error:
            raise InputError(f"{str(path)!r} cannot be read as a slide; OpenSlide says: {error}") from error
        said = self._slide.properties
        width, height = self._slide.dimensions
        names = [f"openslide.bounds-{name}" for name in ("x", "y", "width", "height")]
        bounds = [int(said[name]) for name in names] if all(name in said for name in names) else [0, 0, width, height]
        self._left, self._top, columns, rows = bounds
        if self._left < 0 or self._top < 0 or self._left + columns > width or self._top + rows > height:
            raise InputError(f"{str(path)!r} cannot be read as a slide: its bounds are outside it")
        check_sides(path, rows, columns)
        self._downs = [float(down) for down in self._slide.level_downsamples]
        self.levels = [
            Level(max(1, math.floor(rows / down)), max(1, math.floor(columns / down)), (down, down))
            for down in self._downs
        ]
        mpp = [_number(said.get(f"openslide.mpp-{axis}")) for axis in "yx"]
        self.mpp = (mpp[0], mpp[1]) if is_microns(mpp[0]) and is_microns(mpp[1]) else None
        colour = said.get("openslide.background-color", "FFFFFF")
        self._behind = torch.tensor(list(bytes.fromhex(colour))[:3])[:, None, None]
        self.channels, self.dtype = 3, torch.uint8

    def window(self, level: int, top: int, bottom: int, left: int, right: int) -> Tensor:
        """Return pixels of a level, see :class:`Levels`."""
        import numpy as np

        down = self._downs[level]
        place = round(self._left + left * down), round(self._top + top * down)
        found = np.array(self._slide.read_region(place, level, (right - left, bottom - top)))
        image = torch.from_numpy(found).permute(2, 0, 1)
        seen, opacity = image[:3], image[3:].long()
        if bool((opacity == 255).all()):
            return seen.contiguous()
        return ((seen * opacity + self._behind * (255 - opacity) + 127) // 255).byte()


def _number(text: str | None) -> float:
    with contextlib.suppress(ValueError):
        return math.nan if text is None else float(text)
    return math.nan
