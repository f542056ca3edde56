"""How long a run trains: so many steps, minutes or epochs, and how often it is validated meanwhile."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from unetzoo.checks import whole

STEPS = 3000
"""Of the optimiser, where nothing else is asked for: for every network and every data set, few images or many."""
NAMES = ("steps", "minutes", "epochs")
FEWEST, MOST = 10, 50
"""Validations of a run by steps, where their number allows it."""


def cut(steps: int, length: int | None = None, fewest: int = FEWEST) -> tuple[int, int]:
    """Return into how many epochs, of how many steps each, a number of steps is cut; it is rounded up to whole ones.

    Args:
        steps: of the optimiser.
        length: steps of an epoch. None: a hundred, or more such that there are fifty epochs, or fewer such that there
            are ``fewest`` to twice as many, by which as little as can be is added.
        fewest: epochs, each of which is validated.
    """
    if length is not None:
        return -(-steps // length), length
    epochs = min(MOST, steps // 100)
    if epochs < fewest:
        several = range(min(fewest, steps), min(2 * fewest, steps + 1))
        epochs = min(several, key=lambda count: (count * -(-steps // count), count))
    return epochs, -(-steps // epochs)


def settle(config: Any, given: Collection[str], *, resumed: bool = False) -> list[str]:
    """Turn what was asked for into epochs of so many steps, which is what the trainer and the data go by.

    Minutes stay as they are, as they wait for a measurement: see ``measuring.py``.

    Args:
        config: all settings: "steps", "minutes", "trainer.max_epochs" and "data.steps_per_epoch" are read, the last two
            are set.
        given: names that were asked for in this call itself; they go before what a file says.
        resumed: whether the file is of the run that goes on.

    Returns:
        What is wrong: two of them are asked for at once, or one is no such number. Nothing is set then.
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
        problems.append("minutes: of a run that goes on the steps are settled; give steps=… or epochs=…")
    if resumed and wanted == ["steps"] and length is None:
        problems.append(f"steps={config.steps}: this run counts passes over the images; give epochs=…")
    limit = config.trainer.max_steps
    if not wanted and limit > STEPS:
        problems.append(f"trainer.max_steps={limit}: more than the {STEPS} that are made; give steps={limit}")
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
    """Set epochs and their length such that there are so many steps."""
    config.trainer.max_epochs, config.data.steps_per_epoch = cut(steps, config.data.steps_per_epoch)
    config.steps = None
