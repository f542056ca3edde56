"""A training run, opened from its folder: its figures, and the network that it kept. Needs no Lightning."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetzoo import markup
from unetzoo.errors import ConfigError, WeightsError
from unetzoo.saving.folds import FOLDS_FILE, fold_folder, folds_in
from unetzoo.train.judging import score_of

if TYPE_CHECKING:
    from unetzoo.model import SegmentationModel
    from unetzoo.prediction import Predictor

CONFIG = "config.yaml"
HISTORY = "metrics.csv"
CURVES, REPORT = "curves.png", "report.html"
_SHOWN = ("epoch", "loss", "val_loss", "dice", "iou", "object_ap_50")
"""Columns of the history in a notebook."""
_LAST = 5
"""Its last rows that are shown."""


class Run:
    """A training run: the folder that ``unetzoo.fit`` and ``unetzoo train`` write; or the folds of a cross-validation.

    It can be used wherever the folder can: ``evaluate(run, …)``, ``unetzoo.fit(model=run, …)``. Figures are read on
    access, so that a run that is still training shows its progress.

    Args:
        folder: of the run, whether it is finished or not.

    Attributes:
        folder: the same, as a path.
        folds: the runs of the folds in it; empty for a single run. Each fold has its own history; all of them share
            one predictor, their average.

    Raises:
        ConfigError: there is no run in this folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folds = tuple(Run(fold_folder(self.folder, fold)) for fold in folds_in(self.folder))
        if not self.folds and not any((self.folder / name).is_file() for name in (CONFIG, HISTORY)):
            raise ConfigError(
                f"there is no run in {self.folder}: neither {CONFIG} nor {HISTORY}; give the folder to which a run "
                "was written"
            )

    @property
    def history(self) -> list[dict[str, float | int | None]]:
        """The rows of ``metrics.csv``, one per epoch, with "epoch" (from 1), "loss", "val_loss", "dice", …, or None."""
        path = self.folder / HISTORY
        if not path.is_file():
            return []  # no epoch has ended yet
        with path.open(encoding="utf-8", newline="") as stream:
            return [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(stream)]

    @property
    def best_epoch(self) -> int | None:
        """Number of the epoch whose network was kept, from 1 (the first of the best epochs); None if there is none."""
        best = self._best()
        return None if best is None or best["epoch"] is None else int(best["epoch"])

    @property
    def best_dice(self) -> float | None:
        """The validation Dice of that epoch, in [0, 1], or None; for folds, that of all held-out images together."""
        if self.folds:
            return self._across()
        best = self._best()
        return None if best is None else best.get("dice")

    def load(self, **options: Any) -> SegmentationModel:
        """Return the network that was kept, in evaluation mode.

        Args:
            **options: of ``unetzoo.load``, such as ``device``.

        Raises:
            WeightsError: no network was kept yet, or its file is damaged.
        """
        from unetzoo.saving import weights

        return weights.load(self._kept(), **options)

    def predictor(self, **options: Any) -> Predictor:
        """Return a predictor of the network that was kept.

        Args:
            **options: of ``unetzoo.Predictor``, such as ``tta``.

        Raises:
            WeightsError: as :meth:`load` says.
            ConfigError: an option that is not allowed.
        """
        from unetzoo.prediction import Predictor

        return Predictor(self.folder if self.folds else self._kept(), **options)

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def __str__(self) -> str:
        if self.folds:
            dice = "not finished" if self.best_dice is None else f"out-of-fold Dice {self.best_dice:.4f}"
            return f"{self.folder}: {len(self.folds)} folds, {dice}"
        epochs = len(self.history)
        if self.best_epoch is None:
            return f"{self.folder}: no epoch has been validated yet"
        dice = "no Dice" if self.best_dice is None else f"validation Dice {self.best_dice:.4f}"
        return f"{self.folder}: {dice} in epoch {self.best_epoch} of {epochs}"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: progress and score, the curves, and the last epochs."""
        if self.folds:
            rows = [[run.folder.name, _said(run.best_dice), _said(run.best_epoch)] for run in self.folds]
            return markup.shown(str(self), [markup.table([["fold", "Dice", "best epoch"], *rows])])
        history, curves = self.history, self.folder / CURVES
        parts = []
        if curves.is_file():
            parts.append(markup.embedded(curves.read_bytes(), "png", 990))
        if history:
            names = [name for name in _SHOWN if any(row.get(name) is not None for row in history)]
            rows = [[_said(row.get(name)) for name in names] for row in history[-_LAST:]]
            parts.append(markup.table([names, *rows]))
        if (self.folder / REPORT).is_file():
            parts.append(f"<p>More in {markup.escaped(self.folder / REPORT)}</p>")
        return markup.shown(str(self), parts)

    def _kept(self) -> Path:
        """Return the file of the network that was kept."""
        from unetzoo.saving.records import BEST_FILE

        if self.folds:
            raise WeightsError(
                f"{self.folder}: it has {len(self.folds)} networks; predictor() averages them, and folds[0].load() "
                "loads the first"
            )
        path = self.folder / BEST_FILE
        if not path.is_file():
            raise WeightsError(f"{path}: not written yet; the first validated epoch writes it")
        return path

    def _across(self) -> float | None:
        path = self.folder / FOLDS_FILE
        return json.loads(path.read_text(encoding="utf-8"))["scores"]["dice"] if path.is_file() else None

    def _best(self) -> dict[str, float | int | None] | None:
        history = self.history
        if history and "best" in history[-1]:
            return next((row for row in history if row["epoch"] == history[-1]["best"]), None)
        judged = [row for row in history if row.get("val_loss") is not None]  # an older version had no such column
        return max(judged, key=score_of, default=None)


def _number(text: str) -> float | int | None:
    if not text:
        return None
    return int(text) if text.isdigit() else float(text)


def _said(value: float | int | None) -> str:
    return "–" if value is None else f"{value:.4g}"
