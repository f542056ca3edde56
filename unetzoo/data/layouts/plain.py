"""``images/`` and ``masks/``, whose files have the same stems; or ``train/``, ``val/``, … with such in them."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from unetzoo.data.annotations import read as read_annotations, suffixes as annotation_suffixes
from unetzoo.data.labels import Labels
from unetzoo.data.layouts._base import Meaning, Understood, register_layout
from unetzoo.data.listing import IMAGE_SUFFIXES, SPLITS, Listing, Sample, Tree, files_of, is_hidden
from unetzoo.errors import ConfigError, InputError

_MASK_FOLDERS = ("masks", "labels")
Roots = Mapping[str, tuple[Path, Path]]


@register_layout("plain", title="images/ and masks/")
def recognises(tree: Tree) -> Understood | None:
    """Return what a folder with images/ and masks/ is."""
    roots = _roots(tree.path)
    if not roots:
        return None
    first, second = (path.relative_to(tree.path).as_posix() for path in next(iter(roots.values())))
    splits = "" if "" in roots else f", in {', '.join(roots)}"
    said = f"{first}/ and {second}/{splits}: masks have the stem of their image"
    return Understood(said, lambda labels: _listed(tree.path, roots, labels), lambda: _meaning(roots))


def _listed(source: Path, roots: Roots, labels: Labels) -> Listing:
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


def _meaning(roots: Roots) -> Meaning:
    names: dict[str, None] = {}
    for _, masks in roots.values():
        for inner, path in files_of(masks).items():
            if path.suffix.lower() in annotation_suffixes() and not is_hidden(inner):
                names |= dict.fromkeys(names_in(path))
    return Meaning(tuple(names), tuple(_class_folders(roots)))


def names_in(path: Path) -> tuple[str, ...]:
    """Return the classes of a file of annotations; none where it cannot be read, which reading it will say."""
    try:
        status = path.stat()
        return _names_in(path, status.st_mtime_ns, status.st_size)
    except (InputError, OSError):
        return ()


@functools.lru_cache(maxsize=2**18)
def _names_in(path: Path, *_: int) -> tuple[str, ...]:
    return read_annotations(path).names


def _roots(source: Path) -> dict[str, tuple[Path, Path]]:
    """Return the folders of images and masks by split, "" where there are none; empty where no images/ is there.

    Raises:
        ConfigError: images/ without masks, or a split twice.
    """
    splits = {path.name: path for path in sorted(source.iterdir()) if path.name in SPLITS and path.is_dir()}
    splits = {name: path for name, path in splits.items() if (path / "images").is_dir()}
    if splits:
        pairs = {name: (path / "images", _mask_folder(path)) for name, path in splits.items()}
    else:
        if not (source / "images").is_dir():
            return {}
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
        masks = self._by_stem(self.masks, IMAGE_SUFFIXES | annotation_suffixes())
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
        files = files_of(folder)
        for inner in sorted(files):
            path = files[inner]
            stem, dot, suffix = inner.rpartition(".")
            named = inner.rpartition("/")[2] == "classes.txt"
            if is_hidden(inner) or named or f"{dot}{suffix.lower()}" not in suffixes:
                self.leftovers.append(self._shown(path))
                continue
            other = found.setdefault(stem, path)
            if other is not path:
                self.problems.append(f"{self._shown(path)}: {self._shown(other)} has the same stem; keep one")
        return found

    def _shown(self, path: Path) -> str:
        return path.relative_to(self.source).as_posix()
