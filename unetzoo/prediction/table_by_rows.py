"""Tables of the objects of images too large for memory, from a finished mask: objects are measured as they end.

Their numbers are those of the whole image, as in label images and GeoJSON. The objects are found in the mask again, so
that a table does not depend on when its mask was made.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetzoo import images, objects
from unetzoo.config import ModelConfig
from unetzoo.errors import InputError, WriteError
from unetzoo.files.writing import make_folder
from unetzoo.objects.table import Columns
from unetzoo.prediction.by_rows import TILE
from unetzoo.prediction.inputs import Rows
from unetzoo.prediction.objects_by_rows import Numbered, numbered
from unetzoo.prediction.outlines_by_rows import ended_objects
from unetzoo.prediction.results import measured
from unetzoo.prediction.stored import StoredRows


class FinishedMask:
    """A finished mask that is read by rows, in the form needed to number its objects.

    Args:
        file: the mask, open.
        layers: number of its layers.
        folder: folder for temporary files.
    """

    def __init__(self, file: Rows, layers: int, folder: Path) -> None:
        self._file, self.folder = file, folder
        self.shape = layers, file.height, file.width
        self._top, self._band = 0, torch.zeros(layers, 0, file.width)

    def rows(self, layer: int, first: int, count: int) -> NDArray[np.generic]:
        """Return rows of a layer, down to its end at most, as an array (rows, width)."""
        last = min(first + count, self.shape[1])
        if first < self._top or last > self._top + self._band.shape[1]:
            # Whole tiles are decoded: rows are kept until those after them are needed.
            self._top = first // TILE * TILE
            end = min(-(-last // TILE) * TILE, self.shape[1])
            self._band = self._file.rows(self._top, end)
        found: NDArray[np.generic] = self._band[layer, first - self._top : last - self._top].numpy()
        return found


def tables(mask: Path, labels: Sequence[Path], source: Rows, config: ModelConfig, split: float) -> Iterator[Columns]:
    """Give the objects of an image, some at a time, as ``unetzoo.objects.table`` does, in the order in which they end.

    Args:
        mask: the file of the mask.
        labels: for ``task="instances"``, the label images, one per class; for others, none.
        source: the image.
        config: configuration of the model.
        split: of the predictor, see ``unetzoo.objects.instances``.

    Raises:
        InputError: the image or the mask cannot be read, or they differ in size.
        WriteError: there is no space next to the mask, where temporary files need 4 bytes per pixel.
    """
    folder = mask.with_name(f".{mask.name}.objects")
    try:
        make_folder(folder)
        layers = _known(labels, folder) if labels else _found(mask, folder, config, split)
        if any((found.height, found.width) != (source.height, source.width) for found in layers):
            raise InputError(f"{str(mask)!r} does not have the size of its image: remove it, and predict again")
        yield from _measured(layers, source, config)
    except OSError as error:
        raise WriteError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measured_by_rows(mask: Path, config: ModelConfig) -> int:
    """Return the number of pixels of a finished mask at which something was measured."""
    with StoredRows(mask) as file:
        bands = range(0, file.height, TILE)
        return sum(measured(file.rows(y, min(y + TILE, file.height))[0], config) for y in bands)


def _found(mask: Path, folder: Path, config: ModelConfig, split: float) -> list[Numbered]:
    """Return the objects of each layer of a mask."""
    with StoredRows(mask) as file:
        layers = config.num_classes if config.pixel_task == "multilabel" else 1
        return numbered(FinishedMask(file, layers, folder), config, split)


def _known(labels: Sequence[Path], folder: Path) -> list[Numbered]:
    """Return the objects of each label image, with the numbers in it."""
    found = []
    for k, path in enumerate(labels):
        place, largest = folder / f"objects{k}", 0
        with StoredRows(path) as file, place.open("wb") as stream:
            for y in range(0, file.height, TILE):
                rows = file.rows(y, min(y + TILE, file.height))[0].numpy().astype(np.uint32)
                largest = max(largest, int(rows.max()))
                stream.write(rows.tobytes())
            order = np.arange(largest + 1, dtype=np.uint32)
            found.append(Numbered(place, file.height, file.width, order, np.zeros(largest + 1, np.int64)))
    return found


def _measured(layers: Sequence[Numbered], source: Rows, config: ModelConfig) -> Iterator[Columns]:
    before = 0
    for layer, found in enumerate(layers):
        window = _Window(source)
        for part, ids, (top, left) in ended_objects(found, layer, config):
            image = window.pixels(top, left, *part.labels.shape)
            seen = images.own_channels(image, config.in_channels, source.alpha)
            columns = objects.table(part, seen, class_names=config.class_names, mpp=source.mpp, corner=(top, left))
            yield {**columns, "label": ids + before}
        before += len(found)


class _Window:
    """Pixels of an image that are requested from top to bottom; none is read twice unless necessary.

    Args:
        source: the image.
    """

    def __init__(self, source: Rows) -> None:
        self._source = source
        self._top, self._held = 0, source.rows(0, 1)[:, :0]

    def pixels(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Return a part of the image, (C, height, width)."""
        if width < self._source.width:  # the window of a tall object
            bands = range(top, top + height, TILE)
            parts = [self._source.rows(y, min(y + TILE, top + height))[..., left : left + width].clone() for y in bands]
            return torch.cat(parts, dim=1)
        end = self._top + self._held.shape[1]
        kept = self._held[:, top - self._top :] if self._top <= top < end else self._held[:, :0]
        begin = top + kept.shape[1]
        self._held = torch.cat([kept, self._source.rows(begin, top + height)], dim=1) if begin < top + height else kept
        self._top = top
        return self._held[:, :height]
