"""How long a run trains, in steps, minutes or epochs, and how often it is validated."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from unetzoo.checks import whole

STEPS = 3000
"""Default number of optimiser steps, for every network and every data set, with few images or many."""
NAMES = ("steps", "minutes", "epochs")
FEWEST, MOST = 10, 50
"""Fewest and most validations of a run by steps, if its number of steps allows it."""


def cut(steps: int, length: int | None = None, fewest: int = FEWEST) -> tuple[int, int]:
    """Return the number of epochs and the steps of each for a number of steps, rounded up to complete epochs.

    Args:
        steps: of the optimiser.
        length: steps per epoch. None: a hundred; more if there would be over fifty epochs; fewer if there would be
            under ``fewest``: then between ``fewest`` and twice as many epochs, so as to add as few steps as possible.
        fewest: least number of epochs; each ends with a validation.
    """
    if length is not None:
        return -(-steps // length), length
    epochs = min(MOST, steps // 100)
    if epochs < fewest:
        several = range(min(fewest, steps), min(2 * fewest, steps + 1))
        epochs = min(several, key=lambda count: (count * -(-steps // count), count))
    return epochs, -(-steps // epochs)


def settle(config: Any, given: Collection[str], *, resumed: bool = False) -> list[str]:
    """Convert the requested length into epochs with a number of steps, which the trainer and the data use.

    Minutes are not converted here, because steps must be measured first: see ``measuring.py``.

    Args:
        config: all settings: "steps", "minutes", "trainer.max_epochs" and "data.steps_per_epoch" are read, the last two
            are set.
        given: names of settings in this call; they override those of a file.
        resumed: whether the file belongs to a run that is resumed.

    Returns:
        The problems: two lengths are given together, or a number is not valid. Nothing is set then.
    """
    asked = {"steps": config.steps, "minutes": config.minutes, "epochs": config.trainer.max_epochs}
    wanted = [name for name in NAMES if name in given] or [name for name in NAMES if asked[name] is not None]
    problems = [] if config.steps is None else whole("steps", config.steps)
    if config.minutes is not None and not 0 < config.minutes < float("inf"):
        problems.append(f"minutes={config.minutes!r}: a number above 0 is needed")
    length = config.data.steps_per_epoch
    problems += [] if length is None else whole("steps_per_epoch", length)
    if len(wanted) > 1:
        problems.append(f"{' and '.join(f'{name}={asked[name]}' for name in wanted)}: give one of them")
    if resumed and wanted == ["minutes"]:
        problems.append("minutes: a resumed run has a fixed number of steps; give steps=… or epochs=…")
    if resumed and wanted == ["steps"] and length is None:
        problems.append(f"steps={config.steps}: this run counts passes over the images; give epochs=…")
    limit = config.trainer.max_steps
    if not wanted and limit > STEPS:
        problems.append(f"trainer.max_steps={limit}: the run would end after {STEPS} steps; give steps={limit}")
    if problems:
        return problems
    for name in set(NAMES[:2]) - set(wanted):
        config[name] = None
    if wanted in (["steps"], []):
        set_steps(config, config.steps or STEPS)
    if wanted == ["minutes"]:
        config.trainer.max_epochs = 1  # until it is measured
    return []


def set_steps(config: Any, steps: int) -> None:
    """Set the number of epochs and their length for a number of steps."""
    config.trainer.max_epochs, config.data.steps_per_epoch = cut(steps, config.data.steps_per_epoch)
    config.steps = None
