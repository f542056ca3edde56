"""Found objects held against the true ones, one to one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unetzoo.errors import ConfigError, InputError
from unetzoo.objects.finding import Instances


@dataclass(frozen=True)
class Matches:
    """How many objects were met. Those of several images add up: ``a + b``.

    Attributes:
        met: objects found that are true ones.
        false: objects found that are none.
        missed: true objects that were not found.
    """

    met: int = 0
    false: int = 0
    missed: int = 0

    @property
    def found(self) -> int:
        """How many objects were found."""
        return self.met + self.false

    @property
    def true(self) -> int:
        """How many objects there are."""
        return self.met + self.missed

    @property
    def average_precision(self) -> float:
        """Met / (met + false + missed), nan where there is no object; the 2018 Data Science Bowl's score at one IoU.

        See Caicedo et al. 2019, "Nucleus segmentation across imaging experiments", Methods. Objects have no scores here
        by which to order them, so that there is no curve to take an average of.
        """
        total = self.met + self.false + self.missed
        return self.met / total if total else float("nan")

    def __add__(self, other: Matches) -> Matches:
        return Matches(self.met + other.met, self.false + other.false, self.missed + other.missed)


def matched(found: Instances, true: Instances, *, iou: float = 0.5) -> Matches:
    """Return how many objects of two masks of one image meet: of one class, their IoU above ``iou``.

    Above one half, no object can meet two: the pairs need no search for the best.

    Args:
        found: objects of a predicted mask.
        true: of the true mask, of the same size, task and classes.
        iou: from 0.5 to below 1; a pair's intersection over union must be greater.

    Raises:
        ConfigError: another ``iou``.
        InputError: objects of masks of different sizes, tasks or classes.
    """
    if isinstance(iou, bool) or not isinstance(iou, int | float) or not 0.5 <= iou < 1:
        raise ConfigError(f"iou={iou!r}: a number from 0.5 to below 1 is needed; below, an object could meet two")
    ours, theirs = ((x.task, x.num_classes, tuple(x.labels.shape)) for x in (found, true))
    if ours != theirs:
        raise InputError(f"the objects found are of {ours}, the true ones of {theirs}: the same is needed")
    pairs = found.labels.long() * (len(true) + 1) + true.labels.long()
    codes, common = np.unique(pairs.numpy(), return_counts=True)
    rows, columns = np.divmod(codes, len(true) + 1)
    both = (rows > 0) & (columns > 0)
    rows, columns, common = rows[both] - 1, columns[both] - 1, common[both]
    union = found.areas.numpy()[rows] + true.areas.numpy()[columns] - common
    meets = (common > iou * union) & (found.classes.numpy()[rows] == true.classes.numpy()[columns])
    met = int(meets.sum())
    return Matches(met, len(found) - met, len(true) - met)
