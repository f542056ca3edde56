"""Data sets of images with several planes: which plane makes an image, and which plane of the mask goes with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from unetzoo import images
from unetzoo.data.labels import Labels
from unetzoo.data.listing import NO_IMAGE, Listing, Sample, Source
from unetzoo.data.understanding import list_files
from unetzoo.errors import InputError
from unetzoo.printing import some_of
from unetzoo.slides import has_slide_suffix

SLIDES_FIX = (
    "which 'unetzoo predict' takes, and 'unetzoo evaluate' if a .csv file lists slides and their masks: a first line "
    "image,mask{example}. For everything else export regions at the resolution of the training, in QuPath with "
    "File › Export images, as PNG or as TIFF without smaller copies, and use these"
)
"""The fix for slides among the images of a data set."""


def list_samples(source: Source, labels: Labels, *, slides: bool = False) -> Listing:
    """List a data set: a folder, or a .csv file.

    A folder has ``images/`` and ``masks/`` (or ``labels/``), whose files have the same stem, including sub-folders;
    or it has ``train/``, ``val/`` and perhaps ``test/``, each with these two; or each of the two has these splits. With
    ``task="multilabel"``, ``masks/`` has a folder for each class, in which a missing file means that the class is
    absent; or masks have one band per class. A CSV file has the columns ``image`` and ``mask``, and perhaps ``split``
    and ``kind`` (stain, scanner or site, by which images are split and scored); paths are relative to its folder.

    With ``labels.planes="split"``, each plane of an image with several is a sample, whose name ends in its number,
    "a[0]", "a[1]" and so on; no other file is opened. A split never separates the planes of one file.

    Files with the name of a slide are a problem of the listing unless ``slides`` is True: without a resolution or
    level, their finest level would be read, which is rarely intended. No file is opened to see whether it is one:
    ``unetzoo.data.check``, with which training begins, does that.

    Raises:
        ConfigError: no data set is there.
    """
    found = with_planes(list_files(source, labels))
    of_slides = [] if slides else [sample.image for part in found.samples.values() for sample in part]
    names = [str(path) for path in dict.fromkeys(of_slides) if has_slide_suffix(path)]
    # Next to a complete data set there may be anything.
    alone = [name for name in found.leftovers if has_slide_suffix(name)] if found.problems else []
    if not names + alone:
        return found
    # If a mask has no image, that is only because its image is a slide.
    masks = {problem.removesuffix(NO_IMAGE): problem for problem in found.problems if problem.endswith(NO_IMAGE)}
    stems = {Path(name).stem: name for name in alone}
    pairs = {mask: stems[Path(mask).stem] for mask in masks if Path(mask).stem in stems}
    problems = [problem for problem in found.problems if problem not in {masks[mask] for mask in pairs}]
    lines = [f", then a line for each, such as {slide},{mask}" for mask, slide in pairs.items()][:1]
    listed = f"{some_of(names + alone, 3)}: " + ("that is a slide" if len(names + alone) == 1 else "these are slides")
    return dataclasses.replace(
        found,
        problems=(f"{listed}, {SLIDES_FIX.format(example=''.join(lines))}", *problems),
        leftovers=tuple(name for name in found.leftovers if name not in alone),
    )


def with_planes(listing: Listing) -> Listing:
    """Return a listing in which each image has the planes that ``labels.planes`` says.

    With "split", each plane becomes a sample. Files that cannot be read are kept: reading them later raises the error.
    """
    planes = listing.labels.planes
    if planes is None:
        return listing
    samples = {
        split: tuple(part for sample in found for part in _parts(sample, planes))
        for split, found in listing.samples.items()
    }
    return dataclasses.replace(listing, samples=samples)


def planes_of_mask(sample: Sample, mask: Path, labels: Labels) -> str | int | None:
    """Return which planes of a mask go with an image, as ``images.read_values`` takes it.

    Raises:
        InputError: the number of planes of the mask does not fit the image; or masks cannot be read as ``planes`` says.
    """
    if sample.planes is None:
        return None
    count, own = images.planes_of(sample.image).count, images.planes_of(mask).count
    if own == 1 and (count == 1 or not isinstance(sample.planes, int)):
        return None
    if own != count:
        raise InputError(
            f"{str(mask)!r} has {own} plane{'s' * (own > 1)}, but its image has {count}: each needs a mask"
        )
    if sample.planes == "max" and labels.pixel_task == "multiclass":
        raise InputError(f"{str(mask)!r} has {own} planes, and classes have no largest: save it with one plane")
    if sample.planes == "channels" and labels.pixel_task != "multilabel":
        raise InputError(
            f"{str(mask)!r} has {own} planes, but with planes='channels' its image is a single one: save the mask with "
            "one plane"
        )
    return sample.planes


def _parts(sample: Sample, planes: str) -> list[Sample]:
    if planes != "split":
        return [dataclasses.replace(sample, planes=planes)]
    try:
        count = images.planes_of(sample.image).count
    except InputError:
        return [sample]
    if count == 1:
        return [sample]
    digits = len(str(count - 1))
    return [dataclasses.replace(sample, name=f"{sample.name}[{k:0{digits}}]", planes=k) for k in range(count)]
