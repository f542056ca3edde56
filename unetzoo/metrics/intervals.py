"""How much scores depend on the choice of images: bootstrap intervals over the images that were scored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unetzoo.metrics.counting import scores_of
from unetzoo.metrics.scores import METRICS

DRAWS = 1000
"""Number of bootstrap samples, each of as many images as there are, drawn with replacement."""
SHARE = 0.95
Interval = tuple[float, float]


def pixel_intervals(counts: Tensor, class_names: Sequence[str]) -> dict[str, Interval]:
    """Return the 95 % interval of each score over the pixels of all images together.

    It is the percentile bootstrap (Efron 1979, "Bootstrap methods: another look at the jackknife", Annals of Statistics
    7): a thousand times, images are drawn with replacement, and their pixels counted together and scored; the interval
    is from the 2.5th to the 97.5th percentile. It shows how much the choice of images matters, but not how much another
    training would differ.

    Args:
        counts: (N, 4 or 8, C) integers for each image, as in ``ImageScores.counts``; two images or more.
        class_names: C names.

    Returns:
        Intervals with the keys of ``Scores.to_dict``: "dice", the mean over classes, and, if there are several, also
        "dice/rim" for a class named "rim".
    """
    found = scores_of(_resampled(counts))
    return {
        key: interval
        for k, name in enumerate(METRICS[: found.shape[1]])
        for key, interval in _named(name, found[:, k], class_names).items()
    }


def object_intervals(counts: Tensor, class_names: Sequence[str]) -> dict[str, Interval]:
    """Return the 95 % interval of "object_ap_50", "object_f1" and "object_pq", as :func:`pixel_intervals` does.

    Args:
        counts: (N, 4, C), for each image: true objects, found objects, matches at an IoU of 0.5, and the sum of the IoU
            of these matches.
        class_names: see :func:`pixel_intervals`.
    """
    true, found, met, iou = _resampled(counts).unbind(1)
    both = true + found
    figures = {"object_ap_50": met / (both - met), "object_f1": 2 * met / both, "object_pq": 2 * iou / both}
    return {
        key: interval for name, values in figures.items() for key, interval in _named(name, values, class_names).items()
    }


def _resampled(counts: Tensor) -> Tensor:
    """Return the sums of (N, …) over the images of each draw, (DRAWS, …) float64."""
    number = len(counts)
    generator = torch.Generator().manual_seed(0)
    flat = counts.flatten(1).double()
    draws = [torch.randint(number, (number,), generator=generator) for _ in range(DRAWS)]
    times = torch.stack([torch.bincount(drawn, minlength=number) for drawn in draws]).double()
    return (times @ flat).reshape(DRAWS, *counts.shape[1:])


def _named(name: str, values: Tensor, class_names: Sequence[str]) -> dict[str, Interval]:
    """Return the intervals of (DRAWS, C) values: of their mean over classes, and of each class of several."""
    found = {name: _interval(values.nanmean(1))}
    if len(class_names) > 1:
        found |= {f"{name}/{label}": _interval(values[:, k]) for k, label in enumerate(class_names)}
    return found


def _interval(values: Tensor) -> Interval:
    low, high = torch.nanquantile(values, torch.tensor([(1 - SHARE) / 2, (1 + SHARE) / 2], dtype=values.dtype)).tolist()
    return low, high
