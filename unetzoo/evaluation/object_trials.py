"""By how many pixels objects are best split, and from which size on they are kept, as images with known objects say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unetzoo.data import IGNORED
from unetzoo.objects import instances
from unetzoo.objects.matching import pairs_of

SPLITS = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
"""Pixels that are tried."""


class Separation(NamedTuple):
    """What is best for objects.

    Attributes:
        split, smallest: as ``unetzoo.Predictor`` takes them.
        precision: met / (met + false + missed) with these, at an IoU above 0.5, over all images together; the mean of
            the classes where there is an object, true or found.
        plain: the same of connected components, all of them.
    """

    split: float
    smallest: int
    precision: float
    plain: float


@dataclass
class Trials:
    """What objects meet, for each of :data:`SPLITS`: lists with an entry for each class that an image has.

    Attributes:
        task: of the masks, "binary", "multiclass" or "multilabel".
        classes: which one it is.
        areas: of the connected component that each object found is of, which ``smallest`` goes by.
        met: whether it is a true one.
        true: areas of the true objects.
    """

    task: str = "binary"
    classes: list[int] = field(default_factory=list)
    areas: dict[float, list[NDArray[np.int64]]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    met: dict[float, list[NDArray[np.bool_]]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    true: list[NDArray[np.int64]] = field(default_factory=list)

    def add(
        self, mask: Tensor, target: Tensor, ids: Tensor, probabilities: Tensor, edges: Tensor | None = None
    ) -> None:
        """Count the objects of an image.

        Args:
            mask: as predicted, not cleaned, of the shape that masks of the task have.
            target: the true one, of the same shape; IGNORED where pixels do not count.
            ids: (H, W) or (classes, H, W), the number of each object; it counts where ``target`` has a class.
            probabilities: (classes, H, W), of which the mask was made.
            edges: (H, W), see ``unetzoo.objects.instances``; None: the model sees none.
        """
        kinds = range(1, len(probabilities)) if self.task == "multiclass" else range(len(probabilities))
        shape = (1 if self.task == "multiclass" else len(kinds), *target.shape[-2:])
        planes = [
            plane.reshape(shape).expand(len(kinds), -1, -1) for plane in (mask.cpu(), target, ids.expand(target.shape))
        ]
        for kind, said, true, number in zip(kinds, *planes, strict=True):
            value = kind if self.task == "multiclass" else 1
            said, there = (said == value).byte(), (true == value).byte()
            if not bool(said.any() | there.any()):
                continue  # most of many classes are in few images
            seen_by: dict[str, Any] = {"probabilities": probabilities[kind, None], "edges": edges}
            truth = instances(there, "binary", 1, ids=number)
            self.classes.append(kind)
            self.true.append(truth.areas.numpy())
            whole = instances(said, "binary", 1)
            areas = np.concatenate([[0], whole.areas.numpy()])[whole.labels.numpy()]
            for split in SPLITS:
                found = whole if not split else instances(said, "binary", 1, split=split, **seen_by)
                own = np.zeros(len(found) + 1, np.int64)
                own[found.labels.numpy()] = areas
                pairs = pairs_of(found, truth, true == IGNORED)
                counted = pairs.counted()
                self.areas[split].append(own[1:][counted])
                self.met[split].append(pairs.met()[counted])

    def best(self) -> Separation | None:
        """Return what is best, of equals the least; None where no image has two objects of a class."""
        if all(len(sizes) < 2 for sizes in self.true):
            return None
        kinds = sorted(set(self.classes))
        true = [self._of(kind, self.true) for kind in kinds]
        limit = min(int(np.median(sizes) // 2) for sizes in true if len(sizes))  # larger ones are objects
        tried = []
        for split in SPLITS:
            areas, met = ([self._of(kind, some[split]) for kind in kinds] for some in (self.areas, self.met))
            classes = list(zip(areas, met, map(len, true), strict=True))
            every = np.concatenate(areas)
            sizes = (0, *np.unique(every[every < limit] + 1).tolist())
            tried += [Separation(split, least, _precision(classes, least), 0.0) for least in sizes]
        best = max(tried, key=lambda one: (one.precision, -one.split, -one.smallest))
        return best._replace(plain=tried[0].precision)

    def _of(self, kind: int, parts: list[NDArray[Any]]) -> NDArray[Any]:
        """Return what all images have of a class."""
        return np.concatenate([part for part, other in zip(parts, self.classes, strict=True) if other == kind])


def _precision(classes: list[tuple[NDArray[np.int64], NDArray[np.bool_], int]], least: int) -> float:
    """Return met / (met + false + missed), the mean of the classes that have an object.

    Args:
        classes: of each the areas that its objects found go by, which of them meet a true one, and how many true ones
            there are.
        least: the area from which on they are kept.
    """
    found = []
    for areas, met, true in classes:
        kept = areas >= least
        hits = int(met[kept].sum())
        if true + int(kept.sum()):
            found.append(hits / (int(kept.sum()) + true - hits))
    return sum(found) / len(found)
