"""What labelling tools write: the contract of a format, and the registry of formats."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from unetzoo.data.annotations import parsing
from unetzoo.data.annotations.others import advice
from unetzoo.data.annotations.regions import Region, United
from unetzoo.errors import ConfigError, InputError
from unetzoo.registry import Registry

BACKGROUND = ("background", "_background_")
IGNORE = ("ignore", "__ignore__", "ignore*")
"""Names of classes, whatever their case, that are none in any format: what cuts a hole into what lies below, as CVAT's
and LabelMe's exporters have it, and what does not count. Both hold for whole annotations, and for all classes."""
LARGEST = 2**29
"""Bytes that a file of annotations may have: COCO's own of 118,000 images has 4.7e8."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """One object that somebody drew.

    Attributes:
        kind: name of its class; its number, from 0, where the format has numbers and the names stand nowhere; "" where
            the format has no classes, or this object has none. "background" cuts away what lies below.
        region: which pixels it covers.
        ignored: whether they do not count, as those of a crowd.
    """

    kind: str | int
    region: Region
    ignored: bool = False


@dataclass(frozen=True, eq=False)
class Drawing:
    """All that was drawn on one image, which is upright.

    Attributes:
        source: the file that says so.
        annotations: later ones lie over earlier ones.
        size: (height, width) that the image has by this file; None where it says nothing.
    """

    source: Path
    annotations: tuple[Annotation, ...]
    size: tuple[int, int] | None = None

    @property
    def fingerprint(self) -> str:
        """24 letters that are others where something else was drawn."""
        digest = hashlib.sha256(f"{self.size}".encode())
        for annotation in self.annotations:
            digest.update(f" {annotation.kind!r} {annotation.ignored} {annotation.region.fingerprint}".encode())
        return digest.hexdigest()[:24]


@dataclass(frozen=True, eq=False)
class Document:
    """What a file of annotations says.

    Attributes:
        drawings: by the name of the image's file, as written, with /; "" where the file names none, and belongs to the
            image of its own stem.
        names: of all classes, in the file's order, those that never occur included.
        problems: a sentence for each thing that is wrong, "annotation 7: …"; the rest was read.
        listed: whether the file has a list of classes, whose order they keep. Otherwise the classes of a data set are
            sorted by name, as the order of objects says nothing.
    """

    drawings: Mapping[str, Drawing]
    names: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    listed: bool = False


@dataclass(frozen=True)
class AnnotationFormat:
    """A format of files that hold objects, and not pixels.

    Attributes:
        title: what people call it.
        suffixes: of its files, in small letters.
        recognises: whether a file with such a suffix is of this format; what is in it may be anything.
        read: the whole file. It raises ``InputError`` where that is not of this format at all, and lists single faults
            as ``Document.problems``.
        many: whether one file is about several images, which it names.
    """

    title: str
    suffixes: tuple[str, ...]
    recognises: Callable[[Path], bool]
    read: Callable[[Path], Document]
    many: bool = False


ANNOTATION_FORMATS: Registry[AnnotationFormat] = Registry("annotation format")


def register_annotation_format(
    name: str, *, title: str, suffixes: Sequence[str], recognises: Callable[[Path], bool], many: bool = False
) -> Callable[[Callable[[Path], Document]], Callable[[Path], Document]]:
    """Register the function that it decorates as the reader of a format, see :class:`AnnotationFormat`.

    Raises:
        ConfigError: the name is taken, or cannot be a name; or suffixes that are none, such as "JSON" for ".json".
    """
    wrong = [suffix for suffix in suffixes if not suffix.startswith(".") or suffix != suffix.lower()]
    if wrong or not suffixes or isinstance(suffixes, str):
        raise ConfigError(f"the annotation format {name!r}: suffixes={suffixes!r}: such as ('.json',) are needed")

    def decorate(read: Callable[[Path], Document]) -> Callable[[Path], Document]:
        ANNOTATION_FORMATS.register(name, AnnotationFormat(title, tuple(suffixes), recognises, read, many))
        return read

    return decorate


def suffixes() -> frozenset[str]:
    """Return the endings of files that may hold annotations, in small letters."""
    return frozenset(suffix for known in ANNOTATION_FORMATS.values() for suffix in known.suffixes)


def format_of(path: Path) -> AnnotationFormat | None:
    """Return the format of a file of annotations; None where it is of none that is known.

    Raises:
        InputError: the file cannot be read; or it is of two formats.
    """
    ending = path.suffix.lower()
    known = tuple(name for name, entry in ANNOTATION_FORMATS.items() if ending in entry.suffixes)
    if not known:
        return None
    try:
        status = path.stat()
        if status.st_size > LARGEST:
            raise InputError(f"{str(path)!r} has more than {LARGEST // 2**20} MiB: part it into several files")
        found = _recognised(path, known, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    if len(found) > 1:
        raise InputError(f"{str(path)!r} may be {' or '.join(ANNOTATION_FORMATS[name].title for name in found)}")
    return ANNOTATION_FORMATS[found[0]] if found else None


@functools.lru_cache(maxsize=2**18)
def _recognised(path: Path, known: tuple[str, ...], *_: int) -> tuple[str, ...]:
    """Return which of these formats a file is of: once, as many ask, and the file may have to be parsed for it."""
    return tuple(name for name in known if ANNOTATION_FORMATS[name].recognises(path))


def known_format(path: Path) -> AnnotationFormat:
    """Return the format of a file of annotations.

    Raises:
        InputError: as :func:`format_of`; or it is of none that is known, with what to export instead, where that is.
    """
    known = format_of(path)
    if known is not None:
        return known
    other = advice(path)
    if other is not None:
        raise InputError(f"{str(path)!r} is not read: {other}")
    titles = ", ".join(entry.title for entry in ANNOTATION_FORMATS.values())
    raise InputError(f"{str(path)!r} holds no annotations in a format that is known: {titles}")


def read(path: Path) -> Document:
    """Return what a file of annotations says, of whichever format it is.

    Raises:
        InputError: it cannot be read, or is of no format that is known; with what to export instead, where that is
            known.
    """
    try:
        return _without_reserved(known_format(path).read(path))
    finally:
        parsing.forget()


def _without_reserved(document: Document) -> Document:
    """Return a document in which the names of :data:`BACKGROUND` and :data:`IGNORE` are no classes."""
    reserved = {name for name in document.names if name.lower() in (*BACKGROUND, *IGNORE)}
    if not reserved:
        return document

    def plain(one: Annotation) -> Annotation:
        if one.kind not in reserved:
            return one
        background = str(one.kind).lower() in BACKGROUND
        return Annotation(BACKGROUND[0], one.region) if background else Annotation("", one.region, ignored=True)

    drawings = {
        name: replace(drawing, annotations=tuple(map(plain, drawing.annotations)))
        for name, drawing in document.drawings.items()
    }
    return replace(document, drawings=drawings, names=tuple(name for name in document.names if name not in reserved))


def grouped(found: Iterable[tuple[object, Annotation]]) -> tuple[Annotation, ...]:
    """Return annotations of which those with the same group and class are one, in the place of its last part.

    Args:
        found: the group of each, None where it has none, and the annotation.
    """
    parts: dict[object, list[Annotation]] = {}
    for k, (group, one) in enumerate(found):
        key = (k,) if group is None else (group, one.kind, one.ignored)
        ones = parts.pop(key, [])
        ones.append(one)
        parts[key] = ones
    return tuple(
        ones[0] if len(ones) == 1 else replace(ones[0], region=United(tuple(one.region for one in ones)))
        for ones in parts.values()
    )


@dataclass
class Faults:
    """What is wrong with the parts of a file, collected while it is read.

    Attributes:
        sentences: of each.
    """

    sentences: list[str] = field(default_factory=list)

    def add(self, where: str, error: Exception | str) -> None:
        """Write down what is wrong somewhere."""
        self.sentences.append(f"{where}: {error}")
