"""A mask that grows on disk, in a folder ``.<name>.partial`` next to its target, and outlives the process.

The folder holds the raw rows, and a note of how many there are. It is not a memory map, because the pages of a map
would count as memory of the process.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unetzoo.errors import WriteError
from unetzoo.files import strict_json
from unetzoo.files.writing import write_file
from unetzoo.prediction.tiles import Grid


class PartialMask:
    """The finished rows of a mask (layers, height, width).

    Args:
        target: where the mask will be.
        shape: shape of the mask.
        dtype: type of its numbers, by its name in NumPy, such as "uint8".
        settings: can be written as JSON; rows that were made with other settings are not continued.
        lay_out: returns the tiles of the image; called if there are no rows to continue.

    Attributes:
        folder: where the mask grows.
        done: number of finished rows.
        missing: whether the finished rows contain pixels where nothing was measured.
        grid: the tiles for all rows, as the earlier run laid them out. If they were laid out again, with another amount
            of free memory, they might begin at other rows.

    Raises:
        WriteError: the folder cannot be written.
    """

    def __init__(
        self,
        target: Path,
        shape: tuple[int, int, int],
        dtype: str,
        settings: Mapping[str, Any],
        lay_out: Callable[[], Grid],
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self.settings = json.loads(json.dumps({**settings, "shape": shape, "dtype": dtype}))
        self.folder = target.with_name(f".{target.name}.partial")
        found = self._found()
        self.done, self.missing, self.grid = (0, False, lay_out()) if found is None else found
        if found is None:
            self._clear()

    def _clear(self) -> None:
        try:
            if self.folder.exists():
                shutil.rmtree(self.folder)
        except OSError as error:
            raise WriteError(f"{self.folder} cannot be removed: {error.strerror}") from error
        write_file(self._rows, b"")

    def put(self, part: Tensor, *, missing: bool = False) -> None:
        """Write the next rows, and flush them to the disk before the note that counts them.

        Args:
            part: (rows, width) or (layers, rows, width).
            missing: whether they contain pixels where nothing was measured.

        Raises:
            WriteError: they cannot be written.
        """
        import numpy as np

        layers, height, width = self.shape
        kind = np.dtype(self.dtype)
        array = part.reshape(layers, -1, width).numpy().astype(kind, copy=False)
        try:
            with self._rows.open("r+b") as stream:
                for layer in range(layers):
                    stream.seek((layer * height + self.done) * width * kind.itemsize)
                    stream.write(array[layer].tobytes())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise WriteError(f"{self.folder} cannot be written: {error.strerror}; finished rows are kept") from error
        self.done += array.shape[1]
        self.missing |= missing
        write_file(self.folder / "note.json", json.dumps(self._note()))

    def replace(self, layer: int, first: int, rows: Any) -> None:
        """Write an array (n, width) in place of finished rows of a layer.

        Raises:
            WriteError: they cannot be written.
        """
        _, height, width = self.shape
        try:
            with self._rows.open("r+b") as stream:
                stream.seek((layer * height + first) * width * rows.itemsize)
                stream.write(rows.astype(self.dtype, copy=False).tobytes())
        except OSError as error:
            raise WriteError(f"{self.folder} cannot be written: {error.strerror}") from error

    def rows(self, layer: int, first: int, count: int) -> Any:
        """Return finished rows of a layer, down to its end at most, as an array (rows, width)."""
        import numpy as np

        _, height, width = self.shape
        count = min(count, height - first)
        kind = np.dtype(self.dtype)
        start = (layer * height + first) * width * kind.itemsize
        return np.fromfile(self._rows, kind, count * width, offset=start).reshape(count, width)

    @property
    def size(self) -> int:
        """Size of all rows in bytes."""
        import numpy as np

        layers, height, width = self.shape
        return layers * height * width * np.dtype(self.dtype).itemsize

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)

    @property
    def _rows(self) -> Path:
        return self.folder / "rows"

    def _note(self) -> dict[str, Any]:
        return {"settings": self.settings, "grid": self.grid.record(), "rows": self.done, "missing": self.missing}

    def _found(self) -> tuple[int, bool, Grid] | None:
        """Return the number of rows that a killed run left, whether values are missing in them, and the tiles.

        None if this run would make other rows.
        """
        import numpy as np

        try:
            note = strict_json.loads((self.folder / "note.json").read_text(encoding="utf-8"))
            settings, rows, missing, grid = note["settings"], note["rows"], note["missing"], Grid.of(note["grid"])
            size = self._rows.stat().st_size
        except (OSError, ValueError, TypeError, KeyError):
            return None
        layers, height, width = self.shape
        whole = rows in (*grid.down.starts[1:], height) and size >= (
            ((layers - 1) * height + rows) * width * np.dtype(self.dtype).itemsize
        )
        return (rows, bool(missing), grid) if settings == self.settings and whole else None
