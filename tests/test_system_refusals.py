"""What the system refuses, and what files of settings hold that nobody writes: one sentence each, and no traceback."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import needs_dev_full

import unetzoo
from unetzoo import drawing
from unetzoo.checks import shortened
from unetzoo.cli import main
from unetzoo.data.understanding import list_files
from unetzoo.errors import ConfigError, TrainingError
from unetzoo.prediction.arguments import calibrated, thresholds
from unetzoo.train.refusals import explained, makeable

LONG = "x" * 5000


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a model and data, and go there."""
    monkeypatch.chdir(tmp_path)
    unetzoo.save(unetzoo.create("unet", base_channels=2), "m.safetensors")
    drawing.write_shapes("data", 4, size=(32, 32), seed=0)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *words: str, status: int = 2) -> str:
    """Return what a command says on its way out."""
    capsys.readouterr()
    assert main(words) == status
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert [line for line in said.splitlines() if line.startswith("unetzoo: ")]
    return said


@pytest.mark.parametrize(
    "text",
    [
        '{"thresholds": [%s]}' % ("9" * 400),
        '{"thresholds": [%s]}' % ("9" * 5000),
        '{"thresholds": [1e999]}',
        '{"thresholds": [Infinity]}',
        '{"thresholds": [[0.5]]}',
        '{"thresholds": {"a": {}}}',
        '{"thresholds": %s}' % ("[" * 100_000),
        '{"thresholds": null}',
        '{"thresholds": [0.1], "thresholds": [0.2]}',
        "[" * 100_000,
        "[]",
        "7",
        "",
    ],
    ids=lambda text: text[:30],
)
def test_thresholds_that_nobody_writes_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "thresholds.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="threshold"):
        thresholds(calibrated(tmp_path / "thresholds.json").thresholds, "binary", 1)


def test_names_of_any_length_are_refused_at_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What looks through them takes a time in proportion to their length: these took minutes, or hours."""
    name = "model.encoder.layer1." * 10_000
    (here / "list.csv").write_text(f"image,mask\n{name}.png,{name}.png\n", encoding="utf-8")
    told(capsys, "data", "check", "list.csv")
    for wrong in ({"name": name}, {"name": "unet", name: 1}):
        with pytest.raises(ConfigError):
            unetzoo.create(**wrong)


@pytest.mark.parametrize("command", ["data check", "train --model unet --data", "evaluate m.safetensors --data"])
def test_names_in_a_list_that_no_file_can_have_are_named(
    command: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "list.csv").write_text(f"image,mask\n{LONG}.png,{LONG}.png\n", encoding="utf-8")
    told(capsys, *command.split(), "list.csv")
    listing = list_files(here / "list.csv", unetzoo.data.Labels())
    assert len(listing.problems) == 2
    assert all("there is no such file" in problem and len(problem) < 1000 for problem in listing.problems)


@pytest.mark.parametrize(
    "command",
    [
        "info LONG", "verify LONG", "predict m.safetensors LONG --out a", "predict LONG data/images --out a",
        "predict m.safetensors data/images --out LONG", "data check LONG", "data preview LONG --out a.png",
        "convert LONG b.safetensors --model unet", "export m.safetensors LONG.onnx", "train --model unet --data LONG",
        "train --model unet --data data --task multiclass --num-classes 5 --out LONG", "train --resume LONG",
        "train --config LONG", "evaluate m.safetensors --data LONG",
        "predict m.safetensors data/images --out a --threshold LONG.json",
    ],
)  # fmt: skip
def test_names_that_no_file_can_have_end_in_a_sentence(
    command: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, *(word.replace("LONG", LONG) for word in command.split()))
    assert sorted(path.name for path in here.iterdir() if path.name != "a") == ["data", "m.safetensors"]


@needs_dev_full
@pytest.mark.parametrize(
    "command",
    ["list", "info unet", "info m.safetensors", "verify m.safetensors", "predict m.safetensors data/images --out a",
     "data check data --task multiclass --num-classes 5", "train --model unet --data data --print-config"],
)  # fmt: skip
def test_a_full_disk_behind_standard_output_is_told_once(
    command: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        full = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115 - its end fails too
        stack.callback(_closed, full)
        monkeypatch.setattr(sys, "stdout", full)
        said = told(capsys, *command.split())
        assert re.search("the output cannot be written: No space left on device", said)
        assert len([line for line in said.splitlines() if line.startswith("unetzoo: ")]) == 1


def _closed(stream: object) -> None:
    with contextlib.suppress(OSError):
        stream.close()  # type: ignore[attr-defined]


@pytest.fixture
def no_more_files() -> Iterator[None]:
    """Let no file be opened any more."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    with Path(os.devnull).open("rb") as stream:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (stream.fileno() + 40, before[1]))
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(stream.fileno()))
            yield
        finally:
            for number in taken:
                os.close(number)
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    "command", ["info m.safetensors", "verify m.safetensors", "predict m.safetensors data/images --out a"]
)
def test_too_many_open_files_end_in_a_sentence(
    command: str, here: Path, capsys: pytest.CaptureFixture[str], no_more_files: None
) -> None:
    assert "Too many open files" in told(capsys, *command.split())


def test_a_logger_that_is_not_installed_is_named_in_a_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("it is installed here")
    words = ["train", "--model", "unet", "--data", "data", "--task", "multiclass", "--num-classes", "5", "--out", "run"]
    said = told(capsys, *words, "--trainer.logger", "pytorch_lightning.loggers.WandbLogger")
    assert len(said.strip().splitlines()) == 1
    assert "wandb" in said


def test_the_cause_at_the_end_of_a_long_message_is_told() -> None:
    """What PyTorch says where /dev/shm is too small: first of the process, then of its traceback, last of the cause."""
    cause = "unable to write to file </torch_1_2_3>: No space left on device (28)"
    text = "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback:\n" + "  File a\n" * 300 + cause
    for kind in (RuntimeError, OSError):
        with pytest.raises(TrainingError, match=r"28\)\), .*/dev/shm.*data\.workers=0"), explained():
            raise kind(text)
    with pytest.raises(ConfigError, match="what it comes to"), makeable():
        raise ValueError("tried " * 1000) from ValueError("what it comes to")
    assert shortened("a  b\nc") == "a b c"
    assert shortened("a" * 900 + "z", 100) == f"{'a' * 50} … {'a' * 49}z"
