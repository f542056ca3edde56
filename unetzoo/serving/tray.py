"""The images that a visitor has here: which wait, which are done, which one is looked at."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unetzoo import sheets
from unetzoo.errors import InputError
from unetzoo.prediction import Predictor
from unetzoo.serving import answers
from unetzoo.serving.answers import Answer, Segmented
from unetzoo.serving.limits import FILES, Limits
from unetzoo.serving.parts import embedded

_THUMBNAIL = 96
"""Pixels of its longest side."""


@dataclass
class Entry:
    """An image that somebody sent.

    Attributes:
        path: where it lies, by which it is known.
        answer: None until it is segmented, and where it is refused.
        refusal: why, in a line; None where it is not.
        seconds: that it took.
        size: bytes of the file.
        thumbnail: a data address; "" until it is segmented.
    """

    path: str
    answer: Answer | None = None
    refusal: str | None = None
    seconds: float = 0.0
    size: int = 0
    thumbnail: str = ""

    @property
    def name(self) -> str:
        """What the file is called."""
        return Path(self.path).name

    @property
    def waits(self) -> bool:
        """Whether nobody has looked at it yet."""
        return self.answer is None and self.refusal is None

    @property
    def pixels(self) -> int:
        """How many are kept."""
        return 0 if self.answer is None else self.answer.image.shape[1] * self.answer.image.shape[2]


class Tray:
    """The images of one visitor, in the order of the list on the page."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.current: Entry | None = None
        self._arrived = False

    def follow(self, paths: Sequence[str]) -> None:
        """Take in what is new in the list, and drop what is no longer there."""
        known = {entry.path: entry for entry in self.entries}
        self.entries = [known.get(path) or Entry(path) for path in dict.fromkeys(map(str, paths))]
        self._arrived |= any(entry.path not in known for entry in self.entries)
        for entry in self.entries[FILES:]:
            if entry.waits:
                entry.refusal = f"{entry.name}: up to {FILES} images are taken at once; take some out of the list"
        if self.current not in self.entries:
            self.current = next((entry for entry in self.entries if entry.answer is not None), None)

    def step(self, predictor: Predictor, limits: Limits) -> bool:
        """Segment the first image that waits; return whether others still do.

        The first of those that came together is looked at.
        """
        entry = next((entry for entry in self.entries if entry.waits), None)
        if entry is None:
            return False
        kept = [other for other in self.entries if other.answer is not None]
        begin = time.perf_counter()
        try:
            entry.answer = answers.answer(
                predictor, entry.path, limits,
                pixels=sum(other.pixels for other in kept), size_beside=sum(other.size for other in kept),
            )  # fmt: skip
        except InputError as error:
            entry.refusal = str(error)
        except FileNotFoundError:  # it lies here an hour at most
            entry.refusal = f"{entry.name} is no longer here: give it again"
        else:
            entry.seconds, entry.size = time.perf_counter() - begin, Path(entry.path).stat().st_size
            entry.thumbnail = embedded(sheets.shrunk(entry.answer.image, _THUMBNAIL))
            if self._arrived or self.current is None:
                self.current, self._arrived = entry, False
        return any(other.waits for other in self.entries)

    def choose(self, number: object) -> None:
        """Look at another image; a number that is none, or of one that is not done, changes nothing."""
        if type(number) is int and 0 <= number < len(self.entries) and self.entries[number].answer is not None:
            self.current, self._arrived = self.entries[number], False

    def seen(self, threshold: float) -> Segmented | None:
        """Return what was found in the image that is looked at, None where there is none."""
        return None if self.current is None or self.current.answer is None else self.current.answer.at(threshold)

    def all_seen(self, threshold: float) -> list[tuple[str, Segmented]]:
        """Return name and what was found of all images that are done."""
        return [(entry.name, entry.answer.at(threshold)) for entry in self.entries if entry.answer is not None]
