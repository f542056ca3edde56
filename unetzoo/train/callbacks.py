"""Callbacks for any ``pytorch_lightning.Trainer`` that save and show a run."""

from __future__ import annotations

import os
from pathlib import Path

from pytorch_lightning.callbacks import Callback

from unetzoo.checks import one_of, whole
from unetzoo.errors import ConfigError
from unetzoo.train import pictures, reporting
from unetzoo.train.data_list import KeepData
from unetzoo.train.keeping import KeepBest, KeepLast
from unetzoo.train.loggers import ToLoggers
from unetzoo.train.stopping import Patience


def run_callbacks(
    folder: str | os.PathLike[str],
    *,
    style: str = "lines",
    patience: int | None = None,
    images_every: int = 5,
    keep_minutes: float = 5.0,
    keep_steps: int | None = None,
) -> list[Callback]:
    """Return the callbacks that save and show a run of a :class:`Recipe`, in their order; put them after all others.

    With the trainer's ``plugins=[WholeFiles()]``, checkpoints are written atomically.

    Args:
        folder: of the run, made if missing: ``best.safetensors``, ``last.ckpt``, ``data.json``, ``metrics.csv``,
            ``curves.png`` and ``predictions/``.
        style: what is printed: "bar", "lines", "json" or "quiet".
        patience: stop after this many epochs without a better one, see ``unetzoo.train.judging``; None: never.
        images_every: epochs between sheets of predictions.
        keep_minutes: minutes between checkpoints within an epoch.
        keep_steps: optimiser steps between checkpoints within an epoch, instead of minutes; None: by time.

    Raises:
        ConfigError: ``style`` is not one of these, or ``patience`` is less than 1.
    """
    problems = one_of("style", style, reporting.STYLES)
    problems += [] if patience is None else whole("patience", patience)
    if problems:
        raise ConfigError("cannot show a run", problems)
    best, sheets = KeepBest(folder), pictures.ImageSheets(folder, images_every)
    return [
        KeepData(folder),
        best,
        *([] if patience is None else [Patience(best, patience)]),
        reporting.History(folder),
        sheets,
        ToLoggers(Path(folder), sheets),
        reporting.Progress(style),
        KeepLast(folder, keep_minutes, keep_steps),
    ]
