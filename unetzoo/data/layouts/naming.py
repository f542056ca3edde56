"""Which name of a mask goes with which name of an image: one rule for all files of a folder."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from unetzoo.data.listing import SPLITS
from unetzoo.errors import ConfigError

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "inputs", "input")
"""Names of folders of images, in small letters and without _, - and spaces."""
MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot", "anns", "ann"),
    *("groundtruths", "groundtruth", "gts", "gt", "segmentations", "segmentation", "targets", "target"),
    *("1stmanual", "2ndmanual", "manual1", "manual2", "manual"),
)
"""Names of folders of masks, likewise."""
INSTANCE_FOLDERS = ("instances", "instance", "instancemasks", "instancelabels")
"""Names of folders of label images, in which each object is a number, likewise."""
FOLDERS = {"images": IMAGE_FOLDERS, "masks": MASK_FOLDERS, "instances": INSTANCE_FOLDERS}
"""Role of a folder → its names, the likelier ones first."""
MASK_ENDINGS = tuple(
    f"{mark}{word}"
    for word in (
        *("mask", "masks", "label", "labels", "seg", "segmentation", "gt", "groundtruth", "annotation", "cp_masks"),
        *("manual1", "manual2", "1stHO", "2ndHO", "RoiSet", "rois", "L"),
    )
    for mark in "_-"
)
"""What a mask may have behind the stem of its image; upper and lower case are alike."""
IMAGE_ENDINGS = ("_image", "_img", "_sat", "_training", "_test", "_leftImg8bit")
"""What an image may have behind its stem, in place of which its mask has something else, or nothing."""


def plain_name(folder: str) -> str:
    """Return the name of a folder in small letters, without marks between its words."""
    return "".join(letter for letter in folder.casefold() if letter not in "_- ")


def role(folder: str) -> str:
    """Return whether a folder of this name holds the "images", the "masks", "instances", or ("") something else."""
    return next((kind for kind, names in FOLDERS.items() if plain_name(folder) in names), "")


def split_and_role(folder: str) -> tuple[str, str]:
    """Return the split and the role of a folder such as train_images, masks-val or testannot; "" where it has none."""
    name = plain_name(folder)
    for word, split in sorted(SPLITS.items(), key=lambda item: -len(item[0])):
        for rest in (name.removeprefix(word), name.removesuffix(word)):
            if rest == "" and name == word:
                return split, ""
            if rest != name and role(rest):
                return split, role(rest)
    return "", ""


@dataclass(frozen=True)
class Rule:
    """How masks are called.

    Attributes:
        mask: what they have behind the stem of their image.
        image: what the image has there, and its mask has not.
    """

    mask: str = ""
    image: str = ""

    def __str__(self) -> str:
        """Return it as a clause."""
        if self.image:
            instead = f"{self.mask!r} where their image has {self.image!r}" if self.mask else f"no {self.image!r}"
            return f"masks have the stem of their image, with {instead}"
        return "masks have the stem of their image" + (f" followed by {self.mask!r}" if self.mask else "")


def pairs(rule: Rule, images: Collection[str], masks: Collection[str]) -> dict[str, str]:
    """Return the stem of each mask that has an image → the stem of the image."""
    spelt = _spelling(images, masks)
    bases = {_base(spelt[stem], rule.image): stem for stem in images if _ends(spelt[stem], rule.image)}
    found = {stem: bases.get(_base(spelt[stem], rule.mask)) for stem in masks if _ends(spelt[stem], rule.mask)}
    return {mask: image for mask, image in found.items() if image is not None}


def rules(images: Collection[str], masks: Collection[str], endings: Collection[str]) -> dict[Rule, int]:
    """Return the rules by which some masks have an image, and how many; ``endings`` are those of masks."""
    spelt = _spelling(images, masks)
    bases: dict[str, set[str]] = defaultdict(set)
    for stem in images:
        for ending in ("", *IMAGE_ENDINGS):
            if _ends(spelt[stem], ending):
                bases[ending].add(_base(spelt[stem], ending))
    found: Counter[Rule] = Counter()
    for stem in masks:
        for ending in endings:
            if _ends(spelt[stem], ending):
                base = _base(spelt[stem], ending)
                found.update(Rule(ending, image) for image, known in bases.items() if base in known)
    return dict(found)


def the_rule(images: Collection[str], masks: Collection[str], place: tuple[str, str] | None = None) -> Rule:
    """Return the one rule by which masks go with images.

    It is that of equal stems where this leaves no mask over. Otherwise it is the only one that leaves none over; or,
    where all do, the only one by which any mask has an image.

    Args:
        images, masks: their stems.
        place: what stands before and behind the stem of a mask in a pattern for all; None where there is no such.

    Raises:
        ConfigError: there is none; or there are several.
    """
    if not images or not masks:
        return Rule()
    found = rules(images, masks, ("", *MASK_ENDINGS))
    whole = [rule for rule, count in found.items() if count == len(masks)]
    if Rule() in whole:
        return Rule()
    fitting = whole or list(found)
    if len(fitting) == 1:
        return fitting[0]
    shown = f"images such as {_shown(images)}; masks such as {_shown(masks)}"
    if fitting:
        both = "; or ".join(map(str, fitting))
        raise ConfigError(
            f"masks may go with images by several rules ({shown}): {both}. Say which are meant, as in "
            "masks='masks/{name}_mask.png'"
        )
    raise ConfigError(
        f"no mask has the name of an image ({shown}), alone or followed by "
        f"{', '.join(ending for ending in MASK_ENDINGS if ending[0] == '_')}. {_way_out(images, masks, place)}"
    )


def _way_out(images: Collection[str], masks: Collection[str], place: tuple[str, str] | None) -> str:
    """Return how to say which mask is of which image: by a pattern that fits all masks, or by a list."""
    pattern = _pattern(images, masks)
    if pattern is not None and place is not None:
        return f"Give masks={pattern.join(place)!r}, by which all have an image"
    return (
        "No pattern of names pairs all: list them in a .csv file with the columns image and mask, and give that file "
        "in place of the folder"
    )


def _pattern(images: Collection[str], masks: Collection[str]) -> str | None:
    """Return how all masks are called, such as "gt_{name}"; None where one has no image by any such pattern."""
    known = {stem.removesuffix(ending) for stem in images for ending in ("", *IMAGE_ENDINGS)} - {""}
    first = min(masks)
    for name in sorted((name for name in known if name in first), key=len, reverse=True):
        before, _, behind = first.partition(name)
        names = {stem.removeprefix(before).removesuffix(behind) for stem in masks}
        if names <= known and all(stem.startswith(before) and stem.endswith(behind) for stem in masks):
            return f"{before}{{name}}{behind}"
    return None


def _spelling(images: Collection[str], masks: Collection[str]) -> dict[str, str]:
    """Return stems as they are compared: as one composes them, in small letters, and without .ome and .nii.

    Where two would be the same then, big and small letters differ; where they are still the same, all do.
    """
    for how in (lambda stem: composed(stem).casefold(), composed, str):
        spelt = [{stem: how(stem) for stem in stems} for stems in (images, masks)]
        if all(len({*found.values()}) == len(found) for found in spelt):
            break
    return spelt[0] | spelt[1]


def composed(name: str) -> str:
    """Return a name with its accents composed, however a file system has them, and without .ome or .nii at its end.

    A stem ends in those where the file ends in .ome.tif or .nii.gz.
    """
    return unicodedata.normalize("NFC", name[:-4] if name.lower().endswith((".ome", ".nii")) else name)


def _ends(stem: str, ending: str) -> bool:
    return stem[len(stem) - len(ending) :].lower() == ending.lower()


def _base(stem: str, ending: str) -> str:
    return stem[: len(stem) - len(ending)]


def _shown(stems: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(stems)[:3]))
