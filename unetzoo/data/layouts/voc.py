"""Pascal VOC: ``JPEGImages/``, ``SegmentationClass/``, and lists of names in ``ImageSets/Segmentation/``.

http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html. The original masks have a palette, whose indices
are its 21 classes, and 255 for the border of objects. CVAT's and Datumaro's "segmentation mask" has the classes and
their colours in ``labelmap.txt``, labelme's ``labelme2voc.py`` their names in ``class_names.txt``. Images that no list
names, or without lists those without a mask, have no segmentation: they are left out.
"""

from __future__ import annotations

from pathlib import Path

from unetzoo import images
from unetzoo.data.labels import Labels
from unetzoo.data.layouts import class_tables
from unetzoo.data.layouts._base import Meaning, Understood, register_layout
from unetzoo.data.listing import NO_IMAGE, SPLITS, Listing, Sample, Tree, is_hidden
from unetzoo.data.object_ids import ObjectIds
from unetzoo.errors import ConfigError, InputError
from unetzoo.images import is_image

NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The classes of Pascal VOC by the indices of its masks."""
BORDER = 255
_IMAGES, _LISTS = "JPEGImages", "ImageSets/Segmentation"
_MASKS = ("SegmentationClassPNG", "SegmentationClass")
_OBJECTS = {"SegmentationClassPNG": "SegmentationObjectPNG", "SegmentationClass": "SegmentationObject"}
"""Folder of masks → the folder that tells objects apart: an index for each, apart from 0 and 255."""
_SEEN = 20
"""Number of masks that are opened to see whether they are VOC's own."""
_HINT = (
    "the masks do not have the 21 classes of Pascal VOC, and no file names their classes. Put a class_names.txt, with "
    "a name on each line, background first, next to JPEGImages/; or give colours=… if masks are painted"
)
_Files = dict[str, Path]
"""By stem."""


@register_layout("voc", title="Pascal VOC", refines=("plain", "beside"))
def recognises(tree: Tree) -> Understood | None:
    """Recognise a folder with JPEGImages/ and SegmentationClass/; they may be deeper, as in VOCdevkit/VOC2012."""
    homes = sorted(
        inner.removesuffix(_IMAGES) for inner in tree.folders if inner == _IMAGES or inner.endswith(f"/{_IMAGES}")
    )
    found = [(home, home + name) for home in homes for name in _MASKS if home + name in tree.folders]
    if not found:
        return None
    if len({home for home, _ in found}) > 1:
        listed = " and ".join(sorted({home for home, _ in found}))
        raise ConfigError(f"{str(tree.path)!r} has several data sets like Pascal VOC, in {listed}: give one of them")
    home, folder = found[0]
    apart = home + _OBJECTS[folder.removeprefix(home)]
    masks, objects = _by_stem(tree, folder), _by_stem(tree, apart)
    lists = _lists(tree, home)
    table = class_tables.found_in(tree, home)
    said = f"Pascal VOC: {home}{_IMAGES}/ and {folder}/: masks have the stem of their image; "
    said += f"{apart}/ tells objects apart; " if objects else ""
    said += f"{_how(lists)}; {_classes_as(table, [*masks.values()])}"
    return Understood(
        said,
        lambda labels: _listed(tree, home, (masks, objects), lists, labels),
        lambda: _meaning(table, [*masks.values()]),
    )


def _by_stem(tree: Tree, folder: str) -> dict[str, Path]:
    files = tree.under(folder)
    return {inner.rpartition(".")[0]: path for inner, path in files.items() if is_image(inner) and not is_hidden(inner)}


def _lists(tree: Tree, home: str) -> dict[str, tuple[str, ...]]:
    """Return split → the names in its list; or "" → the names of all lists; empty if there is no list.

    Raises:
        ConfigError: a list cannot be read.
    """
    found: dict[str, tuple[str, ...]] = {}
    for inner, path in tree.under(f"{home}{_LISTS}").items():
        if inner.lower().endswith(".txt") and "/" not in inner and not is_hidden(inner):
            try:
                text = path.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{str(path)!r} cannot be read as text: {error}") from error
            found[inner[:-4].lower()] = tuple(line.strip() for line in text.splitlines() if line.strip())
    splits = {SPLITS[name]: names for name, names in found.items() if name in SPLITS}
    if "train" in splits and "val" in splits:
        return splits
    return {"": tuple(dict.fromkeys(name for names in found.values() for name in names))} if found else {}


def _how(lists: dict[str, tuple[str, ...]]) -> str:
    if not lists:
        return "images without a mask are left out"
    named = f"{', '.join(lists)} as" if "" not in lists else "the images that are"
    return f"{named} listed in {_LISTS}/"


def _listed(
    tree: Tree, home: str, found: tuple[_Files, _Files], lists: dict[str, tuple[str, ...]], labels: Labels
) -> Listing:
    (masks, objects), images = found, _by_stem(tree, f"{home}{_IMAGES}")
    ids = {name: ObjectIds(path, void=BORDER) for name, path in objects.items()}
    problems = []
    samples = {}
    for split, names in (lists or {"": tuple(masks)}).items():
        if split == "test" and not any(name in masks for name in names):
            continue  # as in the original, whose test masks are not public
        of_split = f" in {split}" if split else ""
        for name in names:
            missing = [what for what, known in (("image", images), ("mask", masks)) if name not in known]
            problems += [f"{name!r} is listed{of_split}, but has no {what}" for what in missing if lists]
            problems += [f"{masks[name].name}{NO_IMAGE}" for what in missing if not lists]
        kept = sorted({name for name in names if name in images and name in masks})
        samples[split] = tuple(Sample(name, images[name], masks[name], objects=ids.get(name)) for name in kept)
    return Listing(labels, samples, tuple(problems), ())


def _classes_as(table: class_tables.Table | None, masks: list[Path]) -> str:
    if table is not None:
        return f"classes as in {table.path.name}"
    if _fit(masks):
        return "its 21 classes, and 255 does not count"
    return "its 21 classes do not fit the masks, and no file names others"


def _meaning(table: class_tables.Table | None, masks: list[Path]) -> Meaning:
    if table is not None:
        return table.meaning(masks, ignore=BORDER)
    if _fit(masks):
        return Meaning(labels={"class_names": NAMES, "ignore": BORDER}, assumed=True)
    return Meaning(labels={"task": "multiclass", "ignore": BORDER}, hint=_HINT)


def _fit(masks: list[Path]) -> bool:
    """Return whether a sample of the masks have one channel, and only indices of Pascal VOC."""
    for path in masks[:: max(1, len(masks) // _SEEN)]:
        try:
            values = images.read_values(path)
        except InputError:
            continue  # reading it later raises the error
        known = (values == BORDER) | ((values >= 0) & (values < len(NAMES)))
        if not bool(known.all()) or bool((values != values[:1]).any()):
            return False
    return True
