"""The time and the memory that a run takes: for runs that are compared."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback

from unetzoo.costs.measuring import peak_memory
from unetzoo.files.writing import write_file
from unetzoo.train.keeping import KeepBest

TIMES = "times.csv"


class Clock(Callback):
    """Writes ``times.csv``: a row an epoch, with the seconds and the MiB that the run has taken by its end.

    ``--trainer.callbacks+=unetzoo.train.Clock`` adds it to a run. It is no part of others: the clock says something
    else each time, and all that a run leaves behind otherwise is the same each time.

    ``seconds`` are those of training and validation since the first step; a run that goes on counts on from its
    checkpoint. ``peak_mib`` is the most memory that the process has held, over what it held when this was made, before
    the network is; on a GPU, the most of its memory. It is empty where it cannot be told, off Linux.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float | int | None]] = []
        self._before = peak_memory()
        self._peak: float | None = None
        self._earlier = 0.0
        self._start: float | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Add a row, and write the file."""
        self._weigh(pl_module.device)
        row = {"epoch": trainer.current_epoch + 1, "seconds": round(self._seconds(), 3), "peak_mib": self._peak}
        self.rows.append(row)
        if trainer.is_global_zero:
            text = io.StringIO()
            table = csv.DictWriter(text, list(row), lineterminator="\n")
            table.writeheader()
            table.writerows(self.rows)
            write_file(_folder_of(trainer) / TIMES, text.getvalue())

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, and what the clock says."""
        return {"rows": self.rows, "seconds": self._seconds(), "peak": self._peak}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read them."""
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._earlier, self._peak = state_dict["seconds"], state_dict["peak"]

    def _seconds(self) -> float:
        return self._earlier + (0.0 if self._start is None else time.monotonic() - self._start)

    def _weigh(self, device: torch.device) -> None:
        """Raise the peak, if it is higher than that of the process that a run went on from."""
        if device.type == "cuda":
            taken = torch.cuda.max_memory_allocated(device)
        else:
            now = peak_memory()
            if now is None or self._before is None:
                return
            taken = now - self._before
        self._peak = max(self._peak or 0.0, round(taken / 2**20, 1))


def _folder_of(trainer: lightning.Trainer) -> Path:
    return next(
        callback.path.parent
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(callback, KeepBest)
    )
