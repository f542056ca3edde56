"""Text for people, made of names that may come from anybody's file."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of Unicode: control and format characters, halves of characters, ends of lines and paragraphs."""
_KEPT = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}\N{SOFT HYPHEN}"
"""Format characters that words are written with."""


def printable(text: object, *, lines: bool = False) -> str:
    """Return text that a terminal shows and does not obey, in one line.

    What moves the cursor, colours, or turns the direction of writing becomes an escape of Python's; a byte of a file's
    name that is no UTF-8 does, too.

    Args:
        text: anything with a ``str()``.
        lines: the text has several lines: line feeds and tabs stay.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(letter if _is_harmless(letter, lines) else _escaped(letter) for letter in text)


def _is_harmless(letter: str, lines: bool) -> bool:
    if letter in "\n\t":
        return lines
    return letter in _KEPT or unicodedata.category(letter) not in _ESCAPED


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # a byte, as os.fsdecode gives it
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Return a table as :func:`printable` text: the first column to the left, all others to the right."""
    rows = [[printable(cell) for cell in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines) + "\n"
