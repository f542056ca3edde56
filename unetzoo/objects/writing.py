"""What tools for labelling read: the contract of a format that objects are written in, and the registry of formats.

``unetzoo predict --write``, ``Prediction.save_annotations`` and whatever else offers formats looks here. A format is a
function that returns the content of a file, registered by :func:`register_writer`.
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
        class_names: one name a class, background included in a multiclass task; None: numbers, see
            ``Instances.rows``.
        name: of the image, inside its data set, with / and its ending; "" where it has none.
        path: of the image, from the folder of the file that is written, with /; "" where it has none.
        transform: from corners of pixels to coordinates, see ``to_geojson``; None: there are pixels alone.
        crs: the system of those coordinates.
        scale: of a slide that was looked at smaller, see ``to_geojson``; None: its pixels are the image's own.
        mpp: µm a pixel, down and across; None: nothing says so.
    header: of NIfTI, of this size and without pixels, which says where in space the image lies; None: nothing does.
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
    """A format that objects are written in.

    Attributes:
        title: what people call it.
        suffix: of its files.
        write: returns what the file of an image holds; where ``many``, takes images one at a time and gives the pieces
            of one file about all.
        many: whether one file is about all images.
        by_class: whether a file is about one class: of a model of several, each has a folder, and ``write`` is told the
            objects of one class alone, as of a binary task.
        folder: where the files of images go inside the folder of the format, and what that of all images is called
            without its suffix.
        beside: returns what else goes into the folder of the format, name → text, for the names of the classes that
            objects have.
        needs: a module of an extra of unetzoo that it imports; SciPy is needed by all.
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
        """Give what a file holds, piece by piece: about all of the images, of which there is one unless ``many``.

        Raises:
            ConfigError: there is no image, or images are of different tasks or classes.
            InputError: the format cannot say this.
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
        ConfigError: the name is taken, or cannot be a name; or a suffix that is none, such as "json" for ".json".
    """
    if not suffix.startswith(".") or suffix != suffix.lower():
        raise ConfigError(f"the format of annotations {name!r}: suffix={suffix!r}: such as '.json' is needed")

    def decorate(write: F) -> F:
        WRITERS.register(name, Writer(title, suffix, write, many, by_class, folder, beside, needs))
        return write

    return decorate


OF_PROGRAMS = {"qupath": "geojson", "fiji": "rois", "imagej": "rois"}
"""Program → the format that it reads."""


def writers(names: Iterable[str]) -> dict[str, Writer]:
    """Return formats by their names, of which all that they need is installed.

    Raises:
        ConfigError: one is unknown, or what it needs is missing.
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
    """Return class → name of the classes that objects can have: all, but for the background of a multiclass task."""
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
        raise InputError(f"{title} names the image, and this one has no file: say which it is")
    return place
