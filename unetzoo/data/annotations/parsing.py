"""Parsing of untrusted text files: JSON, XML without its dangers, and coordinates in an image.

JSON is parsed once: formats that share a suffix read the same file one after the other.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from unetzoo.data.annotations.regions import Ring
from unetzoo.errors import InputError
from unetzoo.files import strict_json

_DEEPEST = 50
"""The deepest nesting of XML elements."""
_SEEN = 100_000
"""The most elements before the first image: CVAT describes its labels there."""
FARTHEST = 2**31
"""The largest coordinate: beyond it no image has pixels."""


def json_of(path: Path) -> Any:
    """Return the contents of a JSON file; the last one is cached until it changes.

    Raises:
        InputError: the file cannot be read, or is not JSON.
    """
    try:
        status = path.stat()
        return _json(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from error


def forget() -> None:
    """Free the memory of the last file."""
    _json.cache_clear()


@functools.lru_cache(maxsize=1)
def _json(path: Path, *_: int) -> Any:
    try:
        return strict_json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{str(path)!r} cannot be read as JSON: {error}") from error


def parse_xml(
    path: Path,
    start: Callable[[str, dict[str, str]], None],
    text: Callable[[str], None] = lambda data: None,
    end: Callable[[str], None] = lambda tag: None,
) -> None:
    """Pass the elements of an XML file to callbacks as they come, without a tree in memory.

    Raises:
        InputError: the file cannot be read; it is not XML, or nested too deep; or it declares a document type or
            entities, which can expand a few lines to gigabytes, and which no tool writes.
    """
    parser = expat.ParserCreate()
    depth = 0

    def refuse(*_: Any) -> None:
        raise InputError(f"{str(path)!r} declares a document type, which annotation files do not have: remove it")

    def opened(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise InputError(f"{str(path)!r} cannot be read as XML: nested too deep")
        start(tag, attributes)

    def closed(tag: str) -> None:
        nonlocal depth
        depth -= 1
        end(tag)

    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = opened, closed, text
    try:
        with path.open("rb") as stream:
            parser.ParseFile(stream)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except expat.ExpatError as error:
        raise InputError(f"{str(path)!r} cannot be read as XML: {error}") from error


def xml_start(path: Path) -> tuple[str, ...]:
    """Return the first tags of an XML file, from its root to the first image or object.

    Raises:
        InputError: as for :func:`parse_xml`.
    """
    found: list[str] = []

    def started(tag: str, _: dict[str, str]) -> None:
        found.append(tag)
        if len(found) == _SEEN or tag in ("image", "track", "object"):
            raise _EnoughError

    with contextlib.suppress(_EnoughError):
        parse_xml(path, started)
    return tuple(found)


class _EnoughError(Exception):
    """The start was read."""


def has(found: Any, **parts: type) -> bool:
    """Return whether a value is a JSON object with members of these types."""
    return isinstance(found, Mapping) and all(isinstance(found.get(name), kind) for name, kind in parts.items())


def is_place(found: Any) -> bool:
    """Return whether a value is a coordinate: a finite number, and not beyond :data:`FARTHEST`."""
    return type(found) in (int, float) and -FARTHEST <= found <= FARTHEST


def _is_point(found: Any) -> bool:
    return isinstance(found, list) and len(found) >= 2 and all(map(is_place, found))


def corners(points: Any, least: int = 3) -> Ring:
    """Return ``[[x, y], …]`` as an array; further numbers of a point, such as a height, are left out.

    Raises:
        ValueError: ``points`` is something else, or has fewer than ``least``.
    """
    fits = isinstance(points, list) and len(points) >= least
    if not fits or not all(
        isinstance(point, list) and len(point) >= 2 and all(map(is_place, point)) for point in points
    ):
        raise ValueError(f"x and y of {least} corners or more are needed, as finite numbers")
    return np.array([point[:2] for point in points], np.float64)
