"""An image whose file stays open while its rows are read."""

from __future__ import annotations

import contextlib
import os
from abc import abstractmethod
from pathlib import Path
from typing import Self

from unetzoo.errors import InputError
from unetzoo.images import explained
from unetzoo.prediction.inputs import Rows
from unetzoo.prediction.marks import Mark


class OpenedRows(Rows):
    """An image of which only the requested rows are read; leaving the block, or ``close``, closes its file.

    Args:
        path: path of the file.
        planes: which planes are meant, if it has several; see ``unetzoo.images.read_image``.

    Attributes:
        mark: the mark of the image at the time it was opened.
        asked: further settings for reading the file, which are part of the image's identity.
    """

    asked: str = ""

    def __init__(self, path: str | os.PathLike[str], planes: str | int | None = None) -> None:
        self.path, self.planes = Path(path), planes
        self.name = self.path.name
        self._open = contextlib.ExitStack()
        try:
            with explained(self.path):
                self.mark = Mark.of(self.path)
                self._begin()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _begin(self) -> None:
        """Open the file, which ``_open`` closes, and set the attributes of :class:`Rows`."""

    @property
    def identity(self) -> str:
        """Return what distinguishes the image from others: its place, the identity of its file, how it is read."""
        planes = "" if self.planes is None else f" planes {self.planes}"
        return f"{self.mark.place} {self.mark.identity}{planes}{self.asked}"

    def check_unchanged(self) -> None:
        """Raise if the file was replaced or written to since it was opened, see :class:`Rows`."""
        with explained(self.path):
            now = Mark.of(self.path)
        if not now.same_image(self.mark):
            raise InputError(f"{str(self.path)!r} was changed while it was read: run this again when it is complete")

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
