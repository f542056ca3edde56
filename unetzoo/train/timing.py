"""Measures the time and the memory of a run, to compare runs."""

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
PARTS = ("training", "waiting", "validation")


class Clock(Callback):
    """Writes ``times.csv``: one row per epoch, with the seconds and the MiB that the run has taken by its end.

    ``--trainer.callbacks+=unetzoo.train.Clock`` adds it to a run. It is not part of other runs because times differ
    from run to run, while all other files of a run are the same each time.

    ``seconds`` counts training and validation since the first step; a resumed run adds to the seconds of its
    checkpoint. ``training`` and ``validation`` are those of the epoch, and ``waiting`` is the part of the training in
    which no batch was ready. The rest of the epoch went to saving and showing results. ``peak_mib`` is the peak memory
    of the process, minus its memory when this callback was made, before the network was; on a GPU, the peak of the GPU
    memory. It is empty where it cannot be measured, as on systems other than Linux.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float | int | None]] = []
        self._before = peak_memory()
        self._peak: float | None = None
        self._earlier = 0.0
        self._start: float | None = None
        self._parts = dict.fromkeys(PARTS, 0.0)
        self._since = 0.0  # when a part began, or a batch ended

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._start = self._since = time.monotonic()

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin an epoch."""
        self._since = time.monotonic()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the time it waited for the batch."""
        self._count("training", "waiting")

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step."""
        self._count("training")

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Count the rest of the last steps."""
        _wait(pl_module.device)
        self._count("training")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Count the validation, before its results are saved."""
        _wait(pl_module.device)
        self._count("validation")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Add a row, and write the file."""
        self._weigh(pl_module.device)
        parts = {name: round(seconds, 3) for name, seconds in self._parts.items()}
        seconds = round(self._seconds(), 3)
        row = {"epoch": trainer.current_epoch + 1, "seconds": seconds, **parts, "peak_mib": self._peak}
        self._parts = dict.fromkeys(PARTS, 0.0)
        self.rows.append(row)
        if trainer.is_global_zero:
            text = io.StringIO()
            table = csv.DictWriter(text, list(row), lineterminator="\n")
            table.writeheader()
            table.writerows(self.rows)
            write_file(_folder_of(trainer) / TIMES, text.getvalue())

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, the time and the peak."""
        return {"rows": self.rows, "seconds": self._seconds(), "peak": self._peak}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read them."""
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._earlier, self._peak = state_dict["seconds"], state_dict["peak"]

    def _count(self, *parts: str) -> None:
        """Add the time since the last count to these parts."""
        now = time.monotonic()
        for name in parts:
            self._parts[name] += now - self._since
        self._since = now

    def _seconds(self) -> float:
        return self._earlier + (0.0 if self._start is None else time.monotonic() - self._start)

    def _weigh(self, device: torch.device) -> None:
        """Update the peak, if it is higher than that of the process before the run was resumed."""
        if device.type == "cuda":
            taken = torch.cuda.max_memory_allocated(device)
        else:
            now = peak_memory()
            if now is None or self._before is None:
                return
            taken = now - self._before
        self._peak = max(self._peak or 0.0, round(taken / 2**20, 1))


def _wait(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _folder_of(trainer: lightning.Trainer) -> Path:
    return next(
        callback.path.parent
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(callback, KeepBest)
    )
