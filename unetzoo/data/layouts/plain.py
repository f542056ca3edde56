"""``images/`` and ``masks/``, or folders with similar names; or ``train/``, ``val/``, … with such folders in them.

``instances/`` in place of ``masks/`` holds label images, in which each object has a number. If there are both, the
masks are used, except for ``task="instances"``.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

from unetzoo.data.annotations import suffixes as annotation_suffixes
from unetzoo.data.labels import Labels
from unetzoo.data.layouts import class_tables
from unetzoo.data.layouts._base import Meaning, Understood, register_layout
from unetzoo.data.layouts.class_names import names_in
from unetzoo.data.layouts.folders import Places, may_be_mask, places
from unetzoo.data.layouts.naming import Rule, pairs, split_and_role, the_rule
from unetzoo.data.listing import NO_IMAGE, SPLITS, Listing, Sample, Tree, is_hidden
from unetzoo.errors import ConfigError
from unetzoo.images import IMAGE_SUFFIXES


@dataclasses.dataclass(frozen=True)
class Root:
    """The images and masks of a split.

    Attributes:
        images, masks: their folders, by their paths inside the data set.
        rule: that pairs them.
        classes: names of the folders in masks that are not also in images.
    """

    images: str
    masks: str
    rule: Rule
    classes: tuple[str, ...]


Roots = Mapping[str, Root]


@register_layout("plain", title="images/ and masks/")
def recognises(tree: Tree) -> Understood | None:
    """Recognise a folder with images/ and masks/, or instances/."""
    masked, numbered = _of_kind(tree, "masks"), _of_kind(tree, "instances")
    if masked is None or numbered is None:
        return masked or numbered
    said = "there are masks and label images: the masks are used; the task 'instances' uses the label images"
    return dataclasses.replace(
        masked,
        listed=lambda labels: dataclasses.replace(masked.listed(labels), warnings=(said,)),
        instances=dataclasses.replace(numbered, said=f"{numbered.said}; the masks next to them are left out"),
    )


def _of_kind(tree: Tree, kind: str) -> Understood | None:
    """Return how to read a folder with "masks", or with "instances"; None if it has none."""
    found = {split: place for split, (_, place) in places(tree, kind).items()}
    roots = {split: _root(tree, place, place.masks) for split, place in found.items() if place.masks is not None}
    if not roots:
        return None
    without = [place.images for place in found.values() if place.masks is None]
    meaning = _meaning if kind == "masks" else _meaning_of_instances
    return Understood(
        _said(roots, without), lambda labels: _listed(tree, roots, without, labels), lambda: meaning(tree, roots)
    )


def _root(tree: Tree, place: Places, masks: str) -> Root:
    classes = tuple(sorted({*tree.inside(masks)} - {*tree.inside(place.images)}))
    images = [inner.rpartition(".")[0] for inner in tree.under(place.images) if _is_image(inner)]
    stems = [inner.rpartition(".")[0] for inner in tree.under(masks) if may_be_mask(inner) and not _is_list(inner)]
    of_classes = {stem.partition("/")[2] for stem in stems if stem.partition("/")[0] in classes}
    direct = [stem for stem in stems if stem.partition("/")[0] not in classes]
    rule = the_rule(
        dict.fromkeys(images), dict.fromkeys(direct or of_classes), _around(tree, masks) if direct else None
    )
    return Root(place.images, masks, rule, classes)


def _around(tree: Tree, masks: str) -> tuple[str, str] | None:
    """Return what comes before and after the stems in a pattern of all masks; None if their folders have none."""
    endings = {inner.rpartition(".")[2] for inner in tree.under(masks) if may_be_mask(inner) and not _is_list(inner)}
    parts = masks.split("/")
    if len(endings) != 1 or any(split and kind for split, kind in map(split_and_role, parts)):
        return None
    return "/".join("{split}" if part.lower() in SPLITS else part for part in parts) + "/", f".{endings.pop()}"


def _said(roots: Roots, without: list[str]) -> str:
    first = next(iter(roots.values()))
    splits = "" if "" in roots else f", in {', '.join(roots)}"
    rules = dict.fromkeys(str(root.rule) for root in roots.values())
    left = f"; left out, without masks: {' and '.join(without)}" if without else ""
    return f"{first.images}/ and {first.masks}/{splits}: {', or '.join(rules)}{left}"


def _listed(tree: Tree, roots: Roots, without: list[str], labels: Labels) -> Listing:
    several = labels.pixel_task == "multilabel"
    folders = sorted({name for root in roots.values() for name in root.classes}) if several else []
    problems: list[str] = []
    if folders:
        labels, problems = _named(labels, folders)
    samples = {}
    leftovers = [f"{images}/{inner}" for images in without for inner in tree.under(images)]
    for split, root in roots.items():
        collect = _Folder(tree, root)
        classes = labels.class_names if folders else None
        samples[split] = collect.pairs() if classes is None else collect.pairs_by_class(classes)
        problems += collect.problems
        leftovers += collect.leftovers
    return Listing(labels, samples, tuple(problems), tuple(leftovers))


def _meaning_of_instances(tree: Tree, roots: Roots) -> Meaning:
    return Meaning(*_classes(tree, roots), labels={"task": "instances"})


def _classes(tree: Tree, roots: Roots) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the class names in annotations, and those of mask folders."""
    files = (path for root in roots.values() for inner, path in tree.under(root.masks).items() if not is_hidden(inner))
    return names_in(files), tuple(sorted({name for root in roots.values() for name in root.classes}))


