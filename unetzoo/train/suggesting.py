"""Which learning rate to take: short trainings at one rate after the other, from the same weights, on the same crops.

A range test (Smith 2017, section 3.3: one training in which the rate rises until the loss does) is cheaper, but what it
proposes hangs on where a noisy curve is steepest. Here each rate has a training of its own, with the run's whole
schedule, and is judged by the loss that it comes to.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import pytorch_lightning as lightning
import torch
from huggingface_hub.utils.tqdm import tqdm
from pytorch_lightning.callbacks import Callback

from unetzoo.errors import TrainingError
from unetzoo.printing import aligned, span
from unetzoo.train.data import FolderData
from unetzoo.train.recipe import Recipe

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Those that are tried, from the lowest up."""
STEPS = 60
"""Of each training."""
WORSE = 2
"""So many rates in a row above the best, each worse than it, end the search."""
FALL = 0.02
"""Share of the loss at the beginning by which it must fall for a rate to be told."""
SHARE = 0.5
"""Of the way from the loss of the lowest rate to that of the best, by which the rate that is taken has come at least.

Within a factor of 3.3 of the best rate of a grid on four data sets and two networks, see
``examples/benchmarks/suggested_rates.py``, by which it was chosen.
"""
Trial = tuple[float, float]
"""Rate, and the mean loss of the last third of the steps; infinite where it diverged."""


class _Diverged(Exception):  # noqa: N818
    """Leaves a training whose loss is not finite."""


class _Losses(Callback):
    """Keeps the loss of each batch."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep it."""
        self.found.append(float(outputs["loss"]))
        if not math.isfinite(self.found[-1]):
            raise _Diverged


def suggestion(trials: Sequence[Trial], begin: float) -> float:
    """Return the lowest rate whose loss is by :data:`SHARE` nearer to the least of all than that of the lowest rate.

    Args:
        trials: at least one, the lowest rate first.
        begin: the loss before any step.

    Raises:
        TrainingError: none brought the loss down.
    """
    least = min(loss for _, loss in trials)
    if not least < begin - FALL * abs(begin):
        raise TrainingError(
            f"no learning rate stood out: in {STEPS} steps none brought the loss of {begin:.4g} down by "
            f"{100 * FALL:g} %, the best of them to {least:.4g}; look at the data with 'unetzoo data check', or keep "
            "the default"
        )
    first = min(trials[0][1], begin)  # where it diverged, the best is near
    return next(rate for rate, loss in trials if loss <= first - SHARE * (first - least))


def tried(
    trainer_of: Callable[..., lightning.Trainer],
    recipe: Recipe,
    data: FolderData,
    tell: Callable[[float], object] = lambda rate: None,
) -> tuple[list[Trial], float]:
    """Return what came of each rate, and the loss of the first batch.

    Args:
        trainer_of: makes a trainer with the arguments that it is given, and all else as the run's.
        recipe: the run's, of which no network is built yet; it is copied.
        data: the run's own.
        tell: is called with each rate before it is tried.
    """
    data.steps_per_epoch, trials, begin = STEPS, list[Trial](), math.nan
    for rate in RATES:
        tell(rate)
        losses = _losses(trainer_of, recipe, data, rate)
        begin = losses[0] if not trials else begin
        last = losses[-max(1, len(losses) // 3) :]
        trials.append((rate, mean(last) if all(map(math.isfinite, last)) else math.inf))
        best = min(range(len(trials)), key=lambda k: trials[k][1])
        if len(trials) - 1 - best >= WORSE:
            break
    return trials, begin


def found(
    trainer_of: Callable[..., lightning.Trainer],
    recipe: Recipe,
    data: FolderData,
    say: Callable[[str], object],
    progress: bool,
) -> float:
    """Return the rate to take.

    Args:
        trainer_of, recipe, data: see :func:`tried`.
        say: is told how long it may take, what came of each rate, and why this one is taken.
        progress: show a bar.

    Raises:
        TrainingError: no rate brought the loss down.
    """
    begun = time.monotonic()

    def tell(rate: float) -> None:
        if rate == RATES[1]:
            took = time.monotonic() - begun
            say(f"the first took {span(took)}: {span((len(RATES) - 1) * took)} more at most")
        bar.set_postfix_str(f"lr {rate:g}")
        bar.update()

    say(f"up to {len(RATES)} rates, from {RATES[0]:g} to {RATES[-1]:g}, of {STEPS} steps each")
    with tqdm(total=len(RATES), unit="rate", leave=False, disable=not progress) as bar:  # type: ignore[no-untyped-call]
        trials, begin = tried(trainer_of, recipe, data, tell)
    say(table(trials).rstrip("\n"))
    taken = suggestion(trials, begin)
    say(reason(trials, taken))
    return taken


def reason(trials: Sequence[Trial], taken: float) -> str:
    """Return why a rate is proposed, which may not be that of the least loss."""
    best = min(trials, key=lambda trial: trial[1])[0]
    if best == taken:
        return f"{taken:g} has the least loss"
    return (
        f"{best:g} has the least loss, and {taken:g} is proposed: the lowest that comes {SHARE:.0%} of the way there. "
        f"What is best in {STEPS} steps is too high for a whole run"
    )


def table(trials: Sequence[Trial]) -> str:
    """Return the table of what came of each rate."""
    rows = [[f"{rate:g}", "diverged" if math.isinf(loss) else f"{loss:.4f}"] for rate, loss in trials]
    return aligned([["lr", f"loss after {STEPS} steps"], *rows])


def _losses(trainer_of: Callable[..., lightning.Trainer], recipe: Recipe, data: FolderData, rate: float) -> list[float]:
    losses, own = _Losses(), copy.deepcopy(recipe)
    own.lr = own.settings.lr = rate
    length = {"max_epochs": 1, "max_steps": -1, "limit_train_batches": None, "limit_val_batches": 0}
    with torch.random.fork_rng():
        trainer = trainer_of(callbacks=[losses], **length)
        try:
            trainer.fit(own, datamodule=data)
        except _Diverged:
            pass
        except TrainingError:  # the recipe sees it itself
            losses.found.append(math.nan)
    return losses.found
