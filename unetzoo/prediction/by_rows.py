"""Masks too large for memory: started next to their target, filled row by row, and written as a TIFF or zarr array."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetzoo.config import ModelConfig
from unetzoo.errors import InputError, WriteError
from unetzoo.files.resolution import per_centimetre
from unetzoo.images import NODATA
from unetzoo.objects.finding import ended
from unetzoo.prediction.geography import Tag
from unetzoo.prediction.inputs import Rows
from unetzoo.prediction.marks import BEGIN, Mark
from unetzoo.prediction.networks import check_channels
from unetzoo.prediction.partial import PartialMask
from unetzoo.prediction.results import in_file, stored_as
from unetzoo.prediction.stored import SUFFIXES, module
from unetzoo.prediction.strips import Strip
from unetzoo.prediction.tiles import Grid
from unetzoo.printing import printable

_logger = logging.getLogger(__name__)

TILE = 512
"""Side of the tiles and chunks of masks."""
DOWN = 4
"""Factor by which each level of a pyramid is smaller than the one before, in height and in width."""
EDGE = 254
"""Stored on disk for ``task="instances"``: a pixel of the class (255 in the mask) at which an object ends."""


def begun(
    source: Rows,
    target: str | os.PathLike[str],
    config: ModelConfig,
    settings: Mapping[str, Any],
    lay_out: Callable[[], Grid],
) -> PartialMask:
    """Return a mask that is empty, or that continues an earlier run with the same settings.

    Args:
        source: the image.
        target: a .tif, .tiff or .zarr.
        config: configuration of the model.
        settings: everything but the image that the mask depends on; can be written as JSON.
        lay_out: returns the tiles for an empty mask.

    Raises:
        InputError: ``target`` has another ending, or the image does not fit the model. Nothing was written.
        WriteError: no mask can be created there.
    """
    target = Path(target)
    if target.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"a mask that is written by rows cannot be named {str(target)!r}: {', '.join(SUFFIXES)} are possible"
        )
    if target.suffix.lower() != ".zarr" and target.is_dir():
        raise InputError(f"{str(target)!r} is a folder: give the name of a file")
    check_channels(source.rows(0, 1), config, source.alpha)
    layers = config.num_classes if config.pixel_task == "multilabel" else 1
    shape = (layers, source.height, source.width)
    # What the rows hold in addition to the mask: rows of a version that kept no edges are not continued.
    beside = {"edge": EDGE} if config.task == "instances" else {}
    mask = PartialMask(target, shape, stored_as(config), {**settings, "image": source.identity, **beside}, lay_out)
    if mask.done:
        _logger.info("%s: continues at row %s of %s", printable(target), f"{mask.done:,}", f"{source.height:,}")
    return mask


def kept(part: Tensor, strip: Strip, config: ModelConfig) -> Tensor:
    """Return rows of a mask as they are kept on disk: the values of the final file, and marks where objects end.

    Args:
        part: (H, W) or (classes, H, W), the mask.
        strip: the strip from which it was made.
        config: configuration of the model.

    Raises:
        InputError: see ``unetzoo.prediction.results.in_file``.
    """
    values = in_file(part, config, strip.missing)
    if config.task != "instances":
        return values
    classes = strip.probabilities[: config.num_classes].reshape(part.shape).numpy()
    edges = torch.from_numpy(ended(classes, strip.probabilities[config.num_classes].numpy()))
    return values.masked_fill(edges & (values == 255), EDGE)


def in_mask(rows: NDArray[Any], config: ModelConfig) -> NDArray[Any]:
    """Convert rows that are kept on disk to the values of the final file."""
    return np.where(rows == EDGE, rows.dtype.type(255), rows) if config.task == "instances" else rows


def write(
    mask: PartialMask,
    target: str | os.PathLike[str],
    config: ModelConfig,
    place: Sequence[Tag] = (),
    mark: Mark | None = None,
    mpp: tuple[float, float] | None = None,
) -> None:
    """Write a mask whose rows are all done, and remove its partial folder.

    Args:
        mask: (H, W), or (classes, H, W) for a multi-label model.
        target: see :func:`begun`.
        config: configuration of the model.
        place: TIFF tags to write as well; a zarr array takes only GDAL's nodata from them, as its fill value.
        mark: the mark that ``mark_in`` later returns for this file.
        mpp: µm per pixel, down and across, for the resolution tags of TIFF.

    Raises:
        WriteError: it cannot be written; the finished rows are kept.
    """
    target = Path(target)
    saving = mask.folder / target.name
    try:
        if target.suffix.lower() == ".zarr":
            _write_zarr(mask, saving, config, next((int(value) for code, _, value in place if code == NODATA), 0), mark)
            if target.is_dir():
                shutil.rmtree(target)
        else:
            _write_tiff(mask, saving, config, place, mark, mpp)
            with saving.open("r+b") as stream:
                os.fsync(stream.fileno())
        saving.replace(target)
        mask.remove()
    except OSError as error:
        raise WriteError(
            f"{target} cannot be written ({error.strerror}); its pixels are kept in {mask.folder}"
        ) from error


def _write_tiff(
    mask: PartialMask,
    target: Path,
    config: ModelConfig,
    tags: Sequence[Tag],
    mark: Mark | None,
    mpp: tuple[float, float] | None,
) -> None:
    layers, height, width = mask.shape
    steps = steps_of(height, width)
    with writer_of(target, sum(mask.size // step**2 for step in steps)) as writer:
        for step in steps:
            size = height // step, width // step
            scale = None if mpp is None else per_centimetre((mpp[0] * height / size[0], mpp[1] * width / size[1]))
            writer.write(
                _tiles(mask, step, config),
                shape=(layers, *size) if layers > 1 else size,
                dtype=mask.dtype,
                tile=(TILE, TILE),
                photometric="minisblack",
                planarconfig="separate" if layers > 1 else None,
                compression="zlib",
                metadata=None,
                subfiletype=int(step > 1),  # a smaller copy of the first page
                resolution=scale,
                resolutionunit=None if scale is None else "CENTIMETER",
                software=None if mark is None or step > 1 else str(mark),
                extratags=[(code, kind, _count(value), value, True) for code, kind, value in tags if step == 1],
            )


def steps_of(height: int, width: int) -> list[int]:
    """Return, for each level of a pyramid, how many mask pixels in each direction become one pixel; 1 first.

    Each level has a quarter of the height and width of the level before; the last one fits into one tile.
    """
    steps = [1]
    while max(height, width) // steps[-1] > TILE and min(height, width) // (steps[-1] * DOWN) >= 1:
        steps.append(steps[-1] * DOWN)
    return steps


def _tiles(mask: PartialMask, step: int, config: ModelConfig) -> Iterator[NDArray[Any]]:
    """Give the tiles of a level: the middle one of every ``step`` × ``step`` pixels, never a mean of classes."""
    layers, height, width = mask.shape
    middle = step // 2
    for layer in range(layers):
        for y in range(0, height // step, TILE):
            if step == 1:
                band = mask.rows(layer, y, TILE)
            else:
                rows = range(y * step + middle, min(y + TILE, height // step) * step, step)
                band = np.concatenate([mask.rows(layer, row, 1)[:, middle::step] for row in rows])
            band = in_mask(band[:, : width // step], config)
            for x in range(0, width // step, TILE):
                yield band[:, x : x + TILE]


def writer_of(target: Path, size: int) -> Any:
    """Return tifffile's writer for a file of about ``size`` bytes."""
    return module("tifffile").TiffWriter(target, bigtiff=size > 2**31)


def _count(value: Any) -> int:
    return len(value) if isinstance(value, str | tuple | list) else 1


def _write_zarr(mask: PartialMask, target: Path, config: ModelConfig, fill: int, mark: Mark | None) -> None:
    layers, height, width = mask.shape
    shutil.rmtree(target, ignore_errors=True)  # left by a run that was killed while it wrote this
    chunk = (min(TILE, height), min(TILE, width))
    shape, chunks = ((layers, height, width), (1, *chunk)) if layers > 1 else ((height, width), chunk)
    attributes = {} if mark is None else {BEGIN: str(mark)}
    array = module("zarr").create_array(
        target,
        shape=shape,
        dtype=mask.dtype,
        chunks=chunks,
        fill_value=fill,
        attributes=attributes,
        zarr_format=3,
    )
    for layer in range(layers):
        for y in range(0, height, TILE):
            rows = in_mask(mask.rows(layer, y, TILE), config)
            array[(layer, slice(y, y + TILE)) if layers > 1 else slice(y, y + TILE)] = rows
