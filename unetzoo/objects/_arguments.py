"""Checks the arguments of the functions of objects, and converts masks to NumPy arrays."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetzoo.checks import PIXEL_TASKS, class_problems
from unetzoo.errors import InputError


def shared_problems(task: object, classes: object, connectivity: object) -> list[str]:
    """Return what is wrong with the arguments that all functions share."""
    found = class_problems(task, classes, PIXEL_TASKS)
    if connectivity not in (1, 2) or isinstance(connectivity, bool | float):
        found.append(f"connectivity={connectivity!r}: give 1 (pixels that share an edge) or 2 (an edge or a corner)")
    return found


def split_problems(split: object) -> list[str]:
    """Return what is wrong with the pixels by which objects are split."""
    if type(split) in (int, float) and 0 <= cast(float, split) < math.inf:
        return []
    return [f"split={split!r}: give a number of pixels from 0 up, such as 1.5; 0 splits nothing"]


def planes_of(mask: Tensor, task: str, classes: int) -> NDArray[Any]:
    """Return a copy of ``mask`` as (planes, H, W) integers: its classes for multilabel, else one plane.

    Raises:
        InputError: it is not a mask for this task.
    """
    if not isinstance(mask, Tensor):
        fix = "; convert it with torch.from_numpy" if isinstance(mask, np.ndarray) else ""
        raise InputError(f"mask: a torch.Tensor is needed, not {type(mask).__name__}{fix}")
    problems = []
    wanted = f"({classes}, H, W)" if task == "multilabel" else "(H, W)"
    if mask.ndim != (3 if task == "multilabel" else 2) or (task == "multilabel" and mask.shape[0] != classes):
        problems.append(f"shape {tuple(mask.shape)}: {wanted} is needed")
    elif mask.numel() == 0:
        problems.append(f"shape {tuple(mask.shape)}: it has no pixels")
    if mask.is_floating_point() or mask.is_complex():
        problems.append(f"{mask.dtype}: whole numbers are needed; take a threshold or argmax first")
    elif mask.numel():
        values, highest = mask.cpu().numpy(), classes - 1 if task == "multiclass" else 1
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > highest:
            fix = "; use mask > 0" if highest == 1 and low >= 0 else ""
            problems.append(f"values from {low} to {high}: 0…{highest} are needed{fix}")
    if problems:
        raise InputError(f"the mask is not a mask for task={task!r}: {'; '.join(problems)}")
    # A copy, in the caller's type: a narrow type is fastest, and a wide one may be needed.
    planes = np.array(values, dtype=np.uint8 if mask.dtype == torch.bool else values.dtype)
    return planes.reshape(-1, *planes.shape[-2:])
