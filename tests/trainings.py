"""Short trainings by the command: run, broken off on the way, read, and held against one another."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import KILL, once
from pytorch_lightning.callbacks import Callback

from unetzoo.cli import main

TINY = ("--model", "unet", "--model.options.base_channels", "4", "--crop-size", "32", "--batch-size", "4",
        "--data.workers", "0", "--data.repeats", "1", "--trainer.accelerator", "cpu")  # fmt: skip


class KillAt(Callback):
    """Kills its own process, as power failures do, at the end of a training batch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            os.kill(os.getpid(), KILL)


class BreakAt(KillAt):
    """Breaks there as a mistake does in somebody's own code, in this process."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            raise ZeroDivisionError


def train(data: Path, out: Path, *arguments: str) -> None:
    assert main(["train", "--data", str(data), "--out", str(out), *once("--quiet", *TINY, *arguments)]) == 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["train", *once("--quiet", *arguments)]) == 2
    return capsys.readouterr().err


def rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / "metrics.csv").read_text(encoding="utf-8"))))


def last(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(out / "last.ckpt", weights_only=True)
    return found


def break_off(data: Path, out: Path, *settings: str, batch: int) -> None:
    """Train until a batch at which something breaks that nobody foresaw."""
    given = ["--data", str(data), "--out", str(out), *once(*TINY, *settings, "--quiet")]
    with pytest.raises(ZeroDivisionError):
        main(["train", *given, "--trainer.callbacks+=trainings.BreakAt", "--trainer.callbacks.batch", str(batch)])


def same_tensors(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def same_runs(one: Path, other: Path) -> None:
    """Hold two runs against each other: every weight, the optimiser's state and every figure, bit for bit."""
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    assert (one / "best.safetensors").read_bytes() == (other / "best.safetensors").read_bytes()
    a, b = last(one), last(other)
    same_tensors(a["state_dict"], b["state_dict"])
    moments = [[state["state"] for state in found["optimizer_states"]] for found in (a, b)]
    for x, y in zip(chain(*(s.values() for s in moments[0])), chain(*(s.values() for s in moments[1])), strict=True):
        same_tensors(x, y)
    assert a["lr_schedulers"] == b["lr_schedulers"]
    assert a["callbacks"] == {**b["callbacks"], **{k: v for k, v in a["callbacks"].items() if "KillAt" in k}}
