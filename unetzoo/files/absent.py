"""What is said of a file that is not there: the same words wherever one is asked for."""

from __future__ import annotations

import difflib
import itertools
import os
from pathlib import Path

_MOST = 2000
"""Names of a folder that are compared with one that is not in it."""


def absent(path: str | os.PathLike[str], what: str = "file") -> str:
    """Return that there is no such file, and the fix: a name that is much like it, or what to check.

    Args:
        path: of what is not there; of a folder, where a file is needed, that it is one.
        what: that is needed, such as "file" or "file or folder".
    """
    path = Path(path)
    if _is_folder(path):
        return f"{str(path)!r} is a folder, and no {what}: give the path of a file in it"
    said = f"{str(path)!r}: there is no such {what}"
    if not _is_folder(path.parent):
        return f"{said}, and no folder {str(path.parent)!r}: check the path"
    near = _near(path)
    return f"{said}: {'check the path' if near is None else f'is {str(near)!r} meant?'}"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, for one
        return False


def _near(path: Path) -> Path | None:
    """Return what lies beside ``path``, and is called much like it."""
    try:
        with os.scandir(path.parent) as entries:
            names = {entry.name.lower(): entry.name for entry in itertools.islice(entries, _MOST)}
    except (OSError, ValueError):
        return None
    found = difflib.get_close_matches(path.name.lower(), names, n=1, cutoff=0.8)
    return path.with_name(names[found[0]]) if found else None