def _meaning(tree: Tree, roots: Roots) -> Meaning:
    names, folders = _classes(tree, roots)
    table = None if names or folders else class_tables.found_in(tree, "")
    if table is None:
        return Meaning(names, folders)
    masks = (path for root in roots.values() for inner, path in tree.under(root.masks).items() if _is_image(inner))
    return table.meaning([*itertools.islice(masks, 1)])


def _named(labels: Labels, folders: list[str]) -> tuple[Labels, list[str]]:
    """Return ``labels`` with its class names, and problems."""
    if labels.class_names is None:
        if len(folders) != labels.num_classes:
            raise ConfigError(
                f"num_classes={labels.num_classes}, but the masks have {len(folders)} folders, one per class: "
                f"{', '.join(folders)}"
            )
        return dataclasses.replace(labels, class_names=tuple(folders)), []
    found = [f"class {name!r}: the masks have no such folder" for name in labels.class_names if name not in folders]
    found += [f"masks of {name!r}: class_names has no such class" for name in folders if name not in labels.class_names]
    return labels, found


def _is_image(inner: str) -> bool:
    stem, dot, suffix = inner.rpartition(".")
    return bool(stem) and f"{dot}{suffix.lower()}" in IMAGE_SUFFIXES and not is_hidden(inner)


def _is_list(inner: str) -> bool:
    """Return whether a file is the list of class names among YOLO's files."""
    return inner.rpartition("/")[2] == "classes.txt"


class _Folder:
    """Pairs the files in a folder of images with those in a folder of masks."""

    def __init__(self, tree: Tree, root: Root) -> None:
        self.tree, self.root, self.masks = tree, root, root.masks
        self.problems: list[str] = []
        self.leftovers: list[str] = []
        self.images = self._by_stem(root.images, IMAGE_SUFFIXES)

    def pairs(self) -> tuple[Sample, ...]:
        masks = self._paired(self._by_stem(self.masks, IMAGE_SUFFIXES | annotation_suffixes()))
        wanted = f"that stem in {self.masks}"
        if self.root.rule != Rule():
            wanted += f" ({self.root.rule})"
        for name in self.images.keys() - masks.keys():
            self.problems.append(f"{self.tree.inner(self.images[name])}: no mask with {wanted}")
        self.problems.sort()
        return tuple(Sample(name, self.images[name], masks[name]) for name in sorted(self.images) if name in masks)

    def pairs_by_class(self, classes: tuple[str, ...]) -> tuple[Sample, ...]:
        masks = [self._paired(self._by_stem(f"{self.masks}/{name}", IMAGE_SUFFIXES)) for name in classes]
        self.leftovers += [f"{self.masks}/{inner}" for inner in self.tree.under(self.masks) if "/" not in inner]
        names = sorted(self.images)
        return tuple(Sample(name, self.images[name], tuple(found.get(name) for found in masks)) for name in names)

    def _paired(self, masks: Mapping[str, Path]) -> dict[str, Path]:
        """Return the masks by the stems of their images."""
        images = pairs(self.root.rule, self.images, masks)
        for stem in sorted(masks.keys() - images.keys()):
            self.problems.append(f"{self.tree.inner(masks[stem])}{NO_IMAGE}")
        return {image: masks[mask] for mask, image in images.items()}

    def _by_stem(self, folder: str, suffixes: Iterable[str]) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for inner, path in self.tree.under(folder).items():
            stem, dot, suffix = inner.rpartition(".")
            if is_hidden(inner) or _is_list(inner) or f"{dot}{suffix.lower()}" not in suffixes:
                self.leftovers.append(self.tree.inner(path))
                continue
            other = found.setdefault(stem, path)
            if other is not path:
                fix = f", or give masks='{folder}/{{name}}{path.suffix}'" if folder == self.masks else ""
                self.problems.append(
                    f"{self.tree.inner(path)}: {self.tree.inner(other)} has the same stem; keep one{fix}"
                )
        return found
