"""Settings for reading a slide: the file, and the size of its pixels."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetzoo import checks
from unetzoo.errors import ConfigError

BY_OPENSLIDE = (".mrxs", ".ndpi", ".scn", ".bif", ".vms", ".vmu", ".svslide")
"""Slides that OpenSlide reads: several files, overlapping parts, or a TIFF variant of their own."""
BY_TIFFFILE = (".svs",)
"""Slides that are ordinary TIFFs. Any .tif may be one, too."""
SLIDES = (*BY_TIFFFILE, *BY_OPENSLIDE)
"""Suffixes of files that are always slides."""
BACKGROUNDS = ("skip", "keep")
COARSEST = 1000.0
"""The largest µm a pixel of a slide; its inverse is the smallest."""
COARSEST_READ = 50.0
"""The largest µm a pixel at which a slide is read. Larger values are nanometres: 250 and 500 are 40× and 20×."""


@dataclass(frozen=True)
class Slide:
    """A slide, and the size of the pixels that a network sees.

    Attributes:
        path: of the file: .svs, .ndpi, .scn, .mrxs, .bif and others of OpenSlide; or a TIFF, including OME-TIFF.
        mpp: µm a pixel. The nearest finer level is read, and resampled to this.
        level: the number of a stored level; 0 is the finest. One of ``mpp`` and ``level`` is needed.
        mpp_stored: µm a pixel of level 0, if the file does not say it; what the file says comes first.
        background: "skip": tiles without tissue are not computed, and pixels outside tissue are 0, see
            ``unetzoo.slides.Tissue``; "keep": everything is computed, as always for images that are not 8-bit RGB.

    Raises:
        ConfigError: lists everything that is wrong.
    """

    path: str | os.PathLike[str]
    mpp: float | None = None
    level: int | None = None
    mpp_stored: float | None = None
    background: str = "skip"

    def __post_init__(self) -> None:
        found = [
            f"{name}={value!r}: give µm per pixel, from {1 / COARSEST:g} to {most:g}; 20× is about 0.5, 40× 0.25"
            for name, value, most in (("mpp", self.mpp, COARSEST_READ), ("mpp_stored", self.mpp_stored, COARSEST))
            if value is not None and not (is_microns(value) and value <= most)
        ]
        found += [] if self.level is None else checks.whole("level", self.level, 0)
        if self.mpp is not None and self.level is not None:
            found.append("mpp and level: give only one of them, a resolution or a stored level")
        found += checks.one_of("background", self.background, BACKGROUNDS)
        if found:
            which = repr(str(self.path)) if str(self.path) else "slides"  # for several, before any of them is known
            raise ConfigError(f"{which} cannot be read with these settings", found)

    def settings(self) -> dict[str, Any]:
        """Return the settings as values for JSON."""
        return {"mpp": self.mpp, "level": self.level, "mpp_stored": self.mpp_stored, "background": self.background}


def is_microns(value: Any) -> bool:
    """Return whether a number can be the size of a slide's pixels, in µm."""
    return type(value) in (int, float) and math.isfinite(value) and 1 / COARSEST <= value <= COARSEST


def has_slide_suffix(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a slide by its name; see ``unetzoo.slides.is_slide`` for the whole rule."""
    return Path(path).suffix.lower() in SLIDES
