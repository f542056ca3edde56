"""Objects of a mask beyond memory, from its finished rows on the disk: small ones left out, and label images.

Both begin anew after a kill. That takes little beside the network, and rows that were cleaned already stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetzoo.config import ModelConfig
from unetzoo.errors import WriteError
from unetzoo.files.writing import make_folder, replacing
from unetzoo.objects.streaming import LargeRows, NumberedRows
from unetzoo.prediction.by_rows import EDGE, TILE, in_mask, writer_of
from unetzoo.prediction.partial import PartialMask

LIMIT = 2048
"""Rows that are held back, at most, for an object that is split."""
_PIECE = 2**20

Save = Callable[[Path, Iterable[bytes]], object]


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file all or nothing, and make its folder where there is none.

    Raises:
        WriteError: it cannot be written.
    """
    make_folder(path.parent)
    with replacing(path) as stream:
        for piece in pieces:
            stream.write(piece)


def clean(mask: PartialMask, config: ModelConfig, smallest: int) -> None:
    """Set components of fewer than ``smallest`` pixels to 0, in the rows on the disk.

    Raises:
        WriteError: they cannot be written.
    """
    layers, height, width = mask.shape
    for layer in range(layers):
        known, done = LargeRows(width, smallest), 0
        for y in range(0, height, TILE):
            kept = known.add(_classes(mask.rows(layer, y, TILE), config), y + TILE >= height)
            before = mask.rows(layer, done, len(kept))
            mask.replace(layer, done, np.where((kept == 0) & (_classes(before, config) > 0), 0, before))
            done += len(kept)


def write_labels(
    mask: PartialMask, config: ModelConfig, split: float, targets: Mapping[int | None, Path], save: Save
) -> int:
    """Write label images, TIFF in tiles, of all objects or of those of each class, and return how many there are.

    Args:
        mask: all rows of it are done.
        config: of the model.
        split: see ``unetzoo.objects.instances``.
        targets: class → path; None: all classes in one.
        save: takes a path and what goes there.

    Raises:
        WriteError: they cannot be written.
    """
    try:
        found = [_numbered(mask, layer, config, split) for layer in range(mask.shape[0])]
    except OSError as error:
        raise WriteError(f"{mask.folder} cannot be written: {error.strerror}; what is done is kept") from error
    for kind, path in targets.items():
        layer = kind or 0 if config.pixel_task == "multilabel" else 0
        order, classes = found[layer]
        if config.pixel_task == "multiclass" and kind is not None:
            order = order * (classes == kind)
        ranks = np.unique(order, return_inverse=True)[1] + (order.min() > 0)
        table = ranks.astype(np.uint16 if ranks.max() <= np.iinfo(np.uint16).max else np.uint32)
        stored = mask.folder / "labels.tif"
        try:
            _write_tiff(stored, mask.folder / f"objects{layer}", table, mask.shape[1:])
        except OSError as error:
            raise WriteError(f"{stored} cannot be written: {error.strerror}; what is done is kept") from error
        save(path, _pieces(stored))
    return sum(int(order.max()) for order, _ in found)


def _numbered(
    mask: PartialMask, layer: int, config: ModelConfig, split: float
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Write numbers of a layer's objects beside its rows, and return the order that they come to, and their classes."""
    _, height, width = mask.shape
    known = NumberedRows(width, split, LIMIT if split else 0)
    with (mask.folder / f"objects{layer}").open("wb") as stream:
        for y in range(0, height, TILE):
            rows = mask.rows(layer, y, TILE)
            edges = rows == EDGE if config.task == "instances" else None
            stream.write(known.add(_classes(rows, config), y + TILE >= height, edges).tobytes())
    return known.order(), np.array([0, *known.classes], np.int64)


def _classes(values: NDArray[Any], config: ModelConfig) -> NDArray[Any]:
    """Return the classes, 0 for background and where nothing was measured, of a mask's values on the disk."""
    if config.pixel_task == "multiclass":
        return np.where(values < config.num_classes, values, 0)
    inside: NDArray[np.uint8] = (in_mask(values, config) == 255).astype(np.uint8)
    return inside


def _write_tiff(target: Path, numbers: Path, table: NDArray[Any], size: tuple[int, int]) -> None:
    height, width = size

    def tiles() -> Iterator[NDArray[Any]]:
        for y in range(0, height, TILE):
            rows = min(TILE, height - y)
            band = table[np.fromfile(numbers, np.uint32, rows * width, offset=y * width * 4).reshape(rows, width)]
            for x in range(0, width, TILE):
                yield band[:, x : x + TILE]

    with writer_of(target, height * width * table.itemsize) as writer:
        writer.write(
            tiles(),
            shape=size,
            dtype=table.dtype,
            tile=(TILE, TILE),
            photometric="minisblack",
            compression="zlib",
            metadata=None,
        )


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            yield piece
