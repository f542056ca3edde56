"""Annotations of labelling tools: the contract of a format, and the registry of formats."""

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
"""Names, in any case, that are not classes in any format: the first cut a hole into everything below, as in the
exporters of CVAT and LabelMe; the others do not count. Both apply to all classes."""
LARGEST = 2**29
"""The most bytes of an annotation file: COCO's own, of 118,000 images, has 4.7e8."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """One object that somebody drew.

    Attributes:
        kind: name of its class; the number, from 0, if the format has numbers and no file has the names; "" if the
            format has no classes, or this object has none. "background" cuts away everything below.
        region: the pixels that it covers.
        ignored: whether these pixels do not count, for example those of a crowd.
    """

    kind: str | int
    region: Region
    ignored: bool = False


@dataclass(frozen=True, eq=False)
class Drawing:
    """All objects that were drawn on one upright image.

    Attributes:
        source: the annotation file.
        annotations: later ones cover earlier ones.
        size: (height, width) of the image according to this file; None if it does not say.
    """

    source: Path
    annotations: tuple[Annotation, ...]
    size: tuple[int, int] | None = None

    @property
    def fingerprint(self) -> str:
        """24 characters, which differ if something else was drawn."""
        digest = hashlib.sha256(f"{self.size}".encode())
        for annotation in self.annotations:
            digest.update(f" {annotation.kind!r} {annotation.ignored} {annotation.region.fingerprint}".encode())
        return digest.hexdigest()[:24]


@dataclass(frozen=True, eq=False)
class Document:
    """The contents of an annotation file.

    Attributes:
        drawings: by the name of the image's file, as written, with /; "" if the file names none, and belongs to the
            image with its own stem.
        names: of all classes, in the file's order, including those that never occur.
        problems: a sentence for each thing that is wrong, "annotation 7: …"; everything else was read.
        listed: whether the file has a list of classes, whose order is kept. Otherwise the classes of a data set are
            sorted by name, as the order of objects has no meaning.
    """

    drawings: Mapping[str, Drawing]
    names: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    listed: bool = False


@dataclass(frozen=True)
class AnnotationFormat:
    """A file format that holds objects rather than pixels.

    Attributes:
        title: its usual name.
        suffixes: of its files, in lower case.
        recognises: whether a file with such a suffix has this format; the contents may be anything.
        read: reads the whole file. It raises ``InputError`` if the file does not have this format at all, and lists
            single faults in ``Document.problems``.
        many: whether one file describes several images, which it names.
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
        ConfigError: the name is taken, or is not valid; or suffixes are wrong, such as "JSON" for ".json".
    """
    wrong = [suffix for suffix in suffixes if not suffix.startswith(".") or suffix != suffix.lower()]
    if wrong or not suffixes or isinstance(suffixes, str):
        raise ConfigError(f"the annotation format {name!r}: suffixes={suffixes!r}: give for example ('.json',)")

    def decorate(read: Callable[[Path], Document]) -> Callable[[Path], Document]:
        ANNOTATION_FORMATS.register(name, AnnotationFormat(title, tuple(suffixes), recognises, read, many))
        return read

    return decorate


def suffixes() -> frozenset[str]:
    """Return the suffixes of files that may hold annotations, in lower case."""
    return frozenset(suffix for known in ANNOTATION_FORMATS.values() for suffix in known.suffixes)


def format_of(path: Path) -> AnnotationFormat | None:
    """Return the format of an annotation file; None if it has no known format.

    Raises:
        InputError: the file cannot be read; or it may have two formats.
    """
    ending = path.suffix.lower()
    known = tuple(name for name, entry in ANNOTATION_FORMATS.items() if ending in entry.suffixes)
    if not known:
        return None
    try:
        status = path.stat()
        if status.st_size > LARGEST:
            raise InputError(f"{str(path)!r} has more than {LARGEST // 2**20} MiB: split it into several files")
        found = _recognised(path, known, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    if len(found) > 1:
        raise InputError(f"{str(path)!r} may be {' or '.join(ANNOTATION_FORMATS[name].title for name in found)}")
    return ANNOTATION_FORMATS[found[0]] if found else None


@functools.lru_cache(maxsize=2**18)
def _recognised(path: Path, known: tuple[str, ...], *_: int) -> tuple[str, ...]:
    """Return which of these formats a file has. Cached, as it is called often, and may have to parse the file."""
    return tuple(name for name in known if ANNOTATION_FORMATS[name].recognises(path))


def known_format(path: Path) -> AnnotationFormat:
    """Return the format of an annotation file.

    Raises:
        InputError: as for :func:`format_of`; or the format is not known. If possible, it says what to export instead.
    """
    known = format_of(path)
    if known is not None:
        return known
    other = advice(path)
    if other is not None:
        raise InputError(f"{str(path)!r} is not read: {other}")
    titles = ", ".join(entry.title for entry in ANNOTATION_FORMATS.values())
    raise InputError(f"{str(path)!r} holds no annotations in a known format: {titles}")


def read(path: Path) -> Document:
    """Return the contents of an annotation file of any known format.

    Raises:
        InputError: the file cannot be read, or its format is not known. If possible, it says what to export instead.
    """
    try:
        return _without_reserved(known_format(path).read(path))
    finally:
        parsing.forget()


def _without_reserved(document: Document) -> Document:
    """Return a document in which the names of :data:`BACKGROUND` and :data:`IGNORE` are not classes."""
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
    """Join annotations with the same group and class to one, in the place of the last of them.

    Args:
        found: the group of each, or None, and the annotation.
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
    """Faults in the parts of a file, collected while it is read.

    Attributes:
        sentences: one for each fault.
    """

    sentences: list[str] = field(default_factory=list)

    def add(self, where: str, error: Exception | str) -> None:
        """Add a fault."""
        self.sentences.append(f"{where}: {error}")
