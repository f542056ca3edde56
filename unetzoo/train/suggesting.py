"""Suggests a learning rate: short trainings with one rate after the other, from the same weights, on the same crops.

A range test (Smith 2017, section 3.3: one training in which the rate rises until the loss does) is cheaper, but its
suggestion depends on where a noisy curve is steepest. Here each rate has its own training, with the complete schedule
of the run, and is judged by its final loss.
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
"""Learning rates that are tried, in ascending order."""
STEPS = 60
"""Steps of each training."""
WORSE = 2
"""The search ends after this many rates in a row above the best one, each with a higher loss."""
FALL = 0.02
"""Share of the initial loss by which the loss must fall; otherwise no rate is suggested."""
SHARE = 0.5
"""The suggested rate is the lowest whose loss covers this share of the way from that of the lowest rate to the least.

On four data sets and two networks it is within a factor of 3.3 of the best rate of a grid, see
``examples/benchmarks/suggested_rates.py``, from which this value was chosen.
"""
Trial = tuple[float, float]
"""Rate, and the mean loss of the last third of the steps; infinite where it diverged."""


class _Diverged(Exception):  # noqa: N818
    """Ends a training whose loss is not finite."""


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
    """Return the lowest rate whose loss covers :data:`SHARE` of the way from that of the lowest rate to the least.

    Args:
        trials: at least one, the lowest rate first.
        begin: the loss before any step.

    Raises:
        TrainingError: none brought the loss down.
    """
    least = min(loss for _, loss in trials)
    if not least < begin - FALL * abs(begin):
        raise TrainingError(
            f"no learning rate can be suggested: in {STEPS} steps, none lowered the loss of {begin:.4g} by "
            f"{100 * FALL:g} %; the lowest loss was {least:.4g}. Look at the data with 'unetzoo data check', or keep "
            "the default learning rate"
        )
    first = min(trials[0][1], begin)  # the lowest rate may diverge too
    return next(rate for rate, loss in trials if loss <= first - SHARE * (first - least))


def tried(
    trainer_of: Callable[..., lightning.Trainer],
    recipe: Recipe,
    data: FolderData,
    tell: Callable[[float], object] = lambda rate: None,
) -> tuple[list[Trial], float]:
    """Return the result of each rate, and the loss of the first batch.

    Args:
        trainer_of: makes a trainer with the given arguments, and otherwise the settings of the run.
        recipe: the run's, before its network is built; it is copied.
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
    """Return the suggested learning rate.

    Args:
        trainer_of, recipe, data: see :func:`tried`.
        say: is called with texts: how long it may take, the result of each rate, and the reason for the suggestion.
        progress: show a bar.

    Raises:
        TrainingError: no rate brought the loss down.
    """
    begun = time.monotonic()

    def tell(rate: float) -> None:
        if rate == RATES[1]:
            took = time.monotonic() - begun
            say(f"the first took {span(took)}; the others may take {span((len(RATES) - 1) * took)} at most")
        bar.set_postfix_str(f"lr {rate:g}")
        bar.update()

    say(f"trying up to {len(RATES)} learning rates, from {RATES[0]:g} to {RATES[-1]:g}, with {STEPS} steps each")
    with tqdm(total=len(RATES), unit="rate", leave=False, disable=not progress) as bar:  # type: ignore[no-untyped-call]
        trials, begin = tried(trainer_of, recipe, data, tell)
    say(table(trials).rstrip("\n"))
    taken = suggestion(trials, begin)
    say(reason(trials, taken))
    return taken


def reason(trials: Sequence[Trial], taken: float) -> str:
    """Return why a rate is suggested, which may not be the one with the lowest loss."""
    best = min(trials, key=lambda trial: trial[1])[0]
    if best == taken:
        return f"{taken:g} has the lowest loss"
    return (
        f"{best:g} has the lowest loss, but {taken:g} is suggested: the lowest rate that comes {SHARE:.0%} of the way "
        f"there. The best rate for {STEPS} steps is too high for a complete run"
    )


def table(trials: Sequence[Trial]) -> str:
    """Return the table of the results of each rate."""
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
        except TrainingError:  # raised by the recipe for a loss that is not finite
            losses.found.append(math.nan)
    return losses.found
