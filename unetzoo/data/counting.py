"""How many objects are in a mask, and how large they are.

Annotations and label images tell objects apart. In all other masks the connected components of each class are
counted, which needs SciPy; objects that touch count as one there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetzoo.data.black_and_white import WHITES
from unetzoo.data.masks import Decoded
from unetzoo.errors import ConfigError
from unetzoo.objects.components import areas, ndimage

TOLD, COMPONENTS = "told apart by the masks", "connected components"
MOST = 2**31
"""Pixels times classes in which components are counted; in larger data sets only every k-th image is used."""


@dataclass(frozen=True, eq=False)
class Counted:
    """The objects of one mask.

    Attributes:
        how: :data:`TOLD` or :data:`COMPONENTS`.
        areas: of each, in pixels.
        touching: how many touch another one, at an edge or a corner; None for components.
    """

    how: str
    areas: NDArray[np.int64]
    touching: int | None


@dataclass(frozen=True)
class ObjectsReport:
    """The objects of a split.

    Attributes:
        how: "told apart by the masks" or "connected components".
        images: number of images in which objects were counted.
        total: number of objects.
        median, most: number per image.
        area: the median, in pixels; None where there are no objects.
        touching: how many touch another one; None for components.
    """

    how: str
    images: int
    total: int
    median: float
    most: int
    area: float | None
    touching: int | None


def can_find_components() -> bool:
    """Return whether SciPy is installed."""
    try:
        ndimage()
    except ConfigError:
        return False
    return True


def counted(decoded: Decoded, *, components: bool) -> Counted | None:
    """Return the objects of a mask; None where it does not tell them apart and components are not counted.

    Args:
        decoded: the mask.
        components: whether to count connected components.
    """
    if decoded.ids is not None:
        return _told(decoded.ids, decoded.target)
    if not components:
        return None
    target = decoded.target.clamp(min=0)  # ignored pixels are not objects
    planes = target.numpy().reshape(-1, *target.shape[-2:])
    return Counted(COMPONENTS, np.concatenate([areas(plane, connectivity=2) for plane in planes]), None)


def alone(ids: Tensor, target: Tensor) -> tuple[int, int] | None:
    """Return the only number in a mask, and the number of its connected components; None for other masks."""
    inside = (ids.long().reshape(-1, *ids.shape[-2:]) * (target.reshape(-1, *target.shape[-2:]) > 0)).amax(0)
    found = torch.unique(inside[inside > 0])
    if len(found) != 1:
        return None
    parts = areas((inside > 0).byte().numpy(), connectivity=2) if can_find_components() else ()
    return int(found), len(parts)


def one_number(said: Iterable[tuple[int, int] | None]) -> str | None:
    """Return a problem if masks that should number objects are only black and white: each has one number, white's.

    Args:
        said: what :func:`alone` returned for each mask that is not empty; no more are taken than needed.
    """
    numbers = []
    for one in said:
        if one is None:
            return None
        numbers.append(one)
    whites = {white for white, _ in numbers}
    if len(whites) != 1 or not whites <= {*WHITES} or (whites == {1} and all(parts < 2 for _, parts in numbers)):
        return None  # or an object in each image, perhaps
    who = "the only mask has" if len(numbers) == 1 else f"the masks of all {len(numbers)} images have"
    return (
        f"{who} only one number, {whites.pop()}, which does not tell objects apart; "
        "give label images or annotations, or foreground='white', which makes each connected component an object"
    )


def _told(ids: Tensor, target: Tensor) -> Counted:
    inside = target > 0
    inside = inside if inside.ndim == ids.ndim else inside.any(0)  # instances of several classes
    numbers = np.where(inside.numpy(), ids.numpy(), 0).astype(np.int64)
    pixels_of, touching = [], 0
    for plane in numbers.reshape(-1, *numbers.shape[-2:]):
        found, pixels = np.unique(plane[plane != 0], return_counts=True)
        pixels_of.append(pixels.astype(np.int64))
        touching += len(_with_neighbours(plane)) if len(found) > 1 else 0
    return Counted(TOLD, np.concatenate(pixels_of), touching)


def _with_neighbours(plane: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the ids of objects that share an edge or a corner of a pixel with another one."""
    pairs = [
        (plane[:, 1:], plane[:, :-1]), (plane[1:], plane[:-1]),
        (plane[1:, 1:], plane[:-1, :-1]), (plane[1:, :-1], plane[:-1, 1:]),
    ]  # fmt: skip
    met = [np.concatenate((a[(both := (a != b) & (a != 0) & (b != 0))], b[both])) for a, b in pairs]
    return np.unique(np.concatenate(met))


def summed(found: Sequence[Counted]) -> ObjectsReport | None:
    """Return the totals over the masks of a split; None where nothing was counted."""
    if not found:
        return None
    numbers = [len(one.areas) for one in found]
    pixels = np.concatenate([one.areas for one in found])
    touching = [one.touching for one in found if one.touching is not None]
    return ObjectsReport(
        how=" and ".join(sorted({one.how for one in found})),
        images=len(found),
        total=sum(numbers),
        median=float(np.median(numbers)),
        most=max(numbers),
        area=float(np.median(pixels)) if len(pixels) else None,
        touching=sum(touching) if touching else None,
    )
