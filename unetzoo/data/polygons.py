"""Polygons in text files, as YOLO's segmentation data has them: ``class x1 y1 x2 y2 …``, one a line.

Coordinates are shares of width and height. A pixel belongs to a polygon in which its centre lies, by the even-odd
rule; later lines lie over earlier ones. An empty file says that there is nothing. Classes count from 0, without a
background: in a binary mask all of them are foreground; in a multiclass mask class k of the file is k + 1, as
background is 0; in a multilabel mask it is k.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from unetzoo.data.labels import Labels
from unetzoo.errors import InputError

_SLACK = 0.01
"""By how much coordinates may lie outside the picture, as rounding and augmentation leave them."""


def read(path: Path, labels: Labels, size: tuple[int, int]) -> Tensor:
    """Return the target that a file of polygons draws: int64, (H, W), or (classes, H, W) for multilabel.

    Raises:
        InputError: the file cannot be read, or is wrong; lists the lines.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} cannot be read as text: {error}") from error
    multilabel = labels.task == "multilabel"
    target = torch.zeros((labels.num_classes, *size) if multilabel else size, dtype=torch.int64)
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            kind, points = _parsed(line, labels)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        inside = fill(points * torch.tensor(size[::-1], dtype=torch.float64), size)
        if multilabel:
            target[kind][inside] = 1
        else:
            target[inside] = 1 if labels.task == "binary" else kind + 1
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InputError(f"{str(path)!r} has wrong polygons: {'; '.join(problems[:5])}{more}")
    return target


def fill(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (H, W) bool: the pixels whose centres lie in a polygon, by the even-odd rule.

    Args:
        points: (corners, 2), x and y in pixels; the upper left pixel has its centre at (0.5, 0.5).
        size: height and width.
    """
    height, width = size
    x, y = points.double().unbind(1)
    next_x, next_y = x.roll(-1), y.roll(-1)
    first = min(max(math.floor(float(y.min())), 0), height)
    last = max(min(math.ceil(float(y.max())), height), first)
    rows = torch.arange(first, last, dtype=torch.float64)[:, None] + 0.5
    crosses = (y <= rows) != (next_y <= rows)
    row, edge = crosses.nonzero(as_tuple=True)
    at = x[edge] + (rows[row, 0] - y[edge]) * (next_x[edge] - x[edge]) / (next_y[edge] - y[edge])
    column = (at - 0.5).ceil().clamp(0, width).long()
    # Every crossing turns the inside out for all pixels to its right.
    turns = torch.zeros(last - first, width + 1, dtype=torch.int64)
    turns.index_put_((row, column), torch.ones_like(column), accumulate=True)
    inside = torch.zeros(size, dtype=torch.bool)
    inside[first:last] = turns.cumsum(1)[:, :width] % 2 == 1
    return inside


def _parsed(line: str, labels: Labels) -> tuple[int, Tensor]:
    """Return class and corners, (corners, 2) float64.

    Raises:
        ValueError: what is wrong with the line.
    """
    first, *rest = line.split()
    highest = labels.num_classes - (2 if labels.task == "multiclass" else 1)
    if not first.isdecimal():
        raise ValueError(f"a class is a whole number from 0 up, not {first!r}")
    kind = int(first)
    if labels.task != "binary" and kind > highest:
        fix = ", as background is one of them" if labels.task == "multiclass" else ""
        raise ValueError(f"class {kind}, but num_classes={labels.num_classes} allows 0…{highest}{fix}")
    try:
        numbers = [float(text) for text in rest]
    except ValueError:
        raise ValueError("coordinates are numbers") from None
    if len(numbers) == 4:
        raise ValueError("4 numbers are a box; a polygon has 6 or more")
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"{len(numbers)} numbers; x and y of 3 corners or more are needed")
    if not all(-_SLACK <= number <= 1 + _SLACK for number in numbers):
        raise ValueError("coordinates are shares of width and height, from 0 to 1")
    return kind, torch.tensor(numbers, dtype=torch.float64).reshape(-1, 2)
