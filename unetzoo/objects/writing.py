"""Formats for labelling tools: the contract of a format in which objects are written, and the registry of formats.

``unetzoo predict --write``, ``Prediction.save_annotations`` and all else that offers formats uses this registry. A
format is a function that returns the content of a file, registered by :func:`register_writer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from unetzoo import extras
from unetzoo.checks import class_names_of
from unetzoo.errors import ConfigError, InputError
from unetzoo.objects.finding import Instances
from unetzoo.registry import Registry


@dataclass(frozen=True, eq=False)
class Annotated:
    """An image and its objects, as a format's function takes them.

    Attributes:
        instances: its objects.
        class_names: one name per class, background included in a multiclass task; None: numbers, see
            ``Instances.rows``.
        name: path of the image in its data set, with / and its ending; "" if it has none.
        path: path of the image relative to the folder of the written file, with /; "" if it has none.
        transform: from corners of pixels to coordinates, see ``to_geojson``; None: coordinates are pixels.
        crs: the system of those coordinates.
        scale: for a slide that was read at a smaller size, see ``to_geojson``; None: its pixels are the image's own.
        mpp: µm per pixel, down and across; None: unknown.
        header: a NIfTI header of this size, without pixels, with the image's position in space; None: unknown.
    """

    instances: Instances
    class_names: Sequence[str] | None = None
    name: str = ""
    path: str = ""
    transform: tuple[float, ...] | None = None
    crs: str | None = None
    scale: tuple[float, float] | None = None
    mpp: tuple[float, float] | None = None
    header: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        height, width = self.instances.labels.shape[-2:]
        return height, width


OfImage = Callable[[Annotated], str | bytes]
OfAll = Callable[[Iterable[Annotated]], Iterator[str]]
F = TypeVar("F", OfImage, OfAll)


@dataclass(frozen=True)
class Writer:
    """A format in which objects are written.

    Attributes:
        title: its name for people.
        suffix: ending of its files.
        write: returns the content of an image's file; with ``many``, takes images one at a time and gives the pieces of
            one file about all images.
        many: whether one file is about all images.
        by_class: whether a file is about one class: with several classes, each has a folder, and ``write`` gets the
            objects of one class only, as for a binary task.
        folder: folder for the files of images in the folder of the format; for a file about all images, its name
            without the suffix.
        beside: returns further files for the folder of the format, name → text, given the names of the classes that
            objects can have.
        needs: a module, from one of unetzoo's extras, that it imports; all formats need SciPy.
    """

    title: str
    suffix: str
    write: OfImage | OfAll
    many: bool = False
    by_class: bool = False
    folder: str = ""
    beside: Callable[[Sequence[str]], Mapping[str, str]] | None = None
    needs: str | None = None

    def pieces(self, images: Iterable[Annotated]) -> Iterator[bytes]:
        """Give the content of a file about these images, piece by piece; there is one image unless ``many``.

        Raises:
            ConfigError: there is no image, or images have different tasks or classes.
            InputError: the format cannot represent this.
        """
        if self.many:
            found: Iterable[str | bytes] = cast(OfAll, self.write)(images)
        else:
            (image,) = images
            found = [cast(OfImage, self.write)(image)]
        yield from (piece.encode(errors="backslashreplace") if isinstance(piece, str) else piece for piece in found)


WRITERS: Registry[Writer] = Registry("format of annotations")


def register_writer(
    name: str,
    *,
    title: str,
    suffix: str,
    many: bool = False,
    by_class: bool = False,
    folder: str = "",
    beside: Callable[[Sequence[str]], Mapping[str, str]] | None = None,
    needs: str | None = None,
) -> Callable[[F], F]:
    """Register the function that it decorates as a format, see :class:`Writer`.

    Raises:
        ConfigError: the name is taken or not valid; or the suffix is not valid, such as "json" instead of ".json".
    """
    if not suffix.startswith(".") or suffix != suffix.lower():
        raise ConfigError(
            f"suffix={suffix!r} of the annotation format {name!r}: give a dot and lower-case letters, as in '.json'"
        )

    def decorate(write: F) -> F:
        WRITERS.register(name, Writer(title, suffix, write, many, by_class, folder, beside, needs))
        return write

    return decorate


OF_PROGRAMS = {"qupath": "geojson", "fiji": "rois", "imagej": "rois"}
"""Program → the format that it reads."""


def writers(names: Iterable[str]) -> dict[str, Writer]:
    """Return formats by their names, after a check that the packages they need are installed.

    Raises:
        ConfigError: a format is unknown, or a package that it needs is missing.
    """
    wanted = [*names]
    for name in wanted:
        if name not in WRITERS and name.lower() in OF_PROGRAMS:
            raise ConfigError(f"{name!r} is a program, and reads the format {OF_PROGRAMS[name.lower()]!r}: give that")
    found = {name: WRITERS[name] for name in wanted}
    for writer in found.values():
        extras.needed("scipy.ndimage", "objects")
        if writer.needs is not None:
            extras.needed(writer.needs, writer.title)
    return found


def object_classes(task: str, classes: int, names: Sequence[str] | None) -> dict[int, str]:
    """Return class → name for the classes that objects can have: all except the background of a multiclass task."""
    named = dict(enumerate(class_names_of(names, task, classes)))
    if task == "multiclass":
        del named[0]
    return named


def place_of(title: str, place: str) -> str:
    """Return ``place``, the name or path of an image.

    Raises:
        InputError: it is empty.
    """
    if not place:
        raise InputError(f"{title} names the image, but this image has no file: give image=…")
    return place
