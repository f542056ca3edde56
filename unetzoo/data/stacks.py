"""Data sets of images with several planes: which of them an image is, and which of its mask's go with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from unetzoo import images
from unetzoo.data.labels import Labels
from unetzoo.data.listing import NO_IMAGE, Listing, Sample, Source
from unetzoo.data.understanding import list_files
from unetzoo.errors import InputError
from unetzoo.printing import some_of
from unetzoo.slides import is_slide

SLIDES_FIX = (
    "which 'unetzoo predict' takes, and 'unetzoo evaluate' where a .csv file lists slides and their masks, below a "
    "first line image,mask{example}. For all else export regions at the resolution of the training, in QuPath with "
    "File › Export images, and take these"
)
"""What is said of slides among the images of a data set."""


def list_samples(source: Source, labels: Labels, *, slides: bool = False) -> Listing:
    """List a data set: a folder, or a .csv file.

    A folder has ``images/`` and ``masks/`` (or ``labels/``), whose files have the same stem, sub-folders included;
    or it has ``train/``, ``val/`` and perhaps ``test/``, each with the two; or the two have those inside. With
    ``task="multilabel"``, ``masks/`` has a folder for each class, in which a missing file says that the class is
    absent; or masks have one band a class. A CSV file has the columns ``image`` and ``mask``, perhaps ``split`` and
    ``kind`` (stain, scanner, site: what images are split and scored by); paths are relative to its folder.

    With ``labels.planes="split"``, each plane of an image of several is a sample, whose name ends in its number,
    "a[0]", "a[1]" and so on; of no other file anything is read. A split never separates the planes of one file.

    Slides, told by their names, are a problem of the listing unless ``slides`` is True: read as they are, they would be
    their finest level, and no size that anybody asked for.

    Raises:
        ConfigError: nothing of the kind is there.
    """
    found = with_planes(list_files(source, labels))
    of_slides = [] if slides else [sample.image for part in found.samples.values() for sample in part]
    names = [str(path) for path in of_slides if is_slide(path)]
    # Beside a data set that is whole there may be anything.
    alone = [name for name in found.leftovers if is_slide(name)] if found.problems else []
    if not names + alone:
        return found
    # That a mask has no image says no more than that its image is a slide.
    masks = {problem.removesuffix(NO_IMAGE): problem for problem in found.problems if problem.endswith(NO_IMAGE)}
    stems = {Path(name).stem: name for name in alone}
    pairs = {mask: stems[Path(mask).stem] for mask in masks if Path(mask).stem in stems}
    problems = [problem for problem in found.problems if problem not in {masks[mask] for mask in pairs}]
    lines = [f" and a line for each, such as {slide},{mask}" for mask, slide in pairs.items()][:1]
    listed = f"{some_of(names + alone, 3)}: " + ("that is a slide" if len(names + alone) == 1 else "these are slides")
    return dataclasses.replace(
        found,
        problems=(f"{listed}, {SLIDES_FIX.format(example=''.join(lines))}", *problems),
        leftovers=tuple(name for name in found.leftovers if name not in alone),
    )


def with_planes(listing: Listing) -> Listing:
    """Return a listing in which each image says which of its planes are meant, as ``labels.planes`` has it.

    With "split", an image of several planes becomes as many; of a file that cannot be read, reading will say why.
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
        InputError: the mask has other planes than the image, or a single one for all; or what is made of the image's
            planes has no counterpart for such masks.
    """
    if sample.planes is None:
        return None
    count, own = images.planes_of(sample.image).count, images.planes_of(mask).count
    if own == 1 and (count == 1 or not isinstance(sample.planes, int)):
        return None
    if own != count:
        raise InputError(
            f"{str(mask)!r} has {own} plane{'s' * (own > 1)}, its image {count}: a mask for each is needed"
        )
    if sample.planes == "max" and labels.pixel_task == "multiclass":
        raise InputError(f"{str(mask)!r} has {own} planes, and classes have no largest: give it one plane")
    if sample.planes == "channels" and labels.pixel_task != "multilabel":
        raise InputError(f"{str(mask)!r} has {own} planes, and its image one, of as many channels: give it one plane")
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
