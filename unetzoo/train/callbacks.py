"""What keeps and shows a run, as callbacks for any ``pytorch_lightning.Trainer``."""

from __future__ import annotations

import os

from pytorch_lightning.callbacks import Callback, EarlyStopping

from unetzoo.checks import one_of
from unetzoo.errors import ConfigError
from unetzoo.train import reporting
from unetzoo.train.keeping import KeepBest, KeepLast


def run_callbacks(
    folder: str | os.PathLike[str],
    *,
    style: str = "lines",
    patience: int | None = None,
    images_every: int = 5,
    keep_minutes: float = 5.0,
    keep_steps: int | None = None,
) -> list[Callback]:
    """Return what keeps and shows a run of a :class:`Recipe`, in the order they need: last among the callbacks.

    With ``plugins=[WholeFiles()]`` of the trainer, a checkpoint is written all or nothing.

    Args:
        folder: of the run, made if missing: ``best.safetensors``, ``last.ckpt``, ``metrics.csv``, ``curves.png`` and
            ``predictions/``.
        style: what is printed: "bar", "lines", "json" or "quiet".
        patience: stop after so many epochs without a better validation Dice; None: never.
        images_every: epochs between sheets of predictions.
        keep_minutes: between checkpoints within an epoch.
        keep_steps: optimiser steps between checkpoints within an epoch, in place of minutes; None: by time.

    Raises:
        ConfigError: ``style`` is none of these.
    """
    problems = one_of("style", style, reporting.STYLES)
    if problems:
        raise ConfigError("cannot show a run", problems)
    stopping: list[Callback] = []
    if patience is not None:
        # At the validation's end, so that last.ckpt, written at the epoch's, knows of it.
        stopping = [EarlyStopping("val/dice", mode="max", patience=patience, check_on_train_epoch_end=False)]
    return [
        *stopping,
        KeepBest(folder),
        reporting.History(folder),
        reporting.Pictures(folder, images_every),
        reporting.Progress(style),
        KeepLast(folder, keep_minutes, keep_steps),
    ]
