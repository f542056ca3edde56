"""Text files of strangers: JSON, XML without its dangers, and numbers that are places in an image.

JSON is parsed once: the formats that share an ending ask for the same file, one after the other.
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
"""Elements of XML in each other."""
_SEEN = 100_000
"""Elements before the first image: CVAT describes its labels there."""
FARTHEST = 2**31
"""Of a coordinate: what lies beyond is no place in an image."""


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


def parse_xml(
    path: Path,
    start: Callable[[str, dict[str, str]], None],
    text: Callable[[str], None] = lambda data: None,
    end: Callable[[str], None] = lambda tag: None,
) -> None:
    """Hand over the elements of an XML file as they come, without a tree of them in memory.

    Raises:
        InputError: it cannot be read; it is no XML, or nested too deep; or it declares a document type or entities,
            which can make gigabytes of a few lines, and which no tool writes.
    """
    parser = expat.ParserCreate()
    depth = 0

    def refuse(*_: Any) -> None:
        raise InputError(f"{str(path)!r} declares a document type, which no files of annotations have: remove it")

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
    """Return the tags with which an XML file begins, its root first, as far as the first thing that was drawn.

    Raises:
        InputError: as :func:`parse_xml`.
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
    """The start was seen."""


def has(found: Any, **parts: type) -> bool:
    """Return whether something is an object of JSON with parts of these types."""
    return isinstance(found, Mapping) and all(isinstance(found.get(name), kind) for name, kind in parts.items())


def is_place(found: Any) -> bool:
    """Return whether something is a coordinate: a number, finite, and not beyond all images."""
    return type(found) in (int, float) and -FARTHEST <= found <= FARTHEST


def _is_point(found: Any) -> bool:
    return isinstance(found, list) and len(found) >= 2 and all(map(is_place, found))


def corners(points: Any, least: int = 3) -> Ring:
    """Return ``[[x, y], …]`` as an array; further numbers of a point, such as a height, are left out.

    Raises:
        ValueError: something else, or fewer than ``least``.
    """
    fits = isinstance(points, list) and len(points) >= least
    if not fits or not all(
        isinstance(point, list) and len(point) >= 2 and all(map(is_place, point)) for point in points
    ):
        raise ValueError(f"x and y, finite numbers, of {least} corners or more are needed")
    return np.array([point[:2] for point in points], np.float64)
