"""Which images and masks a folder or a CSV file holds, before any of them is opened."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetzoo.checks import TASKS, shortened
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
POLYGONS = ".txt"
_MASK_FOLDERS = ("masks", "labels")


@dataclass(frozen=True)
class Sample:
    """An image and its mask.

    Attributes:
        name: path of the image inside its folder of images, with / and without the suffix.
        image: the image.
        mask: an image or a text file of polygons; or, for one folder per class, one image a class, None where
            the class is absent.
        kind: of image, such as its stain or scanner, where a CSV file tells it.
        key: the text that its split follows from: what ``name`` is in a folder; of a CSV file the path of the image
            from the folder of that file, which stays the same when images of other folders are listed too. All
            planes of one file have the same.
        planes: which planes of its file are meant, as ``unetzoo.images.read_image`` takes it.
    """

    name: str
    image: Path
    mask: Path | tuple[Path | None, ...]
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
        labels: as given, with the classes' names where folders tell them.
        samples: by split, sorted by name; all under "" where the layout has no splits.
        problems: a sentence for each image or mask that has no partner, or several.
        leftovers: files that are neither images nor masks, hidden ones among them, relative to the source.
    """

    labels: Labels
    samples: Mapping[str, tuple[Sample, ...]]
    problems: tuple[str, ...]
    leftovers: tuple[str, ...]


def list_files(source: str | os.PathLike[str], labels: Labels) -> Listing:
    """List the files of a data set, as :func:`unetzoo.data.list_samples` does; none is opened.

    Raises:
        ConfigError: nothing of the kind is there.
    """
    source = Path(source)
    if source.suffix.lower() == ".csv":
        return _list_csv(source, labels)
    return _list_folder(source, labels)


def labels_of(source: str | os.PathLike[str], *, num_classes: int | None = None, **meaning: Any) -> Labels:
    """Return the labels of a data set; the number of classes follows from names, colours or folders where it can.

    Args:
        source: a folder or a .csv file.
        num_classes: None to have it follow.
        **meaning: all else that :class:`Labels` takes.

    Raises:
        ConfigError: it follows from nothing; wrong arguments; or no data set is there.
    """
    task = meaning.get("task", "binary")
    if task not in TASKS:
        Labels(**meaning)  # says so
    if num_classes is None and task == "binary":
        num_classes = 1
    elif num_classes is None:
        known = meaning.get("class_names") or meaning.get("colours")
        if not known and task == "multilabel" and Path(source).suffix.lower() != ".csv":
            known = _class_folders(_roots(Path(source)))
        if not known:
            raise ConfigError(f"task={task!r} needs num_classes=…, or class_names=…")
        num_classes = len(known)
    return Labels(num_classes=num_classes, **meaning)


def _list_folder(source: Path, labels: Labels) -> Listing:
    roots = _roots(source)
    folders = _class_folders(roots) if labels.task == "multilabel" else []
    problems: list[str] = []
    if folders:
        labels, problems = _named(labels, folders)
    samples, leftovers = {}, []
    for split, (images, masks) in roots.items():
        collect = _Folder(source, images, masks)
        classes = labels.class_names if folders else None
        samples[split] = collect.pairs() if classes is None else collect.pairs_by_class(classes)
        problems += collect.problems
        leftovers += collect.leftovers
    return Listing(labels, samples, tuple(problems), tuple(leftovers))


def _roots(source: Path) -> dict[str, tuple[Path, Path]]:
    """Return the folders of images and masks by split, "" where there are none.

    Raises:
        ConfigError: no such folder, or not the folders that are needed.
    """
    if not source.is_dir():
        raise ConfigError(f"{str(source)!r}: there is no such folder, and no such .csv file")
    splits = {path.name: path for path in sorted(source.iterdir()) if path.name in SPLITS and path.is_dir()}
    splits = {name: path for name, path in splits.items() if (path / "images").is_dir()}
    if splits:
        pairs = {name: (path / "images", _mask_folder(path)) for name, path in splits.items()}
    else:
        if not (source / "images").is_dir():
            raise ConfigError(
                f"{str(source)!r} has neither images/ and masks/, nor train/ and val/ with the two in each; "
                "for files that lie otherwise, list them in a .csv file with the columns image and mask"
            )
        images, masks = source / "images", _mask_folder(source)
        with os.scandir(images) as entries:
            inside = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        if not inside or not all(name in SPLITS and (images / name).is_dir() for name in inside):
            return {"": (images, masks)}
        pairs = {name: (images / name, masks / name) for name in inside}
    if len({SPLITS[name] for name in pairs}) < len(pairs):
        raise ConfigError(f"{str(source)!r} has the same split twice: {', '.join(pairs)}; keep one name")
    return {SPLITS[name]: pair for name, pair in pairs.items()}


