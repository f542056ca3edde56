"""What is asked of a slide: the file, and at which size of its pixels."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetzoo import checks
from unetzoo.errors import ConfigError

BY_OPENSLIDE = (".mrxs", ".ndpi", ".scn", ".bif", ".vms", ".vmu", ".svslide")
"""Slides that OpenSlide reads: several files, parts that overlap, or a make of TIFF of their own."""
BY_TIFFFILE = (".svs",)
"""Slides that are TIFFs as any other. All of .tif may be one."""
SLIDES = (*BY_TIFFFILE, *BY_OPENSLIDE)
"""Endings of files that are slides and nothing else."""
BACKGROUNDS = ("skip", "keep")
COARSEST = 1000.0
"""µm a pixel: beyond, and below its inverse, no slide is."""


@dataclass(frozen=True)
class Slide:
    """A slide, and the size of the pixels that a network is to see.

    Attributes:
        path: of the file: .svs, .ndpi, .scn, .mrxs, .bif and others of OpenSlide; or a TIFF, OME's too.
        mpp: µm a pixel. The nearest finer level is read, and resampled to this.
        level: the number of a level, 0 being the finest, as it is stored. One of both is needed.
        mpp_stored: µm a pixel of level 0, where the file does not say it, or says it wrong.
        background: "skip": tiles without tissue are not computed, and what is no tissue is 0, see
            ``unetzoo.slides.Tissue``; "keep": all is computed. Of images that are not RGB of 8 bits all is.

    Raises:
        ConfigError: lists all that is wrong.
    """

    path: str | os.PathLike[str]
    mpp: float | None = None
    level: int | None = None
    mpp_stored: float | None = None
    background: str = "skip"

    def __post_init__(self) -> None:
        found = [
            f"{name}={value!r}: µm a pixel, from {1 / COARSEST:g} to {COARSEST:g}"
            for name, value in (("mpp", self.mpp), ("mpp_stored", self.mpp_stored))
            if value is not None and not is_microns(value)
        ]
        found += [] if self.level is None else checks.whole("level", self.level, 0)
        if self.mpp is not None and self.level is not None:
            found.append("mpp and level: give one of both, a resolution or a level as it is stored")
        found += checks.one_of("background", self.background, BACKGROUNDS)
        if found:
            which = repr(str(self.path)) if str(self.path) else "slides"  # of several, asked before any is known
            raise ConfigError(f"{which} cannot be read so", found)

    def settings(self) -> dict[str, Any]:
        """Return, JSON-able, what is asked of it."""
        return {"mpp": self.mpp, "level": self.level, "mpp_stored": self.mpp_stored, "background": self.background}


def is_microns(value: Any) -> bool:
    """Return whether a number can be the size of a slide's pixels, in µm."""
    return type(value) in (int, float) and math.isfinite(value) and 1 / COARSEST <= value <= COARSEST


def is_slide(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a slide by its name."""
    return Path(path).suffix.lower() in SLIDES
