"""Objects of validation images, found as a predictor finds them, and compared with the true ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor

from unetzoo.data import IGNORED, Labels
from unetzoo.objects import Instances, ObjectScores, instances, matched
from unetzoo.objects.finding import SPLIT_BY_EDGES
from unetzoo.prediction.results import mask_of


class ObjectMetrics:
    """Counts objects batch by batch, over any number of processes.

    Args:
        labels: of the data, whose task is "instances".
    """

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.reset()

    def reset(self) -> None:
        """Forget all that was counted."""
        self._scores = ObjectScores()

    def update(self, logits: Tensor, batch: Mapping[str, Any]) -> None:
        """Count the objects of complete images.

        Args:
            logits: (N, classes + 1, H, W).
            batch: "target" and "ids" of the images, see ``unetzoo.data.SegmentationDataset``.
        """
        probabilities = logits.float().sigmoid().cpu()
        for said, target, ids in zip(probabilities, batch["target"].cpu(), batch["ids"].cpu(), strict=True):
            self._scores += self._matched(said, target, ids)

    def row(self) -> dict[str, float | None]:
        """Return the figures for the images of all processes, by name."""
        if not (dist.is_available() and dist.is_initialized()):
            return self._scores.row()
        parts: list[ObjectScores | None] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, self._scores)
        return sum((part for part in parts if part is not None), ObjectScores()).row()

    def _matched(self, said: Tensor, target: Tensor, ids: Tensor) -> ObjectScores:
        true = instances((target == 1).byte(), self.labels.pixel_task, self.labels.num_classes, ids=ids)
        found = found_objects(said, self.labels)
        return matched(found, true, ignored=target == IGNORED, class_names=self.labels.class_names)


def found_objects(said: Tensor, labels: Labels) -> Instances:
    """Return the objects in a network's probabilities (classes + 1, H, W), of which the last channel is the edges."""
    mask = mask_of(said[:-1], "instances", (0.5,) * labels.num_classes)
    return instances(
        mask, labels.pixel_task, labels.num_classes, probabilities=said[:-1], edges=said[-1], split=SPLIT_BY_EDGES
    )
