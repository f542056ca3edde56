"""Networks trained under the same settings: what is kept of each, the table, the plot, and files that are refused."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import KILL, ROOT, SPAWNED, once
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning.callbacks import Callback

import unetzoo
from unetzoo import drawing
from unetzoo.cli import main
from unetzoo.decoders import DECODERS
from unetzoo.errors import ConfigError, InputError, TrainingError
from unetzoo.evaluation import evaluate
from unetzoo.train import choosing, run_trials
from unetzoo.trials import Epoch, TrainingTrial, draw, read_trials, write_trials

pytestmark = pytest.mark.usefixtures("no_curves")

EPOCHS = 3
TINY = ("--epochs", str(EPOCHS), "--model.options.base_channels", "4", "--crop-size", "32", "--batch-size", "4", "--lr",
        "1e-2", "--data.workers", "0", "--data.repeats", "1", "--trainer.accelerator", "cpu", "--quiet")  # fmt: skip


class KillOnce(Callback):
    """Kills its own process at the fifth batch, unless there is a file that says it has been done."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        done = Path(os.environ["KILLED"])
        if trainer.fit_loop.total_batch_idx + 1 == 5 and not done.exists():
            done.touch()
            os.kill(os.getpid(), KILL)


class Burden(Callback):
    """Makes each batch of the second epoch last a tenth of a second longer, and holds 300 MiB in it for a moment."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.current_epoch == 1:
            torch.ones(300 * 2**18)
            time.sleep(0.1)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 15 drawn images and their masks: 12 train, 2 validate, 1 tests."""
    folder = tmp_path_factory.mktemp("cells")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for k in range(15):
        image, mask = drawing.draw_nuclei(48, 40, seed=k)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{k:02}.png")
        Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(folder / "masks" / f"{k:02}.png")
    return folder


@pytest.fixture(scope="module")
def settings(cells: Path) -> list[str]:
    return ["--data", str(cells), *TINY]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "SIDE", 64)
    monkeypatch.setattr(choosing, "ROUNDS", 1)


def in_this_process(command: list[str], _: Any) -> int:
    """Train as the process would; others below have processes of their own."""
    assert command[:4] == [sys.executable, "-m", "unetzoo", "train"]
    return main(command[3:])


@pytest.fixture(scope="module")
def tried(settings: list[str], no_curves: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of two networks' trials."""
    out = tmp_path_factory.mktemp("trials") / "both"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "_status", in_this_process)
        patch.setattr(choosing, "SIDE", 64)
        patch.setattr(choosing, "ROUNDS", 1)
        assert run_trials(["unetpp", "unet"], settings, out) == out / "results.json"
    return out


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def trial(name: str, curve: list[tuple[float, float | None]], peak: float | None = 100.0) -> TrainingTrial:
    """Return a trial whose curve is these (minutes, Dice), of any network."""
    return TrainingTrial(
        name=name,
        settings=("--data", "cells"),
        curve=tuple(
            Epoch(k, minutes, dice, None if dice is None else dice / (2 - dice))
            for k, (minutes, dice) in enumerate(curve, 1)
        ),
        peak_mib=peak,
        seconds_per_megapixel=1.5,
        times_resunet18=2.25,
        versions={"torch": "2"},
        machine="abacus, 10 threads",
        config=unetzoo.create(name, base_channels=2).config,
    )


# What is kept


