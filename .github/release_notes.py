"""Print what CHANGELOG.md says of a version: ``python .github/release_notes.py v0.1.0``.

The tag must be the package's version, and the changelog must have a section of it that says something; else the release
stops here.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def release_notes(tag: str) -> str:
    """Return the section of the tag's version, without its heading.

    Raises:
        SystemExit: the tag is not "v" and ``unetzoo.__version__``; the changelog has no such section, or an empty one.
    """
    source = (ROOT / "unetzoo" / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)[1]
    if tag != f"v{version}":
        sys.exit(f"the tag is {tag}, and unetzoo.__version__ is {version}: the tag must be v{version}")
    headings = {}
    for section in re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        headings[heading.split()[0]] = text.strip()
    if not headings.get(version):
        state = "an empty section" if version in headings else "no section"
        sys.exit(f"CHANGELOG.md has {state} of {version}: its newest is {next(iter(headings), 'none')!r}")
    return headings[version]


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    sys.stdout.write(release_notes(sys.argv[1]) + "\n")
