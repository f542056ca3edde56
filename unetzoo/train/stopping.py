"""What ends a run before its last epoch, in such a way that it can be resumed."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import Callback, Timer
from pytorch_lightning.utilities import rank_zero_only

from unetzoo.printing import counted, printable
from unetzoo.train import places
from unetzoo.train.keeping import LAST, KeepBest, KeepLast
from unetzoo.train.runs import CONFIG


class Patience(Callback):
    """Stops a run that does not improve: when this many epochs have been validated since the best one.

    It relies on what :class:`KeepBest` keeps. A run that it stopped therefore stays stopped until patience is raised.

    Args:
        best: keeps the best epoch's network, and precedes this among the callbacks.
        epochs: to wait for a better one.
    """

    def __init__(self, best: KeepBest, epochs: int) -> None:
        self.best, self.epochs = best, epochs

    @property
    def is_over(self) -> bool:
        """Whether this many epochs passed without a better one."""
        return self.best.waited >= self.epochs

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Do not continue a run that this had stopped."""
        trainer.should_stop = trainer.should_stop or self.is_over

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop, in time for the checkpoint of the epoch."""
        if not trainer.sanity_checking:
            trainer.should_stop = trainer.should_stop or self.is_over


class LimitReachedError(Exception):
    """Leaves training within an epoch once the checkpoint is written; it is not an error, and users never see it."""


class Limits(Callback):
    """Ends a run when its time is up, its steps are done, or a callback stops it; it can be resumed bit for bit.

    Lightning would then take the unfinished epoch as finished. This callback saves it as any run is saved within an
    epoch. It must be the last of the callbacks.

    Args:
        last: saves the run.
        time: limit for this call, as the trainer's ``max_time``, such as "00:04:00:00" for four hours; None: no limit.

    Attributes:
        reason: "time", "steps" or "callback" once that has ended the run within an epoch.
    """

    def __init__(self, last: KeepLast, time: Any = None) -> None:
        self.last, self.reason = last, ""
        self._timer = Timer(time, verbose=False)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._timer.on_train_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End it between two optimiser steps; the end of an epoch has its own method."""
        if self.last.is_between(trainer, batch_idx) and self._is_reached(trainer):
            self.last.save(trainer, pl_module)
            raise LimitReachedError

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """End it after an epoch, which is saved already."""
        last = trainer.current_epoch + 1 == trainer.max_epochs
        trainer.should_stop = trainer.should_stop or (not last and self._is_reached(trainer))

    def _is_reached(self, trainer: lightning.Trainer) -> bool:
        left = self._timer.time_remaining()
        if left is not None and trainer.strategy.broadcast(left <= 0):
            self.reason = "time"
        elif trainer.global_step == trainer.max_steps:
            self.reason = "steps"
        elif trainer.should_stop and trainer.fit_loop._can_stop_early:
            self.reason = "callback"
        return bool(self.reason)


def how_it_ended(trainer: lightning.Trainer, folder: Path, *, by_steps: bool = False) -> str:
    """Return what ended a run, and how to continue it.

    Args:
        trainer: its fit has ended.
        folder: of the run.
        by_steps: whether the length of the run is given in optimiser steps instead of epochs.
    """
    resume = functools.partial(places.going_on, folder)
    done = trainer.current_epoch
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= done:
        unit, count = ("steps", trainer.global_step) if by_steps else ("epochs", done)
        return f"all {unit} are done ({count}); {resume(**{unit: 2 * count})} continues"
    if trainer.global_step == trainer.max_steps:
        steps = trainer.max_steps
        again = resume(**{"trainer.max_steps": 2 * steps})
        return f"stopped after {counted(steps, 'step')}; {again} continues"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Patience) and callback.is_over:
            waited = callback.best.waited
            return (
                f"stopped after {counted(done, 'epoch')}, the last {waited} of them without improvement; "
                f"{resume(patience=2 * waited)} continues"
            )
        if isinstance(callback, Limits) and callback.reason == "time":
            return f"stopped in epoch {done + 1}, because its time was up; {resume()} continues for as long again"
    return f"stopped by a callback, after {counted(done, 'epoch')}; {resume()} continues"


def is_first() -> bool:
    """Return whether this is the first of several processes; it works before they are connected."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


@contextlib.contextmanager
def resumable(folder: Path, trainer: lightning.Trainer) -> Iterator[None]:
    """Print how to continue a run that is stopped by Ctrl-C or a signal, both of which Lightning turns into an exit.

    Args:
        folder: of the run.
        trainer: of the run.

    Raises:
        KeyboardInterrupt: it was Ctrl-C.
        SystemExit: it was SIGTERM, to this process or to its whole group.
    """
    on_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except (SystemExit, KeyboardInterrupt, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_of_the_group(error, trainer):
            raise
        if is_first() and (folder / CONFIG).is_file():
            kept = (folder / LAST).exists()
            where = f"continues from {LAST}" if kept else "begins again with the first step: nothing was saved yet"
            print(f"unetzoo: stopped; {printable(places.going_on(folder))} {where}", file=sys.stderr)
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise SystemExit(getattr(error, "code", None) or 128 + signal.SIGTERM) from None
    finally:
        if on_main:
            signal.signal(signal.SIGINT, before)  # Lightning leaves a handler that does nothing


def _is_of_the_group(error: RuntimeError, trainer: lightning.Trainer) -> bool:
    """Return whether a process that reads images was ended by a SIGTERM to the process group.

    torch raises the error of its reader immediately, before Lightning has handled the signal.
    """
    causes: list[BaseException | None] = [error, error.__cause__, error.__context__]
    said = f"killed by signal: {signal.strsignal(signal.SIGTERM)}"
    ended = trainer.received_sigterm or any(said in str(cause) for cause in causes)
    return ended and "DataLoader worker" in str(error)
