"""Images on disk of which only the requested rows are read: TIFF files and zarr arrays."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unetzoo import extras
from unetzoo.errors import InputError
from unetzoo.images import Stack, TiffImage, explained, image_size, joined, nodata, planes_of, stack_along
from unetzoo.prediction.geography import geography
from unetzoo.prediction.opened import OpenedRows
from unetzoo.slides import microns_in

SUFFIXES = (".tif", ".tiff", ".zarr")
"""Endings of files that are read and written by rows."""
_BANDS = "CS"
"""Axes of a zarr array that are channels of an image."""


class StoredRows(OpenedRows):
    """A TIFF file or a zarr array, of which only the requested rows are read.

    The largest level of a pyramid or an OME-Zarr is used.

    Args:
        path: a .tif or .tiff file, or a .zarr folder.
        planes: which planes are meant, if it has several; see ``unetzoo.images.read_image``.

    Raises:
        ConfigError: tifffile or zarr is not installed.
        InputError: it cannot be read by rows; or it has several planes, and ``planes`` is not given.
    """

    def _begin(self) -> None:
        if self.path.suffix.lower() == ".zarr":
            self._planes = _of_zarr(self.path, self.planes)
        else:
            self._planes, self.alpha = _of_tiff(self.path, self.planes, self._open)
        first = self._planes[0][0]
        self.height, self.width = first.height, first.width
        if not self.height or not self.width:
            raise InputError(f"{str(self.path)!r} is empty: {self.width}×{self.height} pixels")
        if first.dtype.kind not in "uif" or first.dtype.itemsize > 4:
            raise InputError(f"{str(self.path)!r} holds {first.dtype}: numbers of 8 to 32 bits are needed")
        self.place, self.nodata, self.mpp = geography(self.path), nodata(self.path), microns_in(self.path)

    def rows(self, first: int, last: int) -> Tensor:
        """Return some rows, see :class:`Rows`."""
        with explained(self.path):
            return joined(
                [torch.cat([part.rows(first, last) for part in plane]) for plane in self._planes], self.planes
            )


class _Bands:
    """An array that is read when it is indexed; some of its axes are channels, others are fixed.

    Args:
        array: a zarr or NumPy array.
        axes: a letter for each of its axes.
        fixed: letter → index, for the axes of planes.
    """

    def __init__(self, array: Any, axes: str, fixed: Mapping[str, int]) -> None:
        self.array, self.axes, self.fixed = array, axes, fixed
        self.dtype = array.dtype
        self.height, self.width = (array.shape[axes.index(letter)] for letter in "YX")

    def rows(self, first: int, last: int) -> Tensor:
        import numpy as np

        index = tuple(slice(first, last) if a == "Y" else self.fixed.get(a, slice(None)) for a in self.axes)
        kept = "".join(letter for letter in self.axes if letter not in self.fixed)
        order = [k for k, letter in enumerate(kept) if letter in _BANDS] + [kept.index("Y"), kept.index("X")]
        part = np.asarray(self.array[index]).transpose(order).reshape(-1, last - first, self.width)
        image = torch.from_numpy(np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("=")))
        return image.float() if image.is_floating_point() else image


def count_planes(path: str | os.PathLike[str]) -> int:
    """Return how many planes a file or a zarr array has, from its headers only.

    Raises:
        ConfigError: zarr is not installed.
        InputError: there is no such file, or it is not such an image.
    """
    path = Path(path)
    if path.suffix.lower() != ".zarr":
        return planes_of(path).count
    with explained(path):
        array, axes = _opened(path)
    return _along(array, axes)[1].count


def is_big(path: str | os.PathLike[str]) -> bool:
    """Return whether an image is read by rows: a zarr array, or a TIFF larger than Pillow's limit for whole images."""
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() == ".zarr":
        return True
    if path.suffix.lower() not in SUFFIXES or Image.MAX_IMAGE_PIXELS is None:
        return False
    try:
        height, width = image_size(path)
    except InputError:  # reading will report why
        return False
    return height * width > Image.MAX_IMAGE_PIXELS


def _of_tiff(path: Path, planes: str | int | None, keeping: contextlib.ExitStack) -> tuple[list[list[_Bands]], bool]:
    """Return the arrays of each plane that is meant, and whether the last channel is alpha."""
    zarr = module("zarr")
    image = TiffImage(path)
    if image.orientation != 1:
        raise InputError(f"{str(path)!r} is stored rotated (orientation {image.orientation}): save it upright")
    image.check_direct()
    file = keeping.enter_context(image.opened(module("tifffile")))
    chosen = image.stack.chosen(planes, path)
    axes = "YX" if image.samples == 1 else "SYX" if image.is_planar else "YXS"

    def array_of(page: int) -> Any:
        stored = image.array_of(file, page)
        return stored if stored is not None else zarr.open(image.page_of(file, page).aszarr(), mode="r")

    return [[_Bands(array_of(page), axes, {}) for page in pages] for pages in chosen], image.alpha


def _of_zarr(path: Path, planes: str | int | None) -> list[list[_Bands]]:
    array, axes = _opened(path)
    if 0 in array.shape:
        raise InputError(f"{str(path)!r} is empty: {array.shape}")
    along, stack = _along(array, axes)
    chosen = [numbers[0] for numbers in stack.chosen(planes, path)]
    return [[_Bands(array, axes, _place(number, along))] for number in chosen]


def _along(array: Any, axes: str) -> tuple[list[tuple[str, int]], Stack]:
    """Return name and length of the axes of planes, and the planes."""
    along = [(letter, length) for letter, length in zip(axes, array.shape, strict=True) if letter not in f"{_BANDS}YX"]
    return along, stack_along(along) if along else Stack()


def _place(number: int, along: list[tuple[str, int]]) -> dict[str, int]:
    """Return the index on each axis of a plane."""
    found = {}
    for letter, length in reversed(along):
        number, found[letter] = divmod(number, length)
    return found


def _opened(path: Path) -> tuple[Any, str]:
    """Return an array that is read when it is indexed, and a letter for each of its axes."""
    zarr = module("zarr")
    found = zarr.open(path, mode="r")
    if isinstance(found, zarr.Group):
        return _of_ome(path, found)
    return found, _axes_of(path, found.shape)


def _of_ome(path: Path, group: Any) -> tuple[Any, str]:
    attributes = dict(group.attrs)
    scales = attributes.get("ome", attributes).get("multiscales")
    if not scales:
        raise InputError(f"{str(path)!r} is a group without an OME-Zarr image: give one of its arrays")
    array = group[scales[0]["datasets"][0]["path"]]
    named = scales[0].get("axes", "tczyx")  # OME-NGFF 0.1 and 0.2 always have these five, without naming them
    axes = "".join(axis["name"] if isinstance(axis, Mapping) else axis for axis in named).upper()
    if len(axes) != len(array.shape) or len({*axes}) < len(axes) or not {*"YX"} <= {*axes} <= {*"TCZYX"}:
        raise InputError(
            f"{str(path)!r} has the axes {axes!r} with lengths {array.shape}: x and y are needed, c, z and t allowed"
        )
    return array, axes


def _axes_of(path: Path, shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "YX"
    if len(shape) == 3:
        return "YXS" if shape[2] <= shape[0] else "CYX"
    raise InputError(f"{str(path)!r} has {len(shape)} dimensions: (H, W), (H, W, C) or (C, H, W) is needed")


def module(name: str) -> Any:
    """Return tifffile or zarr.

    Raises:
        ConfigError: it is not installed.
    """
    return extras.needed(name, "images that are read or written by rows", extra="big")
