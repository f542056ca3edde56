"""Loggers for a run's figures, as well as ``metrics.csv``: TensorBoard, Weights & Biases, MLflow, by their names."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import Callback

from unetzoo.checks import one_of
from unetzoo.errors import ConfigError
from unetzoo.extras import EXTRAS, check_installed, needed
from unetzoo.files.writing import write_file
from unetzoo.printing import printable
from unetzoo.train.mistakes import collected
from unetzoo.train.pictures import ImageSheets
from unetzoo.train.recipe import Recipe

PROJECT = "unetzoo"
"""Name of the W&B project and of the MLflow experiment."""
POINTS = 100
"""Fewest points in the curve of the training loss, if a run has that many steps."""
RUNS = "loggers.json"
"""File in the folder of a run with its ids in W&B and MLflow, so that a resumed run is the same one there."""


def logger_problems(names: Sequence[str]) -> list[str]:
    """Return what is wrong with the names of loggers, and which of them need packages that are not installed."""
    problems = [problem for name in names for problem in one_of("logger", name, LOGGERS)]
    with collected(problems):
        check_installed([(name, f"logger={name!r}") for name in dict.fromkeys(names) if name in EXTRAS])
    return problems


def opened(names: Sequence[str], folder: Path) -> list[Any]:
    """Return the loggers of a run, as Lightning's trainer takes them; none for "csv", which is always written.

    Args:
        names: of :data:`LOGGERS`.
        folder: of the run.

    Raises:
        ConfigError: a package is missing.
    """
    known = _known(folder)
    return [logger for name in dict.fromkeys(names) if (logger := LOGGERS[name](folder, known.get(name))) is not None]


def _tensorboard(folder: Path, _: str | None) -> Any:
    needed("tensorboard", "logger='tensorboard'")
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="", version="tensorboard")


def _wandb(folder: Path, run: str | None) -> Any:
    needed("wandb", "logger='wandb'")
    from pytorch_lightning.loggers import WandbLogger

    return WandbLogger(project=PROJECT, name=folder.resolve().name, save_dir=folder, id=run, resume="allow")


def _mlflow(folder: Path, run: str | None) -> Any:
    needed("mlflow", "logger='mlflow'")
    from pytorch_lightning.loggers import MLFlowLogger

    place = os.environ.get("MLFLOW_TRACKING_URI")
    if place is None:
        # MLflow refuses its plain-file store, which needs no server and no database, unless this is set.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        place = (folder.resolve() / "mlruns").as_uri()
    return MLFlowLogger(PROJECT, run_name=folder.resolve().name, tracking_uri=place, run_id=run)


LOGGERS: dict[str, Callable[[Path, str | None], Any]] = {
    "csv": lambda folder, run: None,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}


class ToLoggers(Callback):
    """Gives loggers the settings, the learning rate, the scores of each class and the sheets of images.

    The :class:`Recipe` logs losses, and scores of all classes together. This must follow ``ImageSheets``.

    Args:
        folder: of the run.
        sheets: has the latest sheet.
    """

    def __init__(self, folder: Path, sheets: ImageSheets) -> None:
        self.folder, self.sheets = folder, sheets

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the ids of the run in W&B and MLflow."""
        found = {name: str(logger.version if name == "wandb" else logger.run_id) for name, logger in _named(trainer)}
        if trainer.is_global_zero and found:
            write_file(self.folder / RUNS, json.dumps(found))

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log an epoch."""
        assert isinstance(pl_module, Recipe)
        if not trainer.loggers or not trainer.is_global_zero:
            return
        step = trainer.global_step
        rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        figures = {"lr": rate, **_by_class(pl_module.figures)}
        for logger in trainer.loggers:
            logger.log_metrics(figures, step)
            if self.sheets.latest is not None:
                _log_image(logger, self.sheets.latest, step)


class LogOften(Callback):
    """Logs the training loss often enough for a curve of short runs, too: :data:`POINTS` times, or every 50 steps."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Set the interval, now that the length of the run is known."""
        every = int(trainer.estimated_stepping_batches) // POINTS
        trainer.log_every_n_steps = min(max(every, 1), trainer.log_every_n_steps)  # type: ignore[attr-defined]


@contextlib.contextmanager
def begun(trainer: lightning.Trainer) -> Iterator[None]:
    """Start the runs of all loggers, before any work; at the end, finish W&B's: a process can have only one at a time.

    Raises:
        ConfigError: a logger cannot start, for example without a network connection or a key.
    """
    _begin(trainer)
    try:
        yield
    finally:
        for name, logger in _named(trainer):
            if name == "wandb" and trainer.is_global_zero:
                logger.experiment.finish()


def _begin(trainer: lightning.Trainer) -> None:
    for logger in trainer.loggers:
        try:
            _ = logger.experiment  # type: ignore[attr-defined]
        except Exception as error:  # from any package: a missing key, a server that cannot be reached
            name = type(logger).__name__.removesuffix("Logger").lower()
            offline = "; WANDB_MODE=offline keeps it in the run's folder" if name == "wandb" else ""
            said = printable(" ".join(str(error).split()))
            raise ConfigError(f"logger={name!r} cannot start: {said:.500}{offline}") from error


def _named(trainer: lightning.Trainer) -> list[tuple[str, Any]]:
    """Return the loggers whose runs have ids of their own."""
    kinds = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}
    return [(kinds[type(one).__name__], one) for one in trainer.loggers if type(one).__name__ in kinds]


def _known(folder: Path) -> dict[str, str]:
    path = folder / RUNS
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read ({error}): remove it, then loggers start a new run") from error
    return {name: text for name, text in found.items() if isinstance(text, str)} if isinstance(found, dict) else {}


def _by_class(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Return the scores of each class, with only those characters in their names that MLflow allows.

    They have their own prefix, because MLflow's file store has a file "dice", which cannot also be a folder.
    """
    named = ((*key.partition("/")[::2], value) for key, value in figures.items() if "/" in key)
    return {
        f"val_by_class/{score}/{re.sub(r'[^-. a-zA-Z0-9_]', '_', name)}": value
        for score, name, value in named
        if value is not None
    }


def _log_image(logger: Any, image: Any, step: int) -> None:
    pixels = image.permute(1, 2, 0).numpy()
    match type(logger).__name__:
        case "TensorBoardLogger":
            logger.experiment.add_image("validation", image, step)
        case "WandbLogger":
            logger.log_image("validation", [pixels], step)
        case "MLFlowLogger":
            logger.experiment.log_image(logger.run_id, pixels, artifact_file=f"validation/step_{step:07}.png")
