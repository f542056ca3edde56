"""One pass over a data set that finds everything wrong with it before any training time is spent."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from unetzoo import checks, images
from unetzoo.data import counting, crops, examples, remarks
from unetzoo.data.commanding import training_call, training_command, training_flags
from unetzoo.data.examining import Findings, Wanted, examined, explain_values
from unetzoo.data.histograms import Histogram, histogram
from unetzoo.data.labels import Labels
from unetzoo.data.listing import Listing, Sample, Source, title_of
from unetzoo.data.report import DataReport, SplitReport
from unetzoo.data.splitting import RATIOS, Fold, check_arguments, divide, group_keys
from unetzoo.data.stacks import list_samples
from unetzoo.data.understanding import exports_of
from unetzoo.errors import ConfigError
from unetzoo.progress import shown


def check(
    source: Source,
    labels: Labels,
    *,
    ratios: Sequence[float] = RATIOS,
    seed: int = 0,
    group: str | None = None,
    fold: Fold | None = None,
    crop_size: int | tuple[int, int] | None = None,
    resize: float = 1.0,
    closely: bool = True,
    progress: bool = False,
) -> DataReport:
    """Read every image and mask of a data set once, in threads, and report what they contain and what is wrong.

    Args:
        source, labels, ratios, seed, group, fold: as in :func:`~unetzoo.data.find_samples`.
        crop_size: side, or height and width, of the crops that training will take; None: its default.
        resize: factor by which training scales the sides of images. Crops are not checked if it is not 1.
        closely: also count objects, look for images that look like one of another split, keep what histograms and
            thumbnails need, and give the command that trains. Problems that prevent training are always found.
        progress: show a progress bar.

    Raises:
        ConfigError: the source holds nothing, or arguments are wrong; everything else is in the report.
    """
    sides = _sides(crop_size, resize)
    check_arguments(ratios, seed, group, fold)
    listing = list_samples(source, labels)
    problems = [*listing.problems]
    try:
        splits = divide(listing, ratios=ratios, seed=seed, group=group, fold=fold)
    except ConfigError as error:
        problems += error.problems
        splits = {split or "train": found for split, found in listing.samples.items()}
    listed = [(sample, split) for split, found in splits.items() for sample in found]
    wanted = _wanted(listing.labels, len(listed), closely, crops.crop_of(sides) if resize == 1 else None)
    found = _all(listed, wanted, progress)
    explain_values(found, listing.labels)
    by_split = {split: [findings for findings in found if findings.split == split] for split in splits}
    train = by_split.get("train", [])
    problems += [problem for findings in found for problem in findings.problems]
    problems += _unnumbered(found, labels)
    in_channels = _in_channels(found, problems)
    mean, std, constant = _normalisation(train, in_channels)
    problems += [*_type_problems(found), *_crop_problems(train, sides)]
    settings = {"seed": seed, "group": group, "crop_size": crop_size, "resize": resize, **_shares(listing, ratios)}
    flags = training_flags(source, (labels, listing.labels), settings) if closely and not problems else None
    return DataReport(
        source=title_of(source),
        understood=listing.understood,
        labels=listing.labels,
        splits={split: _summary(members, group, listing.labels) for split, members in by_split.items()},
        channels=dict(Counter(f.channels for f in found if f.channels)),
        dtypes=dict(Counter(f.dtype for f in found if f.dtype)),
        stacks=dict(sorted(Counter({f.sample.image: f.planes for f in found if f.planes > 1}.values()).items())),
        in_channels=in_channels,
        mean=mean,
        std=std,
        problems=tuple(dict.fromkeys(problems)),  # a mask of several images says the same of each
        warnings=(
            *remarks.warnings_of(listing, by_split, constant),
            *_beside_crops(train, sides, wanted),
            *exports_of(source),
            *remarks.related_names(listing, group),
            *(remarks.few_to_validate(listing, by_split, group) if fold is None and not problems else ()),
        ),
        histograms=_histograms(by_split, listing.labels) if closely else (),
        examples=examples.chosen(found, listing.labels) if closely else (),
        command=training_command(source, flags),
        call=training_call(source, flags),
    )


def _shares(listing: Listing, ratios: Sequence[float]) -> dict[str, Any]:
    """Return the ratios as a setting if they split the images; empty if the folder has splits of its own."""
    return {"ratios": tuple(ratios)} if "" in listing.samples else {}


def _wanted(labels: Labels, count: int, closely: bool, crop: crops.Size | None) -> Wanted:
    return Wanted(labels, max(1, count), closely, closely and counting.can_find_components(), crop)


def _all(listed: Sequence[tuple[Sample, str]], wanted: Wanted, progress: bool) -> list[Findings]:
    items = [(*item, place) for place, item in enumerate(listed)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        steps = pool.map(lambda item: examined(item[0], item[1], item[2], wanted), items)
        return list(shown(steps, progress, "image", len(items)))


def _unnumbered(found: Sequence[Findings], labels: Labels) -> list[str]:
    """Return a problem if the masks of instances are only black and white: each has a single number, that of white."""
    first = 0 if labels.pixel_task == "multilabel" else 1
    having = [one for one in found if one.pixels is not None and any(one.pixels[first:])]
    if labels.task != "instances":
        return []
    problem = counting.one_number(one.alone for one in having)
    return [] if problem is None else [f"{problem}, or task='binary'"]


def _in_channels(found: Sequence[Findings], problems: list[str]) -> int | None:
    """Return the number of channels that fits all images; an alpha channel that only some have is left out."""
    examples = {f.channels: f.sample.image for f in reversed(found) if f.channels}
    if len(examples) <= 1:
        return next(iter(examples), None)
    colours = {f.channels - f.alpha for f in found if f.channels}
    if len(colours) == 1 or colours == {1, 3}:
        return max(colours)
    listed = ", ".join(f"{channels} in {str(path)!r}" for channels, path in sorted(examples.items()))
    problems.append(f"the images differ in their number of channels: {listed}")
    return None


def _type_problems(found: Sequence[Findings]) -> list[str]:
    """Return a problem if the images have pixel types of different scales.

    Each image is divided by the largest value of its type. This brings unsigned 8 and 16 bits to the same scale, but
    no other types.
    """
    examples = {f.dtype: f.sample.image for f in reversed(found) if f.dtype}
    if len(examples) <= 1 or set(examples) <= {"uint8", "uint16"}:
        return []
    listed = ", ".join(f"{kind} in {str(path)!r}" for kind, path in sorted(examples.items()))
    return [f"the images differ in pixel type, and therefore in scale: {listed}; save all of them as one type"]


def _normalisation(
    found: Sequence[Findings], in_channels: int | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, list[int]]:
    """Return the mean and standard deviation of all pixels, and the channels that are constant."""
    known = [(f.statistics, f.alpha) for f in found if f.statistics is not None]
    if in_channels is None or not known:
        return None, None, []
    whole = images.merged(
        [images.Moments(*(images.fit_channels(part, in_channels, alpha) for part in parts)) for parts, alpha in known]
    )
    constant = [channel for channel, value in enumerate(whole.squares.flatten().tolist()) if value == 0]
    return tuple(whole.mean.flatten().tolist()), tuple(whole.std.flatten().tolist()), constant


def _summary(found: Sequence[Findings], group: str | None, labels: Labels) -> SplitReport:
    sizes = sorted((f.size for f in found if f.size is not None), key=lambda size: (size[0] * size[1], size))
    masked = [f for f in found if f.pixels is not None]
    pixels = [sum(f.pixels[k] for f in masked if f.pixels) for k in range(len(labels.counted))]
    ignored = sum(f.ignored for f in masked)
    area = sum(f.area for f in masked)
    counted = max(1, (area - ignored) // (labels.num_classes if labels.pixel_task == "multilabel" else 1))
    background = 0 if labels.pixel_task == "multilabel" else 1
    return SplitReport(
        images=len(found),
        groups=None if group is None else len(_keys([f.sample for f in found], group)),
        smallest=sizes[0] if sizes else None,
        median=sizes[len(sizes) // 2] if sizes else None,
        largest=sizes[-1] if sizes else None,
        sizes=len(set(sizes)),
        class_pixels={name: count / counted for name, count in zip(labels.counted, pixels, strict=True)},
        class_images={
            name: sum(f.pixels is not None and f.pixels[k] > 0 for f in found) for k, name in enumerate(labels.counted)
        },
        ignored=ignored / max(1, area),
        empty=sum(not any(f.pixels[background:]) for f in masked if f.pixels is not None),
        outside=dict(sum((Counter(f.outside) for f in found), Counter())),
        objects=counting.summed([f.objects for f in found if f.objects is not None]),
    )


def _histograms(by_split: Mapping[str, Sequence[Findings]], labels: Labels) -> tuple[Histogram, ...]:
    """Return the distributions of sizes, intensities and objects."""
    found = [one for members in by_split.values() for one in members]
    sides = {name: [one.size[k] for one in found if one.size is not None] for k, name in enumerate(("height", "width"))}
    values = [one.values for one in found if one.values is not None]
    most = max((len(part) for part in values), default=0)
    channels = {f"channel {k}": np.concatenate([part[k] for part in values if len(part) > k]) for k in range(most)}
    counted = {split: [one.objects for one in part if one.objects is not None] for split, part in by_split.items()}
    numbers = {split: [len(one.areas) for one in members] for split, members in counted.items()}
    areas = {split: [area for one in members for area in one.areas.tolist()] for split, members in counted.items()}
    foreground = 0 if labels.pixel_task == "multilabel" else 1
    shares = {
        split: [sum(one.pixels[foreground:]) / one.area for one in members if one.pixels is not None and one.area]
        for split, members in by_split.items()
    }
    made = (
        histogram("side of the images (pixels)", sides, whole=True),
        histogram("pixel values, sampled from each image", channels),
        histogram("share of an image that is not background", shares),
        histogram("objects in an image", numbers, whole=True),
        histogram("area of an object (pixels)", areas, log=True),
    )
    return tuple(one for one in made if one is not None)


def _keys(samples: Sequence[Sample], group: str) -> set[str]:
    try:
        return set(group_keys(samples, group))
    except ConfigError:  # already among the problems
        return set()


def _sides(crop_size: int | tuple[int, int] | None, resize: float) -> tuple[int, int] | None:
    """Return (height, width) of the crops that were asked for; None where images are resized or none were."""
    problems = [] if crop_size is None else checks.sides("crop_size", crop_size, square=True)
    problems += checks.resize_problems(resize)
    if problems:
        raise ConfigError("cannot check the data", problems)
    if crop_size is None or resize != 1:
        return None
    return (crop_size, crop_size) if isinstance(crop_size, int) else (crop_size[0], crop_size[1])


def _crop_problems(train: Sequence[Findings], sides: tuple[int, int] | None) -> list[str]:
    sizes = [f.size for f in train if f.size is not None]
    if sides is None or not sizes or any(h >= sides[0] and w >= sides[1] for h, w in sizes):
        return []
    height, width = max(sizes, key=lambda size: min(size[0] / sides[0], size[1] / sides[1]))
    given = f"crop_size={sides[0]}×{sides[1]} (height × width)"
    return [f"{given} is larger than every training image; the largest is {height}×{width}: give a smaller one"]


def _beside_crops(train: Sequence[Findings], sides: tuple[int, int] | None, wanted: Wanted) -> list[str]:
    """Return a warning of images that are smaller than the crops, and one of objects that are larger."""
    sizes = [f.size for f in train if f.size is not None]
    small = sum(h < sides[0] or w < sides[1] for h, w in sizes) if sides is not None else 0
    said = [f"{small} of {len(sizes)} training images are smaller than the crops and are padded"] if small else []
    # A default crop that is limited by the size of most images would shrink with them: resizing would not help.
    if wanted.crop is None or crops.crop_of(sides, sizes) != wanted.crop:
        return said
    return said + remarks.larger_than_crops(train, wanted.labels, wanted.crop)
