"""What a run shows: a progress bar, a line and a table row per epoch, curves, a card."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import Callback

from unetzoo.comparing.plotting import require_plot
from unetzoo.data.listing import paths_of
from unetzoo.files.writing import write_file
from unetzoo.printing import counted, printable
from unetzoo.saving import cards, sources
from unetzoo.saving.records import BEST_FILE, CARD_FILE, read_saved
from unetzoo.train import clipping, report_page
from unetzoo.train.building import is_saved
from unetzoo.train.curves import write_curves
from unetzoo.train.data import FolderData
from unetzoo.train.keeping import KeepBest
from unetzoo.train.recipe import Recipe
from unetzoo.train.runs import CURVES, HISTORY
from unetzoo.train.stopping import LimitReachedError

_logger = logging.getLogger("unetzoo")
STYLES = ("bar", "lines", "json", "quiet")
SHORT = ("loss", "val_loss", "dice", "iou", "object_ap_50")
"""Figures in the line of an epoch, as well as the one by which the best epoch is kept."""


class History(Callback):
    """Writes ``metrics.csv``, one row per epoch, and ``curves.png``, at most every ten seconds and at the end.

    Args:
        folder: of the run.
    """

    _PAUSE = 10

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.rows: list[dict[str, float | int | None]] = []
        self._drawn = time.monotonic()
        require_plot(CURVES)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Add a row, and write both files."""
        assert isinstance(pl_module, Recipe)
        scores = pl_module.figures
        best = _best_of(trainer).epoch
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": max(group["lr"] for group in trainer.optimizers[0].param_groups),
            "loss": pl_module.training_loss,
            "clipped": pl_module.clipped,
            "val_loss": pl_module.validation_loss,
            "best": None if best is None else best + 1,
            **scores,
        }
        self.rows.append(row)
        if trainer.is_global_zero:
            self._write_table()
            if time.monotonic() - self._drawn > self._PAUSE:
                self._write_curves(pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw the last curves."""
        if trainer.is_global_zero:
            self._write_curves(pl_module)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Draw them also if the run ends within an epoch."""
        if isinstance(exception, LimitReachedError) and self.rows and trainer.is_global_zero:
            self._write_curves(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read them."""
        self.rows = [dict(row) for row in state_dict["rows"]]

    def _write_table(self) -> None:
        text = io.StringIO()
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write_file(self.folder / HISTORY, text.getvalue())

    def _write_curves(self, recipe: lightning.LightningModule) -> None:
        assert isinstance(recipe, Recipe)
        write_curves(self.rows, self.folder / CURVES, recipe.settings.monitor)
        self._drawn = time.monotonic()


class Progress(Callback):
    """Prints the progress of the run.

    Args:
        style: "bar": a bar for the complete run, with loss, Dice, images per second and the time left, and a line per
            epoch; "lines": only the lines; "json": a JSON object per epoch on standard output, one per line; "quiet":
            nothing.
    """

    def __init__(self, style: str = "bar") -> None:
        self.style = style
        self._bar: Any = None
        self._shown: dict[str, str] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print which network is trained on which data, and open the bar at the current step."""
        if self.style != "quiet" and trainer.is_global_zero:
            self._introduce(trainer, pl_module)
        if self.style != "bar" or not trainer.is_global_zero:
            return
        from huggingface_hub.utils.tqdm import tqdm

        data = _data_of(trainer)
        batch, done = data.crops * trainer.world_size, trainer.fit_loop.total_batch_idx + 1
        self._bar = tqdm(  # type: ignore[no-untyped-call]
            total=int(trainer.num_training_batches * (trainer.max_epochs or 1)) * batch,
            initial=done * batch,
            unit=" images",
            dynamic_ncols=True,
        )
        self._batch = batch

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar."""
        if self._bar is None:
            return
        self._bar.set_description(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", refresh=False)
        if self._bar.update(self._batch):  # it was redrawn: only then read the loss, which waits for the device
            self._shown["loss"] = f"{float(outputs['loss']):.4f}"
            self._bar.set_postfix(self._shown, refresh=False)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print the epoch's line."""
        assert isinstance(pl_module, Recipe)
        loss, clipped = pl_module.training_loss, pl_module.clipped  # reduced over all processes: each must take part
        if self.style == "quiet" or not trainer.is_global_zero:
            return
        scores = pl_module.figures
        record = {"epoch": trainer.current_epoch + 1, "loss": loss, "clipped": clipped}
        record |= {"val_loss": pl_module.validation_loss, **scores}
        if self.style == "json":
            print(json.dumps(record), flush=True)
            return
        monitor = pl_module.settings.monitor
        short = dict.fromkeys((*SHORT, *([monitor] if monitor else [])))
        words = [f"{name} {record[name]:.4f}" for name in short if record.get(name) is not None]
        best = _said_of_best(pl_module) if _best_of(trainer).epoch == trainer.current_epoch else ""
        best += clipping.often(clipped)
        line = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {'  '.join(words)}{best}"
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.write(line, file=sys.stdout)
            self._shown = {name: f"{record[name]:.4f}" for name in ("dice",) if record.get(name) is not None}

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar."""
        self._close()

    def _introduce(self, trainer: lightning.Trainer, recipe: lightning.LightningModule) -> None:
        assert isinstance(recipe, Recipe)
        stream = sys.stderr if self.style == "json" else sys.stdout
        if trainer.global_step and not trainer.should_stop and recipe.rescheduled is not None:
            print(f"warning: {recipe.rescheduled}", file=stream, flush=True)
        if self.style == "json":
            return
        data = _data_of(trainer)
        counts = {name: split.images for name, split in data.report.splits.items()}
        print(
            f"{recipe.network.config.name}, {sum(p.numel() for p in recipe.network.parameters()):,} parameters, on "
            f"{recipe.device}; {counts['train']} training and {counted(counts['val'], 'validation image')}, "
            f"{counted(int(trainer.num_training_batches), 'step')} an epoch, crops of {data.crop[0]} × {data.crop[1]}, "
            f"{counted(data.report.in_channels or 0, 'channel')}"
        )
        for warning in data.report.warnings:
            # Through the log, so that a command can word it with its options.
            _logger.warning("warning: %s", printable(warning))
        if trainer.global_step and not trainer.should_stop:
            print(f"continues in epoch {trainer.current_epoch + 1}, after step {trainer.global_step}", flush=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _said_of_best(recipe: Recipe) -> str:
    """Return the remark on an epoch that is the best so far; empty while all scores are 0."""
    score = recipe.score
    if score is None or (score.by_score and score.value == score.then == 0):
        return ""
    monitor = recipe.settings.monitor if score.by_score else "the loss"
    return f"  (best so far, by {monitor})" if monitor else "  (best so far)"


def write_leftovers(
    folder: Path, trainer: lightning.Trainer, defaults: Mapping[str, Any], ended: str, seconds: float
) -> None:
    """Write the run's ``README.md`` and ``report.html``.

    Args:
        folder: of the run.
        trainer: its fit has ended.
        defaults: of all settings.
        ended: what ended the run, in one line.
        seconds: how long it took.

    Raises:
        WriteError: a file cannot be written.
    """
    write_card(folder, trainer)
    report_page.write_report(folder, trainer, _best_of(trainer), _data_of(trainer), defaults, ended, seconds)


def write_card(folder: Path, trainer: lightning.Trainer) -> None:
    """Write the run's ``README.md``: a model card with the figures of the best epoch.

    Raises:
        WriteError: the file cannot be written.
    """
    best, data, recipe = _best_of(trainer), _data_of(trainer), trainer.lightning_module
    assert isinstance(recipe, Recipe)
    if best.epoch is None:
        return
    names = " and ".join(path.name for path in paths_of(data.folder))
    counts = {name: split.images for name, split in data.report.splits.items()}
    card = cards.ModelCard(
        base_model=_base_of(recipe.settings.name),
        training_data=f"Images of {names}: {counts['train']}.",
        metrics={name: value for name, value in best.metrics.items() if value is not None and name != "images"},
        evaluation_data=f"validation images of {names}: {counts['val']}; epoch {best.epoch + 1}.",
        text="Trained with unetzoo; `config.yaml` in the folder of the run has all settings.",
    )
    path = folder / CARD_FILE
    earlier = cards.read_card(path.read_text(encoding="utf-8") if path.is_file() else None, path)
    write_file(path, cards.write_card(read_saved(folder / BEST_FILE), str(folder), card, earlier))


def _base_of(name: str) -> str | None:
    """Return the saved model that a run began from. Of a path only the end is given: a card is for other machines."""
    if not is_saved(name):
        return None
    return name if sources.named_source(name).kind in ("repository", "trained") else Path(name).name


def _best_of(trainer: lightning.Trainer) -> KeepBest:
    return next(callback for callback in trainer.callbacks if isinstance(callback, KeepBest))  # type: ignore[attr-defined]


def _data_of(trainer: lightning.Trainer) -> FolderData:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, FolderData)
    return data