def test_a_record_holds_what_the_run_s_best_network_scores(tried: Path, cells: Path) -> None:
    record = json.loads((tried / "results.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in record["trials"]] == ["unet", "unetpp"]
    for entry in record["trials"]:
        model = unetzoo.load(tried / entry["name"] / "best.safetensors")
        scores = evaluate(model, cells, split="val").scores.to_dict()
        assert entry["dice"] == pytest.approx(scores["dice"], abs=1e-9)
        assert entry["iou"] == pytest.approx(scores["iou"], abs=1e-9)
        assert entry["epochs"] == EPOCHS
        assert entry["config"] == json.loads(model.config.to_json())
        assert entry["versions"]["torch"] == torch.__version__
        assert entry["settings"] == ["--data", str(cells), *TINY]
        assert 0 < entry["seconds_per_megapixel"] < 1000


def test_the_curve_is_the_run_s_scores_at_the_clock_s_times(tried: Path) -> None:
    for found in read_trials(tried / "results.json"):
        metrics, times = rows(tried / found.name / "metrics.csv"), rows(tried / found.name / "times.csv")
        assert [epoch.epoch for epoch in found.curve] == [1, 2, 3]
        assert [str(epoch.dice) for epoch in found.curve] == [row["dice"] for row in metrics]
        assert [str(epoch.iou) for epoch in found.curve] == [row["iou"] for row in metrics]
        assert [epoch.minutes for epoch in found.curve] == pytest.approx(
            [float(row["seconds"]) / 60 for row in times], abs=1e-4
        )
        assert found.minutes == found.curve[-1].minutes
        assert found.best.dice == max(float(row["dice"]) for row in metrics)


def test_a_trial_trains_as_the_command_does(tried: Path, settings: list[str], tmp_path: Path) -> None:
    assert main(["train", "--model", "unetpp", "--out", str(tmp_path / "alone"), *settings]) == 0
    for name in ("metrics.csv", "best.safetensors"):
        assert (tmp_path / "alone" / name).read_bytes() == (tried / "unetpp" / name).read_bytes()


def test_what_is_done_is_not_trained_again(
    tried: Path, settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tried / "results.json").read_bytes()
    (tried / "results.json").unlink()
    monkeypatch.setattr(choosing, "_status", lambda *_: pytest.fail("a network was trained again"))
    run_trials("unet", settings, tried)  # the file holds all that are done, whoever is asked for
    assert (tried / "results.json").read_bytes() == before
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_killed_trial_goes_on_and_gives_the_same_curve(
    tried: Path, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "tests"))))
    monkeypatch.setenv("KILLED", str(tmp_path / "killed"))
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    given = [*settings, "--keep_steps", "1", f"--trainer.callbacks+={__name__}.KillOnce"]
    with pytest.raises(TrainingError, match=r"unet: .*training.*status -9\b"):
        run_trials("unet", given, tmp_path / "out")
    assert not (tmp_path / "out" / "unet" / "trial.json").exists()
    earlier = float(rows(tmp_path / "out" / "unet" / "times.csv")[-1]["seconds"])
    (cut,) = read_trials(run_trials("unet", given, tmp_path / "out"))
    whole = next(found for found in read_trials(tried / "results.json") if found.name == "unet")
    assert [(epoch.dice, epoch.iou) for epoch in cut.curve] == [(epoch.dice, epoch.iou) for epoch in whole.curve]
    assert cut.curve[0].minutes == pytest.approx(earlier / 60, abs=1e-4)
    assert cut.curve[0].minutes < cut.curve[1].minutes < cut.curve[2].minutes