def _mask_folder(parent: Path) -> Path:
    found = [parent / name for name in _MASK_FOLDERS if (parent / name).is_dir()]
    if len(found) == 1:
        return found[0]
    wrong = "both masks/ and labels/: move one away" if found else "images/, but no masks/ (or labels/) beside it"
    raise ConfigError(f"{str(parent)!r} has {wrong}")


def _class_folders(roots: Mapping[str, tuple[Path, Path]]) -> list[str]:
    """Return names of folders that lie in masks, and not in images too."""
    found = set()
    for images, masks in roots.values():
        if masks.is_dir():
            found |= {
                path.name
                for path in masks.iterdir()
                if path.is_dir() and not path.name.startswith(".") and not (images / path.name).is_dir()
            }
    return sorted(found)


def _named(labels: Labels, folders: list[str]) -> tuple[Labels, list[str]]:
    """Return ``labels`` with the names of its classes, and what does not fit."""
    if labels.class_names is None:
        if len(folders) != labels.num_classes:
            raise ConfigError(
                f"num_classes={labels.num_classes}, but the masks have {len(folders)} folders, one a class: "
                f"{', '.join(folders)}"
            )
        return dataclasses.replace(labels, class_names=tuple(folders)), []
    found = [f"class {name!r}: the masks have no such folder" for name in labels.class_names if name not in folders]
    found += [f"masks of {name!r}: class_names has no such class" for name in folders if name not in labels.class_names]
    return labels, found


