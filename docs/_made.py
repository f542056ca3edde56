"""What the pages hold that is computed: ``python docs/_made.py`` writes all of it again.

A page has a computed part between two comments, so that it reads the same on GitHub as on the built site:

    <!-- made: grid -->

    | Encoder | …

    <!-- end of grid -->

The build fails where a part, or a drawing, is not what the package gives today.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import _diagrams
import _reference
import _tables

HERE = Path(__file__).resolve().parent
DRAWINGS = HERE / "_static" / "diagrams"
PART = re.compile(r"^<!-- made: (\w+) -->\n(.*?)^<!-- end of \1 -->$", re.MULTILINE | re.DOTALL)
AGAIN = "'python docs/_made.py' writes it again"


def pages() -> Iterator[Path]:
    """Yield the pages of the documentation."""
    for path in sorted(HERE.rglob("*.md")):
        if "_build" not in path.parts:
            yield path


@cache
def parts() -> dict[str, str]:
    """Return name → text of all that is computed, but for drawings."""
    return {**dict(_tables.tables()), "api": _reference.overview()}


def filled(text: str) -> str:
    """Return the text of a page with its computed parts as they are today."""

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name not in parts():
            raise KeyError(f"'<!-- made: {name} -->': there is {', '.join(sorted(parts()))}")
        return f"<!-- made: {name} -->\n\n{parts()[name].strip()}\n\n<!-- end of {name} -->"

    return PART.sub(fill, text)


def on_site(text: str, name: str, other: str) -> str:
    """Return the text of a page with another part in the place of one, such as a table that can be filtered."""
    return PART.sub(lambda match: other if match[1] == name else match[0], text)


def stale() -> list[str]:
    """Return what is wrong with the computed parts of pages, and with the drawings."""
    problems = []
    for path in pages():
        text, where = path.read_text(encoding="utf-8"), path.relative_to(HERE)
        old, new = ([match[0] for match in PART.finditer(each)] for each in (text, filled(text)))
        problems += [
            f"{where}: {before.splitlines()[0]} is out of date: {AGAIN}"
            for before, after in zip(old, new, strict=True)
            if before != after
        ]
    with tempfile.TemporaryDirectory() as folder:
        _diagrams.draw_all(Path(folder))
        for drawn in sorted(Path(folder).iterdir()):
            # Outlines differ by the version of matplotlib; what is written on a drawing does not.
            kept = DRAWINGS / drawn.name
            if not kept.exists() or letters_of(kept) != letters_of(drawn):
                problems.append(f"_static/diagrams/{drawn.name} is out of date: {AGAIN}")
    return problems


def letters_of(path: Path) -> list[str]:
    return _diagrams.letters(path.read_text(encoding="utf-8"))


def main() -> None:
    """Write all that is computed again."""
    for path in pages():
        text = path.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            path.write_text(new, encoding="utf-8")
    _diagrams.draw_all(DRAWINGS)


if __name__ == "__main__":
    main()
