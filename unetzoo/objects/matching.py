"""Found objects held against the true ones, one to one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unetzoo.checks import class_name_problems
from unetzoo.errors import ConfigError, InputError
from unetzoo.objects.finding import Instances
from unetzoo.objects.scores import THRESHOLDS, ClassObjects, ObjectScores
from unetzoo.objects.writing import object_classes


def matched(
    found: Instances, true: Instances, *, ignored: Tensor | None = None, class_names: Sequence[str] | None = None
) -> ObjectScores:
    """Return how the objects of two masks of one image meet, those of one class, at ten thresholds of their IoU.

    Pixels that are ignored are no part of an intersection or a union. A found object that meets none at 0.5, and more
    than half of which lies in them, is left out, as it may be one that nobody labelled; so is a true object without
    another pixel. That is how panoptic quality takes void pixels, and how COCO takes crowds.

    Args:
        found: objects of a predicted mask.
        true: of the true mask, of the same size, task and classes.
        ignored: bool, of the shape of ``labels``, which pixels do not count; None: all do.
        class_names: one name a class, background included in a multiclass task, see ``Instances.rows``.

    Raises:
        ConfigError: names that are none, or not one a class.
        InputError: objects of masks of different sizes, tasks or classes; or pixels of another size.
    """
    _check(found, true, ignored, class_names)
    pairs = pairs_of(found, true, ignored)
    half, counted = pairs.meets(), pairs.counted()
    meets = [pairs.meets(threshold) for threshold in THRESHOLDS]
    kinds = object_classes(found.task, found.num_classes, class_names)
    kind_of_pair = found.classes.numpy()[pairs.rows]
    parts = []
    for kind in kinds:
        of_kind = kind_of_pair == kind
        parts.append(
            ClassObjects.of_image(
                int(((true.classes.numpy() == kind) & (pairs.true_areas > 0)).sum()),
                int(((found.classes.numpy() == kind) & counted).sum()),
                pairs.iou[half & of_kind],
                [int((met & of_kind).sum()) for met in meets],
            )
        )
    return ObjectScores(tuple(kinds.values()), tuple(parts), images=1)


class Pairs(NamedTuple):
    """Objects found and true ones that have pixels in common that count.

    Attributes:
        rows, columns: of each pair, the row of the one and of the other.
        common, union: pixels of each pair.
        same: whether both are of one class.
        areas, outside: of each object found, pixels that count and that do not.
        true_areas: of each true object, pixels that count.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    common: NDArray[np.int64]
    union: NDArray[np.int64]
    same: NDArray[np.bool_]
    areas: NDArray[np.int64]
    outside: NDArray[np.int64]
    true_areas: NDArray[np.int64]

    @property
    def iou(self) -> NDArray[np.float64]:
        """The intersection over union of each pair."""
        found: NDArray[np.float64] = self.common / self.union
        return found

    def meets(self, threshold: int = THRESHOLDS[0]) -> NDArray[np.bool_]:
        """Return which pairs meet: their IoU is above so many hundredths."""
        found: NDArray[np.bool_] = self.same & (100 * self.common > threshold * self.union)
        return found

    def met(self) -> NDArray[np.bool_]:
        """Return which objects found are true ones at 0.5."""
        found = np.zeros(len(self.areas), bool)
        found[self.rows[self.meets()]] = True
        return found

    def counted(self) -> NDArray[np.bool_]:
        """Return which objects found count: they meet a true one, or no more than half of them is ignored."""
        found: NDArray[np.bool_] = self.met() | (self.outside <= self.areas)
        return found


def pairs_of(found: Instances, true: Instances, ignored: Tensor | None) -> Pairs:
    """Return the pairs of objects of two masks of one image, see :func:`matched`."""
    left = None if ignored is None else ignored.cpu().numpy()
    areas, outside = _areas(found, left)
    true_areas, _ = _areas(true, left)
    rows, columns, common = _overlaps(found, true, left)
    same = found.classes.numpy()[rows] == true.classes.numpy()[columns]
    return Pairs(rows, columns, common, areas[rows] + true_areas[columns] - common, same, areas, outside, true_areas)


def _check(found: Instances, true: Instances, ignored: Tensor | None, class_names: Sequence[str] | None) -> None:
    ours, theirs = ((x.task, x.num_classes, tuple(x.labels.shape)) for x in (found, true))
    if ours != theirs:
        raise InputError(f"the objects found are of {ours}, the true ones of {theirs}: the same is needed")
    if ignored is not None and tuple(ignored.shape) != ours[2]:
        raise InputError(f"ignored: pixels of shape {tuple(ignored.shape)}, of objects {ours[2]}: the same is needed")
    problems = class_name_problems(class_names, found.num_classes)
    if problems:
        raise ConfigError("cannot name the objects", problems)


def _areas(one: Instances, left: NDArray[np.bool_] | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pixels of each object that count, and those that do not."""
    areas = one.areas.numpy()
    if left is None:
        return areas, np.zeros_like(areas)
    outside = np.bincount(one.labels.numpy()[left], minlength=len(one) + 1)[1:]
    return areas - outside, outside


def _overlaps(
    found: Instances, true: Instances, left: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs that have pixels in common that count: row of the one, row of the other, how many pixels."""
    ours, theirs = found.labels.numpy().ravel(), true.labels.numpy().ravel()
    both = (ours > 0) & (theirs > 0)
    if left is not None:
        both &= ~left.ravel()
    codes, common = np.unique((ours[both].astype(np.int64) - 1) * len(true) + theirs[both] - 1, return_counts=True)
    return codes // max(len(true), 1), codes % max(len(true), 1), common
