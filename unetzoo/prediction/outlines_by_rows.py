"""GeoJSON of the objects of a mask too large for memory, object by object: only unfinished objects are held.

An object is traced when its last row has been read: in the rows that are held for it or, if it is tall, in its own
window, which is read again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unetzoo.config import ModelConfig
from unetzoo.objects import Instances
from unetzoo.objects.geojson import features_of, head_of
from unetzoo.prediction.objects_by_rows import Numbered, rows_at_once

BAND = 128
"""Number of rows that are read together."""
TALL = 256
"""An object with more rows than this has its own window."""


@dataclass(frozen=True, eq=False)
class _Table:
    """Bounding box, area and class of each object; entry 0 stands for no object."""

    top: NDArray[np.int64]
    bottom: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    area: NDArray[np.int64]
    kind: NDArray[np.int64]


def geojson_pieces(
    layers: Sequence[Numbered],
    config: ModelConfig,
    *,
    transform: Sequence[float] | None = None,
    crs: str | None = None,
    scale: tuple[float, float] | None = None,
    mpp: tuple[float, float] | None = None,
) -> Iterator[bytes]:
    """Give a FeatureCollection piece by piece, as ``unetzoo.objects.to_geojson`` returns it, without scores.

    Features are in the order in which the objects end, from top to bottom; their "id" is the number in reading order.

    Args:
        layers: the result of ``unetzoo.prediction.objects_by_rows.numbered``.
        config: configuration of the model.
        transform, crs, scale, mpp: see ``to_geojson``.
    """
    yield f'{json.dumps(head_of(crs))[:-1]}, "features": ['.encode()
    before, between = 0, ""
    for layer, found in enumerate(layers):
        for part, ids, corner in ended_objects(found, layer, config):
            numbers = (ids + before).tolist()
            known: dict[str, Any] = {"mpp": mpp, "ids": numbers, "corner": corner}
            features = features_of(part, config.class_names, transform, scale, **known)
            for feature in features:
                yield f"{between}{json.dumps(feature)}".encode()
                between = ",\n"
        before += len(found)
    yield b"]}"


def ended_objects(
    found: Numbered, layer: int, config: ModelConfig
) -> Iterator[tuple[Instances, NDArray[np.int64], tuple[int, int]]]:
    """Give objects that have ended, their numbers, and the first row and column of the window that contains them."""
    table = _table(found, layer, config)
    tall = table.bottom - table.top > TALL
    held, top = np.zeros((0, found.width), np.uint32), 0
    step = rows_at_once(found.width, BAND)
    for y in range(0, found.height, step):
        held = np.concatenate([held, found.order[found.given(y, step)]])
        end = top + len(held)
        ended = (table.bottom > y) & (table.bottom <= end)
        ids = np.flatnonzero(ended & ~tall)
        if len(ids):
            yield _instances(held, ids, table, config), ids, (top, 0)
        for number in np.flatnonzero(ended & tall):
            one = np.array([number])
            place = int(table.top[number]), int(table.left[number])
            size = int(table.bottom[number]) - place[0], int(table.right[number]) - place[1]
            window = found.order[found.given(place[0], size[0], place[1], size[1])]
            yield _instances(window, one, table, config), one, place
        is_open = table.top[(table.top < end) & (table.bottom > end) & ~tall]
        keep = int(is_open.min()) if len(is_open) else end
        held, top = held[keep - top :], keep


def _instances(numbers: NDArray[np.uint32], ids: NDArray[np.int64], table: _Table, config: ModelConfig) -> Instances:
    """Return some objects of a window, numbered from 1."""
    lookup = np.zeros(len(table.area), np.int32)
    lookup[ids] = np.arange(1, len(ids) + 1)
    count = len(ids)
    return Instances(
        config.pixel_task,
        config.num_classes,
        torch.from_numpy(lookup[numbers]),
        torch.from_numpy(table.kind[ids]),
        torch.from_numpy(table.area[ids]),
        torch.zeros(count, 4, dtype=torch.int64),
        torch.zeros(count, 2, dtype=torch.float64),
        None,
    )


def _table(found: Numbered, layer: int, config: ModelConfig) -> _Table:
    count = len(found) + 1
    top, left = (np.full(count, max(found.height, found.width), np.int64) for _ in range(2))
    bottom, right, area, kind = (np.zeros(count, np.int64) for _ in range(4))
    step = rows_at_once(found.width, BAND)
    for y in range(0, found.height, step):
        numbers: NDArray[Any] = found.order[found.given(y, step)]
        rows, columns = np.nonzero(numbers)
        known = numbers[rows, columns]
        np.minimum.at(top, known, rows + y)
        np.maximum.at(bottom, known, rows + y + 1)
        np.minimum.at(left, known, columns)
        np.maximum.at(right, known, columns + 1)
        area += np.bincount(known, minlength=count)
    if config.pixel_task == "multiclass":
        kind[found.order] = found.classes
    elif config.pixel_task == "multilabel":
        kind[:] = layer
    return _Table(top, bottom, left, right, area, kind)
