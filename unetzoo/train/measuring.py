"""How long steps and validations take here: measured before a run begins, on the same network and batches."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback

from unetzoo.devices.threads import processors
from unetzoo.errors import ConfigError
from unetzoo.printing import counted, span
from unetzoo.train.budgets import FEWEST, cut
from unetzoo.train.data import FolderData
from unetzoo.train.recipe import Recipe

_logger = logging.getLogger("unetzoo")
STEPS, BATCHES = 12, 4
"""Most training steps and validation batches that are measured; the first of each is not: it includes set-up work."""
SECONDS = 15.0
"""After this time, no further ones are measured."""
ENOUGH = 200
"""Fewer steps give a warning: a network has hardly begun to learn then."""
LONG = 500
"""Runs of at least this many steps are measured to predict how long they will take."""


@dataclass(frozen=True)
class Pace:
    """Seconds per optimiser step, and per validation on all images."""

    step: float
    validation: float

    def seconds(self, epochs: int, length: int) -> float:
        """Return the duration of this many epochs with this many steps each."""
        return epochs * (length * self.step + self.validation)

    def epochs_in(self, seconds: float, length: int | None = None) -> tuple[int, int]:
        """Return epochs, and steps of each, that fit: the most steps, cut as :func:`unetzoo.train.budgets.cut` does.

        If validation is slow, there are fewer validations, so that they take about a tenth of the time; but at least
        three, unless these take more than a quarter of it.

        Raises:
            ConfigError: not even one step and its validation fit.
        """
        fewest = FEWEST
        if self.validation:
            tenth, quarter = (int(seconds / part / self.validation) for part in (10, 4))
            fewest = min(FEWEST, max(1, tenth, min(3, quarter)))

        def fits(steps: int) -> bool:
            return self.seconds(*cut(steps, length, fewest)) <= seconds

        if not fits(1):
            raise ConfigError(
                f"minutes={seconds / 60:.3g}: a step takes {self.step:.1f} s here, and a validation "
                f"{self.validation:.1f} s; give more minutes, a smaller network, or smaller crops"
            )
        low, high = 1, 2
        while fits(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return cut(low, length, fewest)


class _Enough(Exception):  # noqa: N818
    """Leaves a loop of Lightning once it has been measured."""


class _Watch(Callback):
    """Records when each batch ended, and leaves after a number of batches."""

    def __init__(self, most: int) -> None:
        self.most, self.ends = most, list[float]()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record it if the optimiser took a step."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._note(pl_module.device)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        """Record it."""
        self._note(pl_module.device)

    def _note(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.ends.append(time.monotonic())
        if len(self.ends) == self.most or (len(self.ends) > 2 and self.ends[-1] - self.ends[0] > SECONDS):
            raise _Enough


def measured(trainer_of: Callable[..., lightning.Trainer], recipe: Recipe, data: FolderData) -> Pace:
    """Return the pace of a run; the run is left as if nothing had been measured.

    Args:
        trainer_of: makes a trainer with the given callbacks, and otherwise the settings of the run.
        recipe: a copy of the run's, before its network is built.
        data: the run's own; it is checked here, and not again later.
    """
    length, data.steps_per_epoch = data.steps_per_epoch, STEPS
    try:
        with torch.random.fork_rng():
            trainer = functools.partial(trainer_of, limit_train_batches=None, max_steps=-1)
            steps, _ = _timed(lambda watch: trainer(callbacks=[watch]).fit(recipe, datamodule=data), STEPS)
            pixels = _validated(data, trainer(callbacks=[]).limit_val_batches)
            if not pixels:
                return Pace(mean(steps), 0.0)
            most = min(BATCHES, len(pixels))
            validations, first = _timed(
                lambda watch: trainer(callbacks=[watch]).validate(recipe, datamodule=data, verbose=False), most
            )
    finally:
        data.steps_per_epoch = length
    return Pace(mean(steps), sum(validations) * sum(pixels) / sum(pixels[first : first + len(validations)]))


def _validated(data: FolderData, limit: int | float) -> list[int]:
    """Return the pixels of each batch of a validation, which may be limited to a number or a share of all batches."""
    batches = data.val_dataloader().batch_sampler.batches  # type: ignore[union-attr]
    count = limit if isinstance(limit, int) else int(limit * len(batches))
    sizes = data.validation_set().sizes()
    return [sum(sizes[i][0] * sizes[i][1] for i in batch) for batch in batches[:count]]


def _timed(act: Callable[[_Watch], Any], most: int) -> tuple[list[float], int]:
    """Return the seconds of batches, and the index of the first one timed: 1, or 0 if there is only one batch."""
    watch, begin = _Watch(most), time.monotonic()
    with contextlib.suppress(_Enough):
        act(watch)
    first = min(1, len(watch.ends) - 1)
    ends = watch.ends if first else [begin, *watch.ends]
    return [after - before for before, after in itertools.pairwise(ends)], first


def forecast(cli: Any) -> None:
    """Find the number of steps if ``minutes`` are given, and print how long a run takes unless it is short.

    Args:
        cli: ``unetzoo.train.command.RunCLI``, of a run that begins.

    Raises:
        ConfigError: ``minutes`` are given where nothing can be measured.
    """
    config, strategy = cli.config, cli.config.trainer.strategy
    alone = cli.trainer.world_size == 1 and isinstance(strategy, str)
    if config.minutes is not None and not alone:
        raise ConfigError("minutes can be measured only in a single process: give steps=…")
    long = config.data.steps_per_epoch and config.trainer.max_epochs * config.data.steps_per_epoch >= LONG
    if config.minutes is None and not (long and alone and cli.style in ("bar", "lines")):
        return
    pace = measured(cli.bare, copy.deepcopy(cli.model), cli.datamodule)
    if config.minutes is not None:
        epochs, length = pace.epochs_in(60 * config.minutes, config.data.steps_per_epoch)
        config.trainer.max_epochs = cli.trainer.fit_loop.max_epochs = epochs
        config.data.steps_per_epoch = cli.datamodule.steps_per_epoch = length
    epochs, length = config.trainer.max_epochs, config.data.steps_per_epoch
    if cli.style in ("bar", "lines"):
        print(
            f"{counted(epochs * length, 'step')} in {counted(epochs, 'epoch')} will take about "
            f"{span(pace.seconds(epochs, length))}: {pace.step:.2g} s per step, {pace.validation:.2g} s per validation",
            flush=True,
        )
        _tell_few(epochs * length, cli.trainer.strategy.root_device)


def _tell_few(steps: int, device: torch.device) -> None:
    """Warn that so few steps of a run by minutes hardly train a network, with what helps."""
    if steps >= ENOUGH:
        return
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    busy = ""
    if device.type == "cpu" and torch.get_num_threads() > 1 and load > processors() + torch.get_num_threads():
        busy = (
            f"; other programs use the {counted(processors(), 'processor')} too (load {load:.0f}), so threads wait for "
            "each other: wait for those programs, or try OMP_NUM_THREADS=1"
        )
    _logger.warning(
        "%s hardly train a network; at least %d are needed, better thousands: take a smaller network or a smaller "
        "crop_size=…, or give more minutes=…%s",
        counted(steps, "step"),
        ENOUGH,
        busy,
    )
