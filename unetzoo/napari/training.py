"""Training as started by the widget: layers are written to a folder, and the command runs in its own process.

It needs its own process because Lightning handles the signals of its process, and a crash must not close napari.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from unetzoo.errors import ConfigError, InputError, TrainingError
from unetzoo.napari.layers import Planes
from unetzoo.train.given_sets import write_given
from unetzoo.train.runs import CONFIG, Run

TASKS = {
    "instances": "objects, each with its own number",
    "binary": "one class: everything labelled",
    "multiclass": "classes: 1, 2, …",
}
"""Task → its description of the labels in a layer."""
Pair = tuple[NDArray[Any], NDArray[Any]]
_FEW = 4
"""If there are fewer labelled slices, each is cut in two, so that there is something to validate on."""
_SHARE = 4
"""One part in this many, a quarter, is for validation."""


@dataclass(frozen=True)
class Plan:
    """The settings of a training.

    Attributes:
        model: a name of the zoo, or a trained model to start from.
        data: folder of images and masks.
        out: folder of the run, new or empty; or that of a run to resume.
        steps: optimiser steps in total.
        task: see :data:`TASKS`; None: it follows from the data.
        num_classes: of a multi-class task, background included.
        resume: whether to resume the run in ``out``; then only ``steps`` of the other settings is used.
    """

    model: str
    data: str
    out: str
    steps: int = 300
    task: str | None = None
    num_classes: int | None = None
    resume: bool = False

    def words(self) -> list[str]:
        """Return the command, which prints one JSON object per line on standard output."""
        words = [sys.executable, "-m", "unetzoo", "train", "--json", "--steps", str(self.steps)]
        if self.resume:
            return [*words, "--resume", self.out]
        words += ["--model", self.model, "--data", self.data, "--out", self.out]
        words += [] if self.task is None else ["--task", self.task]
        return [*words, *([] if self.num_classes is None else ["--num-classes", str(self.num_classes)])]


def pairs_of(planes: Planes, labels: Any, task: str) -> tuple[list[Pair], list[Pair]]:
    """Return images and masks for training and for validation.

    Slices without labels are left out, because nobody has labelled them. If there are four or more, every fourth is
    for validation; fewer are each cut along their longer side, and the last quarter is for validation.

    Args:
        planes: of the image layer.
        labels: of the Labels layer, (…, H, W) integers, for all planes of the image.
        task: see :data:`TASKS`.

    Raises:
        InputError: the two do not fit each other, or nothing is labelled.
    """
    if tuple(labels.shape) != planes.shape:
        raise InputError(f"labels of shape {tuple(labels.shape)} for an image of {planes.shape}: they must be the same")
    found = []
    for index in planes.indices:
        mask = np.asarray(labels[index])
        if mask.any():
            found.append((planes.plane(index), (mask > 0).astype(np.uint8) if task == "binary" else mask))
    if not found:
        raise InputError("nothing is labelled: paint in the Labels layer first")
    if len(found) >= _FEW:
        kept = [pair for k, pair in enumerate(found) if k % _SHARE != _SHARE - 1]
        return kept, found[_SHARE - 1 :: _SHARE]
    halves = [_cut(*pair) for pair in found]
    if not any(mask.any() for (_, mask), _ in halves) or not any(mask.any() for _, (_, mask) in halves):
        raise InputError(
            "labels are in only one part of the image: the last quarter along its longer side is for validation, the "
            "rest for training; label objects in both"
        )
    return [first for first, _ in halves], [second for _, second in halves]


def _cut(image: NDArray[Any], mask: NDArray[Any]) -> tuple[Pair, Pair]:
    """Return the first three quarters along the longer side, and the last."""
    axis = int(mask.shape[1] > mask.shape[0])
    at = mask.shape[axis] - mask.shape[axis] // _SHARE
    (a, b), (c, d) = (np.split(values, [at], axis) for values in (image, mask))
    return (a, c), (b, d)


def write_layers(planes: Planes, labels: Any, task: str, folder: Path) -> int | None:
    """Write layers as a folder of training data; return the number of classes of a multi-class task, else None.

    Args:
        planes, labels, task: see :func:`pairs_of`.
        folder: a new one.

    Raises:
        InputError: they cannot be used for training.
        ConfigError: the folder exists, or a value cannot be written.
        WriteError: it cannot be written.
    """
    train, val = pairs_of(planes, labels, task)
    write_given((train, val), folder, task=task, ignore=None, class_names=None)
    if task != "multiclass":
        return None
    return 1 + max(int(mask.max()) for _, mask in (*train, *val))


def clear(folder: Path, out: Path) -> None:
    """Remove a folder of layers on which no run has begun, so that another attempt can write it."""
    if not (out / CONFIG).is_file():
        shutil.rmtree(folder, ignore_errors=True)


class Training:
    """A training command in its own process.

    Args:
        plan: its settings.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  as long as the process
        self._process = subprocess.Popen(
            plan.words(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._said, env=_environment()
        )
        self._stopped = False
        atexit.register(self.stop)  # it does not outlive napari

    def epochs(self) -> Generator[dict[str, Any], None, bool]:
        """Yield the figures of each epoch as it ends, "epoch", "loss", "val_loss", "dice", …; wait for the end.

        Returns:
            Whether it finished; False if it was stopped.

        Raises:
            TrainingError: it failed; has the error message of the command.
        """
        assert self._process.stdout is not None
        with self._said, self._process.stdout:
            for line in self._process.stdout:
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    if isinstance(record, dict) and "epoch" in record:
                        yield record
            code = self._process.wait()
            if code and not self._stopped:
                raise TrainingError(self._last_words() or f"the training failed with exit status {code}")
        atexit.unregister(self.stop)
        return not self._stopped

    def stop(self) -> None:
        """Stop it in such a way that it can be resumed; on Windows, from the last epoch."""
        self._stopped = True
        if self._process.poll() is None:
            self._process.terminate()

    def _last_words(self) -> str:
        """Return the last message of the command, in one line."""
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().decode("utf-8", "replace").splitlines() if line.strip()]
        begins = next((k for k in range(len(lines) - 1, -1, -1) if lines[k].startswith("unetzoo:")), len(lines) - 1)
        return " ".join(lines[max(begins, 0) :])[:600]


def _environment() -> dict[str, str]:
    """Return the environment of the command: text is UTF-8, and this copy of unetzoo is imported."""
    home = str(Path(__file__).parents[2])
    given = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": f"{home}{os.pathsep}{given}" if given else home}


def stop_all(begun: list[Training]) -> None:
    """Stop the trainings that are still running."""
    for one in begun:
        one.stop()


def rows_of(folder: str) -> list[dict[str, Any]]:
    """Return the figures of a run so far, one row per epoch; none if there is no run yet."""
    with contextlib.suppress(ConfigError):
        return [dict(row) for row in Run(folder).history]
    return []
