"""What is wrong with what a training is asked for: all that can be said before any work, at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from unetzoo import losses, naming
from unetzoo.checks import PIXEL_TASKS
from unetzoo.encoders import ENCODERS
from unetzoo.errors import ConfigError, UnetzooError
from unetzoo.saving.sources import source_of
from unetzoo.train.data import FolderData
from unetzoo.train.recipe import Recipe


def trainer_problems(config: Mapping[str, Any], patience: int | None) -> list[str]:
    """Return what is wrong with the settings of Lightning's trainer."""
    problems = []
    if config["val_check_interval"] not in (None, 1.0):
        problems.append(
            "trainer.val_check_interval: runs go on exactly only where validation ends an epoch; "
            "trainer.limit_train_batches makes shorter epochs"
        )
    if config["max_epochs"] == 0:
        problems.append("trainer.max_epochs=0: nothing would be trained; 1 or more is needed")
    if config["accelerator"] in ("gpu", "cuda") and not torch.cuda.is_available():
        problems.append(
            f"trainer.accelerator={config['accelerator']!r}: torch finds no GPU here; leave it out to train on "
            "what there is"
        )
    if patience is not None and config["limit_val_batches"] == 0:
        problems.append("patience judges by validation, and trainer.limit_val_batches=0: leave one of them out")
    return problems


def name_problems(model: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the names of the network and of the loss, whatever the data are."""
    problems: list[str] = []
    with collected(problems):
        source = source_of(model["name"])
        pair = naming.meant(source.text) if source.kind == "network" else None
        if pair is not None:
            ENCODERS[pair[1]]  # or an error, if it is timm's, and that is not installed
    if model["loss"] is not None:
        by_task: list[list[str]] = [[] for _ in PIXEL_TASKS]
        for task, found in zip(PIXEL_TASKS, by_task, strict=True):
            with collected(found):
                losses.build(model["loss"], task)
        problems += [] if not all(by_task) else by_task[0]  # what one task takes, the data may ask for
    return problems


def other_problems(model: Mapping[str, Any], data: Mapping[str, Any], looks: bool) -> list[str]:
    """Return what else is wrong with the settings of network and data, and where the data lie.

    This is for what is refused already: a folder is looked through, to say that of it as well.

    Args:
        model, data: arguments of a :class:`Recipe` and of a :class:`FolderData`.
        looks: whether the data are looked for.
    """
    problems: list[str] = []
    with collected(problems):
        Recipe(**model)
    with collected(problems):
        folder = FolderData(**data)
        if looks:
            folder.understand()
    return problems


@contextlib.contextmanager
def collected(problems: list[str]) -> Iterator[None]:
    """Add to ``problems`` what is refused within."""
    try:
        yield
    except ConfigError as error:
        problems += error.problems
    except UnetzooError as error:
        problems.append(str(error))
