"""A mask that grows on the disk, in a folder ``.<name>.partial`` beside its place, and outlives the process.

The rows as they are, and a note of how many there are. Not a map of memory, whose pages would count as the process's
own.
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
        shape: of the mask.
        dtype: of its numbers, as numpy names it, such as "uint8".
        settings: JSON-able; rows that were made under others are not gone on with.
        lay_out: returns the tiles of the image; is asked where there are no rows to go on with.

    Attributes:
        folder: where it grows.
        done: finished rows.
        missing: whether nothing was measured somewhere in them.
        grid: the tiles that they came of, and that the others must come of: those the earlier run laid out. Laid out
            anew, with other memory free, they might begin at other rows.

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
        """Write the next rows, and bring them to the disk before the note that counts them.

        Args:
            part: (rows, width) or (layers, rows, width).
            missing: whether nothing was measured somewhere in them.

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
            raise WriteError(f"{self.folder} cannot be written: {error.strerror}; what is done is kept") from error
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
        """Return finished rows of a layer, at most to its end, as an array (rows, width)."""
        import numpy as np

        _, height, width = self.shape
        count = min(count, height - first)
        kind = np.dtype(self.dtype)
        start = (layer * height + first) * width * kind.itemsize
        return np.fromfile(self._rows, kind, count * width, offset=start).reshape(count, width)

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        import numpy as np

        layers, height, width = self.shape
        return layers * height * width * np.dtype(self.dtype).itemsize

    def remove(self) -> None:
        """Remove it all."""
        shutil.rmtree(self.folder)

    @property
    def _rows(self) -> Path:
        return self.folder / "rows"

    def _note(self) -> dict[str, Any]:
        return {"settings": self.settings, "grid": self.grid.record(), "rows": self.done, "missing": self.missing}

    def _found(self) -> tuple[int, bool, Grid] | None:
        """Return the rows that a killed run has left, whether some are missing in them, and their tiles.

        None where this run would make others.
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
