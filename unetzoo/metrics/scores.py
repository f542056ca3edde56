"""Results of metrics: the scores of classes and of images, as a table or as records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from unetzoo.printing import aligned

METRICS = ("dice", "iou", "precision", "recall", "specificity", "accuracy", "boundary_f")
"""The names of the scores; "boundary_f" is left out if there is no ``boundary_tolerance``."""


@dataclass(frozen=True)
class ClassScores:
    """One metric, for each class.

    Attributes:
        pooled: (C,) float64 in [0, 1], all pixels of all images counted together; nan where not defined.
        per_image: (C,) float64, the mean over the images for which the score is defined; nan if there are none.
        images: (C,) int64, the number of these images.
    """

    pooled: Tensor
    per_image: Tensor
    images: Tensor

    @property
    def mean(self) -> float:
        """The mean of ``pooled`` over the classes for which it is defined; nan if there are none."""
        return float(self.pooled.nanmean())

    @property
    def mean_per_image(self) -> float:
        """The mean of ``per_image`` over the classes for which it is defined; nan if there are none."""
        return float(self.per_image.nanmean())


@dataclass(frozen=True)
class Scores:
    """The result of :meth:`SegmentationMetrics.compute`, on the CPU. ``str()`` is a table.

    Attributes:
        dice, iou, precision, recall, specificity, accuracy: the scores of each class.
        boundary_f: the same; None if the metrics have no ``boundary_tolerance``.
        pixel_accuracy: share of the pixels with the correct class (multiclass), or of the correct pairs of pixel and
            class (binary, multilabel); pooled; nan if all are ignored.
        images: number of images that were counted.
        class_names: one name per class.
    """

    dice: ClassScores
    iou: ClassScores
    precision: ClassScores
    recall: ClassScores
    specificity: ClassScores
    accuracy: ClassScores
    boundary_f: ClassScores | None
    pixel_accuracy: float
    images: int
    class_names: tuple[str, ...]

    def to_dict(self) -> dict[str, float | None]:
        """Return the scores as JSON-able numbers, None where not defined.

        Returns:
            "dice" (mean over classes of the pooled scores) and "dice_per_image", and the same for each metric; with
            more than one class also "dice/cell" and "dice_per_image/cell" for a class named "cell"; "pixel_accuracy"
            and "images".
        """
        record: dict[str, float | None] = {}
        for name, scores in self._by_metric().items():
            record |= _flat(name, scores.pooled, self.class_names)
            record |= _flat(f"{name}_per_image", scores.per_image, self.class_names)
        return {**record, "pixel_accuracy": _number(self.pixel_accuracy), "images": self.images}

    def __str__(self) -> str:
        metrics = self._by_metric()
        table = []
        for title, form in (("all pixels", "pooled"), ("mean of images", "per_image")):
            columns = {name: getattr(scores, form) for name, scores in metrics.items()}
            table.append([title, *columns])
            table += [
                [name, *(_cell(values[k]) for values in columns.values())] for k, name in enumerate(self.class_names)
            ]
            if len(self.class_names) > 1:
                table.append(["mean of classes", *(_cell(values.nanmean()) for values in columns.values())])
        counted = f"{self.images} image{'s' * (self.images != 1)}"
        return f"{aligned(table)}{counted}, pixel accuracy {_cell(self.pixel_accuracy)}\n"

    def _by_metric(self) -> dict[str, ClassScores]:
        found = {name: getattr(self, name) for name in METRICS}
        return {name: scores for name, scores in found.items() if scores is not None}


@dataclass(frozen=True)
class ImageScores:
    """The scores of each image of one batch, on the batch's device: nothing waits for the device until they are read.

    Attributes:
        metrics: name of the metric (``METRICS``) → (N, C) float64 in [0, 1], nan where not defined.
        pixel_accuracy: (N,) float64, for each image, as in :class:`Scores`.
        class_names: one name per class.
        counts: (N, 4 or 8, C) int64: true positives, false positives, false negatives, true negatives; and boundary
            pixels of prediction and target, and how many of each are matched. Counts of several images can be added.
    """

    metrics: Mapping[str, Tensor]
    pixel_accuracy: Tensor
    class_names: tuple[str, ...]
    counts: Tensor

    def rows(self) -> list[dict[str, float | None]]:
        """Return one flat record per image, with the keys of :meth:`Scores.to_dict`.

        "dice" is the mean over the classes for which the image's score is defined; "..._per_image" and "images" are
        left out.
        """
        metrics = {name: values.cpu() for name, values in self.metrics.items()}
        records = []
        for n, accuracy in enumerate(self.pixel_accuracy.tolist()):
            record: dict[str, float | None] = {}
            for name, values in metrics.items():
                record |= _flat(name, values[n], self.class_names)
            records.append({**record, "pixel_accuracy": _number(accuracy)})
        return records


def _flat(name: str, values: Tensor, class_names: Sequence[str]) -> dict[str, float | None]:
    record = {name: _number(float(values.nanmean()))}
    if len(class_names) > 1:
        record |= {f"{name}/{label}": _number(v) for label, v in zip(class_names, values.tolist(), strict=True)}
    return record


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _cell(value: Tensor | float) -> str:
    return "–" if math.isnan(value) else f"{float(value):.4f}"
