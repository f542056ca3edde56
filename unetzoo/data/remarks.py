"""Warnings about a data set that can be trained on: a sentence each, of bounded length."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from unetzoo.data import crops, looks, turning
from unetzoo.data.examining import Findings
from unetzoo.data.labels import Labels
from unetzoo.data.listing import Listing, is_hidden
from unetzoo.data.splitting import group_keys
from unetzoo.images import is_image
from unetzoo.printing import counted, some_of

_NAMED = 5
_CLASSES = 20
FEW = 3
"""Fewer validation images, or groups of them, give a warning: their mean says little about other images."""
_FOLDS = 5
_LONGEST = 4096
"""Letters of the longest path that a file can have, on Linux."""
_ENDINGS = {
    r"(.*\d)[ _-]?[LR]$": "L or R",
    r"(.*\d)[ _-]?(?:OD|OS)$": "OD or OS",
    r"(.*\d)[ _-]?(?:[Ll]eft|[Rr]ight)$": "left or right",
    r"(.*\d)[ _-]?[A-Da-d]$": "a letter from a to d",
    r"(.*[A-Za-z].*\d)[_-][A-Za-z]*\d{1,4}$": "a number after another",
}
"""Endings of the names of images that may show one patient or sample → what to call them."""


def warnings_of(listing: Listing, by_split: Mapping[str, Sequence[Findings]], constant: Sequence[int]) -> list[str]:
    """Return warnings of what may be intended or a mistake.

    Args:
        listing: of the data set.
        by_split: what was found in its images.
        constant: channels that are constant over all training images.
    """
    everything = [found for members in by_split.values() for found in members]
    said = [*listing.warnings]
    wrong = {problem.partition(": ")[0] for problem in listing.problems}
    alone = [inner for inner in listing.leftovers if is_image(inner) and not is_hidden(inner) and inner not in wrong]
    others = [inner for inner in listing.leftovers if not is_image(inner) or is_hidden(inner)]
    for what, names in (
        ("neither images nor masks", others),
        ("unpaired images", alone),
        ("images that no annotation names", listing.unnamed),
    ):
        said += [f"{what}, left out: {some_of(names, _NAMED, quoted=False)}"] * bool(names)
    said += _twice(everything)
    if listing.labels.planes == "split" and not any(isinstance(found.sample.planes, int) for found in everything):
        said.append("planes='split': no image has several planes")
    # The classes of masks with problems are not known.
    whole = [] if listing.problems else [(s, m) for s, m in by_split.items() if not any(one.problems for one in m)]
    said += [sentence for split, members in whole for sentence in _absent(split, members, listing.labels)]
    whites = Counter(found.white for found in everything if found.white is not None)
    if len(whites) > 1:
        listed = ", ".join(f"0 and {white} in {count}" for white, count in sorted(whites.items()))
        most = max(whites)
        said.append(f"the masks differ in their values: {listed}; give ignore={most} if {most} does not count")
    said += _nowhere(everything)
    said += _palettes(everything, listing.labels)
    said += _turned([found.turn for found in everything if found.turn])
    said += _nodata(everything)
    said += _pyramids(everything)
    said += [f"channel {channel} is constant in train; its std is taken as 1" for channel in constant]
    return said


def few_to_validate(listing: Listing, by_split: Mapping[str, Sequence[Findings]], group: str | None) -> list[str]:
    """Return a warning if few images decide which epoch is the best; for data without problems and without folds.

    Args:
        listing, by_split: as in :func:`warnings_of`.
        group: as in :func:`~unetzoo.data.find_samples`.
    """
    samples = {split: [found.sample for found in by_split.get(split, ())] for split in ("train", "val")}
    groups = {split: len({*group_keys(found, group)}) for split, found in samples.items()}
    images, parts = len(samples["val"]), groups["val"]
    if not 0 < parts < FEW:
        return []
    of = "" if parts == images else f" of {counted(parts, 'group')}"
    alone = images == 1
    more = "move some of the others there" if "val" in listing.samples else "give ratios=… with a larger second number"
    folds = min(_FOLDS, sum(groups.values()))
    said = f"val has {counted(images, 'image')}{of}: the best epoch is chosen by {'it' if alone else 'them'} alone, and"
    fix = f"add images, {more}, or train with folds={folds}, which validates on each image once"
    return [f"{said} the figures say little about other images; {fix}"]


def related_names(listing: Listing, group: str | None) -> list[str]:
    """Return a warning if names look as if several images were of one patient or sample, with a group for them.

    Every name must have the same ending, and most of what is before it must be that of several images. Only for images
    that are split here, without a group.
    """
    samples = listing.samples.get("", ()) if group is None else ()
    names = [sample.stack for sample in samples]
    for pattern, what in _ENDINGS.items():
        # From the beginning alone, and not of names that no file has: their letters would be tried in pairs.
        found = [re.match(pattern, name) if len(name) <= _LONGEST else None for name in names]
        stems = Counter(match[1] for match in found if match is not None)
        shared = [stem for stem, count in stems.items() if count > 1]
        if None in found or len(stems) < FEW or 2 * len(shared) <= len(stems):
            continue
        two = sorted(
            name for name, match in zip(names, found, strict=True) if match is not None and match[1] == min(shared)
        )
        of = f"{len(shared)} of {len(stems)} beginnings are those of several images"
        fix = f"if these show one patient or sample, give group={pattern!r}, which keeps them in one split"
        return [f"all names end in {what}, and {of}, such as {two[0]!r} and {two[1]!r}: {fix}"]
    return []


def larger_than_crops(train: Sequence[Findings], labels: Labels, crop: crops.Size) -> list[str]:
    """Return a warning if many images have objects so large that crops show only parts of them, and what helps.

    Args:
        train: what was found in the training images.
        labels: of the data set.
        crop: (height, width) of the crops.
    """
    first = 0 if labels.pixel_task == "multilabel" else 1
    having = [one for one in train if one.pixels is not None and any(one.pixels[first:])]
    large = [(one.large, one.size) for one in having if one.large and one.size is not None]
    if not large or 2 * len(large) < len(having):
        return []
    factor = round(1 / crops.parts_of(large, crop), 4)
    least, of = crops.half_of(crop), counted(len(having), "training image")
    said = (
        f"in {len(large)} of {of} with objects, one fills a square of {least} × {least} pixels or more: crops of "
        f"{crop[0]} × {crop[1]} often show only part of it; if these are single objects, such as polyps or organs, "
        f"train with resize={factor}; for areas such as water or fields, change nothing"
    )
    return [said]


def _twice(found: Sequence[Findings]) -> list[str]:
    """Return warnings of images that are in two splits, or look as if they were."""
    seen = [one for one in found if one.digest]
    said = []

    def listed(pairs: Sequence[tuple[int, int]]) -> str:
        shown = [
            " and ".join(f"{seen[place].sample.name!r} in {seen[place].split}" for place in pair)
            for pair in pairs[:_NAMED]
        ]
        return "; ".join(shown) + (f"; and {len(pairs) - _NAMED} more" if len(pairs) > _NAMED else "")

    if same := looks.twice([(one.split, one.digest) for one in seen]):
        said.append(f"the same image is {listed(same)}: scores on held-out images will be too good")
    known = [(one.split, one.digest, one.look) for one in seen if one.look is not None]
    near, left_out = looks.alike(known)
    if near:
        alike = f"{len(near)} image{'s look' if len(near) > 1 else ' looks'} like one of another split"
        said.append(
            f"{alike}, by difference hashes of 64 and 1120 bits: {listed(near)}: look at them; group=… keeps related "
            "images in one split"
        )
    if left_out:
        said.append(
            f"not compared with images of other splits: {counted(left_out, 'image')}, as more than {looks.MOST} have a "
            "coarse hash like theirs"
        )
    return said


def _nowhere(found: Sequence[Findings]) -> list[str]:
    """Return a warning of objects that cover no pixel."""
    of = [one for one in found if one.nowhere]
    if not of:
        return []
    total = sum(one.nowhere for one in of)
    many, first = total > 1, min(one.sample.name for one in of)
    where = f"{len(of)} images, {first!r} first" if len(of) > 1 else repr(first)
    left = "they are left out" if many else "it is left out"
    return [f"{total} object{'s' * many} in {where}: outside the image, or smaller than a pixel; {left}"]


def _absent(split: str, found: Sequence[Findings], labels: Labels) -> list[str]:
    """Return a warning of the classes that never occur in a split."""
    masked = [one.pixels for one in found if one.pixels is not None]
    absent = [name for k, name in enumerate(labels.counted) if masked and not any(pixels[k] for pixels in masked)]
    if not absent:
        return []
    names, more = ", ".join(map(repr, absent[:_CLASSES])), len(absent) - _CLASSES
    return [f"{names}{f' and {more} more' if more > 0 else ''} never occur{'s' * (len(absent) == 1)} in {split}"]


def _palettes(found: Sequence[Findings], labels: Labels) -> list[str]:
    """Return warnings of palettes in which black is not first, with the colour of each class."""
    said = []
    for colours, count in Counter(f.colours for f in found if f.colours).items():
        shown = ", ".join(f"{k} is {colour}" for k, colour in enumerate(colours[:6])) + ", …" * (len(colours) > 6)
        ordered = tuple(sorted(colours, key=lambda colour: colour != "#000000"))
        fix = f"colours={ordered!r}" if len(set(ordered)) == labels.num_classes else "colours=…"
        said.append(
            f"{count} of {len(found)} masks have a palette in which black is not the first colour: class {shown}. "
            f"Their indices are read, not their colours; if black is the background, give {fix}"
        )
    return said


def _turned(turns: Sequence[str]) -> list[str]:
    """Return how the masks of turned images were taken."""
    if not turns:
        return []
    how = {
        turning.STORED: "{} of the size of the stored image, turned with it",
        turning.SHOWN: "{} of the size of the upright image, kept unchanged",
        turning.UNTOLD: "{} whose size fits both, turned with the image: look at them (unetzoo data preview)",
    }
    listed = "; ".join(how[turn].format(count) for turn, count in sorted(Counter(turns).items()))
    turned = f"{counted(len(turns), 'image')} {'is' if len(turns) == 1 else 'are'} turned by the EXIF orientation"
    return [f"{turned}; masks: {listed}"]


def _nodata(found: Sequence[Findings]) -> list[str]:
    """Return warnings of nodata pixels, and what becomes of them."""
    empty, partly = [f.nodata for f in found if f.nodata], [f.partly for f in found if f.partly]
    said = []
    if empty:
        said.append(
            f"{counted(sum(empty), 'pixel')} of {counted(len(empty), 'image')} are nodata: they count in no mean, no "
            "loss and no score, and are nodata in predicted masks too"
        )
    if partly:
        said.append(
            f"{counted(sum(partly), 'pixel')} of {counted(len(partly), 'image')} are nodata in some of their bands: "
            "they count, and the mean replaces each missing value"
        )
    return said


def _pyramids(found: Sequence[Findings]) -> list[str]:
    """Return a warning of image pyramids, and which level is read; those with µm a pixel are slides, and refused."""
    of = {one.sample.image: one for one in found if one.copies and one.size is not None}
    if not of:
        return []
    sizes = sorted({one.size for one in of.values() if one.size is not None})
    height, width = sizes[-1]
    pixels = f"{width:,} × {height:,} pixels" if len(sizes) == 1 else f"of up to {width:,} × {height:,} pixels"
    who = f"{len(of)} images are pyramids" if len(of) > 1 else "1 image is a pyramid"
    said = (
        f"{who} of several sizes, {min(one.sample.name for one in of.values())!r} first: level 0, the finest, is read, "
        f"{pixels}, and a model that is trained on it learns objects at that size; to train on a coarser "
        "level, save that level of image and mask as separate files"
    )
    return [said]
