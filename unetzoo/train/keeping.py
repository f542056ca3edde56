"""The files from which a run is resumed and used: last.ckpt and best.safetensors, both written atomically."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
import yaml
from lightning_fabric.plugins.io import CheckpointIO
from pytorch_lightning.callbacks import Callback

from unetzoo.errors import TrainingError, WeightsError
from unetzoo.files.torch_files import load_pickle
from unetzoo.files.writing import make_folder, replacing, write_file
from unetzoo.model import build_on_meta
from unetzoo.saving import weights
from unetzoo.saving.records import BEST_FILE
from unetzoo.train.building import DEFAULT_LOSSES, logits_of
from unetzoo.train.judging import Score, figure_of_images
from unetzoo.train.recipe import Recipe
from unetzoo.train.runs import CONFIG
from unetzoo.train.settings_table import said

LAST = "last.ckpt"
REMARK = "# null: not given. Where the value then follows from the data, a comment says what it was in this run."


class WholeFiles(CheckpointIO):
    """Writes checkpoints atomically, and reads them without running code in them."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint in place of the one before.

        Raises:
            WriteError: the disk is full, or the folder cannot be written; the one before is intact.
        """
        make_folder(Path(path).parent)
        with replacing(path) as stream:
            try:
                torch.save(checkpoint, stream)
            except RuntimeError as error:  # torch fails to end its file, which hides the error of the disk
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors, numbers and text; anything else is refused.

        Raises:
            WeightsError: missing, damaged, or not a checkpoint.
        """
        if not Path(path).exists():
            raise WeightsError(f"{path}: there is no such checkpoint")
        try:
            found: dict[str, Any] = load_pickle(Path(path))
        except WeightsError as error:
            raise WeightsError(
                f"{path} is damaged, or not a checkpoint ({error}): train again{_or_from_the_best(Path(path))}"
            ) from error
        return found

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


class KeepLast(Callback):
    """Writes ``last.ckpt``: after each epoch, and every few minutes or steps within an epoch.

    It is the last of the callbacks, so that it saves what the others know about the epoch.

    Args:
        folder: of the run.
        minutes: between two checkpoints within an epoch.
        steps: between two checkpoints within an epoch; None: by time.
    """

    _PACE = 20
    """Batches between two looks at the clock, where processes must agree on the time."""

    def __init__(self, folder: str | os.PathLike[str], minutes: float = 5.0, steps: int | None = None) -> None:
        self.path = Path(folder) / LAST
        self.minutes, self.steps = minutes, steps
        self._saved = time.monotonic()

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Agree on the path: sharded checkpoints are written by all processes."""
        self.path = trainer.strategy.broadcast(self.path)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, between two optimiser steps; at the end of an epoch there is another save."""
        if self.is_between(trainer, batch_idx) and self._due(
            trainer, (batch_idx + 1) // trainer.accumulate_grad_batches
        ):
            self.save(trainer, pl_module)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Check the weights before they are validated."""
        self._check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save."""
        self.save(trainer, pl_module)

    def is_between(self, trainer: lightning.Trainer, batch_idx: int) -> bool:
        """Return whether a batch ends an optimiser step, but not the epoch."""
        done = batch_idx + 1
        return done < trainer.num_training_batches and done % trainer.accumulate_grad_batches == 0

    def save(self, trainer: lightning.Trainer, recipe: lightning.LightningModule) -> None:
        """Write the checkpoint.

        Raises:
            TrainingError: weights are not finite; the checkpoint before is intact.
            WriteError: it cannot be written; the checkpoint before is intact.
        """
        self._check(trainer, recipe)
        trainer.save_checkpoint(self.path)
        self._saved = time.monotonic()

    def _due(self, trainer: lightning.Trainer, step: int) -> bool:
        if self.steps is not None:
            return step % self.steps == 0
        if trainer.world_size > 1 and step % self._PACE:
            return False
        due = time.monotonic() - self._saved > 60 * self.minutes
        return bool(trainer.strategy.broadcast(due)) if trainer.world_size > 1 else due

    def _check(self, trainer: lightning.Trainer, recipe: lightning.LightningModule) -> None:
        """Refuse to continue with a loss or weights that are not finite: they are never saved."""
        if isinstance(recipe, Recipe):
            recipe.check_losses()
        broken = [name for name, tensor in recipe.named_parameters() if not tensor.isfinite().all()]
        if broken:
            raise TrainingError(
                f"step {trainer.global_step} made {len(broken)} weights NaN or infinite, such as {broken[0]}. "
                f"{self.path.name} is from before. Train again with a lower lr=… or trainer.gradient_clip_val=1"
                f"{_or_from_the_best(self.path)}"
            )


