"""The levels of a slide, for any reader."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unetzoo.errors import InputError
from unetzoo.slides.asking import Slide
from unetzoo.slides.resampling import side_of

LONGEST = 1_000_000
"""The most pixels of a side. The largest scans have about 300,000."""
LARGEST_BLOCK = 2**28
"""The most bytes of a decoded tile or strip, which is decoded as a whole."""
SMALLEST = 16
"""The fewest pixels of a side after resampling: fewer are a mistake, such as nanometres for micrometres."""
SLACK = 0.1
"""The share by which a resolution may be finer than level 0: scanners of "40×" have 0.22 to 0.26 µm."""


@dataclass(frozen=True)
class Level:
    """A level of a slide.

    Attributes:
        height, width: in pixels.
        down: pixels of level 0 per pixel of this level, down and across.
    """

    height: int
    width: int
    down: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Chosen:
    """What is read from a slide.

    Attributes:
        level: number of the level.
        steps: pixels of the level per pixel of the image, down and across.
        down: pixels of level 0 per pixel of the image, down and across.
        mpp: µm a pixel of the image, down and across; None if it is not known.
    """

    level: int
    steps: tuple[float, float]
    down: tuple[float, float]
    mpp: tuple[float, float] | None


class Levels(ABC):
    """An open slide.

    Attributes:
        levels: the finest first.
        mpp: µm a pixel of level 0, down and across; None if the file does not say.
        dtype: type of its values.
        channels: number of channels.
        alpha: whether the last channel is opacity.
    """

    levels: Sequence[Level]
    mpp: tuple[float, float] | None
    dtype: Any
    channels: int
    alpha: bool = False

    @abstractmethod
    def window(self, level: int, top: int, bottom: int, left: int, right: int) -> Tensor:
        """Return pixels of a level: (C, bottom - top, right - left), as they are stored."""

    def chosen(self, slide: Slide) -> Chosen:
        """Return what to read.

        Raises:
            InputError: the file does not say what is needed, or has no such level; the message says what it has.
        """
        given = None if slide.mpp_stored is None else (float(slide.mpp_stored),) * 2
        stored = given if self.mpp is None else self.mpp
        said = f"{str(slide.path)!r} has {self.described(stored)}"
        if slide.level is not None:
            if slide.level >= len(self.levels):
                raise InputError(f"level={slide.level}: {str(slide.path)!r} has {self.described(stored, said=False)}")
            down = self.levels[slide.level].down
            mpp = None if stored is None else (stored[0] * down[0], stored[1] * down[1])
            return Chosen(slide.level, (1.0, 1.0), down, mpp)
        if slide.mpp is None:
            raise InputError(
                f"{said}: which is meant? Give mpp=…, the µm a pixel of the training, or level=… (to unetzoo.Slide)"
            )
        if stored is None:
            raise InputError(f"{said}: give level=…, or mpp_stored=…, the µm a pixel of level 0, with mpp={slide.mpp}")
        if slide.mpp < max(stored) * (1 - SLACK):
            raise InputError(f"{said}: mpp={slide.mpp} is finer than all levels; give {max(stored):.4g} or more")
        wanted = (slide.mpp / stored[0], slide.mpp / stored[1])
        level = max(
            (k for k, one in enumerate(self.levels) if one.down[0] <= wanted[0] and one.down[1] <= wanted[1]), default=0
        )
        sides = [side_of(side, step) for side, step in zip(self._finest, wanted, strict=True)]
        if min(sides) < SMALLEST <= min(self._finest):
            raise InputError(
                f"{said}: with mpp={slide.mpp} the image would have {sides[1]}×{sides[0]} pixels; give µm per pixel, "
                "such as 0.5 for 20×"
            )
        down = self.levels[level].down
        return Chosen(level, (wanted[0] / down[0], wanted[1] / down[1]), wanted, (float(slide.mpp),) * 2)

    @property
    def _finest(self) -> tuple[int, int]:
        return self.levels[0].height, self.levels[0].width

    def described(self, mpp: tuple[float, float] | None, *, said: bool = True) -> str:
        """Return the levels for messages; and, unless ``said`` is False, that µm a pixel is not known."""
        each = [
            f"{one.width}×{one.height} pixels" + ("" if mpp is None else f" of {mpp[1] * one.down[1]:.4g} µm")
            for one in self.levels
        ]
        levels = "; ".join(f"level {k} of {text}" for k, text in enumerate(each))
        return levels if mpp is not None or not said else f"{levels}, and does not say how many µm a pixel is"


def check_sides(path: object, height: int, width: int) -> None:
    """Check the size of a slide.

    Raises:
        InputError: it is empty, or a side is longer than :data:`LONGEST`.
    """
    if not 1 <= height <= LONGEST or not 1 <= width <= LONGEST:
        raise InputError(f"{str(path)!r} says that it has {width}×{height} pixels: sides can have 1 to {LONGEST:,}")