def test_what_comes_next_and_how_long_it_may_take_is_said(
    tmp_path: Path, settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest takes as much longer than what is done as it has more arithmetic."""
    clock = iter([100.0, 700.0])  # the start, and ten minutes later
    monkeypatch.setattr(choosing.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(choosing, "_train", lambda *_: None)
    monkeypatch.setattr(choosing, "_trial", lambda folder, name, _: folder.mkdir() or trial(name, [(1, 0.5)]))
    run_trials(["unet", "unetpp"], settings, tmp_path)
    unet, unetpp = unetzoo.compare(["unet", "unetpp"]).rows
    minutes = round(10 * unetpp.gflops / unet.gflops)
    said = ["unet: 1 of 2", f"unetpp: 2 of 2; about {minutes} minutes are left"]
    assert capsys.readouterr().out.splitlines() == said


def test_prediction_is_timed_in_turn_with_resunet18(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that each call moves: the machine is slow in one of five turns, and the first is not counted."""
    now, calls = [0.0], []

    def optimized(model: Any) -> Callable[[torch.Tensor], None]:
        name = model.config.name

        def call(image: torch.Tensor) -> None:
            assert image.shape == (1, 3, 500, 500)
            calls.append(name)
            turn = (len(calls) - 1) // 2
            now[0] += {"unet": 0.5, "resunet18": 0.2}[name] * {0: 100, 2: 10}.get(turn, 1)

        return call

    monkeypatch.setattr(choosing, "SIDE", 500)
    monkeypatch.setattr(choosing, "ROUNDS", 5)
    monkeypatch.setattr(choosing.folding, "optimize", optimized)
    monkeypatch.setattr(choosing.time, "perf_counter", lambda: now[0])
    seconds, ratio = choosing.prediction_time(unetzoo.create("unet", base_channels=2))
    assert calls == ["unet", "resunet18"] * 6
    assert seconds == pytest.approx(0.5 / 0.25)  # a quarter of a megapixel
    assert ratio == pytest.approx(2.5)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is weighed on Linux alone")
def test_the_clock_tells_the_time_and_the_memory_of_each_epoch(cells: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["train", "--model", "unet", "--data", str(cells), *TINY, "--out", str(out)]
    words += ["--trainer.callbacks+=unetzoo.train.Clock", f"--trainer.callbacks+={__name__}.Burden"]
    start = time.monotonic()
    run = SPAWNED.Process(target=main, args=(words,))  # of its own, as peaks never fall
    run.start()
    run.join()
    assert run.exitcode == 0
    taken = time.monotonic() - start
    times = rows(out / "times.csv")
    seconds, peaks = ([float(row[key]) for row in times] for key in ("seconds", "peak_mib"))
    assert [row["epoch"] for row in times] == ["1", "2", "3"]
    assert 0 < seconds[0] < seconds[1] - 0.3 < seconds[2] - 0.3 < taken  # three batches in the second epoch
    assert 270 < peaks[1] - peaks[0] < 330
    assert peaks[1] <= peaks[2] < peaks[1] + 30
    time.sleep(1)
    start = time.monotonic()
    assert main(["train", "--resume", str(out), "--epochs", "4", "--quiet", "--trust"]) == 0
    later = rows(out / "times.csv")
    assert later[:3] == times
    assert seconds[2] < float(later[3]["seconds"]) < seconds[2] + time.monotonic() - start
    assert float(later[3]["peak_mib"]) == peaks[2]  # of the process before, which had the burden


PARTS = """
import unetzoo
from unetzoo.decoders import DECODERS
from unetzoo.losses import register_loss

@unetzoo.register_decoder("tried")
class Tried(DECODERS["unet"]):
    title, paper, summary = "Tried", "nobody 2026", "as the U-Net's"

@register_loss("tried_loss")
def tried_loss(logits, target):
    return 2 * unetzoo.losses.build("bce", "binary")(logits, target)
"""


@pytest.fixture
def parts(tmp_path: Path, registries: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder of modules that the current folder is not, as that of a program elsewhere."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "own_parts.py").write_text(PARTS, encoding="utf-8")
    (tmp_path / "parts" / "other.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "parts")])
    yield tmp_path / "parts"
    for name in ("own_parts", "other"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_own_parts_are_tried(
    apart: bool, parts: Path, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reaches the process that trains, where it is one of its own, is looked at below."""
    __import__("own_parts")
    if not apart:
        monkeypatch.setattr(choosing, "_status", in_this_process)
    given = once(*settings, "--epochs", "1", "--loss", "tried_loss + dice")
    (one,) = read_trials(run_trials("tried", given, tmp_path / "out"))
    assert (one.name, one.config.decoder, len(one.curve)) == ("tried", "tried", 1)


def test_modules_reach_the_process_that_trains(
    parts: Path, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(choosing, "_trial", lambda folder, name, _: folder.mkdir() or trial(name, [(1, 0.5)]))
    monkeypatch.setattr(choosing, "_status", lambda words, environment: calls.append((words, environment)) or 0)
    run_trials(["unet", "tried"], settings, tmp_path / "out", imports=["other", "own_parts"])
    for words, environment in calls:
        assert [word for word in words if word.startswith("--import")] == ["--import=other", "--import=own_parts"]
        assert str(parts) in environment["PYTHONPATH"].split(os.pathsep)
    assert len(calls) == 2


# What is refused before any work


def test_settings_that_cannot_be_tried_are_listed_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run_trials("unet", ["--model=unetpp", "--epochs", "1", "--out", "a"], tmp_path / "out")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "--model",
        "--out",
        "--data FOLDER is needed",
    ]
    assert not (tmp_path / "out").exists()


def test_parts_of_the_program_itself_are_refused(
    registries: None, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other process runs ``__main__``."""
    plain = type("Own", (DECODERS["unet"],), {"__module__": "__main__"})
    unetzoo.register_decoder("own")(plain)
    with pytest.raises(ConfigError) as caught:
        run_trials("own", settings, tmp_path / "out")
    (problem,) = caught.value.problems
    assert re.match(r"own .*main program.*module.*parts\.py", problem)
    assert not (tmp_path / "out").exists()


def test_other_settings_need_another_folder(tried: Path, settings: list[str]) -> None:
    before = sorted(tried.rglob("*"))
    with pytest.raises(ConfigError, match=r'begun with \["--data".*not with.*"--seed", "1"\]; give another folder'):
        run_trials("resunet18", [*settings, "--seed", "1"], tried)
    assert sorted(tried.rglob("*")) == before


def test_runs_of_others_are_left_alone(settings: list[str], tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    with pytest.raises(ConfigError, match=r"\bunet .*already.*another folder"):
        run_trials(["unet", "unetpp"], settings, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["unet"]


def test_unknown_names_are_refused(settings: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'resunet18'"):
        run_trials(["unet", "resunt18"], settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_training_that_fails_says_why_and_leaves_no_record(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "_status", in_this_process)
    with pytest.raises(TrainingError, match=r"unet: .*training.*status 2\b"):
        run_trials("unet", ["--data", str(tmp_path / "nothing")], tmp_path / "out")
    assert "nothing" in capfd.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for the training")
def test_who_ends_the_trials_ends_the_training(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, pid = tmp_path / "training", tmp_path / "pid"
    script.write_text(f"#!/bin/sh\necho $$ > {pid}.new\nmv {pid}.new {pid}\nexec sleep 100\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(choosing.sys, "executable", str(script))

    def end() -> None:
        while not pid.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    ending = threading.Thread(target=end)
    ending.start()
    with pytest.raises(SystemExit) as caught:
        run_trials("unet", settings, tmp_path / "out")
    ending.join()
    assert caught.value.code == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text(encoding="utf-8")), 0)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for the training")
def test_a_training_that_is_just_being_started_is_ended_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes when the process runs, but nobody has been given it yet."""
    started: list[subprocess.Popen[bytes]] = []

    class Started(subprocess.Popen):
        def __init__(self, *words: Any, **options: Any) -> None:
            super().__init__(*words, **options)
            started.append(self)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(choosing.subprocess, "Popen", Started)
    with pytest.raises(SystemExit) as caught:
        choosing._status(["sleep", "100"], {**os.environ})
    assert caught.value.code == 128 + signal.SIGTERM
    assert [process.returncode for process in started] == [-signal.SIGKILL]


# The table


def test_the_table_s_values_are_the_file_s(tried: Path) -> None:
    record = json.loads((tried / "results.json").read_text(encoding="utf-8"))
    table = unetzoo.compare(results=tried / "results.json", size=64)
    assert [row.name for row in table.rows] == [entry["name"] for entry in record["trials"]]
    lines = [line.strip("| ").split(" | ") for line in table.render("md").splitlines()]
    from_csv = list(csv.DictReader(io.StringIO(table.render("csv"))))
    from_json = json.loads(table.render("json"))["models"]
    for row, entry, cells, text, model in zip(
        table.rows, record["trials"], lines[2:], from_csv, from_json, strict=True
    ):
        expected = [entry[key] for key in ("dice", "iou", "minutes", "peak_mib", "times_resunet18")]
        assert [row.dice, row.iou, row.minutes, row.training_mib, row.times_resunet18] == expected
        assert [float(cell) for cell in cells[5:]] == [
            round(value, digits) for value, digits in zip(expected, (4, 4, 1, 0, 2), strict=True)
        ]
        for key, value in zip(("dice", "iou", "minutes", "training_mib", "times_resunet18"), expected, strict=True):
            assert float(text[key]) == model[key] == value


def test_networks_are_counted_as_they_were_trained(tried: Path) -> None:
    (row,) = unetzoo.compare("unetpp", results=tried / "results.json", size=64).rows
    model = unetzoo.load(tried / "unetpp" / "best.safetensors")
    assert model.config.decoder == "unetpp"
    assert row.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert row.parameters < unetzoo.model_info("unetpp").parameters / 10
    assert row.published is None
    measured = unetzoo.compare("unetpp", results=tried / "results.json", size=64, measure=True).rows[0]
    assert 0 < measured.latency_ms < 60_000


def test_networks_that_were_not_trained_have_no_figures(tried: Path) -> None:
    table = unetzoo.compare(["resunet18", "unet"], results=tried / "results.json", size=64)
    assert [row.name for row in table.rows] == ["resunet18", "unet"]
    assert table.rows[0].parameters == 20_777_345
    assert table.rows[0].dice is None
    assert str(table).splitlines()[1].split()[-5:] == ["–"] * 5
    assert [found.name for found in table.trials] == ["unet"]
    without = unetzoo.compare("resunet18", size=64)
    assert "Dice" not in str(without)
    assert without.rows[0].gflops == table.rows[0].gflops


def test_the_command_shows_results(tried: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    results = str(tried / "results.json")
    assert main(["compare", "--results", results, "--size", "64", "--plot", str(tmp_path / "a.svg")]) == 0
    text = capsys.readouterr().out
    assert text == str(unetzoo.compare(results=results, size=64))
    assert "validation Dice" in (tmp_path / "a.svg").read_text(
        encoding="utf-8"
    )  # matplotlib writes texts as comments beside glyphs
    assert main(["compare", "unetpp", "--results", results, "--size", "64", "--format", "json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert model["dice"] == next(found.best.dice for found in read_trials(results) if found.name == "unetpp")
    assert main(["compare", "--results", str(tmp_path / "missing.json")]) == 2
    assert capsys.readouterr().err.startswith("unetzoo: ")
    assert main(["compare", "--size", "32", "--exclude", "*_*", "--exclude", "resunet*"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["unet", "unet3p", "unetpp"]


def test_the_example_prints_the_table_and_draws_it(
    tried: Path, settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The networks are done, so that nothing is trained."""
    script = str(ROOT / "examples" / "choose_architecture.py")
    monkeypatch.setattr(sys, "argv", [script, "--models", "unet", "unetpp", "--out", str(tried), *settings])
    runpy.run_path(script)
    assert str(unetzoo.compare(results=tried / "results.json")) in capsys.readouterr().out
    assert "<svg" in (tried / "choice.svg").read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [script, "--models", "unet", "--out", str(tried), "--epochs", "9"])
    with pytest.raises(SystemExit, match=r"^choose_architecture.py: cannot try networks.*\n.*--data FOLDER is needed"):
        runpy.run_path(script)


# The file


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    written = (trial("unet", [(0.5, None), (1, 0.25), (2.5, 0.75), (3, 0.75)]), trial("unetpp", [(7, None)], None))
    write_trials(written, tmp_path / "a.json")
    assert read_trials(tmp_path / "a.json") == written
    record = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["trials"]
    assert [record[0][key] for key in ("epochs", "dice", "iou", "minutes")] == [4, 0.75, 0.6, 3]
    assert [record[1][key] for key in ("epochs", "dice", "iou", "minutes", "peak_mib")] == [1, None, None, 7, None]
    assert written[0].best.epoch == 3  # the first of equals, whose network is kept


def change(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def changing(record: dict[str, Any]) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = to

    return changing


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (change("format", to="unetzoo trials 2"), "'format' is not 'unetzoo trials 1'"),
        (change("trials", to={}), "'trials' is not a list"),
        (change("trials", to=[]), "no trials"),
        (change("trials", 0, to=7), "trial 1: not an object"),
        (change("trials", 1, "dice", to=0.9), r"unetpp: dice=0\.9 .*curve.*0\.5"),
        (change("trials", 1, "minutes", to=1), r"unetpp: minutes=1 .*curve.*\b2\b"),
        (change("trials", 0, "epochs", to=3), r"unet: epochs=3 .*curve.*\b2\b"),
        (change("trials", 0, "peak_mib", to=-1), "peak_mib=-1: .*0 up.*null"),
        (change("trials", 0, "times_resunet18", to=None), "times_resunet18=None: .*0 up"),
        (change("trials", 0, "settings", to=[1]), r"settings=\[1\]: .*list.*strings"),
        (
            change("trials", 0, "settings", to=["--data", "other"]),
            r"unetpp .*settings \(--data cells\).* unet \(--data other\)",
        ),
        (change("trials", 0, "versions", to={"torch": 2}), r"versions=\{'torch': 2\}: .*object.*strings"),
        (change("trials", 0, "colour", to="red"), "trial 1: 'colour': unknown"),
        (change("trials", 0, "curve", to=[]), r"curve=\[\]: .*list.*not empty"),
        (change("trials", 0, "curve", 0, "dice", to=1.5), r"dice=1\.5: .*0 to 1.*null"),
        (change("trials", 0, "curve", 0, "dice", to=True), "dice=True"),
        (change("trials", 0, "curve", 0, to={"epoch": 1}), "minutes: missing; trial 1, curve: dice: missing"),
        (change("trials", 0, "curve", 1, "epoch", to=3), "trial 1: .*epochs .*curve.*1, 2, 3"),
        (change("trials", 0, "curve", 0, "minutes", to=9), "trial 1: .*minutes .*curve.*decrease"),
        (change("trials", 0, "config", "encoder", to="resnet19"), "unknown encoder 'resnet19'"),
        (change("trials", 0, "name", to="unetpp"), "unetpp .*2 times"),
    ],
)
def test_spoilt_files_are_refused(spoil: Callable[[dict[str, Any]], None], said: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_trials([trial(name, [(1, 0.25), (2, 0.5)]) for name in ("unet", "unetpp")], path)
    record = json.loads(path.read_text(encoding="utf-8"))
    spoil(record)
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match=said) as caught:
        unetzoo.compare(results=path)
    assert "examples/choose_architecture.py writes one" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"results\.json cannot be read .*Expecting value"),
        (b"\x89PNG\r\n\x1a\n", r"results\.json cannot be read .*0x89"),
        (b'{"format": 1, "format": 2}', "twice"),
        (b'{"format": NaN}', "NaN"),
        (b"[]", r"results\.json .*not a results file.*'format'.*'unetzoo trials 1'"),
        (b'{"size": 256, "models": []}', r"results\.json .*not a results file.*'format'.*'unetzoo trials 1'"),
    ],
)
def test_foreign_files_are_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_trials(path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_trials([trial("unet", [(1, 0.25)])], path)
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_trials(path)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(InputError, match=rf"{path.name} cannot be read .*examples/choose_architecture\.py"):
            unetzoo.compare(results=path)


def test_trials_that_do_not_go_together_are_not_written(tmp_path: Path) -> None:
    one = trial("unet", [(1, 0.5)])
    for trials, said in (((), "no trials"), ((one, one), "2 times")):
        with pytest.raises(ConfigError, match=said):
            write_trials(trials, tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


# The plot


def test_the_plot_holds_the_curves_and_the_best_of_each() -> None:
    figure = Figure()
    draw(figure, [trial("unet", [(1, 0.5), (3, None), (4, 0.75)], 120.5), trial("unetpp", [(2, 0.875)], 80.0)])
    curves, memory = figure.axes
    assert {line.get_label(): line.get_xydata().tolist() for line in curves.lines} == {
        "unet": [[1, 0.5], [4, 0.75]],
        "unetpp": [[2, 0.875]],
    }
    assert [line.get_xydata().tolist() for line in memory.lines] == [[[120.5, 0.75]], [[80.0, 0.875]]]
    assert [line.get_color() for line in curves.lines] == [line.get_color() for line in memory.lines]
    assert len({line.get_marker() for line in curves.lines}) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["unet", "unetpp"]
    assert (curves.get_xlabel(), memory.get_ylabel()) == ("minutes of training", "best validation Dice")


def test_without_memory_the_plot_has_one_part() -> None:
    figure = Figure()
    draw(figure, [trial("unet", [(1, 0.5)], None), trial("unetpp", [(2, None)], None)])
    (curves,) = figure.axes
    assert [len(line.get_xydata()) for line in curves.lines] == [1, 0]


def test_comparisons_with_results_draw_them(tried: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    unetzoo.compare(results=tried / "results.json", size=64).plot(tmp_path / "a.png")
    unetzoo.compare("unet", size=64).plot(tmp_path / "a.png")
    record = {
        entry["name"]: entry for entry in json.loads((tried / "results.json").read_text(encoding="utf-8"))["trials"]
    }
    for line in figures[0].axes[0].lines:
        curve = record[line.get_label()]["curve"]
        assert line.get_xydata().tolist() == [[epoch["minutes"], epoch["dice"]] for epoch in curve]
    assert figures[1].axes[0].get_xlabel() == "parameters (millions)"
    assert math.isclose(figures[1].axes[0].lines[0].get_xdata()[0], 31.036673)


def test_the_page_has_the_table_of_its_results() -> None:
    table = unetzoo.compare(results=ROOT / "docs" / "choosing.json").render("md")
    assert table in (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