class KeepBest(Callback):
    """Writes ``best.safetensors``: the network of the best epoch, see ``unetzoo.train.judging``.

    If no class occurs in the validation masks, it is that with the lowest loss.
    If the weights are averaged, it is the average.

    Args:
        folder: of the run.

    Attributes:
        score: of the best epoch; None before the first validation.
        epoch: the best one, from 0.
        metrics: of that epoch.
        waited: epochs from the best one to the last validated one.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / BEST_FILE
        self.score: Score | None = None
        self.epoch: int | None = None
        self.metrics: dict[str, float | None] = {}
        self.waited = 0

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save if the epoch is better than all before it."""
        assert isinstance(pl_module, Recipe)
        assert pl_module.scores is not None
        if trainer.sanity_checking:
            return
        score = pl_module.score
        assert score is not None
        if self.score is not None and score <= self.score:
            assert self.epoch is not None
            self.waited = trainer.current_epoch - self.epoch
            return
        state = trainer.strategy.lightning_module_state_dict()  # complete, even if it is sharded
        if trainer.is_global_zero:
            prefix = pl_module.prefix_of_judged
            kept = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            network = build_on_meta(pl_module.network.config)
            network.load_state_dict(kept, assign=True)
            make_folder(self.path.parent)
            weights.save(network, self.path)
        self.score, self.epoch, self.waited = score, trainer.current_epoch, 0
        self.metrics = pl_module.figures

    def state_dict(self) -> dict[str, Any]:
        """Return which epoch was the best."""
        score = None if self.score is None else (self.score.by_score, self.score.value, self.score.then)
        return {"score": score, "epoch": self.epoch, "waited": self.waited, "metrics": self.metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read it."""
        score = state_dict["score"]
        self.score = None if score is None else Score(*score)
        self.epoch, self.waited, self.metrics = (state_dict[name] for name in ("epoch", "waited", "metrics"))


class KeepSettings(Callback):
    """Writes the ``config.yaml`` of a run, when everything has been checked and training begins.

    A run that is refused, or has nothing left to do, keeps its old file.

    Args:
        folder: of the run.
        settings: returns what was set. A setting that follows from the data stays null, with its value in this run
            as a comment, so that the file also works for other data.
    """

    def __init__(self, folder: Path, settings: Callable[[], Mapping[str, Any]]) -> None:
        self.folder, self.settings = folder, settings
        self._written = False

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write before the first batch."""
        if trainer.is_global_zero and not self._written:
            self._written = True
            assert isinstance(pl_module, Recipe)
            text = yaml.safe_dump(dict(self.settings()), sort_keys=False)
            write_file(self.folder / CONFIG, _remarked(text, _in_force(pl_module)))


def _in_force(recipe: Recipe) -> dict[str, Any]:
    """Return the values of settings that follow from the data of a run if they are not given: full name → value."""
    labels, data = recipe.data.labels, recipe.data
    return {
        "model.loss": DEFAULT_LOSSES[logits_of(labels.task)],
        "model.monitor": figure_of_images(None, objects=labels.task == "instances"),
        "data.task": labels.task,
        "data.num_classes": labels.num_classes,
        "data.class_names": labels.class_names and [*labels.class_names],
        "data.crop_size": [*data.crop],
        "data.normalisation": data.facts.normalisation,
    }


def _remarked(text: str, in_force: Mapping[str, Any]) -> str:
    """Return settings as YAML, with a comment after each null whose value in this run is known."""
    section, lines = "", []
    for line in text.splitlines():
        section = line[:-1] if line.endswith(":") and not line.startswith((" ", "-")) else section
        value = in_force.get(f"{section}.{line.strip().removesuffix(': null')}") if line.endswith(": null") else None
        lines.append(line if value is None else f"{line}  # here {said(value)}")
    return "\n".join([REMARK, *lines, ""])


def _or_from_the_best(last: Path) -> str:
    """Return the advice to start from the best network, if there is one."""
    best = last.with_name(BEST_FILE)
    return f", starting from model={str(best)!r} if you like" if best.is_file() else ""