class _Folder:
    """Pairs what lies in one folder of images with what lies in one of masks."""

    def __init__(self, source: Path, images: Path, masks: Path) -> None:
        self.source, self.masks = source, masks
        self.problems: list[str] = []
        self.leftovers: list[str] = []
        self.images = self._by_stem(images, IMAGE_SUFFIXES)

    def pairs(self) -> tuple[Sample, ...]:
        masks = self._by_stem(self.masks, IMAGE_SUFFIXES | {POLYGONS})
        self._report_unpaired(masks)
        for name in self.images.keys() - masks.keys():
            self.problems.append(f"{self._shown(self.images[name])}: no mask of that stem in {self._shown(self.masks)}")
        self.problems.sort()
        return tuple(Sample(name, self.images[name], masks[name]) for name in sorted(self.images) if name in masks)

    def pairs_by_class(self, classes: tuple[str, ...]) -> tuple[Sample, ...]:
        masks = [self._by_stem(self.masks / name, IMAGE_SUFFIXES) for name in classes]
        for found in masks:
            self._report_unpaired(found)
        if self.masks.is_dir():
            self.leftovers += [self._shown(path) for path in sorted(self.masks.iterdir()) if path.is_file()]
        names = sorted(self.images)
        return tuple(Sample(name, self.images[name], tuple(found.get(name) for found in masks)) for name in names)

    def _report_unpaired(self, masks: Mapping[str, Path]) -> None:
        for name in sorted(masks.keys() - self.images.keys()):
            self.problems.append(f"{self._shown(masks[name])}: no image of that stem")

    def _by_stem(self, folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
        found: dict[str, Path] = {}
        files = _files(folder)
        for inner in sorted(files):
            path = files[inner]
            stem, dot, suffix = inner.rpartition(".")
            hidden = inner.startswith(".") or "/." in inner
            if hidden or f"{dot}{suffix.lower()}" not in suffixes or inner.rpartition("/")[2] == "classes.txt":
                self.leftovers.append(self._shown(path))
                continue
            other = found.setdefault(stem, path)
            if other is not path:
                self.problems.append(f"{self._shown(path)}: {self._shown(other)} has the same stem; keep one")
        return found

    def _shown(self, path: Path) -> str:
        return path.relative_to(self.source).as_posix()


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder and its sub-folders by their paths inside it, with /."""
    found: dict[str, Path] = {}
    for parent, _, names in os.walk(folder, onerror=_raised):
        inner = os.path.relpath(parent, folder).replace(os.sep, "/")
        start, files = "" if inner == "." else f"{inner}/", set(names)
        # What iterdir gives needs no text taken apart, which is most of the time of a path from one.
        found |= {f"{start}{path.name}": path for path in Path(parent).iterdir() if path.name in files}
    return found


def _list_csv(source: Path, labels: Labels) -> Listing:
    rows = _csv_rows(source)
    shared = Path(os.path.commonpath([image.parent for _, _, image, _ in rows])) if rows else source.parent
    parent = source.parent.absolute()
    if shared.is_relative_to(parent):
        shared = parent
    problems: list[str] = []
    samples: dict[str, dict[str, Sample]] = defaultdict(dict)
    for split, kind, image, mask in rows:
        name = image.relative_to(shared).with_suffix("").as_posix()
        sample = Sample(name, image, mask, kind, _from(parent, image))
        problems += [f"{shortened(str(path))}: there is no such file" for path in (image, mask) if not _is_file(path)]
        other = samples[split].setdefault(sample.name, sample)
        if other is not sample:
            problems.append(f"{image}: {other.image} was listed before, and has the same stem; keep one")
    ordered = {split: tuple(found[name] for name in sorted(found)) for split, found in samples.items()}
    return Listing(labels, ordered or {"": ()}, tuple(problems), ())


def _is_file(path: Path) -> bool:
    """Return whether there is a file; there is none of a name that is longer than names can be."""
    try:
        return path.is_file()
    except OSError:
        return False


def _from(folder: Path, image: Path) -> str:
    """Return the path of an image from a folder, without its suffix; as it is, where they are on two drives."""
    try:
        return Path(os.path.relpath(image, folder)).with_suffix("").as_posix()
    except ValueError:
        return image.with_suffix("").as_posix()


def _csv_rows(source: Path) -> list[tuple[str, str, Path, Path]]:
    """Return split, kind, image and mask of each row.

    Raises:
        ConfigError: no such file, no such columns, or cells that are empty or wrong.
    """
    try:
        with source.open(newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream, strict=True)
            columns, records = list(table.fieldnames or ()), list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{str(source)!r} cannot be read as CSV: {error}") from error
    if not {"image", "mask"} <= set(columns) <= {"image", "mask", "split", "kind"}:
        raise ConfigError(
            f"{str(source)!r} has the columns {', '.join(map(repr, columns)) or 'of an empty file'}: image and mask "
            "are needed, split and kind are possible, separated by commas"
        )
    problems, rows = [], []
    for number, record in enumerate(records, 2):
        image, mask, split, kind = (record.get(column) or "" for column in ("image", "mask", "split", "kind"))
        if not image or not mask or None in record:
            problems.append(f"row {number}: one image and one mask are needed")
        elif "split" in columns and split not in SPLITS:
            problems.append(f"row {number}: split {split!r}: train, val or test is needed")
        elif "kind" in columns and not kind:
            problems.append(f"row {number}: kind is empty, where others have one")
        else:
            folder = source.parent.absolute()
            paths = (Path(os.path.normpath(folder / path)) for path in (image, mask))
            rows.append((SPLITS.get(split, ""), kind, *paths))
    if problems:
        raise ConfigError(f"{str(source)!r} cannot be used", problems)
    return rows  # type: ignore[return-value]


def _raised(error: OSError) -> None:
    """Stop at a folder that cannot be read: its files would be left out without a word."""
    if not isinstance(error, FileNotFoundError):  # of one that is not there, the files that lack are named
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from error
