"""The split into training, validation and test images: a pure function of names, seed and ratios."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from unetzoo import checks
from unetzoo.data.labels import Labels
from unetzoo.data.listing import Listing, Sample, Source, title_of
from unetzoo.data.stacks import list_samples
from unetzoo.errors import ConfigError

NAMES = ("train", "val", "test")
RATIOS = (0.8, 0.1, 0.1)
Fold = tuple[int, int]
"""Number of the fold, from 1, and the number of folds."""


def find_samples(
    source: Source,
    labels: Labels,
    *,
    ratios: Sequence[float] = RATIOS,
    seed: int = 0,
    group: str | None = None,
    fold: Fold | None = None,
) -> dict[str, tuple[Sample, ...]]:
    """Return the images and masks of a data set by split; :func:`~unetzoo.data.list_samples` says which.

    A layout that has splits of its own keeps them, and ``ratios`` and ``seed`` are not used. If it has no "val", this
    is split off "train", by the ratios of these two. Otherwise the split of an
    image follows from its own name, or that of its group, with ``ratios`` and ``seed``: it is the same on every
    machine, and does not change when other images come or go. ``unetzoo.data.splitting.allot`` says how, and what
    happens where a split would be empty. If a CSV file names the kinds of images, no split lacks a kind.

    Args:
        source: a folder or a .csv file.
        labels: what the masks mean.
        ratios: shares of "train", "val" and "test" that add up to 1; the last may be 0. They hold on average.
        seed: random seed of the split.
        group: a regular expression, searched in each name: images in which its first group (or, without one, the
            whole match) is the same text stay in one split.
        fold: number of the fold, and of all folds, for cross-validation: "val" is this part of all images but those of
            "test", which is the same as without folds, and "train" is the rest; see ``unetzoo.data.splitting.deal``.

    Returns:
        "train", "val" and "test"; only the last may be empty.

    Raises:
        ConfigError: images or masks without a partner, a split that would be empty, or wrong arguments; lists
            everything that is wrong.
    """
    listing = list_samples(source, labels)
    problems = [*listing.problems]
    splits: dict[str, tuple[Sample, ...]] = {}
    try:
        splits = divide(listing, ratios=ratios, seed=seed, group=group, fold=fold)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(f"{title_of(source)!r} cannot be trained on", problems)
    return splits


def divide(
    listing: Listing,
    *,
    ratios: Sequence[float] = RATIOS,
    seed: int = 0,
    group: str | None = None,
    kept: Mapping[str, str] | None = None,
    fold: Fold | None = None,
) -> dict[str, tuple[Sample, ...]]:
    """Return the samples of ``listing`` by split, as :func:`find_samples` does.

    Args:
        listing, ratios, seed, group, fold: as for :func:`find_samples`.
        kept: group → its split when a run was trained, which it keeps. The split of the others follows from their
            names, and a split may be empty. None: there was no such run.

    Raises:
        ConfigError: as for :func:`find_samples`.
    """
    check_arguments(ratios, seed, group, fold)
    if fold is not None:
        return _folded(divide(listing, ratios=ratios, seed=seed, group=group), fold, seed, group)
    samples = listing.samples
    keys = {split: group_keys(found, group) for split, found in samples.items()}
    if lacks_val(listing):
        _check_given(samples, keys, group, ("train",))
        # Split "train" only; "test" stays as the layout has it.
        share = ratios[1] / (ratios[0] + ratios[1])
        whole = dataclasses.replace(listing, samples={"": samples["train"]})
        parts = divide(whole, ratios=(1 - share, share, 0), seed=seed, group=group, kept=kept)
        return parts | {"test": (*parts["test"], *samples.get("test", ()))}
    if "" not in samples:
        _check_given(samples, keys, group, ("train", "val"))
        return {split: samples.get(split, ()) for split in NAMES}
    sizes = Counter(keys[""])
    homes: dict[str, str] = {}
    if kept is not None:
        homes = {key: kept.get(key) or split_of(number(key, seed), ratios) for key in sizes}
    else:
        for kind, groups in _by_kind(samples[""], keys[""]).items():
            try:
                homes |= allot({key: sizes[key] for key in groups}, ratios, seed)
            except ConfigError as error:
                raise ConfigError(f"kind {kind!r}: {error}" if kind else str(error)) from error
    divided: dict[str, list[Sample]] = {split: [] for split in NAMES}
    for sample, key in zip(samples[""], keys[""], strict=True):
        divided[homes[key]].append(sample)
    return {split: tuple(sorted(found, key=lambda s: s.name)) for split, found in divided.items()}


def lacks_val(listing: Listing) -> bool:
    """Return whether a layout has a training split, but no validation split."""
    return bool(listing.samples.get("train")) and "val" not in listing.samples


def check_arguments(ratios: Sequence[float], seed: int, group: str | None, fold: Fold | None = None) -> None:
    """Check the arguments of :func:`find_samples`.

    Raises:
        ConfigError: lists everything that is wrong.
    """
    problems = []
    numbers = [r for r in ratios if checks.is_number(r) and 0 <= r <= 1]
    if len(ratios) != 3 or len(numbers) != 3 or abs(sum(numbers) - 1) > 1e-6 or 0 in numbers[:2]:
        problems.append(
            f"ratios={tuple(ratios)!r}: give three numbers that add up to 1, for train, val and test; only the last "
            "may be 0"
        )
    problems += checks.whole("seed", seed, None) + ([] if fold is None else fold_problems(*fold))
    try:
        re.compile(group or "")
    except (re.error, TypeError) as error:
        problems.append(f"group={group!r} is not a regular expression: {error}")
    if problems:
        raise ConfigError("cannot split", problems)


def group_keys(samples: Sequence[Sample], group: str | None) -> list[str]:
    """Return the text by which each sample is grouped: its own key where there is no ``group``.

    Raises:
        ConfigError: ``group`` is not found in every name.
    """
    if group is None:
        return [sample.key for sample in samples]
    pattern = re.compile(group)
    found = [pattern.search(sample.stack) for sample in samples]
    missed = [sample.name for sample, match in zip(samples, found, strict=True) if match is None]
    if missed:
        raise ConfigError(
            f"group={group!r} is not found in {len(missed)} of {len(samples)} names, such as {missed[0]!r}"
        )
    return [(match[1] or "") if pattern.groups else match[0] for match in found if match is not None]


def number(key: str, seed: int) -> float:
    """Return the number in [0, 1) of a group of images, the same at all times and on every machine.

    It consists of the first 53 bits of the SHA-256 of "<seed>/<key>". Letters with accents count alike, no matter how a
    file system composes them.
    """
    text = unicodedata.normalize("NFC", f"{seed}/{key}")
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def split_of(drawn: float, ratios: Sequence[float]) -> str:
    """Return the split of a group by its number: "test" has the lowest, then comes "val", and the rest is "train"."""
    _, val, test = ratios
    return "test" if drawn < test else "val" if drawn < test + val else "train"


def allot(sizes: Mapping[str, int], ratios: Sequence[float], seed: int) -> dict[str, str]:
    """Return the split of each group of images: that of its :func:`number`, no matter which other groups there are.

    So shares are near ``ratios``, but not exact. Only if a split with a ratio above 0 would have no group does a
    neighbour move there: the lowest numbers of "train" to the other splits, or the highest of these back to it; and in
    the same way between "test" and "val". When groups are added, none moves from training to test or validation, as
    long as one was in training by its own number.

    Args:
        sizes: images in each group, by its key.
        ratios: shares of train, val and test.
        seed: of the numbers.

    Raises:
        ConfigError: fewer groups than splits.
    """
    wanted = [split for split, ratio in zip(NAMES, ratios, strict=True) if ratio > 0]
    if not sizes:
        raise ConfigError("there are no images with masks")
    if len(sizes) < len(wanted):
        fix = "give ratios=… whose last is 0, " if 2 <= len(sizes) < 3 else "add images, cut large ones into parts, "
        raise ConfigError(
            f"{_count(sizes)} cannot be split into {', '.join(wanted)}: {fix}or name the splits in a .csv file"
        )
    drawn = sorted((number(key, seed), key) for key in sizes)
    found = Counter(split_of(place, ratios) for place, _ in drawn)
    judging = min(max(found["test"] + found["val"], len(wanted) - 1), len(drawn) - 1)
    tests = min(max(found["test"], 1), judging - 1) if "test" in wanted else 0
    splits = ["test"] * tests + ["val"] * (judging - tests) + ["train"] * (len(drawn) - judging)
    return {key: split for (_, key), split in zip(drawn, splits, strict=True)}


def fold_problems(fold: int | None, folds: int | None) -> list[str]:
    """Return what is wrong with a fold's number, from 1, or the number of folds; None for none."""
    if folds is None:
        return [] if fold is None else [f"fold={fold!r}: of how many? Give folds=… too, such as folds=5"]
    problems = checks.whole("folds", folds, 2)
    if not problems and fold is not None and not (type(fold) is int and 1 <= fold <= folds):
        problems.append(f"fold={fold!r}: give a whole number from 1 to {folds}, as folds={folds}")
    return problems


