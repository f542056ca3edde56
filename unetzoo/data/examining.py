"""Everything that the check learns about one image and its mask, which it reads once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetzoo import images
from unetzoo.data import counting, crops, looks, masks
from unetzoo.data.annotations import Drawing
from unetzoo.data.labels import IGNORED, Labels
from unetzoo.data.listing import Sample
from unetzoo.data.stacks import SLIDES_FIX
from unetzoo.errors import InputError
from unetzoo.slides import is_slide, smaller_copies

VALUES = 2**18
"""Pixels of each channel that are kept for histograms, from all images together; at least 16 per image."""


@dataclass(frozen=True)
class Wanted:
    """What the check looks at.

    Attributes:
        labels: what the masks mean.
        images: number of images.
        closely: whether to count objects, and to keep what histograms and comparisons need.
        components: whether to count connected components where masks do not tell objects apart.
        crop: (height, width) of the training crops, to find objects that are large for them; None: do not look.
    """

    labels: Labels
    images: int
    closely: bool
    components: bool
    crop: crops.Size | None = None

    @property
    def values(self) -> int:
        """About how many pixels of each channel are kept for histograms."""
        return max(16, min(4096, VALUES // self.images))

    def seeks(self, place: int, pixels: int) -> bool:
        """Return whether to count components in an image, given its place, from 0 on, and its number of pixels."""
        work = self.images * pixels * max(1, self.labels.num_classes - (self.labels.pixel_task == "multiclass"))
        return self.components and place % max(1, -(-work // counting.MOST)) == 0


@dataclass
class Findings:
    """What was found in one image and its mask."""

    sample: Sample
    split: str
    problems: list[str] = field(default_factory=list)
    digest: bytes = b""
    look: looks.Look | None = None
    size: tuple[int, int] | None = None
    channels: int = 0
    alpha: bool = False  # the last channel is opacity, by the file, and is not opaque everywhere
    dtype: str = ""
    values: NDArray[np.generic] | None = None  # some of the pixels, (C, n)
    statistics: images.Moments | None = None
    planes: int = 1  # of the file
    pixels: tuple[int, ...] | None = None  # of each of labels.counted
    large: int = 0  # side of the largest square of one class, where it is large compared with a crop
    objects: counting.Counted | None = None
    alone: tuple[int, int] | None = None  # the only number in a mask of numbered objects, and its connected components
    ignored: int = 0
    area: int = 0
    nowhere: int = 0  # objects that cover no pixel
    outside: Mapping[str, int] = field(default_factory=dict)
    areas: bool = False  # whether the outside values cover areas, see masks.Decoded
    white: int | None = None  # of a black-and-white mask
    turn: str = ""  # how the mask of a turned image was taken
    colours: tuple[str, ...] = ()  # of the classes, by the mask's palette, where black is not the first
    nodata: int = 0  # pixels
    partly: int = 0  # pixels in which only some bands are missing
    copies: int = 0  # smaller copies of the image in the file of a pyramid


def examined(sample: Sample, split: str, place: int, wanted: Wanted) -> Findings:
    """Return what an image and its mask contain.

    Args:
        sample: the image and its mask.
        split: to which they belong; pixel statistics are computed for "train".
        place: of the image among all, from 0 on.
        wanted: what to look at.
    """
    found = Findings(sample, split)
    if is_slide(sample.image):
        found.problems.append(f"{str(sample.image)!r}: that is a slide, {SLIDES_FIX.format(example='')}")
        return found
    try:
        raster = images.read(sample.files, sample.planes)
        image, missing = raster.pixels, raster.missing
        found.size, found.dtype = (image.shape[1], image.shape[2]), str(image.dtype).removeprefix("torch.")
        found.planes = 1 if sample.planes is None else images.planes_of(sample.image).count
        found.copies = smaller_copies(sample.image)
        dead = not sample.channels and images.has_dead_alpha(image)
        image = image[:-1] if dead else image
        found.channels, found.alpha = image.shape[0], raster.alpha and not dead
        found.digest = looks.digest_of(image)
        if wanted.closely:
            found.look, found.values = looks.look_of(image), _some(image, missing, wanted.values)
        if split == "train":
            found.statistics = images.moments(image, None if missing is None else missing[: image.shape[0]])
        gaps = None
        if missing is not None:
            bands = missing[:-1] if raster.alpha or dead else missing
            gaps = bands.all(dim=0)
            found.nodata, found.partly = int(gaps.sum()), int((bands.any(dim=0) & ~gaps).sum())
        _examine_mask(found, wanted, place, gaps)
    except (InputError, OSError) as error:
        found.problems.append(str(error))
    return found


def _some(image: Tensor, missing: Tensor | None, most: int) -> NDArray[np.generic]:
    """Return evenly spaced pixels (C, n), as they are stored, of those that have all bands."""
    values = image.flatten(1)
    if missing is not None:
        values = values[:, ~missing[: image.shape[0]].any(0).flatten()]
    step = max(1, values.shape[1] // most)
    taken: NDArray[np.generic] = values[:, ::step].numpy().copy()
    return taken


def _examine_mask(found: Findings, wanted: Wanted, place: int, gaps: Tensor | None) -> None:
    assert found.size is not None
    labels = wanted.labels
    decoded = masks.decode(found.sample, labels, found.size, ids=wanted.closely)
    found.outside, found.areas, found.white, found.turn = decoded.outside, decoded.areas, decoded.white, decoded.turn
    found.nowhere = decoded.nowhere
    if labels.task == "instances" and decoded.ids is not None and not isinstance(found.sample.mask, Drawing):
        found.alone = counting.alone(decoded.ids, decoded.target)
    target = decoded.target if gaps is None else decoded.target.masked_fill(gaps, IGNORED)
    if wanted.closely:
        found.objects = counting.counted(decoded, components=wanted.seeks(place, found.size[0] * found.size[1]))
    if labels.pixel_task == "multilabel":
        found.pixels = tuple((target == 1).flatten(1).sum(1).tolist())
    else:
        inside = target[target != IGNORED]
        found.pixels = tuple(torch.bincount(inside, minlength=labels.values).tolist())
        found.colours = masks.palette_with_black_later(
            found.sample, labels, [k for k, n in enumerate(found.pixels) if n]
        )
    if found.split == "train" and wanted.crop is not None:
        several = labels.pixel_task == "multilabel"
        found.large = crops.largest_object(target, found.pixels, wanted.crop, multilabel=several)
    found.ignored, found.area = int((target == IGNORED).sum()), target.numel()


def explain_values(found: Sequence[Findings], labels: Labels) -> None:
    """Add problems that explain values outside the classes, which takes all masks: one alone does not show it."""
    alike = [dict(one.outside) for one in found if one.areas]
    for one in found:
        if one.outside:
            said = masks.explain(dict(one.outside), labels, one.sample, alike if one.areas else ())
            one.problems.append(f"{masks.shown(one.sample)}: {said}")
