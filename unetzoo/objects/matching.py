"""Matches found objects with true objects, one to one."""

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
    """Match the objects of two masks of one image, class by class, at ten thresholds of their IoU.

    Ignored pixels count neither for the intersection nor for the union. A found object that matches none at 0.5 is left
    out if more than half of it is ignored, because it may be an object that nobody labelled; so is a true object whose
    pixels are all ignored. Panoptic quality treats void pixels in this way, and COCO treats crowds so.

    Args:
        found: objects of a predicted mask.
        true: objects of the true mask, with the same size, task and classes.
        ignored: bool, in the shape of ``labels``, which pixels do not count; None: all count.
        class_names: one name per class, background included in a multiclass task, see ``Instances.rows``.

    Raises:
        ConfigError: names are invalid, or not one per class.
        InputError: the masks have different sizes, tasks or classes; or ``ignored`` has another size.
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
    """Pairs of a found object and a true object that share pixels that count.

    Attributes:
        rows, columns: for each pair, the row of the found object, and that of the true object.
        common, union: number of pixels in the intersection and the union of each pair.
        same: whether both are of the same class.
        areas, outside: for each found object, the number of pixels that count, and of those that do not.
        true_areas: for each true object, the number of pixels that count.
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
        """Return which pairs match: their IoU is above ``threshold`` hundredths."""
        found: NDArray[np.bool_] = self.same & (100 * self.common > threshold * self.union)
        return found

    def met(self) -> NDArray[np.bool_]:
        """Return which found objects match a true one at 0.5."""
        found = np.zeros(len(self.areas), bool)
        found[self.rows[self.meets()]] = True
        return found

    def counted(self) -> NDArray[np.bool_]:
        """Return which found objects count: they match a true one, or at most half of them is ignored."""
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
        raise InputError(
            f"task, classes and size of the found objects are {ours}, those of the true objects {theirs}: they must be "
            "the same"
        )
    if ignored is not None and tuple(ignored.shape) != ours[2]:
        raise InputError(f"ignored=… of shape {tuple(ignored.shape)}: the shape of the objects, {ours[2]}, is needed")
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
    """Return the pairs that share pixels that count: row of the found object, row of the true one, number of pixels."""
    ours, theirs = found.labels.numpy().ravel(), true.labels.numpy().ravel()
    both = (ours > 0) & (theirs > 0)
    if left is not None:
        both &= ~left.ravel()
    codes, common = np.unique((ours[both].astype(np.int64) - 1) * len(true) + theirs[both] - 1, return_counts=True)
    return codes // max(len(true), 1), codes % max(len(true), 1), common
