"""Checks of an annotation format, on files of that format."""

from __future__ import annotations

import os
import pickle
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from unetzoo.data import Labels, drawn
from unetzoo.data.annotations import (
    ANNOTATION_FORMATS,
    BACKGROUND,
    IGNORE,
    AnnotationFormat,
    Document,
    Drawing,
    Part,
    format_of,
)
from unetzoo.errors import ConfigError, InputError
from unetzoo.testing._running import run

_SIZES = ((64, 48), (7, 5), (1, 1))
"""Sizes of images, if a file does not give the size of its own."""
_LARGEST = 2000
"""Largest side that is tried, in pixels; anything larger is damage, and should not fill the memory."""
_OTHERS = (b"", b"[]", b"{}", b'[{"type": 7}]', b"<a/>", b"\0\1\2\3" * 9, b"a,b\n1,2\n", "é".encode("latin-1"))
"""Contents of files in no format, or in another one."""
_DAMAGES = 24
"""Number of copies with some bytes changed."""


@dataclass(frozen=True)
class _File:
    """A file of the format."""

    name: str
    path: Path
    entry: AnnotationFormat
    read: list[Document] = field(default_factory=list)

    def __str__(self) -> str:
        return self.path.name

    def document(self) -> Document:
        """Return its contents, which are read once."""
        if not self.read:
            self.read.append(self.entry.read(self.path))
        return self.read[0]

    def drawings(self) -> Iterator[tuple[Drawing, tuple[int, int]]]:
        """Yield the drawings, each with the image sizes on which it is tried."""
        for drawing in self.document().drawings.values():
            for size in _SIZES if drawing.size is None else (drawing.size,):
                yield drawing, size


def check_annotation_format(name: str, files: Sequence[str | os.PathLike[str]]) -> None:
    """Check an annotation format against its contract, on correct files of that format.

    Damaged copies of them, and files of other kinds with its ending, are tried, too: the format must refuse them or
    read what is left, and must not fail in any other way.

    Args:
        name: as it was registered.
        files: of the format; at least one must have an object.

    Raises:
        ConfigError: there is no such format, or no file.
        ContractError: lists everything that is wrong.
    """
    entry = ANNOTATION_FORMATS[name]
    if isinstance(files, str | os.PathLike) or not files:
        raise ConfigError(f"files={files!r:.100}: give a list of files of the format")
    cases = [_File(name, Path(path), entry) for path in files]
    checks = (recognising, names_of_classes, pixels, fingerprints, copies, damages)
    run(
        f"the annotation format {name!r}",
        [
            partial(reading, name, cases),
            *(partial(check, case) for case in cases for check in checks),
            partial(objects, name, cases),
            partial(other_files, name, entry),
        ],
    )


def reading(_: str, cases: list[_File]) -> Iterator[str]:
    """A file is read completely, and names the right images."""
    for case in cases:
        if case.path.suffix.lower() not in case.entry.suffixes:
            yield f"{case}: suffixes={case.entry.suffixes} has no such ending"
        found = case.document()
        if not isinstance(found, Document):
            yield f"{case}: it returns a {type(found).__name__}: an unetzoo.data.annotations.Document is needed"
            continue
        if found.problems:
            yield f"{case}: it finds problems in a correct file, such as {found.problems[0]!r:.200}"
        if case.entry.many and "" in found.drawings:
            yield f"{case}: many=True, but an image has no name"
        if not case.entry.many and len(found.drawings) != 1:
            yield f"{case}: {len(found.drawings)} drawings: a file for one image has one; or register it with many=True"
        wrong = [drawing for drawing in found.drawings.values() if drawing.source != case.path]
        if wrong:
            yield f"{case}: the source of a drawing is {str(wrong[0].source)!r}: the file is needed"


def recognising(case: _File) -> Iterator[str]:
    """It recognises its own files, and no other format does."""
    if not case.entry.recognises(case.path):
        yield "recognises returns False for it"
    try:
        format_of(case.path)
    except InputError as error:
        yield f"another format recognises it too: {error}"


def names_of_classes(case: _File) -> Iterator[str]:
    """The names are unique texts, and include those of all objects."""
    names = case.document().names
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        yield f"names={names!r:.200}: unique texts are needed"
    kinds = {one.kind for drawing in case.document().drawings.values() for one in drawing.annotations}
    known = {*names, *BACKGROUND, *IGNORE, ""}
    yield from (f"an object is of class {kind!r}, which names does not have" for kind in kinds if _lacks(kind, known))


