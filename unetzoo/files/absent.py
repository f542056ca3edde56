"""The message about a missing file, in the same words everywhere."""

from __future__ import annotations

import difflib
import itertools
import os
from pathlib import Path

_MOST = 2000
"""Most names of a folder that are compared with a missing one."""


def absent(path: str | os.PathLike[str], what: str = "file") -> str:
    """Return the message that there is no such file, with a fix: a similar name, or what to check.

    Args:
        path: of the missing file; if it is a folder where a file is needed, the message says so.
        what: that is needed, such as "file" or "file or folder".
    """
    path = Path(path)
    if _is_folder(path):
        return f"{str(path)!r} is a folder, not a {what}: give the path of a file in it"
    said = f"{str(path)!r}: there is no such {what}"
    if not _is_folder(path.parent):
        return f"{said}, and no folder {str(path.parent)!r}: check the path"
    near = _near(path)
    return f"{said}: {'check the path' if near is None else f'did you mean {str(near)!r}?'}"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # such as a name that is too long
        return False


def _near(path: Path) -> Path | None:
    """Return the path next to ``path`` with the most similar name, None if there is none."""
    try:
        with os.scandir(path.parent) as entries:
            names = {entry.name.lower(): entry.name for entry in itertools.islice(entries, _MOST)}
    except (OSError, ValueError):
        return None
    found = difflib.get_close_matches(path.name.lower(), names, n=1, cutoff=0.8)
    return path.with_name(names[found[0]]) if found else None
