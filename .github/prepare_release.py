"""Write a version, and once the repository's owner, in all places: ``python .github/prepare_release.py 0.2.0``.

RELEASING.md says when. Nothing is written unless all of it can be.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = r"\d+\.\d+\.\d+(?:rc\d+)?"
PLACES = {
    "unetzoo/__init__.py": rf'(?m)^(__version__ = "){VERSION}(")$',
    "CITATION.cff": rf"(?m)^(version: ){VERSION}()$",
    "packaging/conda/recipe.yaml": rf'(?m)^(  version: "){VERSION}(")$',
}
"""File → the version there, between what stands around it."""
OWNED = ("examples/notebooks/*.ipynb", "examples/torch_hub.py", "packaging/conda/recipe.yaml", "pyproject.toml")
"""Files with OWNER where the owner of the repository belongs."""


def prepared(root: Path, version: str, owner: str | None, today: datetime.date) -> dict[Path, str]:
    """Return the new text of each file that changes.

    Raises:
        SystemExit: the version is none, or a place of it is not found, or the changelog has nothing to release.
    """
    if not re.fullmatch(VERSION, version):
        sys.exit(f"{version!r} is not a version: give for example 0.2.0, or 0.2.0rc1")
    texts: dict[Path, str] = {}
    for name, pattern in PLACES.items():
        path = root / name
        texts[path], count = re.subn(pattern, rf"\g<1>{version}\g<2>", path.read_text(encoding="utf-8"))
        if count != 1:
            sys.exit(f"{name} has {count} lines with the version, and one is needed")
    path = root / "CHANGELOG.md"
    changelog = path.read_text(encoding="utf-8")
    unreleased = re.search(r"^## Unreleased\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if unreleased is None or not unreleased[1].strip():
        sys.exit("CHANGELOG.md has nothing under '## Unreleased': write what changed")
    heading = f"## {version} ({today.isoformat()})\n"
    texts[path] = changelog.replace("## Unreleased\n", heading, 1)
    if owner is not None:
        for path in sorted(path for pattern in OWNED for path in root.glob(pattern)):
            text = texts.get(path, path.read_text(encoding="utf-8"))
            texts[path] = re.sub(r"\bOWNER(?=/unetzoo\b)|(?<=- )OWNER$", owner, text, flags=re.MULTILINE)
    return {path: text for path, text in texts.items() if text != path.read_text(encoding="utf-8")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write, and print what was written and what comes next."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("version", help="such as 0.2.0")
    parser.add_argument("--owner", help="of the repository on GitHub; needed once, before the first release")
    options = parser.parse_args(arguments)
    found = prepared(ROOT, options.version, options.owner, datetime.datetime.now(datetime.UTC).date())
    for path, text in found.items():
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"written: {path.relative_to(ROOT).as_posix()}\n")
    tag = f"v{options.version}"
    sys.stdout.write(
        f"next: git commit -am 'Release {options.version}' && git tag {tag} && git push origin main {tag}\n"
    )


if __name__ == "__main__":
    main()
