"""One pass over a data set that finds all that is wrong with it, before a minute of training is spent."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unetzoo import checks, images
from unetzoo.data import masks, turning
from unetzoo.data.labels import IGNORED, Labels
from unetzoo.data.listing import Listing, Sample
from unetzoo.data.report import DataReport, SplitReport
from unetzoo.data.splitting import RATIOS, check_arguments, divide, group_keys
from unetzoo.data.stacks import list_samples
from unetzoo.errors import ConfigError, InputError


@dataclass
class _Findings:
    """What one image and its mask are."""

    sample: Sample
    problems: list[str] = field(default_factory=list)
    digest: bytes = b""
    size: tuple[int, int] | None = None
    channels: int = 0
    alpha: bool = False  # the last of them is opacity, by the file, and not opaque everywhere
    dtype: str = ""
    statistics: tuple[Tensor, Tensor, Tensor] | None = None  # values, mean, sum of squared deviations, (C, 1, 1)
    pixels: tuple[int, ...] | None = None  # of each of labels.counted
    ignored: int = 0
    area: int = 0
    outside: Mapping[str, int] = field(default_factory=dict)
    white: int | None = None  # of a black-and-white mask
    turn: str = ""  # of a turned image's mask
    colours: tuple[str, ...] = ()  # of the classes, by the mask's palette, where black is not the first
    nodata: int = 0  # pixels
    partly: int = 0  # pixels of which some bands are missing


def check(
    source: str | os.PathLike[str],
    labels: Labels,
    *,
    ratios: Sequence[float] = RATIOS,
    seed: int = 0,
    group: str | None = None,
    crop_size: int | tuple[int, int] | None = None,
    progress: bool = False,
) -> DataReport:
    """Read every image and mask of a data set once, in threads, and report what they are and what is wrong.

    Args:
        source, labels, ratios, seed, group: as in :func:`~unetzoo.data.find_samples`.
        crop_size: side, or height and width, of the crops that training will take; None for whole images.
        progress: show a bar.

    Raises:
        ConfigError: nothing is there, or wrong arguments; all else is in the report.
    """
    sides = _sides(crop_size)
    check_arguments(ratios, seed, group)
    listing = list_samples(source, labels)
    problems = [*listing.problems]
    try:
        splits = divide(listing, ratios=ratios, seed=seed, group=group)
    except ConfigError as error:
        problems += error.problems
        splits = {split or "train": found for split, found in listing.samples.items()}
    wanted = [(sample, split) for split, found in splits.items() for sample in found]
    found = _all(wanted, listing.labels, progress)
    by_split: dict[str, list[_Findings]] = {split: [] for split in splits}
    for (_, split), findings in zip(wanted, found, strict=True):
        by_split[split].append(findings)
    problems += [problem for findings in found for problem in findings.problems]
    in_channels = _in_channels(found, problems)
    mean, std, constant = _normalisation(by_split.get("train", []), in_channels)
    problems += _type_problems(found)
    problems += _crop_problems(by_split.get("train", []), sides)
    return DataReport(
        source=str(source),
        understood=listing.understood,
        labels=listing.labels,
        splits={split: _summary(members, group, listing.labels) for split, members in by_split.items()},
        channels=dict(Counter(f.channels for f in found if f.channels)),
        dtypes=dict(Counter(f.dtype for f in found if f.dtype)),
        in_channels=in_channels,
        mean=mean,
        std=std,
        problems=tuple(problems),
        warnings=(*_warnings(listing, by_split, constant), *_small(by_split.get("train", []), sides)),
    )


def _all(wanted: Sequence[tuple[Sample, str]], labels: Labels, progress: bool) -> list[_Findings]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        steps: Iterable[_Findings] = pool.map(lambda item: _examined(item[0], labels, item[1] == "train"), wanted)
        if progress:
            from huggingface_hub.utils.tqdm import tqdm

            steps = tqdm(steps, total=len(wanted), unit="image", leave=False)  # type: ignore[no-untyped-call]
        return list(steps)


def _examined(sample: Sample, labels: Labels, training: bool) -> _Findings:
    found = _Findings(sample)
    try:
        raster = images.read(sample.image, sample.planes)
        image, missing = raster.pixels, raster.missing
        found.digest = hashlib.sha256(sample.image.read_bytes()).digest()
        found.size, found.dtype = (image.shape[1], image.shape[2]), str(image.dtype).removeprefix("torch.")
        dead = images.has_dead_alpha(image)
        image = image[:-1] if dead else image
        found.channels, found.alpha = image.shape[0], raster.alpha and not dead
        if training:
            found.statistics = _statistics(image, None if missing is None else missing[: image.shape[0]])
        gaps = None
        if missing is not None:
            bands = missing[:-1] if raster.alpha or dead else missing
            gaps = bands.all(dim=0)
            found.nodata, found.partly = int(gaps.sum()), int((bands.any(dim=0) & ~gaps).sum())
        _examine_mask(found, labels, found.size, gaps)
    except (InputError, OSError) as error:
        found.problems.append(str(error))
    return found


def _statistics(image: Tensor, missing: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return number, mean and sum of squared deviations of the values that each band of a scaled image has."""
    values = image.double() / (1 if image.is_floating_point() else torch.iinfo(image.dtype).max)
    if missing is None:
        variance, mean = torch.var_mean(values, (1, 2), correction=0, keepdim=True)
        count = torch.full_like(mean, image[0].numel())
        return count, mean, variance * count
    known = ~missing
    count = known.sum((1, 2), keepdim=True).double()
    mean = (values * known).sum((1, 2), keepdim=True) / count.clamp(min=1)
    return count, mean, ((values - mean) * known).square().sum((1, 2), keepdim=True)


