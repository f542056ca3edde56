"""Checks of the arguments of the metrics."""

from __future__ import annotations

import math

from torch import Tensor

from unetzoo.checks import PIXEL_TASKS, class_problems, is_number, whole


def tensor_problems(name: str, value: object) -> list[str]:
    """Return what is wrong with a tensor for any task; it must have at least one pixel."""
    if not isinstance(value, Tensor):
        return [f"{name}: a torch.Tensor is needed, not {type(value).__name__}"]
    return [f"{name} of shape {tuple(value.shape)}: it has no pixels"] if value.numel() == 0 else []


def task_problems(task: object, classes: object, ignore_index: object) -> list[str]:
    """Return what is wrong with task, number of classes and ignored value, which depend on each other."""
    found = class_problems(task, classes, PIXEL_TASKS)
    wrong = whole("ignore_index", ignore_index, None)
    if not wrong and task in ("binary", "multilabel") and ignore_index in (0, 1):
        wrong.append(f"ignore_index={ignore_index} with task={task!r}: 0 and 1 are counted; give another value")
    return found + wrong


def number_problems(task: object, threshold: object, tolerance: object) -> list[str]:
    """Return what is wrong with the threshold of a task, and with the boundary's tolerance."""
    found = []
    if not is_number(threshold) or not 0 < threshold < 1:
        found.append(f"threshold={threshold!r}: a probability above 0 and below 1 is needed")
    elif task == "multiclass" and threshold != 0.5:
        found.append(f"threshold={threshold!r} with task='multiclass': the largest logit decides; leave it out")
    if tolerance is not None and (not is_number(tolerance) or not 0 <= tolerance < math.inf):
        found.append(f"boundary_tolerance={tolerance!r}: a number of pixels from 0 up is needed, or None")
    return found
