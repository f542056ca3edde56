"""Images that occur twice: those that are equal pixel for pixel, and those that only look alike.

Two images look alike by the difference hash. It asks of each field of a grid whether its right neighbour is brighter;
brightness, contrast, size and compression change few of the answers. Fields are means of the grey image.

- The coarse hash has 8 rows of 9 fields, 64 bits, of which at most :data:`COARSE` may differ.
- Many images of one kind agree in it, for example all retinas. The fine hash, of 32 rows of 36 fields, must agree too:
  of the bits that are set in either, at most the share :data:`FINE` may differ.

Only images of different splits are compared. Two hashes that differ in three bits have one of four quarters in common.
Images go into buckets by each quarter, and only those of one bucket are compared, so the time grows with the number of
images and not with its square. Buckets of more than :data:`MOST` images, which are nearly empty ones, are left out.

The coarse hash is that of Krawetz, "Kind of like that", 2013 (www.hackerfactor.com/blog, 529). The fine one and its
threshold are ours: measured shares were 0.045 to 0.235 for images of one scene, and 0.245 or more for twenty retinas.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

COARSE, FINE = 3, 0.22
MOST = 500
_QUARTERS = 4


@dataclass(frozen=True, eq=False)
class Look:
    """The difference hashes of an image.

    Attributes:
        coarse: 64 bits, row by row from the upper left, the highest bit first.
        fine: 1120 bits, 8 per byte.
    """

    coarse: int
    fine: bytes


def digest_of(image: Tensor) -> bytes:
    """Return the SHA-256 of an image's type, shape and pixels; empty for a single colour, as many images may share."""
    values = image.contiguous().numpy()
    if bool((values == values[:, :1, :1]).all()):
        return b""
    digest = hashlib.sha256(f"{values.dtype} {values.shape}".encode())
    digest.update(values.data)
    return digest.digest()


def look_of(image: Tensor) -> Look:
    """Return the hashes of an image (C, H, W) of any type."""
    fine = F.adaptive_avg_pool2d(image.float().mean(0)[None, None], (32, 36))
    coarse = F.avg_pool2d(fine, 4)[0, 0]
    bits = np.packbits(_brighter(coarse))
    return Look(int.from_bytes(bits.tobytes(), "big"), np.packbits(_brighter(fine[0, 0])).tobytes())


def _brighter(fields: Tensor) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (fields[:, 1:] > fields[:, :-1]).numpy()
    return found


def twice(digests: Sequence[tuple[str, bytes]]) -> list[tuple[int, int]]:
    """Return pairs of places of images that are in two splits, pixel for pixel: the first, and the first elsewhere.

    Args:
        digests: split and digest of each image; empty digests match nothing.
    """
    homes: dict[bytes, dict[str, int]] = defaultdict(dict)
    for place, (split, digest) in enumerate(digests):
        if digest:
            homes[digest].setdefault(split, place)
    found = [tuple(places.values()) for places in homes.values() if len(places) > 1]
    return [(first, other) for first, *others in found for other in others]


def alike(looks: Sequence[tuple[str, bytes, Look]]) -> tuple[list[tuple[int, int]], int]:
    """Return pairs of places of images of two splits that look alike, but are not equal pixel for pixel.

    Args:
        looks: split, digest and look of each image.

    Returns:
        Pairs, in which each second image occurs once; and the number of images that were not compared with all that
        may look like them, because too many are in their bucket.
    """
    if len({split for split, *_ in looks}) < 2:
        return [], 0
    numbers = {split: number for number, split in enumerate(dict.fromkeys(split for split, *_ in looks))}
    splits = np.array([numbers[split] for split, *_ in looks])
    coarse = np.array([look.coarse for *_, look in looks], np.uint64)
    fine = [int.from_bytes(look.fine, "big") for *_, look in looks]
    partner: dict[int, int] = {}
    left_out = np.zeros(len(looks), bool)
    for bucket in _buckets(coarse):
        if len(bucket) > MOST:
            left_out[bucket] = True
            continue
        elsewhere = splits[bucket][:, None] < splits[bucket]
        near = _bits(coarse[bucket][:, None] ^ coarse[bucket]) <= COARSE
        for row, column in np.argwhere(elsewhere & near).tolist():
            first, other = int(bucket[row]), int(bucket[column])
            differ, either = (fine[first] ^ fine[other]).bit_count(), (fine[first] | fine[other]).bit_count()
            if other not in partner and differ <= FINE * either and looks[first][1] != looks[other][1]:
                partner[other] = first
    return [(first, other) for other, first in sorted(partner.items())], int(left_out.sum())


def _buckets(coarse: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """Yield the places of two or more hashes that have a quarter in common."""
    for quarter in range(_QUARTERS):
        key = coarse >> np.uint64(16 * quarter) & np.uint64(0xFFFF)
        order = np.argsort(key, kind="stable")
        ends = np.flatnonzero(np.diff(key[order])) + 1
        yield from (bucket for bucket in np.split(order, ends) if len(bucket) > 1)


def _bits(numbers: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return how many bits of each number are set."""
    each: NDArray[np.int64] = np.unpackbits(numbers[..., None].view(np.uint8), axis=-1).sum(-1, dtype=np.int64)
    return each