def deal(strata: Mapping[str, Mapping[str, int]], folds: int, seed: int) -> dict[str, int]:
    """Return the fold of each group of images, from 1, so that folds have similar numbers of images of each kind.

    The largest groups come first, those of one size in the order of their :func:`number`. Each goes to the fold with
    the fewest images of its kind; among several, to the one with the fewest images in all, and then to the first. The
    result is the same on every machine; but when images are added, others may change their fold.

    Args:
        strata: kind → images in each group, by its key.
        folds: from 2 up.
        seed: of the numbers.

    Raises:
        ConfigError: fewer groups than folds.
    """
    sizes = {key: size for groups in strata.values() for key, size in groups.items()}
    if len(sizes) < folds:
        raise ConfigError(f"{_count(sizes)} cannot be split into {folds} folds: give fewer folds, or add images")
    homes: dict[str, int] = {}
    total: Counter[int] = Counter()
    for _, groups in sorted(strata.items()):
        own: Counter[int] = Counter()
        for key in sorted(groups, key=lambda key: (-groups[key], number(key, seed), key)):
            home = min(range(1, folds + 1), key=lambda k: (own[k], total[k], k))
            homes[key] = home
            own[home] += groups[key]
            total[home] += groups[key]
    return homes


def _folded(
    splits: Mapping[str, tuple[Sample, ...]], fold: Fold, seed: int, group: str | None
) -> dict[str, tuple[Sample, ...]]:
    """Return splits in which everything but the test images is split again, by folds."""
    samples = sorted((*splits["train"], *splits["val"]), key=lambda sample: sample.name)
    keys = group_keys(samples, group)
    sizes = Counter(keys)
    strata = {kind: {key: sizes[key] for key in groups} for kind, groups in _by_kind(samples, keys).items()}
    number, folds = fold
    homes = deal(strata, folds, seed)
    parts: dict[bool, list[Sample]] = {True: [], False: []}
    for sample, key in zip(samples, keys, strict=True):
        parts[homes[key] == number].append(sample)
    return {"train": tuple(parts[False]), "val": tuple(parts[True]), "test": splits["test"]}


