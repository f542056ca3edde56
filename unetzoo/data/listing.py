"""Images and their masks as they are listed: what each layout of a data set comes to."""

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
"""Names of folders, and values of a CSV's column, → the split."""


@dataclass(frozen=True)
class Sample:
    """An image and its mask.

    Attributes:
        name: path of the image inside its folder of images, with / and without the suffix.
        image: the image.
        mask: an image; a file of annotations, which is about this image alone; what was drawn on the image, where a
            file is about many; or, for one folder per class, one image a class, None where the class is absent.
        kind: of image, such as its stain or scanner, where a CSV file tells it.
        key: the text that its split follows from: what ``name`` is in a folder; of a CSV file the path of the image
            from the folder of that file, which stays the same when images of other folders are listed too. All
            planes of one file have the same.
        planes: which planes of its file are meant, as ``unetzoo.images.read_image`` takes it.
        channels: further files of the image, whose channels follow those of ``image``.
        objects: a file that tells its objects apart, beside a mask that has their classes; None where there is none.
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


NO_IMAGE = ": no image of that stem"
"""What follows a mask's name in the problem that it has no partner."""


@dataclass(frozen=True)
class Listing:
    """What was found.

    Attributes:
        labels: as given, with the classes' names where folders or annotations tell them.
        samples: by split, sorted by name; all under "" where the layout has no splits.
        problems: a sentence for each image or mask that has no partner, or several.
        leftovers: files that are neither images nor masks, hidden ones among them, relative to the source.
        understood: what the folder was taken for, and by which rule images and masks go together: a sentence.
        warnings: a sentence for each thing that may not be meant.
        unnamed: images that no annotation names, relative to the source, where a file of annotations names them.
    """

    labels: Labels
    samples: Mapping[str, tuple[Sample, ...]]
    problems: tuple[str, ...]
    leftovers: tuple[str, ...]
    understood: str = ""
    warnings: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()


def title_of(source: Source) -> str:
    """Return what a data set is called in messages."""
    return " and ".join(map(str, paths_of(source)))


def paths_of(source: Source) -> list[Path]:
    """Return the folder or the files of a data set."""
    return [Path(source)] if isinstance(source, str | os.PathLike) else [Path(path) for path in source]


class Tree:
    """A folder that is walked once, whoever asks.

    Args:
        path: of the folder.

    Raises:
        ConfigError: a folder in it cannot be read, on first use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def files(self) -> dict[str, Path]:
        """All files by their paths inside the folder, with /, sorted; hidden ones are among them."""
        return self._walked[0]

    @cached_property
    def folders(self) -> frozenset[str]:
        """All folders in it, but for hidden ones, by their paths inside it, with /."""
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
            # What iterdir gives needs no text taken apart, which is most of the time of a path from one.
            files |= {f"{start}{path.name}": path for path in Path(parent).iterdir() if path.name in wanted}
        kept = frozenset(folder for folder in folders if not is_hidden(folder))
        return {inner: files[inner] for inner in sorted(files)}, kept

    def inside(self, folder: str = "") -> list[str]:
        """Return the names of the folders that lie in one, sorted."""
        start = f"{folder}/" if folder else ""
        names = (inner.removeprefix(start) for inner in self.folders if inner.startswith(start))
        return sorted(name for name in names if "/" not in name)

    def under(self, folder: str) -> dict[str, Path]:
        """Return the files below a folder, "" for all, by their paths inside it."""
        start = f"{folder}/" if folder else ""
        return {inner.removeprefix(start): path for inner, path in self.files.items() if inner.startswith(start)}

    def images(self) -> dict[str, Path]:
        """Return the files that end as images do, but for hidden ones."""
        return {inner: path for inner, path in self.files.items() if is_image(inner) and not is_hidden(inner)}


def is_hidden(name: str) -> bool:
    """Return whether a path inside a folder, with /, is one of a hidden file, or of one in a hidden folder."""
    return name.startswith(".") or "/." in name


def _leads_back(folder: str) -> bool:
    """Return whether a folder is a link to one that it lies in."""
    if not os.path.islink(folder):  # noqa: PTH114
        return False
    real = os.path.realpath(folder)
    return f"{os.path.realpath(os.path.dirname(folder))}{os.sep}".startswith(f"{real}{os.sep}")  # noqa: PTH120


def _raised(error: OSError) -> None:
    """Stop at a folder that cannot be read: its files would be left out without a word."""
    if not isinstance(error, FileNotFoundError):  # of one that is not there, the files that lack are named
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from error
