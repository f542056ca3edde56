"""The class names in annotation files, in an order that does not change when an image is added.

Formats with a list of their own, such as COCO's categories, define the order. In all others the order would depend on
which object is read first: their names are sorted instead, with numbers in them by value, ignoring case.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from unetzoo.data.annotations import Document, read as read_annotations, suffixes as annotation_suffixes
from unetzoo.errors import InputError


def names_in(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return the classes of those files that are annotations; unreadable ones have none: reading them later fails."""
    known = annotation_suffixes()
    return _joined(_names_in(path)[:2] for path in paths if path.suffix.lower() in known)


def nameless(paths: Iterable[Path]) -> list[Path]:
    """Return the annotation files whose objects have no class at all."""
    known = annotation_suffixes()
    return [path for path in paths if path.suffix.lower() in known and _names_in(path)[2]]


def names_of(documents: Iterable[Document]) -> tuple[str, ...]:
    """Return the classes of documents."""
    return _joined((document.listed, document.names) for document in documents)


def alike(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return groups of two or more names that differ only in case, spaces or the composition of letters."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups["".join(_folded(name).split())].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _joined(found: Iterable[tuple[bool, tuple[str, ...]]]) -> tuple[str, ...]:
    """Return the names of lists in their order, then all others, sorted."""
    listed: dict[str, None] = {}
    others: set[str] = set()
    for is_list, names in found:
        if is_list:
            listed |= dict.fromkeys(names)
        else:
            others.update(names)
    return (*listed, *sorted(others - listed.keys(), key=_place))


def _place(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return the sort key of a name: "type 2" comes before "Type 10"."""
    parts = re.split(r"(\d+)", _folded(name))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _names_in(path: Path) -> tuple[bool, tuple[str, ...], bool]:
    """Return whether the classes of a file are a list, their names, and whether it has objects but no class."""
    try:
        status = path.stat()
        return _kept_names(path, status.st_mtime_ns, status.st_size)
    except (InputError, OSError):
        return False, (), False


@functools.lru_cache(maxsize=2**18)
def _kept_names(path: Path, *_: int) -> tuple[bool, tuple[str, ...], bool]:
    document = read_annotations(path)
    drawn = [one for drawing in document.drawings.values() for one in drawing.annotations if not one.ignored]
    return document.listed, document.names, not document.names and any(one.kind == "" for one in drawn)
