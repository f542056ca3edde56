"""A mask that grows on the disk, in a folder ``.<name>.partial`` beside its place, and outlives the process.

The rows as they are, and a note of how many there are. Not a map of memory, whose pages would count as the process's
own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unetzoo.errors import WeightsError
from unetzoo.prediction.results import write_file


class PartialMask:
    """The finished rows of a mask (layers, height, width) of uint8.

    Args:
        target: where the mask will be.
        shape: of the mask.
        note: JSON-able; rows of another note are not gone on with.

    Attributes:
        folder: where it grows.
        done: finished rows.

    Raises:
        WeightsError: the folder cannot be written.
    """

    def __init__(self, target: Path, shape: tuple[int, int, int], note: Mapping[str, Any]) -> None:
        self.shape = shape
        self.note = json.loads(json.dumps({**note, "shape": shape}))
        self.folder = target.with_name(f".{target.name}.partial")
        self.done = self._found()
        try:
            if not self.done:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
                self._rows.touch()
        except OSError as error:
            raise WeightsError(f"{self.folder} cannot be written: {error.strerror}") from error

    def put(self, part: Tensor) -> None:
        """Write the next rows, (layers, rows, width), and bring them to the disk before the note that counts them.

        Raises:
            WeightsError: they cannot be written.
        """
        layers, height, width = self.shape
        try:
            with self._rows.open("r+b") as stream:
                for layer in range(layers):
                    stream.seek((layer * height + self.done) * width)
                    stream.write(part[layer].contiguous().numpy().tobytes())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise WeightsError(f"{self.folder} cannot be written: {error.strerror}; what is done is kept") from error
        self.done += part.shape[1]
        write_file(self.folder / "note.json", json.dumps({**self.note, "rows": self.done}).encode())

    def rows(self, layer: int, first: int, count: int) -> Any:
        """Return finished rows of a layer, at most to its end, as an array (rows, width)."""
        import numpy as np

        _, height, width = self.shape
        count = min(count, height - first)
        start = (layer * height + first) * width
        return np.fromfile(self._rows, np.uint8, count * width, offset=start).reshape(count, width)

    def remove(self) -> None:
        """Remove it all."""
        shutil.rmtree(self.folder)

    @property
    def _rows(self) -> Path:
        return self.folder / "rows"

    def _found(self) -> int:
        """Return how many rows a killed run has left that this one would have made alike."""
        try:
            found = json.loads((self.folder / "note.json").read_text(encoding="utf-8"))
            size = self._rows.stat().st_size
        except (OSError, ValueError):
            return 0
        layers, height, width = self.shape
        rows = found.pop("rows", None)
        whole = type(rows) is int and size >= ((layers - 1) * height + rows) * width
        return rows if found == self.note and whole else 0


def layers_of(mask: Tensor) -> Tensor:
    """Return a mask (H, W) or (layers, H, W) as (layers, H, W)."""
    return mask if mask.ndim == 3 else mask[None].to(torch.uint8)
