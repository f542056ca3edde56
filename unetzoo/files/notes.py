"""What the log says of a file that was read: what was taken from it and what was left, in a line."""

from __future__ import annotations

import logging
from dataclasses import dataclass

DESCRIPTION = {"unetzoo_description": True}
"""``extra`` of a line of the log that tells what something is: its ``num_classes=2`` is nothing that was given."""

_logger = logging.getLogger("unetzoo")


@dataclass(frozen=True)
class Note:
    """A line for the log.

    Attributes:
        text: of it.
        doubtful: something was chosen or assumed that the reader should look at: a warning. Else all is as expected.
        describes: it tells what something is, see ``DESCRIPTION``.
    """

    text: str
    doubtful: bool = False
    describes: bool = False

    def log(self) -> None:
        """Log it."""
        level = logging.WARNING if self.doubtful else logging.INFO
        _logger.log(level, "%s", self.text, extra=DESCRIPTION if self.describes else None)
