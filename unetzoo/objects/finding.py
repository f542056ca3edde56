"""Finds the objects of a mask: connected components, optionally divided where they are narrow; and a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetzoo import markup
from unetzoo.checks import class_name_problems, class_names_of
from unetzoo.errors import ConfigError, InputError
from unetzoo.objects._arguments import planes_of, shared_problems, split_problems
from unetzoo.objects.components import components, ndimage, told_apart
from unetzoo.objects.separating import separated
from unetzoo.printing import some_of

SPLIT_BY_EDGES = 1.0
"""Default of ``split``, in pixels, for models with ``task="instances"``."""
_INSIDE = 0.4
"""Inside an object, the probability of its class exceeds that of an edge by more than this; see docs/objects.md."""
_SHOWN = 10
"""Number of objects that a notebook lists."""
_SLACK = 1e-3
"""How far means of probabilities may be outside 0…1 because of rounding."""


@dataclass(frozen=True, eq=False, repr=False)
class Instances:
    """The objects that :func:`instances` found: a map of their numbers, and a table with a row for each; on the CPU.

    Coordinates run along the edges of pixels: the upper left pixel has its centre at (0.5, 0.5).

    Attributes:
        task: "binary", "multiclass" or "multilabel".
        num_classes: of the mask, background included in a multiclass task.
        labels: int32, (H, W), or (classes, H, W) for multilabel: k in the pixels of row k - 1 of the table, else 0.
        classes: (n,) int64, the class: 0 for binary, from 1 up for multiclass, from 0 up for multilabel. It is the
            index in ``class_names`` and in the channels of probabilities.
        areas: (n,) int64, in pixels.
        boxes: (n, 4) int64: x and y of the upper left corner, x and y of the lower right one.
        centroids: (n, 2) float64, x and y of the mean of the pixels' centres.
        scores: (n,) float32, the mean probability of the class over the object's pixels; None without probabilities.
    """

    task: str
    num_classes: int
    labels: Tensor
    classes: Tensor
    areas: Tensor
    boxes: Tensor
    centroids: Tensor
    scores: Tensor | None

    def __len__(self) -> int:
        return len(self.classes)

    def __repr__(self) -> str:
        height, width = self.labels.shape[-2:]
        return f"Instances({self._counted()} in {height} × {width})"

    def _repr_html_(self) -> str:
        """Return the first objects as a notebook shows them, and a summary of all."""
        said = "" if not len(self) else f", of {float(self.areas.double().median()):g} pixels at the median"
        rows = [[_cell(value) for value in row.values()] for row in self.rows()[:_SHOWN]]
        more = [f"<p>… and {len(self) - _SHOWN:,} more: <code>.rows()</code> has all</p>"] if len(self) > _SHOWN else []
        table = [markup.table([[*self.rows()[0]], *rows])] if rows else []
        return markup.shown(f"{self._counted()}{said}", [*table, *more])

    def _counted(self) -> str:
        """Return how many objects there are; with several classes, also for each class."""
        total = f"{len(self):,} object{'s' * (len(self) != 1)}"
        if self.num_classes == 1 or not len(self):
            return total
        names = class_names_of(None, self.task, self.num_classes)
        counts = torch.bincount(self.classes, minlength=self.num_classes).tolist()
        of_each = [f"{name} {count:,}" for name, count in zip(names, counts, strict=True) if count]
        return f"{total} ({some_of(of_each, 6, quoted=False)})"

    def of_class(self, kind: int) -> Instances:
        """Return the objects of one class, renumbered, as if from a binary mask."""
        kept = self.classes == kind
        numbers = torch.zeros(len(self) + 1, dtype=torch.int32)
        numbers[1:][kept] = torch.arange(1, int(kept.sum()) + 1, dtype=torch.int32)
        plane = self.labels[kind] if self.task == "multilabel" else self.labels
        scores = None if self.scores is None else self.scores[kept]
        table = self.areas[kept], self.boxes[kept], self.centroids[kept]
        return Instances("binary", 1, numbers[plane.long()], torch.zeros_like(self.classes[kept]), *table, scores)

    def rows(self, class_names: Sequence[str] | None = None) -> list[dict[str, int | float | str]]:
        """Return the table as records of plain numbers, for JSON or CSV.

        Args:
            class_names: one name per class, background included in a multiclass task; None: depending on the task,
                "foreground"; "background", "class_1", …; or "class_0", ….

        Returns:
            For each object "id" (its number in ``labels``), "class", "class_name", "area", "left", "top", "right",
            "bottom" (its box), "x", "y" (its centroid), and "score" if there are scores, rounded to six decimals.

        Raises:
            ConfigError: names are invalid, or not one per class.
        """
        problems = class_name_problems(class_names, self.num_classes)
        if problems:
            raise ConfigError("cannot name the objects", problems)
        names = class_names_of(class_names, self.task, self.num_classes)
        kinds = self.classes.tolist()
        columns: dict[str, Sequence[int | float | str]] = {
            "id": range(1, len(self) + 1),
            "class": kinds,
            "class_name": [names[kind] for kind in kinds],
            "area": self.areas.tolist(),
            **{name: self.boxes[:, i].tolist() for i, name in enumerate(("left", "top", "right", "bottom"))},
            **{name: self.centroids[:, i].tolist() for i, name in enumerate(("x", "y"))},
        }
        if self.scores is not None:
            columns["score"] = [round(score, 6) for score in self.scores.tolist()]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _cell(value: float | str) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def instances(
    mask: Tensor,
    task: str,
    num_classes: int,
    *,
    probabilities: Tensor | None = None,
    connectivity: int = 2,
    split: float = 0.0,
    edges: Tensor | None = None,
    ids: Tensor | None = None,
) -> Instances:
    """Return the connected components of ``mask``, numbered in reading order of their first pixels.

    With ``split``, components are divided at narrow places: two parts of a component become two objects if everything
    that joins them is narrower than the widest place of either part by more than ``split`` pixels. Widths are
    half-widths: the distance to the nearest pixel outside the component. Every pixel of the mask stays in an object. If
    the image's border cuts an object, the width of its visible part counts. With ``edges``, which models with
    ``task="instances"`` give, widths also end at edges, which separates objects without a narrow place between them.

    Two components that touch are two objects if their classes differ. Class 0 of a multiclass mask is background. The
    classes of a multilabel mask are taken one after the other, and the numbers continue.

    Args:
        mask: (H, W) of 0 and 1 for binary, (H, W) of class indices for multiclass, (classes, H, W) of 0 and 1 for
            multilabel; bool or any integers; on any device.
        task: "binary", "multiclass" or "multilabel".
        num_classes: of the model, background included in a multiclass task.
        probabilities: (classes, H, W) floating point from 0 to 1, from which the mask was made; None: no scores.
        connectivity: 1: pixels are connected that share an edge; 2: an edge or a corner.
        split: in pixels; 0 divides nothing. A small value divides objects at every bend of the outline; a value above
            their half-width never divides them: 1 to 2 suits nuclei of 10 to 30 pixels. Needs scikit-image.
        edges: (H, W) floating point, the probability that a pixel is the edge of an object; needs ``probabilities``. A
            pixel is an edge if the probability of its class exceeds this by no more than 0.4. Used if ``split`` is not
            0.
        ids: known objects, as in a label image: all pixels with one id and one class are one object, wherever they are,
            and nothing is divided. (H, W), or (classes, H, W) with ids for each class, of any type; 0 is no object,
            also inside the mask. The objects are renumbered.

    Raises:
        ConfigError: lists all arguments that are wrong; or SciPy or scikit-image is missing.
        InputError: ``mask`` is not a mask for this task, or ``probabilities`` or ``ids`` are invalid or do not fit it.
    """
    problems = shared_problems(task, num_classes, connectivity) + split_problems(split)
    if edges is not None and probabilities is None:
        problems.append("edges without probabilities: give both")
    if problems:
        raise ConfigError("cannot find objects", problems)
    planes = planes_of(mask, task, num_classes)
    channels = None if probabilities is None else _channels(probabilities, (num_classes, *planes.shape[1:]))
    ends = None if edges is None else _channels(edges, planes.shape[1:], "edges")
    known = None if ids is None else _known(ids, planes.shape)
    tables, maps, total = [], [], 0
    for k, plane in enumerate(planes):
        if known is not None:
            numbers, values = told_apart(plane, known[k])
        else:
            numbers, values = components(plane, connectivity)
            if split:
                ending = None if ends is None or channels is None else ended(channels[k], ends)
                numbers, values = separated(numbers, values, split, connectivity, ending)
        tables.append(_table(numbers, values if task == "multiclass" else np.full(len(values), k), channels))
        np.add(numbers, total, out=numbers, where=numbers > 0)
        maps.append(torch.from_numpy(numbers))
        total += len(values)
    classes, areas, boxes, centroids, scores = (
        torch.from_numpy(np.concatenate(column)) for column in zip(*tables, strict=True)
    )
    labels = torch.stack(maps) if task == "multilabel" else maps[0]
    return Instances(
        task, num_classes, labels, classes, areas, boxes, centroids, None if channels is None else scores.float()
    )


def ended(probabilities: NDArray[Any], edges: NDArray[Any]) -> NDArray[np.bool_]:
    """Return at which pixels edges end an object, from the probabilities of its class and of edges; of any shape."""
    found: NDArray[np.bool_] = probabilities - edges <= _INSIDE
    return found


def _known(ids: Tensor, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return ids as (planes, H, W).

    Raises:
        InputError: they are not a tensor, or have another shape.
    """
    if not isinstance(ids, Tensor) or tuple(ids.shape) not in (shape, shape[-2:]):
        kind = tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
        raise InputError(f"ids=…: give a torch.Tensor of the mask's height and width, not {kind}")
    return np.broadcast_to(ids.cpu().numpy(), shape)


