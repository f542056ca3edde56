"""Everything that is wrong with the settings of a training, as far as it can be found before any work."""

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
            "trainer.val_check_interval: runs can be resumed exactly only if validation comes at the end of an epoch; "
            "for shorter epochs, give trainer.limit_train_batches"
        )
    if config["max_epochs"] == 0:
        problems.append("trainer.max_epochs=0: nothing would be trained; 1 or more is needed")
    if config["accelerator"] in ("gpu", "cuda") and not torch.cuda.is_available():
        problems.append(
            f"trainer.accelerator={config['accelerator']!r}: torch finds no GPU here; leave it out to use the "
            "available hardware"
        )
    if patience is not None and config["limit_val_batches"] == 0:
        problems.append("patience needs validation, but trainer.limit_val_batches=0: leave one of them out")
    return problems


def name_problems(model: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the names of the network and of the loss, whatever the data."""
    problems: list[str] = []
    with collected(problems):
        source = source_of(model["name"])
        pair = naming.meant(source.text) if source.kind == "network" else None
        if pair is not None:
            ENCODERS[pair[1]]  # raises if it is from timm, and timm is not installed
    if model["loss"] is not None:
        by_task: list[list[str]] = [[] for _ in PIXEL_TASKS]
        for task, found in zip(PIXEL_TASKS, by_task, strict=True):
            with collected(found):
                losses.build(model["loss"], task)
        problems += [] if not all(by_task) else by_task[0]  # if one task takes it, the data may be of that task
    return problems


def other_problems(model: Mapping[str, Any], data: Mapping[str, Any], looks: bool) -> list[str]:
    """Return what else is wrong with the settings of network and data, and with the layout of the data.

    This is for settings that are refused already: the folder is read to report its problems as well.

    Args:
        model, data: arguments of a :class:`Recipe` and of a :class:`FolderData`.
        looks: whether the folder of the data is read.
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
    """Add the errors raised within to ``problems``."""
    try:
        yield
    except ConfigError as error:
        problems += error.problems
    except UnetzooError as error:
        problems.append(str(error))