def _by_kind(samples: Sequence[Sample], keys: Sequence[str]) -> dict[str, list[str]]:
    """Return kind → groups. A group of several kinds becomes a kind of its own, so that it is not split."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for kind, key in {(sample.kind, key): None for sample, key in zip(samples, keys, strict=True)}:
        kinds[key].add(kind)
    strata: dict[str, list[str]] = defaultdict(list)
    for key, found in kinds.items():
        strata[" and ".join(sorted(found))].append(key)
    return {kind: strata[kind] for kind in sorted(strata)} or {"": []}


def _check_given(
    samples: Mapping[str, Sequence[Sample]], keys: Mapping[str, list[str]], group: str | None, needed: Sequence[str]
) -> None:
    """Refuse a layout with splits of its own if a needed one is empty, or if they divide a group."""
    problems = [
        f"the split {split!r} is empty: move some of the others there" for split in needed if not samples.get(split)
    ]
    if group is not None:
        homes: dict[str, list[str]] = defaultdict(list)
        for split in samples:
            for key in dict.fromkeys(keys[split]):
                homes[key].append(split)
        problems += [f"group {key!r} is in {' and '.join(at)}" for key, at in homes.items() if len(at) > 1]
    if problems:
        raise ConfigError("the splits of the layout cannot be used", problems)


def _count(sizes: Mapping[str, int]) -> str:
    images = sum(sizes.values())
    groups = f" in {len(sizes)} group{'s' * (len(sizes) != 1)}" if images != len(sizes) else ""
    return f"{images} image{'s' * (images != 1)}{groups}"
