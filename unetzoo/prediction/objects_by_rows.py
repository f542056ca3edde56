"""Objects of a mask too large for memory, from its finished rows on disk: removes small ones, writes label images.

Both start from scratch after a kill. This takes little time compared with the network, and cleaned rows do not change
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unetzoo.config import ModelConfig
from unetzoo.errors import WriteError
from unetzoo.files.resolution import per_centimetre
from unetzoo.files.writing import make_folder, replacing
from unetzoo.objects.streaming import LargeRows, NumberedRows
from unetzoo.prediction.by_rows import EDGE, TILE, in_mask, writer_of
from unetzoo.prediction.partial import PartialMask

LIMIT = 2048
"""Largest number of rows that are held in memory for an object that is split."""
_PIECE = 2**20

AT_ONCE = 2**21
"""Largest number of pixels that are read together, so that memory does not grow with the width either."""

Save = Callable[[Path, Iterable[bytes]], object]


class RowsOfMask(Protocol):
    """A mask with all rows done; for its members see ``PartialMask``."""

    folder: Path
    shape: tuple[int, int, int]

    def rows(self, layer: int, first: int, count: int) -> Any:
        """Return rows of a layer, at most to its end, as an array (rows, width)."""


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file completely or not at all, and create its folder if there is none.

    Raises:
        WriteError: it cannot be written.
    """
    make_folder(path.parent)
    with replacing(path) as stream:
        for piece in pieces:
            stream.write(piece)


def rows_at_once(width: int, most: int) -> int:
    """Return how many rows of this width are read together, at most ``most``."""
    return min(most, max(16, AT_ONCE // width))


def clean(mask: PartialMask, config: ModelConfig, smallest: int) -> None:
    """Set connected components of fewer than ``smallest`` pixels to 0, in the rows on disk.

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


@dataclass(frozen=True, eq=False)
class Numbered:
    """The objects of a layer of a mask, with their numbers in a file next to its rows.

    Attributes:
        path: path of the file, uint32: the numbers first assigned to the objects.
        height, width: size of the mask.
        order: number first assigned → number of the object in reading order; 0 stays 0.
        classes: number first assigned → class.
    """

    path: Path
    height: int
    width: int
    order: NDArray[np.uint32]
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.order.max())

    def given(self, first: int, count: int, left: int = 0, columns: int | None = None) -> NDArray[np.uint32]:
        """Return the numbers first assigned, for rows down to the end at most, or for some of their columns."""
        count = min(count, self.height - first)
        if columns is None:
            start = first * self.width * 4
            return np.fromfile(self.path, np.uint32, count * self.width, offset=start).reshape(count, self.width)
        with self.path.open("rb") as stream:
            found = np.empty((count, columns), np.uint32)
            for row in range(count):
                stream.seek(((first + row) * self.width + left) * 4)
                stream.readinto(found[row].data)
        return found


def numbered(mask: RowsOfMask, config: ModelConfig, split: float) -> list[Numbered]:
    """Number the objects in each layer of a mask whose rows are all done.

    Raises:
        WriteError: their numbers cannot be written.
    """
    try:
        return [_numbered(mask, layer, config, split) for layer in range(mask.shape[0])]
    except OSError as error:
        raise WriteError(f"{mask.folder} cannot be written: {error.strerror}; finished rows are kept") from error


def write_labels(
    mask: PartialMask,
    layers: Sequence[Numbered],
    config: ModelConfig,
    targets: Mapping[int | None, Path],
    save: Save,
    mpp: tuple[float, float] | None = None,
) -> None:
    """Write label images as tiled TIFF, of all objects or of those of each class.

    Args:
        mask: the mask that contains the objects.
        layers: the result of :func:`numbered`.
        config: configuration of the model.
        targets: class → path; None: all classes in one image.
        save: takes a path and the content of the file.
        mpp: µm per pixel, down and across, for the resolution tags of TIFF.

    Raises:
        WriteError: they cannot be written.
    """
    for kind, path in targets.items():
        found = layers[kind or 0 if config.pixel_task == "multilabel" else 0]
        order = found.order
        if config.pixel_task == "multiclass" and kind is not None:
            order = order * (found.classes == kind)
        ranks = np.unique(order, return_inverse=True)[1] + (order.min() > 0)
        table = ranks.astype(np.uint16 if ranks.max() <= np.iinfo(np.uint16).max else np.uint32)
        stored = mask.folder / "labels.tif"
        try:
            _write_tiff(stored, found, table, mpp)
        except OSError as error:
            raise WriteError(f"{stored} cannot be written: {error.strerror}; finished rows are kept") from error
        save(path, _pieces(stored))


def _numbered(mask: RowsOfMask, layer: int, config: ModelConfig, split: float) -> Numbered:
    """Write the numbers of a layer's objects to a file next to its rows."""
    _, height, width = mask.shape
    known = NumberedRows(width, split, LIMIT if split else 0)
    path = mask.folder / f"objects{layer}"
    with path.open("wb") as stream:
        step = rows_at_once(width, TILE)
        for y in range(0, height, step):
            rows = mask.rows(layer, y, step)
            edges = rows == EDGE if config.task == "instances" else None
            stream.write(known.add(_classes(rows, config), y + step >= height, edges).tobytes())
    return Numbered(path, height, width, known.order(), np.array([0, *known.classes], np.int64))


def _classes(values: NDArray[Any], config: ModelConfig) -> NDArray[Any]:
    """Return the classes for a mask's values on disk, 0 for background and where nothing was measured."""
    if config.pixel_task == "multiclass":
        return np.where(values < config.num_classes, values, 0)
    inside: NDArray[np.uint8] = (in_mask(values, config) == 255).astype(np.uint8)
    return inside


def _write_tiff(target: Path, found: Numbered, table: NDArray[Any], mpp: tuple[float, float] | None) -> None:
    def tiles() -> Iterator[NDArray[Any]]:
        for y in range(0, found.height, TILE):
            band = found.given(y, TILE)
            for x in range(0, found.width, TILE):
                yield table[band[:, x : x + TILE]]

    with writer_of(target, found.height * found.width * table.itemsize) as writer:
        writer.write(
            tiles(),
            shape=(found.height, found.width),
            dtype=table.dtype,
            tile=(TILE, TILE),
            photometric="minisblack",
            compression="zlib",
            metadata=None,
            resolution=None if mpp is None else per_centimetre(mpp),
            resolutionunit=None if mpp is None else "CENTIMETER",
        )


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            yield piece
