"""Pictures that do not fit in memory: read by rows, and their masks written by rows."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unetzoo.errors import ConfigError, InputError, WeightsError
from unetzoo.images import BANDS, explained
from unetzoo.prediction.geography import Tag, geography
from unetzoo.prediction.inputs import Rows
from unetzoo.prediction.networks import check_channels
from unetzoo.prediction.partial import PartialMask, layers_of
from unetzoo.prediction.results import mask_of

if TYPE_CHECKING:
    from unetzoo.prediction.predictor import Predictor

TILE = 512
"""Side of the tiles and chunks of masks."""
SUFFIXES = (".tif", ".tiff", ".zarr")


class StoredRows(Rows):
    """A TIFF file or a zarr array, of which only the rows asked for are read.

    Of a pyramid, and of an OME-Zarr, the largest level is taken; of time points and depths the first.

    Args:
        path: a .tif or .tiff file, a .zarr folder.

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
                self._array, axes = _opened(self.path, self._open)
            self._lay_out(axes)
            self.place = geography(self.path)
        except BaseException:
            self.close()
            raise

    def _lay_out(self, axes: str) -> None:
        self._index: tuple[Any, ...] = tuple(slice(None) if letter in f"{BANDS}YX" else 0 for letter in axes)
        kept = "".join(letter for letter in axes if letter in f"{BANDS}YX")
        self._order = [kept.index(letter) for letter in kept if letter in BANDS] + [kept.index("Y"), kept.index("X")]
        self._row = axes.index("Y")
        self.height, self.width = (self._array.shape[axes.index(letter)] for letter in "YX")
        if self._array.dtype.kind not in "uif" or self._array.dtype.itemsize > 4:
            raise InputError(f"{str(self.path)!r} holds {self._array.dtype}: 8 to 32 bits are needed")

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
    """Return whether a picture is read by rows: a zarr array, or a TIFF beyond what Pillow lets be read whole."""
    from PIL import Image

    from unetzoo.images import image_size

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


def write_mask_by_rows(
    predictor: Predictor,
    source: Rows,
    target: str | os.PathLike[str],
    settings: Mapping[str, Any],
    tell: Callable[[int], object] = lambda rows: None,
) -> None:
    """Segment a picture of any size into a file, in the memory of a row of tiles.

    Args:
        predictor: with ``smallest`` and ``holes`` 0: objects are not looked for across rows.
        source: the picture.
        target: a .tif, .tiff or .zarr: (H, W) uint8, of a multi-label model (classes, H, W); 0 and 255, or indices
            of classes. A GeoTIFF's place on the globe is kept.
        settings: JSON-able; a partial mask goes on only under the same ones.
        tell: is called with the number of finished rows, first with those of an earlier run.

    Raises:
        InputError: the picture cannot be read, or does not fit the model; another ending of ``target``. Nothing was
            written.
        WeightsError: the mask cannot be written; what is done is kept.
    """
    target = Path(target)
    config = predictor.config
    if target.suffix.lower() not in SUFFIXES:
        raise InputError(f"a mask by rows cannot be written to {str(target)!r}: {', '.join(SUFFIXES)} are possible")
    check_channels(source.rows(0, 1), config)
    shape = (config.num_classes if config.task == "multilabel" else 1, source.height, source.width)
    down, across = predictor.grid(source)
    mask = PartialMask(target, shape, {**settings, "starts": [down.starts, across.starts]})
    tell(mask.done)
    if mask.done < source.height:
        for _, strip in predictor.strips(source, down.starts.index(mask.done)):
            part = mask_of(strip, config.task, predictor.thresholds)
            mask.put(layers_of(part if config.task == "multiclass" else part * 255))
            tell(mask.done)
    saving = mask.folder / target.name
    try:
        _write(mask, saving, source.place)
        if target.is_dir():
            shutil.rmtree(target)
        saving.replace(target)
        mask.remove()
    except OSError as error:
        raise WeightsError(f"{target} cannot be written ({error.strerror}); {mask.folder} has its pixels") from error


def _write(mask: PartialMask, target: Path, tags: Sequence[Tag]) -> None:
    if target.suffix.lower() == ".zarr":
        _write_zarr(mask, target)
        return
    layers, height, width = mask.shape
    tiles = (
        band[:, x : x + TILE]
        for layer in range(layers)
        for band in (mask.rows(layer, y, TILE) for y in range(0, height, TILE))
        for x in range(0, width, TILE)
    )
    with _tifffile().TiffWriter(target, bigtiff=layers * height * width > 2**31) as writer:
        writer.write(
            tiles,
            shape=mask.shape if layers > 1 else mask.shape[1:],
            dtype="uint8",
            tile=(TILE, TILE),
            photometric="minisblack",
            planarconfig="separate" if layers > 1 else None,
            compression="zlib",
            metadata=None,
            extratags=[(code, kind, _count(value), value, True) for code, kind, value in tags],
        )


def _count(value: Any) -> int:
    return len(value) if isinstance(value, str | tuple | list) else 1


def _write_zarr(mask: PartialMask, target: Path) -> None:
    layers, height, width = mask.shape
    shutil.rmtree(target, ignore_errors=True)  # of a run that was killed while it wrote this
    chunk = (min(TILE, height), min(TILE, width))
    shape, chunks = ((layers, height, width), (1, *chunk)) if layers > 1 else ((height, width), chunk)
    array = _zarr().create_array(target, shape=shape, dtype="uint8", chunks=chunks)
    for layer in range(layers):
        for y in range(0, height, TILE):
            array[(layer, slice(y, y + TILE)) if layers > 1 else slice(y, y + TILE)] = mask.rows(layer, y, TILE)


def _opened(path: Path, keeping: contextlib.ExitStack) -> tuple[Any, str]:
    """Return an array that is read where it is indexed, and a letter for each of its axes."""
    zarr = _zarr()
    if path.suffix.lower() == ".zarr":
        found = zarr.open(path, mode="r")
        if isinstance(found, zarr.Group):
            return _of_ome(path, found)
        return found, _axes_of(path, found.shape)
    file = keeping.enter_context(_tifffile().TiffFile(path))
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
        raise InputError(f"{str(path)!r} is a group without an OME-Zarr picture: give one of its arrays")
    axes = [axis["name"] if isinstance(axis, Mapping) else axis for axis in scales[0]["axes"]]
    return group[scales[0]["datasets"][0]["path"]], "".join(axes).upper()


def _axes_of(path: Path, shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "YX"
    if len(shape) == 3:
        return "YXS" if shape[2] <= shape[0] else "CYX"
    raise InputError(f"{str(path)!r} has {len(shape)} dimensions: (H, W), (H, W, C) or (C, H, W) is needed")


def _tifffile() -> Any:
    return _needed("tifffile")


def _zarr() -> Any:
    return _needed("zarr")


def _needed(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"pictures that are read by rows need {name}: pip install 'unetzoo[big]'") from error
