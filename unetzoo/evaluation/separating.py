"""By how many pixels objects are best split, and from which size on they are kept, as images with known objects say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetzoo.data import IGNORED
from unetzoo.objects import instances

SPLITS = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
"""Pixels that are tried."""
_IOU = 0.5


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
        numbers = ids.expand(target.shape).numpy()
        planes = [plane.reshape(-1, *target.shape[-2:]) for plane in (mask.cpu().numpy(), target.numpy(), numbers)]
        for said, true, number, probability in zip(*planes, probabilities, strict=True):
            seen_by: dict[str, Any] = {"probabilities": probability[None], "edges": edges}
            counted = true != IGNORED
            known = np.unique(np.where(true == 1, number, 0), return_inverse=True)
            truth = known[1].reshape(true.shape) + int(known[0][0] != 0)  # 0 between objects
            sizes = np.bincount(truth.ravel())
            self.true.append(sizes[1:])
            whole = instances(torch.from_numpy(said), "binary", 1)
            areas = np.concatenate([[0], whole.areas.numpy()])[whole.labels.numpy()]
            for split in SPLITS:
                found = whole if not split else instances(torch.from_numpy(said), "binary", 1, split=split, **seen_by)
                labels = found.labels.numpy()
                own = np.zeros(len(found) + 1, np.int64)
                own[labels] = areas
                seen, met = _met(np.where(counted, labels, 0), truth, found.areas.numpy(), sizes)
                self.areas[split].append(own[1:][seen])
                self.met[split].append(met[seen])

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
                tried.append((-hits / (int(kept.sum()) + len(true) - hits), split, least))
        precision, split, least = min(tried)
        return Separation(split, least, -precision, -tried[0][0])


def _met(
    found: NDArray[np.int32], true: NDArray[np.int64], areas: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return of each object found whether it counts, and whether it meets a true one.

    It does not count where it meets none, and most of it is ignored, as ``unetzoo.objects.matched`` has it; ``areas``
    are with that, numbers and ``sizes`` of true objects without.
    """
    codes, common = np.unique(found.astype(np.int64) * len(sizes) + true, return_counts=True)
    rows, columns = np.divmod(codes, len(sizes))
    own = np.bincount(rows, common, minlength=len(areas) + 1)
    union = own[rows] + sizes[columns] - common
    pairs = (rows > 0) & (columns > 0) & (common > _IOU * union)
    met = np.zeros(len(areas) + 1, bool)
    met[rows[pairs]] = True
    return met[1:] | (2 * own[1:] >= areas), met[1:]