def _examine_mask(found: _Findings, labels: Labels, size: tuple[int, int], gaps: Tensor | None) -> None:
    target, outside, found.white, found.turn = masks.decode(found.sample, labels, size)
    target = target if gaps is None else target.masked_fill(gaps, IGNORED)
    if outside:
        found.problems.append(f"{masks.shown(found.sample)}: {masks.explain(outside, labels, found.sample)}")
    if labels.task == "multilabel":
        found.pixels = tuple((target == 1).flatten(1).sum(1).tolist())
    else:
        counted = target[target != IGNORED]
        found.pixels = tuple(torch.bincount(counted, minlength=labels.values).tolist())
        found.colours = masks.palette_with_black_later(
            found.sample, labels, [k for k, n in enumerate(found.pixels) if n]
        )
    found.ignored, found.area, found.outside = int((target == IGNORED).sum()), target.numel(), outside


def _in_channels(found: Sequence[_Findings], problems: list[str]) -> int | None:
    """Return the channels that all images fit, an alpha channel being left out where not all have one."""
    examples = {f.channels: f.sample.image for f in reversed(found) if f.channels}
    if len(examples) <= 1:
        return next(iter(examples), None)
    colours = {f.channels - f.alpha for f in found if f.channels}
    if len(colours) == 1 or colours == {1, 3}:
        return max(colours)
    listed = ", ".join(f"{channels} in {str(path)!r}" for channels, path in sorted(examples.items()))
    problems.append(f"the images differ in their channels: {listed}")
    return None


def _type_problems(found: Sequence[_Findings]) -> list[str]:
    """Return what keeps images of different types from being compared: each is divided by the largest of its own.

    That brings 8 and 16 bits without a sign to the same scale, and no others.
    """
    examples = {f.dtype: f.sample.image for f in reversed(found) if f.dtype}
    if len(examples) <= 1 or set(examples) <= {"uint8", "uint16"}:
        return []
    listed = ", ".join(f"{kind} in {str(path)!r}" for kind, path in sorted(examples.items()))
    return [f"the images differ in the type of their pixels, and so in scale: {listed}; save them as one type"]


def _normalisation(
    found: Sequence[_Findings], in_channels: int | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, list[int]]:
    """Return mean and standard deviation of all pixels, and the channels that are constant.

    Images are joined as in Chan, Golub and LeVeque 1979 (equation 2.1), which does not cancel.
    """
    known = [(f.statistics, f.alpha) for f in found if f.statistics is not None]
    if in_channels is None or not known:
        return None, None, []
    count, mean, squares = torch.zeros(3, in_channels, 1, 1, dtype=torch.float64)
    for parts, alpha in known:
        more, its_mean, its_squares = (images.fit_channels(part, in_channels, alpha) for part in parts)
        step, total = its_mean - mean, (count + more).clamp(min=1)
        squares = squares + its_squares + step**2 * (count * more / total)
        mean = mean + step * (more / total)
        count = count + more
    std = (squares / count.clamp(min=1)).sqrt().flatten().tolist()
    constant = [channel for channel, value in enumerate(std) if value == 0]
    return tuple(mean.flatten().tolist()), tuple(value or 1.0 for value in std), constant


def _summary(found: Sequence[_Findings], group: str | None, labels: Labels) -> SplitReport:
    sizes = sorted((f.size for f in found if f.size is not None), key=lambda size: (size[0] * size[1], size))
    masked = [f for f in found if f.pixels is not None]
    pixels = [sum(f.pixels[k] for f in masked if f.pixels) for k in range(len(labels.counted))]
    ignored = sum(f.ignored for f in masked)
    area = sum(f.area for f in masked)
    counted = max(1, (area - ignored) // (labels.num_classes if labels.task == "multilabel" else 1))
    background = 0 if labels.task == "multilabel" else 1
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
    )


def _keys(samples: Sequence[Sample], group: str) -> set[str]:
    try:
        return set(group_keys(samples, group))
    except ConfigError:  # is among the problems already
        return set()


