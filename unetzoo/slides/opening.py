"""Which program reads a slide: that follows from the file, never from what is installed."""

from __future__ import annotations

import contextlib
from pathlib import Path

from unetzoo.errors import InputError
from unetzoo.files.absent import absent
from unetzoo.images import ifd
from unetzoo.slides.asking import BY_OPENSLIDE, SLIDES
from unetzoo.slides.levels import Levels
from unetzoo.slides.openslides import OpenSlideLevels
from unetzoo.slides.pyramid import TiffLevels


def open_slide(path: Path, planes: str | int | None, keeping: contextlib.ExitStack) -> Levels:
    """Open a slide; ``keeping`` closes it.

    Raises:
        ConfigError: what reads it is not installed.
        InputError: it cannot be read, or says nothing of levels and sizes: it is no slide.
    """
    if not path.is_file():
        raise InputError(absent(path))
    if path.suffix.lower() in BY_OPENSLIDE:
        if planes is not None and planes != "first":
            raise InputError(f"{str(path)!r} is a slide of one plane: leave planes={planes!r} out")
        return OpenSlideLevels(path, keeping)
    if not ifd.is_tiff(path):
        raise InputError(f"{str(path)!r} is no slide: {', '.join(SLIDES)}, .tif and .tiff have levels")
    return TiffLevels(path, planes, keeping)
