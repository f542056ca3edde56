"""The user's own figures, by dotted paths of functions: each is a column of ``metrics.csv`` and may judge epochs.

::

    def largest_hit(mask, target):
        '''Share of the largest true object that is found; None where there is none.'''

Such a function gets the predicted mask and the true mask of a validation image: tensors on the CPU, of the size of the
image, (H, W) of 0 and 1 (binary) or of class indices (multi-class), or (classes, H, W) of 0 and 1 (multi-label, and
instances of several classes). In the true mask, -100 marks pixels that do not count. It returns a number, or None if
the figure is undefined. The figure of an epoch is the mean over the images for which it is defined; as ``monitor``,
greater is better. Its name is that of the function.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unetzoo.data import Labels
from unetzoo.errors import ConfigError, TrainingError
from unetzoo.metrics.scores import METRICS
from unetzoo.prediction.results import mask_of
from unetzoo.registry import imported

Metric = Callable[[Tensor, Tensor], float | None]
TAKEN = ("epoch", "step", "lr", "loss", "val_loss", "clipped", "best", "images", "pixel_accuracy")
"""Other columns of ``metrics.csv``."""


class OwnMetrics:
    """Means over images, of all processes.

    Args:
        paths: of the functions.
        labels: of the data.
    """

    def __init__(self, paths: Sequence[str], labels: Labels) -> None:
        self.functions: dict[str, Metric] = {_name(path): imported(path) for path in paths}
        self.labels = labels
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._values: dict[str, list[float]] = {name: [] for name in self.functions}

    def update(self, logits: Tensor, batch: Mapping[str, Any]) -> None:
        """Call all functions for complete images.

        Args:
            logits: (N, channels, H, W).
            batch: "target" and "name" of the images.

        Raises:
            TrainingError: a function failed, or returned no number.
        """
        logits = logits[:, : self.labels.num_classes].float().cpu()
        for said, target, image in zip(logits, batch["target"].cpu(), batch["name"], strict=True):
            mask = _mask(said, self.labels)
            for name, function in self.functions.items():
                try:
                    value = _number(function(mask, target.clone()))
                except Exception as error:  # the user's function may raise anything
                    what = f"{type(error).__name__}: {error}"
                    raise TrainingError(f"the metric {name} failed on the image {image!r} ({what})") from error
                if value is not None:
                    self._values[name].append(value)

    def row(self) -> dict[str, float | None]:
        """Return the means, by name; None if a function was undefined for all images."""
        values = self._values
        if dist.is_available() and dist.is_initialized():
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, values)
            values = {name: [value for part in parts for value in part[name]] for name in self.functions}
        return {name: math.fsum(found) / len(found) if found else None for name, found in values.items()}


def names_of(paths: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the figures of functions."""
    return tuple(map(_name, paths or ()))


def metric_problems(paths: Sequence[str] | None) -> list[str]:
    """Return what is wrong with the paths of functions."""
    problems = []
    for path in paths or ():
        try:
            function = imported(path)
        except ConfigError as error:
            problems.append(f"metrics: {error}")
            continue
        if not callable(function):
            problems.append(f"metrics: {path} is not a function")
    counts = Counter(names_of(paths))
    problems += [f"metrics: {count} functions are named {name}" for name, count in counts.items() if count > 1]
    taken = [name for name in counts if name in (*METRICS, *TAKEN) or name.startswith("object")]
    return problems + [f"metrics: the figure {name} exists already; rename the function" for name in taken]


def call_problems(paths: Sequence[str] | None, labels: Labels) -> list[str]:
    """Return which functions cannot be called with masks of the task; empty masks are tried."""
    problems = []
    for path in paths or ():
        mask = _mask(torch.full((labels.num_classes, 16, 16), -1.0), labels)
        try:
            _number(imported(path)(mask, mask.long()))
        except Exception as error:  # the user's function may raise anything
            what = f"{type(error).__name__}: {error}"
            problems.append(f"metrics: {path} cannot be called with an empty mask and an empty target ({what})")
    return problems


def value_of(name: str, paths: Sequence[str] | None, said: Tensor, target: Tensor, labels: Labels) -> float | None:
    """Return the value of the function with this name for an image.

    Args:
        name: of the figure.
        paths: of the functions.
        said: probabilities (channels, H, W).
        target: the true mask.
        labels: of the data.
    """
    path = next(path for path in paths or () if _name(path) == name)
    mask = mask_of(said[: labels.num_classes], labels.task or "binary", (0.5,) * labels.num_classes)
    return _number(imported(path)(mask, target.clone()))


def _name(path: str) -> str:
    return path.rpartition(".")[2]


def _mask(logits: Tensor, labels: Labels) -> Tensor:
    """Return the mask of logits (classes, H, W), as a predictor gives it."""
    task = labels.task or "binary"
    probabilities = logits.softmax(dim=0) if task == "multiclass" else logits.sigmoid()
    return mask_of(probabilities, task, (0.5,) * labels.num_classes)


def _number(value: Any) -> float | None:
    """Return a number; None if the figure is undefined (None or nan).

    Raises:
        TypeError: it is not a number.
        ValueError: it is infinite.
    """
    if value is None:
        return None
    number = float(value)
    if math.isinf(number):
        raise ValueError(f"it returned {number}")
    return None if math.isnan(number) else number
