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
        precision: met / (met + false + missed) with these, at an IoU above 0.5, over all images together.
        plain: the same of connected components, all of them.
    """

    split: float
    smallest: int
    precision: float
    plain: float


@dataclass
class Trials:
    """What objects meet, for each of :data:`SPLITS`.

    Attributes:
        areas: of the connected component that each object found is of, which ``smallest`` goes by.
        met: whether it is a true one.
        true: areas of the true objects.
    """

    areas: dict[float, list[NDArray[np.int64]]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    met: dict[float, list[NDArray[np.bool_]]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    true: list[NDArray[np.int64]] = field(default_factory=list)

    def add(
        self, mask: Tensor, target: Tensor, ids: Tensor, probabilities: Tensor, edges: Tensor | None = None
    ) -> None:
        """Count the objects of an image.

        Args:
            mask: as predicted, not cleaned.
            target: the true one, of the same shape.
            ids: (H, W) or (classes, H, W), the number of each object; it counts where ``target`` has a class.
            probabilities: (classes, H, W), of which the mask was made.
            edges: (H, W), see ``unetzoo.objects.instances``; None: the model sees none.
        """
        shape = (-1, *target.shape[-2:])
        planes = [plane.reshape(shape) for plane in (mask.cpu(), target, ids.expand(target.shape))]
        for said, true, number, probability in zip(*planes, probabilities, strict=True):
            seen_by: dict[str, Any] = {"probabilities": probability[None], "edges": edges}
            truth = instances((true == 1).byte(), "binary", 1, ids=number)
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
        """Return what is best, of equals the least; None where the images do not tell objects apart."""
        true = np.concatenate(self.true) if self.true else np.empty(0, np.int64)
        if all(len(sizes) < 2 for sizes in self.true):
            return None
        limit = int(np.median(true) // 2)  # larger ones are objects
        tried = []
        for split in SPLITS:
            areas, met = np.concatenate(self.areas[split]), np.concatenate(self.met[split])
            for least in (0, *np.unique(areas[areas < limit] + 1).tolist()):
                kept = areas >= least
                hits = int(met[kept].sum())
                tried.append(Separation(split, least, hits / (int(kept.sum()) + len(true) - hits), 0.0))
        best = max(tried, key=lambda one: (one.precision, -one.split, -one.smallest))
        return best._replace(plain=tried[0].precision)
