"""Text files of strangers, parsed once: the formats that share an ending ask for the same one, one after the other."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unetzoo.errors import InputError
from unetzoo.files import strict_json


def json_of(path: Path) -> Any:
    """Return what a JSON file holds; the last one that was asked for is kept, unless it was changed.

    Raises:
        InputError: it cannot be read, or is no JSON.
    """
    try:
        status = path.stat()
        return _json(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from error


def forget() -> None:
    """Give back the memory of the last file."""
    _json.cache_clear()


@functools.lru_cache(maxsize=1)
def _json(path: Path, *_: int) -> Any:
    try:
        return strict_json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{str(path)!r} cannot be read as JSON: {error}") from error


def has(found: Any, **parts: type) -> bool:
    """Return whether something is an object of JSON with parts of these types."""
    return isinstance(found, Mapping) and all(isinstance(found.get(name), kind) for name, kind in parts.items())
