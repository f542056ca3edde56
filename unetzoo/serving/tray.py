"""The images of a visitor: which are waiting, which are done, which one is shown."""

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
"""Longest side of a thumbnail, in pixels."""


@dataclass
class Entry:
    """An image that a visitor sent.

    Attributes:
        path: its path, which identifies it.
        answer: None until it is segmented, or if it is refused.
        refusal: the reason, in one line; None if it is not refused.
        seconds: how long it took.
        size: bytes of the file.
        thumbnail: a data URL; "" until it is segmented.
    """

    path: str
    answer: Answer | None = None
    refusal: str | None = None
    seconds: float = 0.0
    size: int = 0
    thumbnail: str = ""

    @property
    def name(self) -> str:
        """The name of the file."""
        return Path(self.path).name

    @property
    def waits(self) -> bool:
        """Whether it is still waiting to be segmented."""
        return self.answer is None and self.refusal is None

    @property
    def pixels(self) -> int:
        """Number of pixels that are kept."""
        return 0 if self.answer is None else self.answer.image.shape[1] * self.answer.image.shape[2]


class Tray:
    """The images of one visitor, in the order of the list on the page."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.current: Entry | None = None
        self._arrived = False

    def follow(self, paths: Sequence[str]) -> None:
        """Add new images of the list, and drop those that are no longer in it."""
        known = {entry.path: entry for entry in self.entries}
        self.entries = [known.get(path) or Entry(path) for path in dict.fromkeys(map(str, paths))]
        self._arrived |= any(entry.path not in known for entry in self.entries)
        for entry in self.entries[FILES:]:
            if entry.waits:
                entry.refusal = f"{entry.name}: at most {FILES} images are accepted; remove some from the list"
        if self.current not in self.entries:
            self.current = next((entry for entry in self.entries if entry.answer is not None), None)

    def step(self, predictor: Predictor, limits: Limits) -> bool:
        """Segment the first waiting image; return whether others are still waiting.

        Of images that were sent together, the first is shown.
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
        except FileNotFoundError:  # files are kept for an hour
            entry.refusal = f"{entry.name} is no longer on the server: send it again"
        else:
            entry.seconds, entry.size = time.perf_counter() - begin, Path(entry.path).stat().st_size
            entry.thumbnail = embedded(sheets.shrunk(entry.answer.image, _THUMBNAIL))
            if self._arrived or self.current is None:
                self.current, self._arrived = entry, False
        return any(other.waits for other in self.entries)

    def choose(self, number: object) -> None:
        """Show another image; an invalid number, or that of an image that is not done, changes nothing."""
        if type(number) is int and 0 <= number < len(self.entries) and self.entries[number].answer is not None:
            self.current, self._arrived = self.entries[number], False

    def seen(self, threshold: float) -> Segmented | None:
        """Return the result for the current image; None if there is none."""
        return None if self.current is None or self.current.answer is None else self.current.answer.at(threshold)

    def all_seen(self, threshold: float) -> list[tuple[str, Segmented]]:
        """Return name and result of all images that are done."""
        return [(entry.name, entry.answer.at(threshold)) for entry in self.entries if entry.answer is not None]
