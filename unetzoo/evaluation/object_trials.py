"""Finds the best ``split`` and ``smallest`` for objects, on images whose objects are known."""

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
"""Values of ``split`` that are tried, in pixels."""


class Separation(NamedTuple):
    """The best settings for objects.

    Attributes:
        split, smallest: as ``unetzoo.Predictor`` takes them.
        precision: TP/(TP+FP+FN) with these settings, at an IoU above 0.5, over all images together; the mean of the
            classes with an object, true or found.
        plain: the same for all connected components.
    """

    split: float
    smallest: int
    precision: float
    plain: float


@dataclass
class Trials:
    """The matches of objects, for each of :data:`SPLITS`: lists with an entry for each class in each image.

    Attributes:
        task: of the masks, "binary", "multiclass" or "multilabel".
        classes: the class of each entry.
        areas: for each object found, the area of its connected component, to which ``smallest`` applies.
        met: for each object found, whether it matches a true one.
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
            mask: the predicted mask, not cleaned, in the shape of masks of the task.
            target: the true mask, in the same shape; IGNORED for pixels that do not count.
            ids: (H, W) or (classes, H, W), the number of each object; it counts where ``target`` has a class.
            probabilities: (classes, H, W), from which the mask was made.
            edges: (H, W), see ``unetzoo.objects.instances``; None: the model predicts none.
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
        """Return the best settings, the smallest among equals; None if no image has two objects of a class."""
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
        """Return the entries of all images for a class."""
        return np.concatenate([part for part, other in zip(parts, self.classes, strict=True) if other == kind])


def _precision(classes: list[tuple[NDArray[np.int64], NDArray[np.bool_], int]], least: int) -> float:
    """Return TP/(TP+FP+FN), the mean of the classes that have an object.

    Args:
        classes: for each class, the areas of its objects found, which of them match a true one, and the number of true
            objects.
        least: the area from which objects are kept.
    """
    found = []
    for areas, met, true in classes:
        kept = areas >= least
        hits = int(met[kept].sum())
        if true + int(kept.sum()):
            found.append(hits / (int(kept.sum()) + true - hits))
    return sum(found) / len(found)
