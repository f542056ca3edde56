"""Which image trains, and which is kept back: a pure function of names, seed and ratios."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from unetzoo import checks
from unetzoo.data.labels import Labels
from unetzoo.data.listing import Listing, Sample, list_samples
from unetzoo.errors import ConfigError

NAMES = ("train", "val", "test")
RATIOS = (0.8, 0.1, 0.1)


def find_samples(
    source: str | os.PathLike[str],
    labels: Labels,
    *,
    ratios: Sequence[float] = RATIOS,
    seed: int = 0,
    group: str | None = None,
) -> dict[str, tuple[Sample, ...]]:
    """Return the images and masks of a data set by split; :func:`~unetzoo.data.list_samples` says which.

    A layout that has splits of its own keeps them; ``ratios`` and ``seed`` are then not used. Otherwise the split
    depends on the names, ``ratios``, ``seed`` and ``group`` alone, and is the same on every machine. Where a CSV file
    names the kinds of images, each kind is split by itself, in the same ratios.

    Args:
        source: a folder or a .csv file.
        labels: what the masks mean.
        ratios: shares of "train", "val" and "test" that add up to 1; the last may be 0.
        seed: of the split.
        group: a regular expression, searched in each name: images in which its first group (or, without one, all
            that it finds) is the same text never part.

    Returns:
        "train", "val" and "test"; only the last may be empty.

    Raises:
        ConfigError: images or masks without a partner, a split that would be empty, or wrong arguments; lists
            all that is wrong.
    """
    listing = list_samples(source, labels)
    problems = [*listing.problems]
    splits: dict[str, tuple[Sample, ...]] = {}
    try:
        splits = divide(listing, ratios=ratios, seed=seed, group=group)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(f"{str(source)!r} cannot be trained on", problems)
    return splits


def divide(
    listing: Listing, *, ratios: Sequence[float] = RATIOS, seed: int = 0, group: str | None = None
) -> dict[str, tuple[Sample, ...]]:
    """Return the samples of ``listing`` by split, as :func:`find_samples` does.

    Raises:
        ConfigError: as there.
    """
    check_arguments(ratios, seed, group)
    samples = listing.samples
    keys = {split: group_keys(found, group) for split, found in samples.items()}
    if "" not in samples:
        _check_given(samples, keys, group)
        return {split: samples.get(split, ()) for split in NAMES}
    members: dict[str, list[Sample]] = defaultdict(list)
    for sample, key in zip(samples[""], keys[""], strict=True):
        members[key].append(sample)
    divided: dict[str, list[Sample]] = {split: [] for split in NAMES}
    for kind, sizes in _by_kind(members).items():
        try:
            parts = allot(sizes, ratios, seed)
        except ConfigError as error:
            raise ConfigError(f"kind {kind!r}: {error}" if kind else str(error)) from error
        for key, split in parts.items():
            divided[split] += members[key]
    return {split: tuple(sorted(found, key=lambda s: s.name)) for split, found in divided.items()}


def check_arguments(ratios: Sequence[float], seed: int, group: str | None) -> None:
    """Do nothing where the arguments of :func:`find_samples` can be used.

    Raises:
        ConfigError: lists all that is wrong.
    """
    problems = []
    numbers = [r for r in ratios if isinstance(r, int | float) and not isinstance(r, bool) and 0 <= r <= 1]
    if len(ratios) != 3 or len(numbers) != 3 or abs(sum(numbers) - 1) > 1e-6 or 0 in numbers[:2]:
        problems.append(
            f"ratios={tuple(ratios)!r}: three numbers that add up to 1 are needed, for train, val and test; only the "
            "last may be 0"
        )
    problems += checks.whole("seed", seed, None)
    try:
        re.compile(group or "")
    except (re.error, TypeError) as error:
        problems.append(f"group={group!r} is no regular expression: {error}")
    if problems:
        raise ConfigError("cannot split", problems)


def group_keys(samples: Sequence[Sample], group: str | None) -> list[str]:
    """Return the text by which each sample is grouped: its name where there is no ``group``.

    Raises:
        ConfigError: it is not found in every name.
    """
    if group is None:
        return [sample.name for sample in samples]
    pattern = re.compile(group)
    found = [pattern.search(sample.name) for sample in samples]
    missed = [sample.name for sample, match in zip(samples, found, strict=True) if match is None]
    if missed:
        raise ConfigError(
            f"group={group!r} is not found in {len(missed)} of {len(samples)} names, such as {missed[0]!r}"
        )
    return [(match[1] or "") if pattern.groups else match[0] for match in found if match is not None]


def allot(sizes: Mapping[str, int], ratios: Sequence[float], seed: int) -> dict[str, str]:
    """Return the split of each group of images.

    Groups go, the largest first and equal ones in an order that ``seed`` draws, to the split that lacks most
    images. No split with a ratio above 0 stays empty.

    Args:
        sizes: images in each group, by its key.
        ratios: shares of train, val and test.
        seed: of the order.

    Raises:
        ConfigError: fewer groups than splits.
    """
    wanted = [split for split, ratio in zip(NAMES, ratios, strict=True) if ratio > 0]
    if not sizes:
        raise ConfigError("there are no images that have masks")
    if len(sizes) < len(wanted):
        fix = "give ratios whose last is 0, " if 2 <= len(sizes) < 3 else "add images, cut large ones into several, "
        raise ConfigError(
            f"{_count(sizes)} cannot be parted into {', '.join(wanted)}: {fix}or name the splits in a .csv file"
        )
    lacking = _quotas(sum(sizes.values()), ratios)
    order = sorted(
        sizes, key=lambda key: (-sizes[key], hashlib.sha256(f"{seed}/{key}".encode(errors="surrogatepass")).digest())
    )
    parts: dict[str, str] = {}
    for place, key in enumerate(order):
        empty = [split for split in wanted if split not in parts.values()]
        # The last groups fill what is still empty; sooner, each split gets what it lacks most.
        choice = empty if len(order) - place <= len(empty) else wanted
        split = max(choice, key=lambda name: lacking[name])
        parts[key] = split
        lacking[split] -= sizes[key]
    return parts


def _by_kind(members: Mapping[str, Sequence[Sample]]) -> dict[str, dict[str, int]]:
    """Return kind → group → images. A group of several kinds is of a kind of its own, so that it is not parted."""
    strata: dict[str, dict[str, int]] = defaultdict(dict)
    for key, found in members.items():
        strata[" and ".join(sorted({sample.kind for sample in found}))][key] = len(found)
    return {kind: strata[kind] for kind in sorted(strata)} or {"": {}}


def _quotas(images: int, ratios: Sequence[float]) -> dict[str, int]:
    """Return whole numbers of images that add up: the largest remainders are rounded up."""
    exact = {split: images * ratio for split, ratio in zip(NAMES, ratios, strict=True)}
    quotas = {split: math.floor(value + 1e-9) for split, value in exact.items()}
    by_remainder = sorted(NAMES, key=lambda split: quotas[split] - exact[split])
    for split in by_remainder[: images - sum(quotas.values())]:
        quotas[split] += 1
    for split, value in exact.items():
        if value > 0 and quotas[split] == 0:
            quotas[split] += 1
            quotas["train"] -= 1
    return quotas


def _check_given(samples: Mapping[str, Sequence[Sample]], keys: Mapping[str, list[str]], group: str | None) -> None:
    """Refuse a layout whose own splits are empty, or part groups."""
    problems = [
        f"the split {split!r} is empty: move some of the others there" for split in NAMES[:2] if not samples.get(split)
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