def _warnings(listing: Listing, by_split: Mapping[str, Sequence[_Findings]], constant: Sequence[int]) -> list[str]:
    found = []
    if listing.leftovers:
        shown = ", ".join(listing.leftovers[:5])
        more = f" and {len(listing.leftovers) - 5} more" if len(listing.leftovers) > 5 else ""
        found.append(f"neither images nor masks, left out: {shown}{more}")
    homes: dict[bytes, dict[str, str]] = defaultdict(dict)
    for split, members in by_split.items():
        for findings in members:
            if findings.digest:
                homes[findings.digest].setdefault(split, findings.sample.name)
    for names in homes.values():
        if len(names) > 1:
            listed = " and ".join(f"{name!r} in {split}" for split, name in names.items())
            found.append(f"the same image is {listed}: what is measured there is not honest")
    samples = [f.sample for members in by_split.values() for f in members]
    if listing.labels.planes == "split" and not any(isinstance(sample.planes, int) for sample in samples):
        found.append("planes='split': no image has several planes")
    for split in ("train", "val"):
        masked = [f.pixels for f in by_split.get(split, ()) if f.pixels is not None]
        for k, name in enumerate(listing.labels.counted):
            if masked and not any(pixels[k] for pixels in masked):
                found.append(f"{name!r} never occurs in {split}")
    whites = Counter(f.white for members in by_split.values() for f in members if f.white is not None)
    if len(whites) > 1:
        listed = ", ".join(f"0 and {white} in {count}" for white, count in sorted(whites.items()))
        found.append(f"the masks are written with {listed}: give ignore=… if the larger value does not count")
    found += _palettes([f for members in by_split.values() for f in members], listing.labels)
    found += _turned([f.turn for members in by_split.values() for f in members if f.turn])
    found += _nodata([f for members in by_split.values() for f in members])
    found += [f"channel {channel} is the same everywhere in train; its std is taken as 1" for channel in constant]
    return found


def _palettes(found: Sequence[_Findings], labels: Labels) -> list[str]:
    """Return which colours are which classes where a palette begins with another than black, and black comes later."""
    said = []
    for colours, count in Counter(f.colours for f in found if f.colours).items():
        shown = ", ".join(f"{k} is {colour}" for k, colour in enumerate(colours[:6])) + ", …" * (len(colours) > 6)
        ordered = tuple(sorted(colours, key=lambda colour: colour != "#000000"))
        fix = f"colours={ordered!r}" if len(set(ordered)) == labels.num_classes else "colours=…"
        said.append(
            f"{count} of {len(found)} masks have a palette in which black is not the first: class {shown}. Their "
            f"indices count, and not their colours; where black is the background, give {fix}"
        )
    return said


def _turned(turns: Sequence[str]) -> list[str]:
    """Return how the masks of turned images were taken."""
    if not turns:
        return []
    how = {
        turning.STORED: "{} of the stored pixels, by their size, turned with the image",
        turning.SHOWN: "{} of the upright image, left as they are",
        turning.UNTOLD: "{} whose size does not tell, taken as of the stored pixels and turned with the image: look at "
        "them (unetzoo data preview)",
    }
    listed = "; ".join(how[turn].format(count) for turn, count in sorted(Counter(turns).items()))
    return [f"{len(turns)} images are turned by their EXIF orientation, with masks, {listed}"]


def _nodata(found: Sequence[_Findings]) -> list[str]:
    """Return how much was not measured, and what becomes of it."""
    empty, partly = [f.nodata for f in found if f.nodata], [f.partly for f in found if f.partly]
    said = []
    if empty:
        said.append(
            f"{sum(empty)} pixels of {len(empty)} images are nodata: they are in no mean, no loss and no score, and "
            "nodata in masks that are predicted"
        )
    if partly:
        said.append(
            f"{sum(partly)} pixels of {len(partly)} images are nodata in some of their bands: the mean stands there "
            "for what is missing, and they count"
        )
    return said


def _sides(crop_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if crop_size is None:
        return None
    problems = checks.sides("crop_size", crop_size, square=True)
    if problems:
        raise ConfigError("cannot check the data", problems)
    return (crop_size, crop_size) if isinstance(crop_size, int) else (crop_size[0], crop_size[1])


def _crop_problems(train: Sequence[_Findings], sides: tuple[int, int] | None) -> list[str]:
    sizes = [f.size for f in train if f.size is not None]
    if sides is None or not sizes or any(h >= sides[0] and w >= sides[1] for h, w in sizes):
        return []
    height, width = max(sizes, key=lambda size: min(size[0] / sides[0], size[1] / sides[1]))
    given = f"crop_size={sides[0]}×{sides[1]} (height × width)"
    return [f"{given} is larger than every training image; the largest has {height}×{width}: give a smaller one"]


def _small(train: Sequence[_Findings], sides: tuple[int, int] | None) -> list[str]:
    sizes = [f.size for f in train if f.size is not None]
    small = sum(h < sides[0] or w < sides[1] for h, w in sizes) if sides is not None else 0
    return [f"{small} of {len(sizes)} training images are smaller than the crops, and padded"] if small else []