def _channels(probabilities: Tensor, shape: tuple[int, ...], name: str = "probabilities") -> NDArray[Any]:
    """Return probabilities as float32.

    Raises:
        InputError: they are not probabilities, or have another shape.
    """
    if not isinstance(probabilities, Tensor) or not probabilities.is_floating_point():
        kind = probabilities.dtype if isinstance(probabilities, Tensor) else type(probabilities).__name__
        raise InputError(f"{name}=…: give a torch.Tensor of floating point, not {kind}")
    if tuple(probabilities.shape) != shape:
        raise InputError(f"{name} of shape {tuple(probabilities.shape)}: {shape} is needed for this mask")
    found: NDArray[Any] = probabilities.detach().cpu().float().numpy()
    low, high = float(found.min()), float(found.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        raise InputError(f"{name} from {low:.3g} to {high:.3g}: values from 0 to 1 are needed; these may be logits")
    return found


def _table(
    numbers: NDArray[np.int32], classes: NDArray[np.int64], channels: NDArray[Any] | None
) -> tuple[NDArray[Any], ...]:
    """Return class, area, box, centroid and score (0 without probabilities) of each object."""
    at = np.flatnonzero(numbers)
    row = numbers.ravel()[at] - 1
    y, x = np.divmod(at, numbers.shape[1])
    areas = np.bincount(row, minlength=len(classes))

    def mean(of: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(row, of, minlength=len(classes)) / areas

    slices = ndimage().find_objects(numbers)
    boxes = [(across.start, down.start, across.stop, down.stop) for down, across in slices]
    centroids = np.stack([mean(x), mean(y)], 1) + 0.5
    scores = np.zeros(len(classes)) if channels is None else mean(channels[classes[row], y, x])
    return classes, areas, np.array(boxes, np.int64).reshape(-1, 4), centroids, scores
