"""Folds: a run for each part of the images, validated on that part, one run after the other in a common folder.

``runs/cells/fold-1`` … are runs like any other, and may also be trained by separate commands on separate machines. Once
all of them are done, the best settings for their average are found on the images that each held out:
``unetzoo.evaluation.across_folds``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from unetzoo.data.splitting import fold_problems
from unetzoo.errors import ConfigError
from unetzoo.evaluation.across_folds import choose
from unetzoo.printing import printable, span
from unetzoo.saving.folds import FOLDS_FILE, fold_folder, folds_in
from unetzoo.saving.records import BEST_FILE
from unetzoo.train import places
from unetzoo.train.runs import CONFIG

Train = Callable[..., Path]
"""``unetzoo.train.command.train``, for one run."""
SPEAKING = ("bar", "lines")
"""Styles that print more than the figures of an epoch."""


def begin(train: Train, folder: Path, folds: int, given: Mapping[str, str], rest: Sequence[str], **how: Any) -> None:
    """Train all folds of a new run, and find the best settings for their average.

    Args:
        train: trains one fold.
        folder: of the folds; this process holds its lock.
        folds: number of folds.
        given, rest: settings, as ``train`` takes them.
        **how: "config", "style" and "trust", as ``train`` takes them.
    """
    ends: list[str] = []

    def one(fold: int) -> None:
        if fold == 1:
            train({**given, "fold": "1"}, rest, out=folder, ends=ends, **how)
        else:  # with the settings of the first, in which minutes have become steps
            again = {"style": how["style"], "trust": True}
            train({"fold": str(fold)}, config=_settings(folder, 1), out=folder, ends=ends, **again)

    _each(folder, folds, one, how["style"], ends)


def go_on(train: Train, folder: Path, given: Mapping[str, str], rest: Sequence[str], **how: Any) -> None:
    """Continue all folds of a folder, train the missing ones, and find the best settings for their average.

    Args:
        train, folder, given, rest: as :func:`begin` takes them.
        **how: "style" and "trust", as ``train`` takes them.

    Raises:
        ConfigError: settings that a resumed run cannot change; or the settings of a fold are missing.
    """
    folds = _number_of(folder)
    there = folds_in(folder)
    ends: list[str] = []

    def one(fold: int) -> None:
        if fold in there:
            train(given, rest, resume=fold_folder(folder, fold), ends=ends, **how)
        else:
            settings = {**given, "fold": str(fold)}
            train(settings, rest, config=_settings(folder, there[0]), out=folder, ends=ends, **how)

    with places.several(folder):
        _each(folder, folds, one, how["style"], ends)


def check_whole(config: Any, suggest: bool) -> None:
    """Refuse what cannot be done with all folds in one command.

    Several processes are refused because each would go from fold to fold at its own pace.

    Args:
        config: all settings of the training.
        suggest: whether to suggest a learning rate.

    Raises:
        ConfigError: fewer than two folds; several devices or machines; or ``suggest``, which works on one fold.
    """
    problems = fold_problems(None, config.data.folds)
    problems += ["suggest uses the images of a single run: give fold=1 with it"] if suggest else []
    if problems:
        raise ConfigError("cannot train", problems)
    trainer = config.trainer
    devices = torch.cuda.device_count() if trainer.devices in ("auto", -1, "-1") else trainer.devices
    started = [name for name in ("WORLD_SIZE", "SLURM_NTASKS") if os.environ.get(name, "1") != "1"]
    if trainer.num_nodes != 1 or devices not in (0, 1, "1") or started:
        raise ConfigError(
            "folds are trained one after the other by one process on one device: give trainer.devices=1; or start one "
            "command per fold, with fold=1 and so on, which may use several devices"
        )


def _each(folder: Path, folds: int, one: Callable[[int], None], style: str, ends: Sequence[str]) -> None:
    """Train each fold, find the best settings, and print how to continue: ``ends`` has the text of each fold."""
    for fold in _told(folds, style):
        one(fold)
    if style in SPEAKING:
        for going_on in dict.fromkeys(filter(None, ends)):
            print(f"{printable(folder)}: {going_on}")
    if not all((fold_folder(folder, fold) / BEST_FILE).is_file() for fold in range(1, folds + 1)):
        return  # one was stopped before its first validation, which its own output says
    found = choose(folder, progress=style == "bar")
    found.write(folder)
    if style in SPEAKING:
        print(found, end="")
        print(
            f"{printable(folder)}: {FOLDS_FILE} has the best settings; 'unetzoo predict {printable(folder)} IMAGES' "
            "uses them"
        )


def _told(folds: int, style: str) -> Iterator[int]:
    """Yield the numbers of the folds; print which one is next, and how long the rest may take."""
    begin = time.monotonic()
    for fold in range(1, folds + 1):
        took = (time.monotonic() - begin) / max(1, fold - 1)
        left = f"; {folds + 1 - fold} to go, about {span(took * (folds + 1 - fold))}" if fold > 1 else ""
        if style in SPEAKING:
            print(f"fold {fold} of {folds}{left}", flush=True)
        elif style == "json":
            print(json.dumps({"fold": fold, "folds": folds}), flush=True)
        yield fold


def _settings(folder: Path, fold: int) -> Path:
    return fold_folder(folder, fold) / CONFIG


def _number_of(folder: Path) -> int:
    """Return how many folds there are in total, according to the settings of the existing ones.

    Raises:
        ConfigError: they disagree.
    """
    said = {fold: _folds_of(_settings(folder, fold)) for fold in folds_in(folder)}
    first, *others = said.values()
    if first is None or any(number != first for number in others):
        listed = ", ".join(f"fold-{fold}: folds={number}" for fold, number in said.items())
        raise ConfigError(f"{folder}: these are not folds of one training: {listed}; use a folder for each training")
    return first


def _folds_of(path: Path) -> int | None:
    """Return the number of folds in the settings of a run; None if there is none."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = settings["data"]["folds"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return None
    return found if type(found) is int else None
