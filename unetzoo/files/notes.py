"""Lines for the log about files that were read: what was taken from a file, and what was left."""

from __future__ import annotations

import logging
from dataclasses import dataclass

DESCRIPTION = {"unetzoo_description": True}
"""``extra`` of a log record that describes something: ``num_classes=2`` in it is not an argument that was given."""

_logger = logging.getLogger("unetzoo")


@dataclass(frozen=True)
class Note:
    """A line for the log.

    Attributes:
        text: of the line.
        doubtful: whether something was chosen or assumed that the reader should check: then it is a warning.
        describes: whether the line describes something, see ``DESCRIPTION``.
    """

    text: str
    doubtful: bool = False
    describes: bool = False

    def log(self) -> None:
        """Log it."""
        level = logging.WARNING if self.doubtful else logging.INFO
        _logger.log(level, "%s", self.text, extra=DESCRIPTION if self.describes else None)
