"""Counts of pixels: how they are added up, and the scores computed from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tally:
    """Counts for M metrics and C classes.

    Attributes:
        counts: (4 or 8, C) int64, as :func:`scores_of` reads them.
        sums: (M, C) float64, of the scores of single images where they are defined.
        defined: (M, C) int64, the number of images in which they are defined.
        images: () int64.
        faults: (3,) float32, for logits, target and prediction: the largest invalid value; -inf if there is none.
    """

    counts: Tensor
    sums: Tensor
    defined: Tensor
    images: Tensor
    faults: Tensor

    @classmethod
    def zero(cls, counts: int, classes: int) -> Tally:
        """Return the counts before the first image."""
        metrics = len(scores_of(torch.zeros(counts, classes)))
        return cls(
            counts=torch.zeros(counts, classes, dtype=torch.int64),
            sums=torch.zeros(metrics, classes, dtype=torch.float64),
            defined=torch.zeros(metrics, classes, dtype=torch.int64),
            images=torch.zeros((), dtype=torch.int64),
            faults=torch.full((3,), -math.inf),
        )

    def to(self, device: torch.device) -> Tally:
        """Return the same on another device."""
        return Tally(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def __add__(self, other: Tally) -> Tally:
        """Never in place: tensors made in inference mode cannot be changed outside it."""
        other = other.to(self.counts.device)
        return Tally(
            counts=self.counts + other.counts,
            sums=self.sums + other.sums,
            defined=self.defined + other.defined,
            images=self.images + other.images,
            faults=torch.maximum(self.faults, other.faults),
        )


def scores_of(counts: Tensor) -> Tensor:
    """Return the scores (..., 6 or 7, C) float64 for pixel counts, in the order of :data:`METRICS`.

    Args:
        counts: (..., 4 or 8, C): TP, FP, FN, TN, and optionally the boundary pixels of prediction and target, and how
            many of each are matched.
    """
    tp, fp, fn, tn, *boundary = counts.double().unbind(dim=-2)
    found = [
        2 * tp / (2 * tp + fp + fn),
        tp / (tp + fp + fn),
        tp / (tp + fp),
        tp / (tp + fn),
        tn / (tn + fp),
        (tp + tn) / (tp + fp + fn + tn),
    ]
    if boundary:
        predicted, true, matched_predicted, matched_true = boundary
        # If one has no matches, neither has the other, and 0 / 0 means a score of 0.
        harmonic = 2 * matched_predicted * matched_true / (matched_predicted * true + matched_true * predicted)
        found.append(torch.where(matched_true > 0, harmonic, 0).masked_fill(predicted + true == 0, math.nan))
    return torch.stack(found, dim=-2)


def pixels_of(mask: Tensor) -> Tensor:
    """Return how many pixels of (..., H, W) bool are set."""
    return mask.flatten(-2).sum(dim=-1)


def near(points: Tensor, distance: float) -> Tensor:
    """Return where a point is within a Euclidean distance: dilation of (..., H, W) bool with an exact disk.

    A disk is a stack of rows. They are widened pixel by pixel, from the shortest row of the disk to its longest, and
    each is shifted to its height: this needs 4 shifts per pixel of the radius instead of one per pixel of the area.
    """
    height, width = points.shape[-2:]
    found, rows, reach = torch.zeros_like(points), points.clone(), 0
    for dy in range(min(int(distance), height - 1), -1, -1):
        # math.hypot is exact if the distance is the root of a whole number.
        while reach + 1 < width and math.hypot(dy, reach + 1) <= distance:
            reach += 1
            rows[..., reach:] |= points[..., :-reach]
            rows[..., :-reach] |= points[..., reach:]
        found[..., dy:, :] |= rows[..., : height - dy, :]
        found[..., : height - dy, :] |= rows[..., dy:, :]
    return found


def stray(values: Tensor, counted: Tensor, classes: int) -> Tensor:
    """Return () float32: the largest counted value that is not one of 0 … classes - 1; -inf if there is none."""
    known = (values >= 0) & (values < classes)
    if values.is_floating_point():
        known &= values == values.round()
    numbers = values.float().clamp(min=torch.finfo(torch.float32).min)  # -inf stands for none
    return torch.where(counted & ~known, numbers, -math.inf).amax()
