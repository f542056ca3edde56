"""How long a run trains: steps, minutes and epochs, and what is drawn in epochs of so many steps."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, once
from trainings import TINY, break_off, last, refused, rows, same_runs, train

import unetzoo
from unetzoo import drawing
from unetzoo.cli import main
from unetzoo.data.sampling import EpochBatches
from unetzoo.errors import ConfigError
from unetzoo.printing import span
from unetzoo.train import measuring
from unetzoo.train.budgets import STEPS, cut
from unetzoo.train.data import FolderData
from unetzoo.train.measuring import Pace

pytestmark = pytest.mark.usefixtures("no_curves")
STEPWISE = ("--data.repeats", "null")
"""What a run by steps is given beside TINY, which counts crops of a pass."""


# Into epochs


@pytest.mark.parametrize(
    ("steps", "epochs", "length"),
    [
        *((1, 1, 1), (9, 9, 1), (11, 11, 1), (40, 10, 4), (61, 16, 4), (150, 10, 15), (500, 10, 50)),
        *((1009, 10, 101), (3000, 30, 100), (100_000, 50, 2000)),
    ],
)
def test_steps_are_cut_into_epochs(steps: int, epochs: int, length: int) -> None:
    assert cut(steps) == (epochs, length)


def test_short_runs_are_validated_ten_times_and_little_is_added() -> None:
    for steps in range(1, 2000):
        epochs, length = cut(steps)
        assert min(10, steps) <= epochs < 20 or epochs == steps // 100
        assert steps <= epochs * length <= 1.05 * steps


def test_an_epoch_has_the_steps_that_are_asked_for() -> None:
    assert cut(1000, 250) == (4, 250)
    assert cut(1001, 250) == (5, 250)


def settings(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int | None, int | None]:
    """Return epochs and their steps, as the settings have them."""
    assert main(["train", "--model", "unet", "--data", "nowhere", *arguments, "--print-config"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert not {"steps", "minutes"} & found.keys()
    return found["trainer"]["max_epochs"], found["data"]["steps_per_epoch"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], (STEPS // 100, 100)),
        (["--steps", "500"], (10, 50)),
        (["--steps", "500", "--steps-per-epoch", "50"], (10, 50)),
        (["--epochs", "7"], (7, None)),
        (["--trainer.max_epochs", "7"], (7, None)),
        (["--epochs", "7", "--steps-per-epoch", "20"], (7, 20)),
    ],
)
def test_settings_hold_epochs_alone(
    asked: list[str], expected: tuple[int, int | None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert settings(capsys, *asked) == expected


def test_what_is_asked_for_goes_before_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("steps: 200\n", encoding="utf-8")
    assert settings(capsys, "--config", str(path)) == (10, 20)
    assert settings(capsys, "--config", str(path), "--epochs", "3") == (3, None)
    path.write_text("trainer: {max_epochs: 4}\n", encoding="utf-8")
    assert settings(capsys, "--config", str(path)) == (4, None)
    assert settings(capsys, "--config", str(path), "--steps", "300") == (10, 30)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--steps", "5", "--epochs", "2"], "--steps 5 and --epochs 2: give one of them"),
        (["--steps", "5", "--trainer.max_epochs", "2"], "--steps 5 and --epochs 2: give one of them"),
        (["--steps", "5", "--minutes", "2"], "--steps 5 and --minutes 2.0: give one of them"),
        (["--steps", "0"], "--steps 0: a whole number from 1 up is needed"),
        (["--minutes", "-1"], "--minutes -1.0: a number above 0 is needed"),
        (["--steps-per-epoch", "0"], "--steps-per-epoch 0: a whole number from 1 up is needed"),
        (["--steps", "9", "--data.repeats", "2"], "but an epoch is not a pass here: it is --steps-per-epoch 1"),
        (["--trainer.max_steps", "4000"], "the run would end after 3000 steps; give --steps 4000"),
    ],
)
def test_budgets_that_do_not_fit_are_refused(
    asked: list[str], said: str, nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, "--data", str(nuclei), "--out", str(tmp_path / "a"), *TINY, *STEPWISE, *asked)
    assert said in error
    assert not (tmp_path / "a").exists()


def test_all_mistakes_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of budget, trainer, names, settings and data; and nothing is made."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    out = tmp_path / "a"
    common = ["--model", "unett", "--data", str(tmp_path / "data"), "--out", str(out), "--data.workers", "0"]
    wrong = ["--steps", "5", "--minutes", "2", "--loss", "dicee", "--monitor", "dices", "--batch-size", "0"]
    error = refused(capsys, *common, *wrong, "--trainer.val_check_interval", "0.5")
    said = ["give one of them", "val_check_interval", "'unett'", "'dicee'", "--monitor dices", "--batch-size 0"]
    assert all(text in error for text in said)
    assert f"{len(said)} things are wrong" in error
    error = refused(capsys, *common, "--steps", "5", "--minutes", "2")
    assert all(text in error for text in ("3 things are wrong", "give one of them", "'unett'", "no masks/"))
    error = refused(capsys, *common)  # names and data, which only a look at the folder shows
    assert all(text in error for text in ("2 things are wrong", "'unett'", "no masks/"))
    assert not out.exists()


# What is drawn


@pytest.mark.parametrize("repeats", [2, [3, 0, 1, 2, 1]])
@pytest.mark.parametrize("processes", [1, 2])
def test_epochs_of_steps_go_through_passes_without_end(processes: int, repeats: int | list[int]) -> None:
    passes = EpochBatches(5, 1, repeats=repeats, seed=4)
    expected = []
    for number in range(8):
        passes.set_epoch(number)
        expected += [draw for batch in passes for draw in batch]
    parts = [
        EpochBatches(5, 4 // processes, repeats=repeats, steps=3, seed=4, rank=rank, processes=processes)
        for rank in range(processes)
    ]
    found = []
    for epoch in range(4):
        for part in parts:
            part.set_epoch(epoch)
        assert {len(part) for part in parts} == {3}
        found += [draw for together in zip(*parts, strict=True) for batch in together for draw in batch]
    assert found == expected[: 4 * 3 * 4]


def test_an_epoch_of_steps_goes_on_from_a_batch() -> None:
    batches, whole = (EpochBatches(3, 2, steps=5, seed=5) for _ in range(2))  # more than a pass has
    for one in (batches, whole):
        one.set_epoch(2)
    batches.first = 3
    assert list(batches) == list(whole)[3:]
    assert len(list(batches)) == 5


def test_kinds_are_drawn_alike_in_epochs_of_steps(nuclei: Path, tmp_path: Path) -> None:
    kinds = ["many"] * 11 + ["few"] * 4
    rows = [f"{nuclei}/images/v{k:02}.png,{nuclei}/masks/v{k:02}.png,{kind}" for k, kind in enumerate(kinds)]
    (tmp_path / "list.csv").write_text("\n".join(["image,mask,kind", *rows]), encoding="utf-8")
    data = FolderData(
        str(tmp_path / "list.csv"), crop_size=16, batch_size=4, steps_per_epoch=4000, balance=True, workers=0
    )
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, is_global_zero=True, accumulate_grad_batches=1)
    data.setup()
    shown = Counter(data.training_set().samples[i].kind for batch in data._batches() for _, i in batch)
    assert shown["many"] + shown["few"] == 16_000
    assert shown["many"] / shown["few"] == pytest.approx(1, abs=0.03)


# Runs


def test_a_run_makes_the_steps_that_are_asked_for(nuclei: Path, tmp_path: Path) -> None:
    train(
        nuclei,
        tmp_path / "a",
        *STEPWISE,
        "--steps",
        "4",
        "--steps-per-epoch",
        "2",
        "--trainer.accumulate_grad_batches",
        "2",
    )
    assert [row["step"] for row in rows(tmp_path / "a")] == ["2", "4"]
    assert last(tmp_path / "a")["global_step"] == 4


def test_a_run_of_steps_goes_on_to_more(nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steady = [*STEPWISE, "--model.schedule", "constant", "--model.warmup", "0", "--steps-per-epoch", "2"]
    train(nuclei, tmp_path / "a", *steady, "--steps", "2")
    assert main(["train", "--resume", str(tmp_path / "a"), "--steps", "4", "--quiet"]) == 0
    train(nuclei, tmp_path / "b", *steady, "--steps", "4")
    same_runs(tmp_path / "a", tmp_path / "b")
    assert main(["train", "--resume", str(tmp_path / "a"), "--minutes", "4", "--quiet"]) == 2
    assert "a fixed number of steps" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path / "a"), "--steps", "2", "--quiet"]) == 2
    assert "--steps 2: 4 are already done" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path / "a"), "--loss", "dice", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert "only --steps or --epochs, --data, --data.workers, --patience, " in error
    assert "--loss dice: it was not given" in error
    assert "None" not in error


def test_advice_is_in_the_unit_that_was_given(nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--data", str(nuclei), *TINY[:6], *TINY[8:10], *TINY[-2:], "--batch-size", "4"]
    assert main([*words, "--steps", "3", "--out", str(tmp_path / "a")]) == 0
    assert (
        f"all steps are done (3); 'unetzoo train --resume {tmp_path / 'a'} --steps 6' continues"
        in capsys.readouterr().out
    )
    assert main([*words, "--epochs", "1", "--steps-per-epoch", "2", "--out", str(tmp_path / "b")]) == 0
    assert "all epochs are done (1);" in capsys.readouterr().out


def test_to_who_writes_python_the_advice_is_a_call(
    nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"model.options.base_channels": 4, "data.workers": 0, "trainer.accelerator": "cpu"}
    once = {"data": nuclei, "crop_size": 16, "batch_size": 4, "style": "lines", "settings": tiny}
    unetzoo.fit("unet", steps=2, out=tmp_path / "a", **once)
    (call,) = re.findall(r"all steps are done \(2\); unetzoo(\.fit\(.*\)) continues", capsys.readouterr().out)
    run = eval(f"unetzoo{call}", {"unetzoo": unetzoo})
    assert "all steps are done (4); unetzoo.fit(" in capsys.readouterr().out
    assert run.folder == tmp_path / "a"


def test_a_run_of_passes_goes_on_by_passes(nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_off(nuclei, tmp_path / "a", "--epochs", "1", batch=1)
    assert main(["train", "--resume", str(tmp_path / "a"), "--steps", "4", "--quiet", "--trust"]) == 2
    assert "this run counts passes over the images; give --epochs" in capsys.readouterr().err


# Minutes


def test_minutes_hold_as_many_steps_as_fit() -> None:
    pace = Pace(step=0.5, validation=2.0)
    assert pace.epochs_in(60) == (3, 36)  # three epochs of 20 s, a tenth of which is validation
    assert pace.epochs_in(3600) == (50, 140)  # fifty epochs of 72 s
    assert pace.epochs_in(60, length=20) == (5, 20)  # five epochs of 12 s
    with pytest.raises(ConfigError, match=r"minutes=0\.0333: a step takes 0\.5 s here, and a validation 2\.0 s"):
        pace.epochs_in(2)


def test_slow_validations_are_three_if_these_take_a_quarter_at_most() -> None:
    assert Pace(step=0.5, validation=5.0).epochs_in(60)[0] == 3  # 15 s of them
    assert Pace(step=0.5, validation=7.0).epochs_in(60)[0] == 2
    assert Pace(step=0.5, validation=20.0).epochs_in(60)[0] == 1


def test_so_few_steps_that_nothing_is_learnt_are_said(
    nuclei: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(measuring, "measured", lambda *_: Pace(step=19.0, validation=3.0))
    monkeypatch.setattr(measuring.os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    run = ["train", "--data", str(nuclei), *once(*TINY, *STEPWISE), "--minutes"]
    assert main([*run, "1.5", "--out", str(tmp_path / "a")]) == 0
    assert re.search("[34] steps hardly train a network; at least 200 .* smaller network or a smaller", caplog.text)
    assert "OMP" not in caplog.text
    caplog.clear()
    monkeypatch.setattr(measuring.os, "getloadavg", lambda: (900.0, 1.0, 1.0))
    monkeypatch.setattr(measuring.torch, "get_num_threads", lambda: 2)
    measuring._tell_few(199, torch.device("cpu"))
    assert "load 900" in caplog.text
    assert "OMP_NUM_THREADS=1" in caplog.text
    caplog.clear()
    measuring._tell_few(199, torch.device("cuda"))
    assert "OMP" not in caplog.text
    caplog.clear()
    measuring._tell_few(200, torch.device("cpu"))
    assert not caplog.text


def test_minutes_are_steps_by_what_is_measured(nuclei: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Pace] = []

    original = measuring.measured

    def measured(*arguments: Any) -> Pace:
        found.append(original(*arguments))
        return Pace(step=10.0, validation=10.0)

    monkeypatch.setattr("unetzoo.train.measuring.measured", measured)
    train(nuclei, tmp_path / "a", *STEPWISE, "--minutes", "0.7", "--steps-per-epoch", "3")
    assert last(tmp_path / "a")["global_step"] == 3  # 42 s: an epoch of three steps, and its validation
    assert 0 < found[0].step < 60
    assert 0 < found[0].validation < 60
    # And what was measured left nothing behind: its settings make the same run.
    assert (
        main(["train", "--config", str(tmp_path / "a" / "config.yaml"), "--out", str(tmp_path / "b"), "--quiet"]) == 0
    )
    same_runs(tmp_path / "a", tmp_path / "b")


def test_a_pace_is_that_of_steps_and_of_all_validation_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "val"):
        drawing.write_shapes(tmp_path / "shapes" / part, 6, size=(32, 32), task="multiclass", seed=0)
    clock = itertools.count(step=2.0)
    monkeypatch.setattr(measuring, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(measuring, "SECONDS", 1e9)
    found: list[Pace] = []
    measured = measuring.measured
    monkeypatch.setattr(measuring, "measured", lambda *given: found.append(measured(*given)) or Pace(1.0, 1.0))
    given = ["--task", "multiclass", "--num-classes", "5", "--batch-size", "2", "--minutes", "0.05"]
    train(tmp_path / "shapes", tmp_path / "a", *STEPWISE, *given)
    train(tmp_path / "shapes", tmp_path / "b", *STEPWISE, *given, "--trainer.limit_val_batches", "2")
    train(tmp_path / "shapes", tmp_path / "c", *STEPWISE, *given, "--trainer.limit_val_batches", "0")
    assert found == [Pace(2.0, 6.0), Pace(2.0, 4.0), Pace(2.0, 0.0)]  # six images in batches of two


@pytest.mark.parametrize(("seconds", "text"), [(40.2, "40 s"), (60, "1 min"), (725, "12 min"), (7500, "2 h 5 min")])
def test_spans_are_told_as_people_do(seconds: float, text: str) -> None:
    assert span(seconds) == text


# What is said first


def test_the_first_line_comes_before_lightning_does(tmp_path: Path) -> None:
    (tmp_path / "pytorch_lightning.py").write_text("raise SystemExit('Lightning is being imported')", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    words = [sys.executable, "-m", "unetzoo", "train", "--model", "unet", "--data", "cells"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=100)
    assert done.stderr == "Lightning is being imported\n"
    assert done.stdout == f"unetzoo {unetzoo.__version__}: unet on cells\n"


def test_all_settings_are_printed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--print-config"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["model"]["name"] == "NAME"
    assert found["data"]["folder"] == "FOLDER"
    assert found["trainer"]["precision"] is None
