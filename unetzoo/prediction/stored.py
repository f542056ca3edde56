"""Images on the disk of which only the rows asked for are read: TIFF files and zarr arrays."""

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
from unetzoo.images import BANDS, explained, image_size
from unetzoo.prediction.geography import geography
from unetzoo.prediction.inputs import Rows
from unetzoo.prediction.marks import Mark

SUFFIXES = (".tif", ".tiff", ".zarr")
"""Of what is read, and written, by rows."""


class StoredRows(Rows):
    """A TIFF file or a zarr array, of which only the rows asked for are read.

    Of a pyramid, and of an OME-Zarr, the largest level is taken; of time points and depths the first.

    Args:
        path: a .tif or .tiff file, a .zarr folder.

    Attributes:
        mark: of the image as it was when it was opened.

    Raises:
        ConfigError: tifffile or zarr is not installed.
        InputError: it cannot be read so.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.name = self.path.name
        self._open = contextlib.ExitStack()
        try:
            with explained(self.path):
                self.mark = Mark.of(self.path)
                self._array, axes = _opened(self.path, self._open)
                self._lay_out(axes)
                self.place = geography(self.path)
        except BaseException:
            self.close()
            raise

    def _lay_out(self, axes: str) -> None:
        if not {"Y", "X"} <= set(axes) or len(axes) != len(self._array.shape):
            raise InputError(f"{str(self.path)!r} has the axes {axes!r} for {self._array.shape}: Y and X are needed")
        self._index: tuple[Any, ...] = tuple(slice(None) if letter in f"{BANDS}YX" else 0 for letter in axes)
        kept = "".join(letter for letter in axes if letter in f"{BANDS}YX")
        self._order = [kept.index(letter) for letter in kept if letter in BANDS] + [kept.index("Y"), kept.index("X")]
        self._row = axes.index("Y")
        self.height, self.width = (self._array.shape[axes.index(letter)] for letter in "YX")
        if 0 in self._array.shape:
            raise InputError(f"{str(self.path)!r} is empty: {self._array.shape}")
        if self._array.dtype.kind not in "uif" or self._array.dtype.itemsize > 4:
            raise InputError(f"{str(self.path)!r} holds {self._array.dtype}: 8 to 32 bits are needed")

    @property
    def identity(self) -> str:
        """Return what tells the image from another, see :class:`Rows`: where it lies, and the identity of its file."""
        return f"{self.mark.place} {self.mark.identity}"

    def check_unchanged(self) -> None:
        """Raise if the file was replaced or written to since it was opened, see :class:`Rows`."""
        with explained(self.path):
            now = Mark.of(self.path)
        if not now.same_image(self.mark):
            raise InputError(f"{str(self.path)!r} was changed while it was read: begin again when it is complete")

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    def __enter__(self) -> StoredRows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(self, first: int, last: int) -> Tensor:
        """Return some rows, see :class:`Rows`."""
        import numpy as np

        index = (*self._index[: self._row], slice(first, last), *self._index[self._row + 1 :])
        with explained(self.path):
            part = np.asarray(self._array[index]).transpose(self._order).reshape(-1, last - first, self.width)
        part = np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("="))
        image = torch.from_numpy(part)
        return image.float() if image.is_floating_point() else image


def is_big(path: str | os.PathLike[str]) -> bool:
    """Return whether an image is read by rows: a zarr array, or a TIFF beyond what Pillow lets be read whole."""
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() == ".zarr":
        return True
    if path.suffix.lower() not in SUFFIXES or Image.MAX_IMAGE_PIXELS is None:
        return False
    try:
        height, width = image_size(path)
    except InputError as error:  # Pillow refuses to look at the largest
        return "DecompressionBomb" in str(error)
    return height * width > Image.MAX_IMAGE_PIXELS


def _opened(path: Path, keeping: contextlib.ExitStack) -> tuple[Any, str]:
    """Return an array that is read where it is indexed, and a letter for each of its axes."""
    zarr = module("zarr")
    if path.suffix.lower() == ".zarr":
        found = zarr.open(path, mode="r")
        if isinstance(found, zarr.Group):
            return _of_ome(path, found)
        return found, _axes_of(path, found.shape)
    file = keeping.enter_context(module("tifffile").TiffFile(path))
    series = file.series[0]
    tag = series.keyframe.tags.get(274)
    if tag is not None and int(tag.value) != 1:
        raise InputError(f"{str(path)!r} is stored turned (orientation {int(tag.value)}): store it upright")
    array = zarr.open(series.aszarr(level=0), mode="r")
    return array, series.axes


def _of_ome(path: Path, group: Any) -> tuple[Any, str]:
    attributes = dict(group.attrs)
    scales = attributes.get("ome", attributes).get("multiscales")
    if not scales:
        raise InputError(f"{str(path)!r} is a group without an OME-Zarr image: give one of its arrays")
    axes = [axis["name"] if isinstance(axis, Mapping) else axis for axis in scales[0]["axes"]]
    return group[scales[0]["datasets"][0]["path"]], "".join(axes).upper()


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
