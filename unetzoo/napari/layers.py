"""Layers of napari as images: which axes are planes, and where to place a layer of results."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unetzoo.errors import InputError

Index = tuple[int, ...]
Which = Literal["slice", "all", "channels"]
WHICH: dict[Which, str] = {
    "slice": "the slice that is shown",
    "all": "every slice",
    "channels": "the axis before the last two is channels",
}
"""Which planes of a layer with more than two axes are segmented → the description."""


@dataclass(frozen=True)
class Planes:
    """The planes of an image layer.

    Attributes:
        data: of the layer; for a multiscale layer, the largest level.
        name: of the layer.
        shape: (…, H, W) of a layer of labels for all of it: without the axis of colours or channels.
        indices: of the chosen planes, in the axes before H and W.
        channels: "rgb" if the last axis is colours, "axis" if the one before H and W is channels, else None.
        limits: (low, high), which are stretched to 0…1; None: values are unchanged.
    """

    data: Any
    name: str
    shape: tuple[int, ...]
    indices: tuple[Index, ...]
    channels: Literal["rgb", "axis"] | None
    limits: tuple[float, float] | None = None

    def plane(self, index: Index) -> NDArray[Any]:
        """Return an image (H, W) or (H, W, C), as a predictor takes it; of a lazy array, only this plane is read.

        Raises:
            InputError: its values are not numbers.
        """
        values = np.asarray(self.data[index])
        if self.channels == "axis":
            values = np.moveaxis(values, 0, -1)
        if self.limits is None:
            return values
        low, high = self.limits
        stretched = (values.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-12))
        clipped: NDArray[Any] = np.clip(stretched, 0, 1)
        return clipped

    @property
    def is_whole(self) -> bool:
        """Whether all planes of the layer are chosen, not one of several."""
        return len(self.indices) == int(np.prod(self.shape[:-2], dtype=int))


def planes_of(layer: Any, which: Which = "slice", step: Sequence[int] = (), *, stretch: bool = False) -> Planes:
    """Return the planes of an image layer.

    Args:
        layer: of napari, or any object with its ``data``, ``name``, ``rgb``, ``multiscale`` and ``contrast_limits``.
        which: of the planes, see :data:`WHICH`.
        step: of the slice that is shown, an index for each axis before H and W (and channels).
        stretch: whether ``contrast_limits`` become 0 and 1.

    Raises:
        InputError: the layer is not an image, or has no planes.
    """
    kind = type(layer).__name__
    if not hasattr(layer, "rgb") or not hasattr(layer, "contrast_limits"):
        raise InputError(f"{_name(layer)} is a {kind} layer: an Image layer is needed")
    data = layer.data[0] if layer.multiscale else layer.data
    shape = tuple(int(n) for n in data.shape)
    rgb = bool(layer.rgb)
    shape = shape[:-1] if rgb else shape
    if len(shape) < 2 or 0 in shape:
        raise InputError(f"{_name(layer)} has shape {shape}: rows and columns are needed")
    channels: Literal["rgb", "axis"] | None = "rgb" if rgb else None
    if which == "channels":
        if rgb or len(shape) < 3:
            said = "is already a colour image" if rgb else "has only two axes"
            raise InputError(f"{_name(layer)} {said}: there is no channel axis before rows and columns")
        channels, shape = "axis", (*shape[:-3], *shape[-2:])
    before = shape[:-2]
    if which == "slice":
        kept = [*step][: len(before)]
        if len(kept) != len(before):
            raise InputError(f"{_name(layer)} has {len(before)} axes before rows and columns: choose a slice")
        indices: tuple[Index, ...] = (tuple(min(max(int(k), 0), n - 1) for k, n in zip(kept, before, strict=True)),)
    else:
        indices = tuple(itertools.product(*map(range, before)))
    limits = (float(layer.contrast_limits[0]), float(layer.contrast_limits[1])) if stretch else None
    return Planes(data, str(layer.name), shape, indices, channels, limits)


def shown_step(layer: Any, point: Sequence[float]) -> Index:
    """Return the slice of a layer that a viewer shows: the indices of all its axes except rows and columns.

    Args:
        layer: of napari.
        point: ``viewer.dims.point``, in world coordinates.
    """
    at = np.round(np.asarray(layer.world_to_data(point), float)).astype(int)
    return tuple(int(k) for k in at[:-2])


def placed(planes: Planes, layer: Any) -> dict[str, Any]:
    """Return the placement of a layer of labels from :func:`stacked`: on the image, in the same units.

    Returns:
        "scale" and "translate", and "units" if the layer has them; if the axes are the same, also "rotate" and
        "shear"; as ``viewer.add_labels`` takes them.
    """
    kept = [*range(len(layer.scale))]
    if planes.channels == "axis":
        del kept[-3]
    scale, translate = (np.asarray(values, float)[kept] for values in (layer.scale, layer.translate))
    found: dict[str, Any] = {"scale": scale, "translate": translate}
    units = getattr(layer, "units", None)
    if units is not None:
        found["units"] = tuple(units[k] for k in kept)
    turned = planes.channels != "axis"
    if turned and hasattr(layer, "rotate"):
        found |= {"rotate": layer.rotate, "shear": layer.shear}
    if not planes.is_whole:  # put one slice at its position in the stack
        step = scale * np.array([*planes.indices[0], 0, 0])
        found["translate"] = translate + (np.asarray(layer.rotate) @ step if turned and "rotate" in found else step)
    return found


def stacked(planes: Planes, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the labels (H, W) of all planes as one array: for the complete layer, or for a slice, with axes of 1."""
    whole = planes.shape if planes.is_whole else (*(1 for _ in planes.shape[:-2]), *planes.shape[-2:])
    return np.stack([np.asarray(part) for part in parts]).reshape(whole)


def _name(layer: Any) -> str:
    return f"{str(getattr(layer, 'name', 'this'))!r}"
