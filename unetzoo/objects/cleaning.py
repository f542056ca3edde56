"""Removes specks from masks, and fills holes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetzoo.checks import whole
from unetzoo.errors import ConfigError
from unetzoo.objects._arguments import planes_of, shared_problems
from unetzoo.objects.components import components, ndimage


def cleaned(
    mask: Tensor,
    task: str,
    num_classes: int,
    *,
    smallest: int = 0,
    holes: int | Literal["all"] = 0,
    connectivity: int = 2,
) -> Tensor:
    """Return ``mask`` without its small objects, then with its small holes filled.

    An object is a connected component of one class. A removed object becomes background; if it was inside another
    class, the filling that follows can give it to that class. A hole is a component of background that does not touch
    the border of the image and is surrounded by a single class, which fills it. If objects are connected across
    corners, holes are not, and vice versa. In a multilabel mask, each class is cleaned separately. Cleaning twice
    changes nothing more.

    Args:
        mask: (H, W) of 0 and 1 for binary, (H, W) of classes for multiclass, (classes, H, W) of 0 and 1 for
            multilabel; bool or any integers; on any device.
        task: "binary", "multiclass" or "multilabel".
        num_classes: of the model, background included in a multiclass task.
        smallest: the size in pixels from which objects are kept; 0 and 1 keep all.
        holes: the size in pixels up to which holes are filled; "all" fills all holes.
        connectivity: of objects; 1: pixels are connected that share an edge; 2: an edge or a corner.

    Returns:
        A new mask of the same shape, type and device.

    Raises:
        ConfigError: lists all arguments that are wrong; or SciPy is missing.
        InputError: ``mask`` is not a mask for this task.
    """
    problems = shared_problems(task, num_classes, connectivity) + whole("smallest", smallest, 0)
    problems += whole("holes", holes, 0, others=("all",))
    if problems:
        raise ConfigError("cannot clean the mask", problems)
    planes = planes_of(mask, task, num_classes)
    for plane in planes:
        if smallest > 1:
            _remove(plane, smallest, connectivity)
        if holes != 0:
            _fill(plane, plane.size if holes == "all" else holes, 3 - connectivity)
    return torch.from_numpy(planes).reshape(mask.shape).to(mask.device, mask.dtype)


def _remove(plane: NDArray[Any], smallest: int, connectivity: int) -> None:
    """Set components of fewer than ``smallest`` pixels to 0, in place."""
    numbers, _ = components(plane, connectivity)
    small = np.bincount(numbers.ravel()) < smallest
    small[0] = False
    plane[small[numbers]] = 0


def _fill(plane: NDArray[Any], largest: int, connectivity: int) -> None:
    """Fill holes of up to ``largest`` pixels with the class around them, in place."""
    scipy = ndimage()
    structure = scipy.generate_binary_structure(2, connectivity)
    numbers, count = scipy.label(plane == 0, structure)
    small = np.bincount(numbers.ravel(), minlength=count + 1) <= largest
    for edge in (numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]):
        small[edge] = False
    small[0] = False
    numbers[~small[numbers]] = 0
    lowest = np.full(count + 1, np.iinfo(plane.dtype).max, plane.dtype)
    highest = np.zeros(count + 1, plane.dtype)
    at = np.flatnonzero(numbers)  # none is at the border: every neighbour is in the image
    hole, values = numbers.ravel()[at], plane.ravel()
    for dy, dx in np.argwhere(structure) - 1:
        beside = values[at + dy * plane.shape[1] + dx]
        outside = beside > 0
        np.minimum.at(lowest, hole[outside], beside[outside])
        np.maximum.at(highest, hole[outside], beside[outside])
    within = np.where(small & (lowest == highest), lowest, 0).astype(plane.dtype)
    plane += within[numbers]
