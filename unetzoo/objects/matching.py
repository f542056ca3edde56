"""Found objects held against the true ones, one to one."""

from __future__ import annotations

from collections.abc import Sequence

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
    left = None if ignored is None else ignored.cpu().numpy()
    areas, outside = _areas(found, left)
    true_areas, _ = _areas(true, left)
    rows, columns, common = _overlaps(found, true, left)
    union = areas[rows] + true_areas[columns] - common
    same = found.classes.numpy()[rows] == true.classes.numpy()[columns]
    meets = [same & (100 * common > threshold * union) for threshold in THRESHOLDS]
    half = meets[0]  # those that meet at a higher threshold are among them
    counted = outside <= areas
    counted[rows[half]] = True
    kinds = object_classes(found.task, found.num_classes, class_names)
    kind_of_pair = found.classes.numpy()[rows]
    parts = []
    for kind in kinds:
        of_kind = kind_of_pair == kind
        parts.append(
            ClassObjects.of_image(
                int(((true.classes.numpy() == kind) & (true_areas > 0)).sum()),
                int(((found.classes.numpy() == kind) & counted).sum()),
                (common / union)[half & of_kind],
                [int((met & of_kind).sum()) for met in meets],
            )
        )
    return ObjectScores(tuple(kinds.values()), tuple(parts), images=1)


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
