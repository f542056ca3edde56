"""How well found objects match the true ones: average precision, panoptic quality, and counts.

A pair matches at a threshold if its intersection over union is *above* it, as in the 2018 Data Science Bowl (Caicedo
et al. 2019, "Nucleus segmentation across imaging experiments", Methods 16) and in panoptic quality (Kirillov et al.
2019, "Panoptic segmentation", CVPR). Above one half, an object matches at most one other, so that no assignment is
needed. StarDist and COCO also count a pair whose IoU equals the threshold: only in that case do the scores differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetzoo.errors import InputError
from unetzoo.printing import aligned

THRESHOLDS = tuple(range(50, 100, 5))
"""Thresholds of the IoU in hundredths, compared as whole numbers, because floating point cannot represent 0.55."""
AP = tuple(f"ap_{threshold}" for threshold in THRESHOLDS)
"""Names of the average precision at each threshold."""
FIGURES = ("ap", *AP, "precision", "recall", "f1", "pq", "sq", "rq", "true_iou")
"""Names of the figures, see :class:`ObjectScores`."""


@dataclass(frozen=True)
class ClassObjects:
    """The objects of one class, in one or several images. The objects of several images add up: ``a + b``.

    Attributes:
        true, found: number of true objects, and of found objects.
        met: number of matches at each of ``THRESHOLDS``.
        iou: sum of the IoU of matches at 0.5.
        absolute_error: sum of abs(found - true) over the images.
        sums: sum of each of ``FIGURES`` over the images where it is defined.
        defined: number of those images.
    """

    true: int = 0
    found: int = 0
    met: tuple[int, ...] = (0,) * len(THRESHOLDS)
    iou: float = 0.0
    absolute_error: int = 0
    sums: tuple[float, ...] = (0.0,) * len(FIGURES)
    defined: tuple[int, ...] = (0,) * len(FIGURES)

    @classmethod
    def of_image(cls, true: int, found: int, ious: NDArray[np.float64], met: Sequence[int]) -> ClassObjects:
        """Return the objects of one image.

        Args:
            true, found: number of true objects, and of found objects.
            ious: IoU of the pairs that match at 0.5.
            met: number of matches at each of ``THRESHOLDS``.
        """
        counted = cls(true, found, tuple(met), float(ious.sum()), abs(found - true))
        values = counted.pooled().values()
        defined = tuple(int(not math.isnan(value)) for value in values)
        sums = tuple(value if there else 0.0 for value, there in zip(values, defined, strict=True))
        return cls(true, found, counted.met, counted.iou, counted.absolute_error, sums, defined)

    def pooled(self) -> dict[str, float]:
        """Return each of ``FIGURES``, with all objects counted together; nan if not defined."""
        half, both = self.met[0], self.true + self.found
        precisions = [_share(met, both - met) for met in self.met]
        f1 = _share(2 * half, both)
        return {
            "ap": sum(precisions) / len(precisions),
            **dict(zip(AP, precisions, strict=True)),
            "precision": _share(half, self.found),
            "recall": _share(half, self.true),
            "f1": f1,
            "pq": _share(2 * self.iou, both),
            "sq": _share(self.iou, half),
            "rq": f1,
            "true_iou": _share(self.iou, self.true),
        }

    def per_image(self) -> dict[str, float]:
        """Return the mean of each of ``FIGURES`` over the images where it is defined; nan if there are none."""
        return {name: _share(*pair) for name, *pair in zip(FIGURES, self.sums, self.defined, strict=True)}

    def __add__(self, other: ClassObjects) -> ClassObjects:
        return ClassObjects(
            self.true + other.true,
            self.found + other.found,
            _added(self.met, other.met),
            self.iou + other.iou,
            self.absolute_error + other.absolute_error,
            _added(self.sums, other.sums),
            _added(self.defined, other.defined),
        )


@dataclass(frozen=True)
class ObjectScores:
    """The scores of :func:`unetzoo.objects.matched`. Those of several images add up: ``a + b``; ``str()`` is a table.

    Each score, from 0 to 1, is computed for each class, and averaged over the classes where it is defined. With TP for
    matches, FP for other found objects, and FN for other true objects:

    - "ap_50", "ap_55", …, "ap_95": TP/(TP+FP+FN) at an IoU above 0.5, …, the average precision of the 2018 Data Science
      Bowl, and StarDist's accuracy. "ap": the mean of the ten. Objects are not ranked by their scores here, so there is
      no curve to average as in COCO's AP.
    - "precision", "recall", "f1": TP/(TP+FP), TP/(TP+FN), and 2·TP/(2·TP+FP+FN), at 0.5.
    - "pq", "sq", "rq": panoptic quality, 2 · sum of the IoU of matches / (found + true); its two factors, the mean IoU
      of matches (StarDist's mean_matched_score), and F1.
    - "true_iou": sum of the IoU of matches / true (StarDist's mean_true_score).

    A score is not defined if its denominator is 0: an image without any object, true or found, has no scores.

    Attributes:
        class_names: names of the classes that objects can have.
        classes: the objects of each class.
        images: number of images.
    """

    class_names: tuple[str, ...] = ()
    classes: tuple[ClassObjects, ...] = ()
    images: int = 0

    @property
    def true(self) -> int:
        """How many objects there are."""
        return sum(one.true for one in self.classes)

    @property
    def found(self) -> int:
        """How many objects were found."""
        return sum(one.found for one in self.classes)

    @property
    def met(self) -> int:
        """How many of them match at an IoU above 0.5."""
        return sum(one.met[0] for one in self.classes)

    def pooled(self) -> dict[str, float]:
        """Return each of ``FIGURES`` from the objects of all images together, averaged over the classes; or nan."""
        return self._mean(ClassObjects.pooled)

    def per_image(self) -> dict[str, float]:
        """Return each of ``FIGURES``, computed for each image, averaged over images and classes; or nan."""
        return self._mean(ClassObjects.per_image)

    def to_dict(self) -> dict[str, float | None]:
        """Return the scores as numbers for JSON, None if not defined.

        Returns:
            The items of :meth:`row`; "object_ap_per_image" and the same for each score, with several classes also
            "object_ap_per_image/cell"; and "objects_absolute_error_per_image", the mean over images of
            abs(found - true), for all classes together.
        """
        record = self.row()
        record |= self._record(ClassObjects.per_image, "_per_image")
        errors = sum(one.absolute_error for one in self.classes)
        return record | {"objects_absolute_error_per_image": _number(_share(errors, self.images))}

    def row(self) -> dict[str, float | None]:
        """Return the scores in the form used for a single image.

        Returns:
            "object_ap", "object_ap_50" and the same for each score; "objects_true", "objects_found", and
            "objects_error", which is found - true; with several classes also "object_ap/cell" and "objects_true/cell"
            for a class named "cell".
        """
        record = self._record(ClassObjects.pooled)
        counts: dict[str, list[int]] = {
            "true": [one.true for one in self.classes],
            "found": [one.found for one in self.classes],
            "error": [one.found - one.true for one in self.classes],
        }
        for name, values in counts.items():
            record[f"objects_{name}"] = sum(values)
            if len(self.classes) > 1:
                record |= {f"objects_{name}/{label}": n for label, n in zip(self.class_names, values, strict=True)}
        return record

    def __str__(self) -> str:
        return tables({"all": self})

    def __add__(self, other: ObjectScores) -> ObjectScores:
        if not self.classes or not other.classes:
            return self if self.classes else other
        if self.class_names != other.class_names:
            raise InputError(f"objects of {self.class_names} and of {other.class_names}: the same classes are needed")
        return ObjectScores(self.class_names, _added(self.classes, other.classes), self.images + other.images)

    def _mean(self, figures: Callable[[ClassObjects], dict[str, float]]) -> dict[str, float]:
        found = [figures(one) for one in self.classes]
        return {name: _nanmean([values[name] for values in found]) for name in FIGURES}

    def _record(self, figures: Callable[[ClassObjects], dict[str, float]], form: str = "") -> dict[str, float | None]:
        found = [figures(one) for one in self.classes]
        record: dict[str, float | None] = {}
        for name in FIGURES:
            values = [one[name] for one in found]
            record[f"object_{name}{form}"] = _number(_nanmean(values))
            if len(values) > 1:
                labelled = zip(self.class_names, values, strict=True)
                record |= {f"object_{name}{form}/{label}": _number(value) for label, value in labelled}
        return record


def tables(parts: dict[str, ObjectScores]) -> str:
    """Return two tables, one of counts and scores, one of the AP at each threshold, with a row for each part.

    Args:
        parts: title → scores, the last one "all"; for that one there are also rows for its classes, if there are
            several, and for the mean over its images.
    """
    *_, whole = parts.values()
    rows: list[tuple[str, ObjectScores | ClassObjects, dict[str, float]]] = []
    if len(whole.classes) > 1:
        named = zip(whole.class_names, whole.classes, strict=True)
        rows += [(name, one, one.pooled()) for name, one in named]
    rows += [(title, scores, scores.pooled()) for title, scores in parts.items()]
    shown = ("f1", "precision", "recall", "pq", "sq")
    counts = [["objects", "true", "found", *(name.upper() if len(name) < 3 else name for name in shown)]]
    counts += [[t, str(one.true), str(one.found), *(_cell(values[name]) for name in shown)] for t, one, values in rows]
    places = [["AP at an IoU above", *(f"{threshold / 100:g}" for threshold in THRESHOLDS), "mean"]]
    places += [[title, *(_cell(values[name]) for name in (*AP, "ap"))] for title, _, values in rows]
    images = whole.per_image()
    counts.append(["mean of images", "", "", *(_cell(images[name]) for name in shown)])
    places.append(["mean of images", *(_cell(images[name]) for name in (*AP, "ap"))])
    return f"{aligned(counts)}\n{aligned(places)}"


def _added(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _nanmean(values: Sequence[float]) -> float:
    there = [value for value in values if not math.isnan(value)]
    return _share(sum(there), len(there))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _cell(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"
