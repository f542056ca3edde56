"""Text for people, which may contain names from untrusted files."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories: control and format characters, surrogates, line and paragraph separators."""
_KEPT = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}\N{SOFT HYPHEN}"
"""Format characters that occur in words."""
_NAME = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^:='"]+\.\w+(?=: )""")
"""The name of a file, at the beginning of a sentence about it."""
_VARYING = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\d+""")
"""Names and numbers within a sentence."""
_EXAMPLES = 10
"""Examples of each kind of sentence, including the first; at most twice as many kinds are told."""
_PIXELS = r"(?<!\S)\S+ \(\d+ pixels\)"  # only tried where a word begins: a word may have any length
_FOUND = re.compile(rf"{_PIXELS}(?:, {_PIXELS})*(?: and \d+ others?)?")
"""Pixel values that were found in a file, which may differ from file to file."""


def printable(text: object, *, lines: bool = False) -> str:
    """Return text that is safe to show on a terminal, in one line.

    Characters that move the cursor, set colours or change the direction of writing become Python escapes; so do bytes
    of a file name that are not UTF-8.

    Args:
        text: anything with a ``str()``.
        lines: whether the text may have several lines: line feeds and tabs are kept.
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


def said_once(sentences: Iterable[str]) -> list[str]:
    """Return sentences, with those that say the same of several files merged into one: see :func:`said_of`.

    Args:
        sentences: each begins with the name of the file that it is about, unless it is not about a file.
    """
    return said_of(_parted(sentences))


def said_of(files: Iterable[tuple[str, str]]) -> list[str]:
    """Return sentences about files. A sentence that holds for several files names the first, two others, and a count.

    Args:
        files: name, and the sentence after it. Sentences may differ in which values were found in how many pixels.
    """
    return [_with_others(sentences) for sentences in _alike(files).values()]


def said_by_kind(sentences: Iterable[str], rest: str) -> list[str]:
    """Return one sentence for each kind: the first, how many others there are, and what some of these are about.

    Sentences are of the same kind if they differ only in names and numbers. At most 20 kinds are returned.

    Args:
        sentences: each begins with the name of the file that it is about, unless it is not about a file.
        rest: says where all are listed; added where some are left out.
    """
    kinds: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for said, named in _alike(_parted(sentences)).items():
        kinds[_VARYING.sub("", said)] += [(name, sentence[len(name) :]) for name, sentence in named.items()]
    found = [*kinds.values()]
    shown = [_with_examples(of_kind, rest) for of_kind in found[: 2 * _EXAMPLES]]
    others = sum(map(len, found[2 * _EXAMPLES :]))
    return [*shown, *[f"… and {others} more, of other kinds; {rest}"] * bool(others)]


def some_of(names: Sequence[str], most: int = 10, *, quoted: bool = True) -> str:
    """Return the first of the names, and how many more there are."""
    more = len(names) - most
    return ", ".join(map(repr if quoted else str, names[:most])) + (f" and {more} more" if more > 0 else "")


def _with_examples(alike: Sequence[tuple[str, str]], rest: str) -> str:
    """Return the first sentence of a kind, each a name and the text after it, and what the others are about."""
    (name, said), *others = alike
    if not others:
        return f"{name}{said}"
    about = [other if other != name else _difference(said, behind) for other, behind in others[: _EXAMPLES - 1]]
    more = f", …; {rest}" if len(others) >= _EXAMPLES else ""
    kind = "" if len({_FOUND.sub("", behind) for _, behind in alike}) == 1 else " of this kind"
    return f"{name}{said}; and {counted(len(others), 'other')}{kind}: {', '.join(about)}{more}"


def _difference(one: str, other: str) -> str:
    """Return the first clause of ``other`` that differs from the clause of ``one``."""
    parts = zip(one.split(": "), other.split(": "), strict=False)
    return next((theirs.strip(": ") for ours, theirs in parts if ours != theirs), other.strip(": "))


def _parted(sentences: Iterable[str]) -> list[tuple[str, str]]:
    """Return the name of the file that each sentence is about, "" if there is none, and the text after it."""
    names = [(found[0] if (found := _NAME.match(sentence)) else "", sentence) for sentence in sentences]
    return [(name, sentence[len(name) :]) for name, sentence in names]


def _alike(files: Iterable[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """Return text after the name → file → sentence."""
    alike: dict[str, dict[str, str]] = defaultdict(dict)
    for name, said in files:
        alike[_FOUND.sub("", said)].setdefault(name, f"{name}{said}")
    return alike


def _with_others(sentences: dict[str, str]) -> str:
    (_, sentence), *others = sentences.items()
    named = ", ".join(name for name, _ in others[:2]) + (", …" if len(others) > 2 else "")
    return f"{sentence}; and {counted(len(others), 'other')}: {named}" if others else sentence


def counted(count: int, what: str, many: str | None = None) -> str:
    """Return a count with its noun: "1 image", "2 images"; ``many`` is an irregular plural."""
    return f"{count} {what if count == 1 else many or f'{what}s'}"


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Return a table as :func:`printable` text: the first column is left-aligned, all others are right-aligned."""
    rows = [[printable(cell) for cell in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines) + "\n"


def span(seconds: float) -> str:
    """Return a duration for people: "40 s", "12 min", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def size(count: int) -> str:
    """Return a number of bytes for people: "812 MB", "7.5 GB"; a GB has 1024 MB here, as usual for memory."""
    return f"{count / 2**20:.0f} MB" if count < 2**30 else f"{count / 2**30:.1f} GB"
