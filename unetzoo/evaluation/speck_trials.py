"""Finds the best ``smallest`` for masks, on images with ground truth."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unetzoo.data import IGNORED
from unetzoo.objects.components import components


class Cleaning(NamedTuple):
    """The best setting for masks.

    Attributes:
        smallest: as ``unetzoo.Predictor`` takes it.
        dice: Dice with it, over all pixels of all images; the mean of the classes that occur.
        plain: the same with all components of the masks.
    """

    smallest: int
    dice: float
    plain: float


class _Parts(NamedTuple):
    """The connected components of a class in a mask.

    Attributes:
        areas: all their pixels, to which ``smallest`` applies.
        counted: their pixels that are not ignored.
        hits: their pixels that truly belong to the class.
    """

    areas: NDArray[np.int64]
    counted: NDArray[np.int64]
    hits: NDArray[np.int64]


@dataclass
class SpeckTrials:
    """The components of predicted masks, corners included as in ``unetzoo.objects.cleaned``, and the ground truth.

    Attributes:
        task: of the masks, "binary", "multiclass" or "multilabel".
        parts: class → its components in each image.
        true: class → number of its true pixels.
        sizes: class → areas of the components of the true masks.
    """

    task: str
    parts: dict[int, list[_Parts]] = field(default_factory=lambda: defaultdict(list))
    true: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    sizes: dict[int, list[NDArray[np.int64]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, mask: Tensor, target: Tensor) -> None:
        """Count the components of an image.

        Args:
            mask: the predicted mask, not cleaned, in the shape of masks of the task.
            target: the true mask, in the same shape; IGNORED for pixels that do not count.
        """
        for kind, said, true, counted in self._planes(mask.cpu(), target):
            numbers, _ = components(said, 2)
            length = int(numbers.max(initial=0)) + 1
            there = said > 0
            found = [numbers[where] for where in (there, there & counted, true)]
            self.parts[kind].append(_Parts(*(np.bincount(its, minlength=length)[1:] for its in found)))
            self.true[kind] += int(true.sum())
            whole, _ = components(true.astype(np.uint8), 2)
            self.sizes[kind].append(np.bincount(whole.ravel())[1:])

    def best(self) -> Cleaning | None:
        """Return the best setting, the smallest among equals; None if no class occurs.

        Only sizes below half of the median area of each class's true components are tried.
        """
        kinds = [kind for kind in sorted(self.true) if self.true[kind]]
        if not kinds:
            return None
        limit = min(int(np.median(np.concatenate(self.sizes[kind])) // 2) for kind in kinds)
        parts = {kind: _Parts(*map(np.concatenate, zip(*self.parts[kind], strict=True))) for kind in kinds}
        every = np.concatenate([found.areas for found in parts.values()])
        sizes = (0, *np.unique(every[every < limit] + 1).tolist())
        tried = [(_dice([(parts[kind], self.true[kind]) for kind in kinds], least), least) for least in sizes]
        dice, smallest = max(tried, key=lambda one: (one[0], -one[1]))
        return Cleaning(smallest, dice, tried[0][0])

    def _planes(self, mask: Tensor, target: Tensor) -> Any:
        """Give each class: its number, where it is predicted and where it is true (H, W), and where pixels count."""
        said, true = mask.numpy(), target.numpy()
        if self.task == "multiclass":
            for kind in np.union1d(np.unique(said), np.unique(true[true != IGNORED])):
                if kind > 0:
                    yield int(kind), (said == kind).astype(np.uint8), true == kind, true != IGNORED
            return
        shape = (-1, *true.shape[-2:])
        for kind, (one, its) in enumerate(zip(said.reshape(shape), true.reshape(shape), strict=True)):
            yield kind, (one == 1).astype(np.uint8), its == 1, its != IGNORED


def _dice(classes: list[tuple[_Parts, int]], least: int) -> float:
    """Return the mean Dice of classes, given the components and the number of true pixels of each."""
    found = []
    for parts, true in classes:
        kept = parts.areas >= least
        found.append(2 * int(parts.hits[kept].sum()) / (int(parts.counted[kept].sum()) + true))
    return sum(found) / len(found)
