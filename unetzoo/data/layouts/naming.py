"""Pairs the names of masks with those of images: one rule for all files of a folder."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from unetzoo.data.listing import SPLITS
from unetzoo.errors import ConfigError

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "inputs", "input")
"""Names of folders of images, in lower case and without _, - and spaces."""
MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot", "anns", "ann"),
    *("groundtruths", "groundtruth", "gts", "gt", "segmentations", "segmentation", "targets", "target"),
    *("1stmanual", "2ndmanual", "manual1", "manual2", "manual"),
)
"""Names of folders of masks, in the same form."""
INSTANCE_FOLDERS = ("instances", "instance", "instancemasks", "instancelabels")
"""Names of folders of label images, in which each object has a number, in the same form."""
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
"""What may follow the image's stem in the name of its mask, in upper or lower case."""
IMAGE_ENDINGS = ("_image", "_img", "_sat", "_training", "_test", "_leftImg8bit")
"""What an image's name may end in; its mask has something else there, or nothing."""


def plain_name(folder: str) -> str:
    """Return the name of a folder in lower case, without marks between its words."""
    return "".join(letter for letter in folder.casefold() if letter not in "_- ")


def role(folder: str) -> str:
    """Return what a folder of this name holds: "images", "masks", "instances", or "" for anything else."""
    return next((kind for kind, names in FOLDERS.items() if plain_name(folder) in names), "")


def split_and_role(folder: str) -> tuple[str, str]:
    """Return the split and the role of a folder such as train_images, masks-val or testannot; "" if it has none."""
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
    """How masks are named.

    Attributes:
        mask: what follows the common stem in the mask's name.
        image: what follows it in the image's name.
    """

    mask: str = ""
    image: str = ""

    def __str__(self) -> str:
        """Return it as a clause."""
        if self.image:
            instead = f"with {self.mask!r} in place of {self.image!r}" if self.mask else f"without {self.image!r}"
            return f"masks have the stem of their image, {instead}"
        return "masks have the stem of their image" + (f" followed by {self.mask!r}" if self.mask else "")


def pairs(rule: Rule, images: Collection[str], masks: Collection[str]) -> dict[str, str]:
    """Return the stem of each mask that has an image → the stem of the image."""
    spelt = _spelling(images, masks)
    bases = {_base(spelt[stem], rule.image): stem for stem in images if _ends(spelt[stem], rule.image)}
    found = {stem: bases.get(_base(spelt[stem], rule.mask)) for stem in masks if _ends(spelt[stem], rule.mask)}
    return {mask: image for mask, image in found.items() if image is not None}


def rules(images: Collection[str], masks: Collection[str], endings: Collection[str]) -> dict[Rule, int]:
    """Return the rules by which some masks have an image, with their number; ``endings`` are those of masks."""
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
    """Return the rule that pairs masks with images.

    It is the rule of equal stems if this leaves no mask without an image. Otherwise it is the only rule that leaves
    none; or, if every rule leaves some, the only one by which any mask has an image.

    Args:
        images, masks: their stems.
        place: what comes before and after the stem of a mask in a pattern for all masks; None if there is no such
            pattern.

    Raises:
        ConfigError: there is no rule, or there are several.
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
            f"masks fit images by several rules ({shown}): {both}. Say which are the masks, for example "
            "masks='masks/{name}_mask.png'"
        )
    raise ConfigError(
        f"no mask has the name of an image ({shown}), alone or followed by "
        f"{', '.join(ending for ending in MASK_ENDINGS if ending[0] == '_')}. {_way_out(images, masks, place)}"
    )


def _way_out(images: Collection[str], masks: Collection[str], place: tuple[str, str] | None) -> str:
    """Return how to say which mask belongs to which image: by a pattern that fits all masks, or by a list."""
    pattern = _pattern(images, masks)
    if pattern is not None and place is not None:
        return f"Give masks={pattern.join(place)!r}, which pairs all masks with an image"
    return (
        "No pattern of names pairs all of them: list them in a .csv file with the columns image and mask, and give "
        "that file in place of the folder"
    )


def _pattern(images: Collection[str], masks: Collection[str]) -> str | None:
    """Return a pattern of all masks, such as "gt_{name}"; None if no pattern gives each of them an image."""
    known = {stem.removesuffix(ending) for stem in images for ending in ("", *IMAGE_ENDINGS)} - {""}
    first = min(masks)
    for name in sorted((name for name in known if name in first), key=len, reverse=True):
        before, _, behind = first.partition(name)
        names = {stem.removeprefix(before).removesuffix(behind) for stem in masks}
        if names <= known and all(stem.startswith(before) and stem.endswith(behind) for stem in masks):
            return f"{before}{{name}}{behind}"
    return None


def _spelling(images: Collection[str], masks: Collection[str]) -> dict[str, str]:
    """Return stems for comparison: with composed letters, in lower case, and without .ome and .nii.

    If two would then be equal, upper and lower case differ; if they still are, stems are compared unchanged.
    """
    for how in (lambda stem: composed(stem).casefold(), composed, str):
        spelt = [{stem: how(stem) for stem in stems} for stems in (images, masks)]
        if all(len({*found.values()}) == len(found) for found in spelt):
            break
    return spelt[0] | spelt[1]


def composed(name: str) -> str:
    """Return a name with its accents composed, as file systems differ in this, and without .ome or .nii at its end.

    The stem of a file that ends in .ome.tif or .nii.gz has these.
    """
    return unicodedata.normalize("NFC", name[:-4] if name.lower().endswith((".ome", ".nii")) else name)


def _ends(stem: str, ending: str) -> bool:
    return stem[len(stem) - len(ending) :].lower() == ending.lower()


def _base(stem: str, ending: str) -> str:
    return stem[: len(stem) - len(ending)]


def _shown(stems: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(stems)[:3]))
