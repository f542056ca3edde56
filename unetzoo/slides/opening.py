"""The reader of a slide: it depends on the file, never on what is installed."""

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
        ConfigError: the reader is not installed.
        InputError: the file cannot be read, or is not a slide.
    """
    if not path.is_file():
        raise InputError(absent(path))
    if path.suffix.lower() in BY_OPENSLIDE:
        if planes is not None and planes != "first":
            raise InputError(f"{str(path)!r} is a slide with one plane: leave planes={planes!r} out")
        return OpenSlideLevels(path, keeping)
    if not ifd.is_tiff(path):
        raise InputError(
            f"{str(path)!r} is not a slide: {', '.join(SLIDES)}, .tif and .tiff are read as slides; leave mpp=… and "
            "level=… out for an image that is no slide, and give mpp_stored=…, the size of its pixels"
        )
    return TiffLevels(path, planes, keeping)


def can_be_slide(path: Path) -> bool:
    """Return whether a file can be opened as a slide, by its name or its first bytes."""
    try:
        return path.is_file() and (path.suffix.lower() in BY_OPENSLIDE or ifd.is_tiff(path))
    except OSError:  # reading it will report why
        return True
