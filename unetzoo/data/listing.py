"""Images and their masks as they are listed: what each layout of a data set comes to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from unetzoo.data.annotations import Drawing
from unetzoo.data.labels import Labels
from unetzoo.errors import ConfigError

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names of folders, and values of a CSV's column, → the split."""
IMAGE_SUFFIXES = frozenset(
    f".{ending}"
    for line in ("png apng jpg jpeg jpe jfif tif tiff bmp dib", "webp gif jp2 j2k avif ppm pgm pbm pnm pfm tga qoi")
    for ending in line.split()
)
"""Endings of images, in small letters."""


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
    """

    name: str
    image: Path
    mask: Path | Drawing | tuple[Path | None, ...]
    kind: str = ""
    key: str = ""
    planes: str | int | None = None

    @property
    def stack(self) -> str:
        """Return the name without the number of the plane."""
        return self.name.rpartition("[")[0] if isinstance(self.planes, int) else self.name

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.key or self.name)


@dataclass(frozen=True)
class Listing:
    """What was found.

    Attributes:
        labels: as given, with the classes' names where folders or annotations tell them.
        samples: by split, sorted by name; all under "" where the layout has no splits.
        problems: a sentence for each image or mask that has no partner, or several.
        leftovers: files that are neither images nor masks, hidden ones among them, relative to the source.
        understood: what the folder was taken for, and by which rule images and masks go together: a sentence.
    """

    labels: Labels
    samples: Mapping[str, tuple[Sample, ...]]
    problems: tuple[str, ...]
    leftovers: tuple[str, ...]
    understood: str = ""


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
        found = files_of(self.path)
        return {inner: found[inner] for inner in sorted(found)}

    def under(self, folder: str) -> dict[str, Path]:
        """Return the files below a folder, by their paths inside it."""
        start = f"{folder}/"
        return {inner.removeprefix(start): path for inner, path in self.files.items() if inner.startswith(start)}

    def images(self) -> dict[str, Path]:
        """Return the files that end as images do, but for hidden ones."""
        return {inner: path for inner, path in self.files.items() if is_image(inner) and not is_hidden(inner)}


def is_image(name: str) -> bool:
    """Return whether a file ends as images do."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (of hundreds of thousands of names)


def is_hidden(name: str) -> bool:
    """Return whether a path inside a folder, with /, is one of a hidden file, or of one in a hidden folder."""
    return name.startswith(".") or "/." in name


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files of a folder and its sub-folders by their paths inside it, with /."""
    found: dict[str, Path] = {}
    for parent, _, names in os.walk(folder, onerror=_raised):
        inner = os.path.relpath(parent, folder).replace(os.sep, "/")
        start, files = "" if inner == "." else f"{inner}/", set(names)
        # What iterdir gives needs no text taken apart, which is most of the time of a path from one.
        found |= {f"{start}{path.name}": path for path in Path(parent).iterdir() if path.name in files}
    return found


def _raised(error: OSError) -> None:
    """Stop at a folder that cannot be read: its files would be left out without a word."""
    if not isinstance(error, FileNotFoundError):  # of one that is not there, the files that lack are named
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from error
