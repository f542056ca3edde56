"""``data.json``: the training, validation and test images of a run, so that it is never resumed with others."""

from __future__ import annotations

import os
from pathlib import Path

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import Callback

from unetzoo.data.record import FILE, DataRecord
from unetzoo.errors import ConfigError
from unetzoo.evaluation.held_out import Seen, seen_at, tell
from unetzoo.printing import said_once
from unetzoo.saving.records import BEST_FILE
from unetzoo.saving.sources import source_of
from unetzoo.train.keeping import LAST
from unetzoo.train.recipe import Recipe


class KeepData(Callback):
    """Writes ``data.json`` when a run begins, and refuses to resume the run with data other than those it lists.

    Args:
        folder: of the run; if it has ``last.ckpt``, the run is being resumed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / FILE
        self.record: DataRecord | None = None

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Look at the images before any file of the run is changed.

        Raises:
            ConfigError: a resumed run began with other data; says which are new, gone or changed.
        """
        if stage != "fit":
            return
        assert isinstance(pl_module, Recipe)
        seen = _seen_by(pl_module.settings.name)
        self.record = DataRecord.of(pl_module.data.samples, seen.records)
        if self.path.with_name(LAST).exists():
            self.record = _same(self.path, self.record)
        elif trainer.is_global_zero:
            tell(self.record, seen)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write."""
        if trainer.is_global_zero:
            assert self.record is not None
            self.record.write(self.path)


def _seen_by(model: str) -> Seen:
    """Return what is known about the data of the model from which a run starts; nothing for an untrained network."""
    source = source_of(model)
    return seen_at([] if source.kind == "network" else [(model, source.path)])


def _same(path: Path, now: DataRecord) -> DataRecord:
    """Return the record that a run began with, if it lists the same data."""
    fix = f"train a new run, starting from {path.with_name(BEST_FILE)} if you like"
    if not path.is_file():
        raise ConfigError(f"there is no {path}, so it is not known what the run was trained on: {fix}")
    record = DataRecord.read(path)
    changes = said_once(record.changes(now))
    if changes:
        raise ConfigError(f"a resumed run needs the data that it began with; give those, or {fix}", _few(changes))
    return record


def _few(changes: list[str]) -> list[str]:
    return changes[:20] + ([f"and {len(changes) - 20} more"] if len(changes) > 20 else [])