def _lacks(kind: str | int, known: set[str]) -> bool:
    return kind not in known if isinstance(kind, str) else type(kind) is not int or kind < 0


def pixels(case: _File) -> Iterator[str]:
    """Each region has pixels inside the image, and the same ones each time."""
    for drawing, size in case.drawings():
        for k, one in enumerate(drawing.annotations, 1):
            try:
                first, second = one.region.pixels(size), one.region.pixels(size)
            except InputError:
                continue  # has no area, and says so
            rows, columns = first.slices
            inside = first.inside
            if not isinstance(inside, np.ndarray) or inside.dtype != bool or inside.ndim != 2:
                yield f"annotation {k}: inside is not an array (H, W) of bool"
            elif min(first.top, first.left) < 0 or rows.stop > size[0] or columns.stop > size[1]:
                yield f"annotation {k}: it has pixels outside an image of {size[1]}×{size[0]}: cut them off"
            elif first.slices != second.slices or not np.array_equal(inside, second.inside):
                yield f"annotation {k}: it has other pixels the second time"


def fingerprints(case: _File) -> Iterator[str]:
    """Fingerprints are the same when the file is read again, and differ between regions."""
    again = case.entry.read(case.path)
    for name, drawing in case.document().drawings.items():
        if again.drawings[name].fingerprint != drawing.fingerprint:
            yield f"image {name!r}: the fingerprint changes when the file is read again"
        seen: dict[str, Part] = {}
        for k, one in enumerate(drawing.annotations, 1):
            try:
                part = one.region.pixels(drawing.size or _SIZES[0])
            except InputError:
                continue
            other = seen.setdefault(one.region.fingerprint, part)
            if other.slices != part.slices or not np.array_equal(other.inside, part.inside):
                yield f"annotation {k}: it has the fingerprint of another region"


def copies(case: _File) -> Iterator[str]:
    """Drawings can be sent to the processes that read images."""
    for name, drawing in case.document().drawings.items():
        try:
            copy = pickle.loads(pickle.dumps(drawing))
        except Exception as error:  # somebody else's class may raise anything, and Pythons differ
            yield f"image {name!r}: it cannot be pickled ({type(error).__name__}: {error})"
            continue
        if copy.fingerprint != drawing.fingerprint:
            yield f"image {name!r}: a pickled copy has another fingerprint"


def damages(case: _File) -> Iterator[str]:
    """Truncated or damaged files are refused with InputError, or read as far as possible."""
    whole, chance = case.path.read_bytes(), random.Random(0)
    damaged = [whole[: len(whole) * k // 4] for k in range(4)] + [whole[:-1]]
    for _ in range(_DAMAGES if whole else 0):
        some = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            some[chance.randrange(len(some))] = chance.randrange(256)
        damaged.append(bytes(some))
    yield from _refused(case.entry, damaged, case.path.suffix)


def other_files(_: str, entry: AnnotationFormat) -> Iterator[str]:
    """Files of other kinds with its ending are not recognised, or refused with InputError."""
    for suffix in entry.suffixes:
        yield from _refused(entry, _OTHERS, suffix)


def _refused(entry: AnnotationFormat, contents: Sequence[bytes], suffix: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        for k, content in enumerate(contents):
            path = Path(folder, f"{k}{suffix}")
            path.write_bytes(content)
            try:
                if entry.recognises(path):
                    for drawing in entry.read(path).drawings.values():
                        size = drawing.size
                        drawn.target_of(
                            drawing, Labels(), size if size is not None and max(size) <= _LARGEST else _SIZES[0]
                        )
            except InputError:
                continue
            except Exception as error:
                yield f"{content[:40]!r}… as {suffix}: {type(error).__name__}: {str(error)[:150]}: InputError is needed"


def objects(_: str, cases: list[_File]) -> Iterator[str]:
    """At least one object in one of the files covers a pixel."""
    found = [(drawing, size) for case in cases for drawing, size in case.drawings()]
    if not any(drawn.target_of(drawing, Labels(), size).any() for drawing, size in found):
        yield "no object in any file covers a pixel: give a file with objects, or check their coordinates"
