"""A cache of what was read from files, used as long as the files do not change and there is room."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from unetzoo.images import Levels

ROOM = 256 * 2**20
"""Bytes that a data set keeps, in all its workers together."""
Stamp = tuple[tuple[int, ...], ...]


class Pair(NamedTuple):
    """An image and its target, before any random augmentation.

    Attributes:
        image: (in_channels, H, W), as stored; where values are missing, float32, scaled and filled.
        target: (H, W), or (classes, H, W), of the smallest type that holds it.
        levels: mean and standard deviation by which the image is normalised.
    """

    image: Tensor
    target: Tensor
    levels: Levels


class Kept:
    """Pairs by their number. The first ones stay: in any order of images, as many are found as there is room for.

    A copy in another process is empty. Each worker of a loader has an equal share of the room.

    Attributes:
        room: the most bytes that all workers together keep.
        taken: bytes in use in this process.
    """

    def __init__(self, room: int = ROOM) -> None:
        self.room, self.taken = room, 0
        self._pairs: dict[int, tuple[Stamp, Pair]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"room": self.room, "taken": 0, "_pairs": {}}

    def find(self, number: int, stamp: Stamp | None) -> Pair | None:
        """Return a pair if its files have not changed since it was read."""
        found = self._pairs.get(number)
        if found is None or found[0] == stamp:
            return None if found is None else found[1]
        del self._pairs[number]
        self.taken -= _size(found[1])
        return None

    def keep(self, number: int, stamp: Stamp | None, pair: Pair) -> Pair:
        """Return the pair, kept if there is room for it."""
        worker = get_worker_info()
        share = self.room if worker is None else self.room // worker.num_workers
        if stamp is None or self.taken + _size(pair) > share:
            return pair
        own = pair._replace(image=_own(pair.image), target=_own(pair.target))
        self._pairs[number] = stamp, own
        self.taken += _size(own)
        return own


def stamp_of(files: Iterable[Path]) -> Stamp | None:
    """Return a value that changes when a file is replaced or written to; None if one is not a regular file."""
    try:
        found = [path.stat() for path in files]
    except OSError:
        return None  # reading will say what is wrong
    if not all(stat.S_ISREG(each.st_mode) for each in found):
        return None
    return tuple((each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in found)


def _once(values: Tensor) -> Tensor:
    """Return what must be kept: one channel of a grey image that was expanded to three."""
    return values if values.stride(0) else values[:1]


def _own(values: Tensor) -> Tensor:
    """Return a copy: a view would keep all of its base in memory, such as an alpha channel."""
    return _once(values).clone(memory_format=torch.contiguous_format).expand(values.shape)


def _size(pair: Pair) -> int:
    return sum(values.element_size() * _once(values).numel() for values in (pair.image, pair.target))
