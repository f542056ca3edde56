"""Lists of images and their masks: the result of each data set layout."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from unetzoo.data.annotations import Drawing
from unetzoo.data.labels import Labels
from unetzoo.data.object_ids import ObjectIds
from unetzoo.errors import ConfigError
from unetzoo.images import is_image

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A folder, a file, or several CSV files."""
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Folder names, and values of the CSV column ``split``, → the split."""


@dataclass(frozen=True)
class Sample:
    """An image and its mask.

    Attributes:
        name: path of the image inside its folder of images, with / and without the suffix.
        image: the image.
        mask: an image; an annotation file of this image only; the objects drawn on the image, if a file describes
            several images; or, with one folder per class, one image per class, None where the class is absent.
        kind: of image, such as its stain or scanner, if a CSV file has it.
        key: the text that decides its split: ``name`` in a folder; in a CSV file the path of the image from the folder
            of that file, which stays the same when images of other folders are listed too. All planes of one file have
            the same key.
        planes: which planes of its file to read, as ``unetzoo.images.read_image`` takes it.
        channels: further files of the image, whose channels follow those of ``image``.
        objects: a file that tells the objects apart, where the mask has only their classes; None if there is none.
    """

    name: str
    image: Path
    mask: Path | Drawing | tuple[Path | None, ...]
    kind: str = ""
    key: str = ""
    planes: str | int | None = None
    channels: tuple[Path, ...] = ()
    objects: ObjectIds | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files of the image, in the order of their channels."""
        return (self.image, *self.channels)

    @property
    def stack(self) -> str:
        """Return the name without the number of the plane."""
        return self.name.rpartition("[")[0] if isinstance(self.planes, int) else self.name

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.key or self.name)


NO_IMAGE = ": no image with that stem"
"""What follows a mask's name in the problem that it has no image."""


@dataclass(frozen=True)
class Listing:
    """The images and masks that were found.

    Attributes:
        labels: as given, with the class names where folders or annotations give them.
        samples: by split, sorted by name; all under "" if the layout has no splits.
        problems: a sentence for each image or mask that has no partner, or several.
        leftovers: files that are neither images nor masks, including hidden ones, relative to the source.
        understood: the layout that was recognised, and the rule that pairs images with masks: a sentence.
        warnings: a sentence for each thing that may be a mistake.
        unnamed: images that no annotation names, relative to the source, if an annotation file names images.
    """

    labels: Labels
    samples: Mapping[str, tuple[Sample, ...]]
    problems: tuple[str, ...]
    leftovers: tuple[str, ...]
    understood: str = ""
    warnings: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()


def title_of(source: Source) -> str:
    """Return the name of a data set for messages."""
    return " and ".join(map(str, paths_of(source)))


def paths_of(source: Source) -> list[Path]:
    """Return the folder or the files of a data set."""
    return [Path(source)] if isinstance(source, str | os.PathLike) else [Path(path) for path in source]


class Tree:
    """A folder that is walked once, on first use.

    Args:
        path: of the folder.

    Raises:
        ConfigError: on first use, if a folder in it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def files(self) -> dict[str, Path]:
        """All files, including hidden ones, by their paths inside the folder, with /, sorted."""
        return self._walked[0]

    @cached_property
    def folders(self) -> frozenset[str]:
        """All folders in it except hidden ones, by their paths inside it, with /."""
        return self._walked[1]

    @cached_property
    def _walked(self) -> tuple[dict[str, Path], frozenset[str]]:
        files: dict[str, Path] = {}
        folders = []
        for parent, inside, names in os.walk(self.path, onerror=_raised, followlinks=True):
            inner = os.path.relpath(parent, self.path).replace(os.sep, "/")
            start, wanted = "" if inner == "." else f"{inner}/", set(names)
            inside[:] = [name for name in inside if not _leads_back(os.path.join(parent, name))]  # noqa: PTH118
            folders += [f"{start}{name}" for name in inside]
            # Paths from iterdir need no parsing, which takes most of the time of making a path from text.
            files |= {f"{start}{path.name}": path for path in Path(parent).iterdir() if path.name in wanted}
        kept = frozenset(folder for folder in folders if not is_hidden(folder))
        return {inner: files[inner] for inner in sorted(files)}, kept

    def inner(self, path: Path) -> str:
        """Return the path of a file inside the folder, with /."""
        return path.relative_to(self.path).as_posix()

    def inside(self, folder: str = "") -> list[str]:
        """Return the names of the folders inside a folder, sorted."""
        start = f"{folder}/" if folder else ""
        names = (inner.removeprefix(start) for inner in self.folders if inner.startswith(start))
        return sorted(name for name in names if "/" not in name)

    def under(self, folder: str) -> dict[str, Path]:
        """Return the files below a folder, "" for all, by their paths inside it."""
        start = f"{folder}/" if folder else ""
        return {inner.removeprefix(start): path for inner, path in self.files.items() if inner.startswith(start)}

    def images(self) -> dict[str, Path]:
        """Return the files with the suffix of an image, except hidden ones."""
        return {inner: path for inner, path in self.files.items() if is_image(inner) and not is_hidden(inner)}


def is_hidden(name: str) -> bool:
    """Return whether a path inside a folder, with /, is a hidden file, or a file in a hidden folder."""
    return name.startswith(".") or "/." in name


def _leads_back(folder: str) -> bool:
    """Return whether a folder is a link to one of its parents."""
    if not os.path.islink(folder):  # noqa: PTH114
        return False
    real = os.path.realpath(folder)
    return f"{os.path.realpath(os.path.dirname(folder))}{os.sep}".startswith(f"{real}{os.sep}")  # noqa: PTH120


def _raised(error: OSError) -> None:
    """Stop at a folder that cannot be read: its files would be left out silently."""
    if not isinstance(error, FileNotFoundError):  # for a missing folder, its missing files are reported
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from error
