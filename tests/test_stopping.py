"""Trainings that stop, by themselves or by others, and go on; and the folders that they have to themselves."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import math
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import KILL, PROCESSES, once
from PIL import Image
from pytorch_lightning.callbacks import Callback
from trainings import TINY, last, refused, rows, same_runs, train

import unetzoo
from unetzoo.cli import main
from unetzoo.data import Labels, find_samples
from unetzoo.errors import ConfigError
from unetzoo.train import places
from unetzoo.train.judging import Score, score_of

pytestmark = pytest.mark.usefixtures("no_curves")

NO_CALLBACK = ("--trainer.callbacks", "null", "--trust")


class StopAt(Callback):
    """Asks for the end of the run after a training batch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            trainer.should_stop = True


class CtrlC(Callback):
    """Sends its own process what Ctrl-C does: after a training batch, or before the first."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_fit_start(self, *_: Any) -> None:
        if self.batch == 0:
            os.kill(os.getpid(), signal.SIGINT)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            os.kill(os.getpid(), signal.SIGINT)


class TermOfGroup(Callback):
    """Sends SIGTERM, after a training batch, to its own process and to those that read images, as to their group."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            readers = multiprocessing.active_children()
            assert len(readers) >= 2
            # Not from here, as readers take a signal of their own process for a friendly one.
            subprocess.run(["kill", *(str(reader.pid) for reader in readers), str(os.getpid())], check=True)
            for reader in readers:  # torch, which is to find out that it is gone, raises meanwhile
                os.waitid(os.P_PID, reader.pid, os.WEXITED | os.WNOWAIT)


class EmptyMasks(Callback):
    """Makes a network say that there is nothing, before the first step."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        with torch.no_grad():
            pl_module.network.head.conv.bias.fill_(-9.0)


STEADY = ("--epochs", "2", "--model.schedule", "constant", "--model.warmup", "0")


def with_callback(kind: type, batch: int) -> list[str]:
    return [f"--trainer.callbacks+={__name__}.{kind.__name__}", "--trainer.callbacks.batch", str(batch)]


def resume(out: Path, *arguments: str) -> None:
    assert main(["train", "--resume", str(out), "--quiet", *arguments]) == 0


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def done(nuclei: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of one epoch."""
    out = tmp_path_factory.mktemp("runs") / "done"
    train(nuclei, out, "--epochs", "1")
    return out


@pytest.fixture(scope="module")
def whole(nuclei: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two epochs at one rate, which nothing stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(nuclei, out, *STEADY)
    return out


# Its own folder


def at_once(count: int, act: Callable[[], Any]) -> list[Any]:
    """Return what ``act`` gave or raised in each of several threads that begin together."""
    together, found = threading.Barrier(count), []

    def run() -> None:
        together.wait()
        try:
            found.append(act())
        except ConfigError as error:
            found.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_trainings_that_begin_together_have_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "unet-2").mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        found = at_once(8, lambda: stack.enter_context(places.numbered("unet")))
        assert len(set(found)) == 8
        assert Path("runs/unet-2") not in found
        for folder in found:
            (folder / "config.yaml").touch()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"unet-2", *(folder.name for folder in found)}
    with places.numbered("unet") as folder:
        assert folder not in found
    assert not folder.exists()  # as nothing was put there


@pytest.mark.parametrize("there", [False, True])
def test_one_of_several_gets_the_folder_that_all_are_told(there: bool, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "a"
    if there:
        out.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        found = at_once(8, lambda: stack.enter_context(places.named(out)))
        assert [folder for folder in found if isinstance(folder, Path)] == [out]
        errors = [error for error in found if isinstance(error, ConfigError)]
        assert len(errors) == 7
        assert all(re.search(r"out=.*training there.*another folder", str(error)) for error in errors)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    assert out.exists() or not there


def hold(place: Callable[[], contextlib.AbstractContextManager[Path]], end: Connection) -> None:
    """Take a folder when told to, say which it is, and keep it until told again."""
    end.recv()
    with place() as folder:
        end.send(folder)
        end.recv()


@contextlib.contextmanager
def holders(count: int, place: Callable[[], contextlib.AbstractContextManager[Path]]) -> Iterator[list[Any]]:
    """Give processes that hold folders, each with the end of its pipe; all begin together."""
    pipes = [PROCESSES.Pipe() for _ in range(count)]
    found = [(PROCESSES.Process(target=hold, args=(place, theirs)), ours) for ours, theirs in pipes]
    for process, _ in found:
        process.start()
    for _, end in found:
        end.send(None)
    yield found
    for process, end in found:
        if process.is_alive():
            end.send(None)
        process.join()
    for pipe in pipes:
        for end in pipe:
            end.close()


def test_processes_that_begin_together_have_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with holders(6, functools.partial(places.numbered, "unet")) as processes:
        assert all(end.poll(100) for _, end in processes)  # or one ended before it had a folder
        found = {end.recv() for _, end in processes}
        assert len(found) == 6
        assert {path.name for path in (tmp_path / "runs").iterdir()} == {folder.name for folder in found}
    assert [process.exitcode for process, _ in processes] == [0] * 6


@pytest.mark.parametrize("error", [FileNotFoundError, FileExistsError])
def test_a_folder_whose_parent_was_removed_just_now_is_made(
    error: type[OSError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As between the two calls of the system that a folder and its parent take."""
    mkdir, calls = Path.mkdir, []

    def once_removed(path: Path, *arguments: Any, **options: Any) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise error(errno.ENOENT, "the parent is gone", str(path))
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", once_removed)
    with places.named(tmp_path / "runs" / "a") as folder:
        assert folder.is_dir()
    assert not (tmp_path / "runs").exists()


def test_an_empty_folder_that_another_process_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = Path.mkdir

    def overtaken(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == "unet" and not path.exists():
            mkdir(path, parents=True)
        mkdir(path, *arguments, **options)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "mkdir", overtaken)
    with places.numbered("unet") as folder:
        assert folder == Path("runs/unet-2")
        assert Path("runs/unet").is_dir()
    assert Path("runs/unet").is_dir()


def test_a_run_that_is_going_on_is_not_resumed_until_its_process_is_gone(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with holders(1, functools.partial(places.resumed, tmp_path)) as ((process, end),):
        assert end.recv() == tmp_path
        with pytest.raises(ConfigError, match=r"resume=.*another process is training"), places.resumed(tmp_path):
            pass
        os.kill(process.pid, KILL)
        process.join()
    with places.resumed(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_refused_training_leaves_no_folder(nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(
        capsys,
        "--data",
        str(nuclei),
        *TINY,
        "--out",
        str(tmp_path / "runs" / "a"),
        "--epochs",
        "1",
        "--crop-size",
        "64",
    )
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").touch()
    assert "this is a file" in refused(
        capsys, "--data", str(nuclei), *TINY, "--epochs", "1", "--out", str(tmp_path / "a")
    )


# Stopped early, and gone on with


@pytest.mark.parametrize("reason", ["time", "steps", "callback"])
def test_a_run_that_stopped_within_an_epoch_goes_on_bit_for_bit(
    reason: str, whole: Path, nuclei: Path, tmp_path: Path
) -> None:
    limit, again = {
        "time": (["--trainer.max_time", "00:00:00:00"], ["--trainer.max_time", "null"]),
        "steps": (["--trainer.max_steps", "4"], ["--trainer.max_steps", "-1"]),
        "callback": (with_callback(StopAt, 4), NO_CALLBACK),
    }[reason]
    train(nuclei, tmp_path / "cut", *STEADY, *limit)
    assert last(tmp_path / "cut")["global_step"] == (1 if reason == "time" else 4)
    if reason == "time":
        resume(tmp_path / "cut")  # for as long again, which is a step
        assert last(tmp_path / "cut")["global_step"] == 2
    resume(tmp_path / "cut", *again)
    same_runs(whole, tmp_path / "cut")


def test_more_patience_lets_a_run_go_on(nuclei: Path, tmp_path: Path) -> None:
    # Nothing changes: the first epoch is the best one.
    settings = ["--epochs", "5", "--lr", "0", "--model.options.norm", "group", "--trainer.limit_train_batches", "1"]
    settings += ["--patience"]
    train(nuclei, tmp_path / "whole", *settings, "3")
    train(nuclei, tmp_path / "cut", *settings, "1")
    assert len(rows(tmp_path / "cut")) == 2
    resume(tmp_path / "cut", "--patience", "3")
    same_runs(tmp_path / "whole", tmp_path / "cut")
    assert len(rows(tmp_path / "cut")) == 4
    resume(tmp_path / "cut", "--patience", "null")
    assert len(rows(tmp_path / "cut")) == 5


@pytest.mark.parametrize(
    "settings",
    [
        ["--epochs", "1"],
        ["--epochs", "9", "--lr", "0", "--model.options.norm", "group", "--patience", "1"],
        ["--epochs", "9", "--trainer.max_time", "00:00:00:00"],
        pytest.param(["--epochs", "9", "--trainer.max_steps", "2"], marks=pytest.mark.slow),
        pytest.param(["--epochs", "9", *with_callback(StopAt, 2)], marks=pytest.mark.slow),
    ],
)
def test_the_advice_at_the_end_of_a_run_is_true(
    settings: list[str], nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a run"
    given = ["train", *once("--data", str(nuclei), *TINY, *settings, "--out", str(out))]
    assert main(given) == 0
    steps = last(out)["global_step"]
    for words in re.findall(r"'unetzoo (train --resume .*)' continues", capsys.readouterr().out):
        assert main([*shlex.split(words), *(NO_CALLBACK[:2] if "StopAt" in str(settings) else ())]) == 0
    assert last(out)["global_step"] > steps


@pytest.mark.parametrize(
    "settings",
    [
        ["--epochs", "-1"],
        ["--epochs", "0"],
        ["--epochs", "3", "--batch-size", "2"],
        ["--epochs", "3", "--trainer.precision", "17"],
        ["--epochs", "3", "--trainer.accelerator", "gpu"],
        ["--epochs", "3", "--data", "no-such"],
        ["--epochs", "3", "--patience", "0"],
    ],
)
def test_a_refused_resume_changes_no_byte(
    settings: list[str], done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(done, tmp_path / "a"))
    before = content(run)
    refused(capsys, "--resume", str(run), *settings)
    assert content(run) == before


def test_a_checkpoint_that_does_not_fit_changes_no_byte(done: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(done, tmp_path / "a"))
    checkpoint = last(run)
    checkpoint["optimizer_states"][0]["param_groups"].pop()
    torch.save(checkpoint, run / "last.ckpt")
    before = content(run)
    with pytest.raises(ValueError, match="param"):
        main(["train", "--resume", str(run), "--epochs", "3", "--quiet"])
    assert content(run) == before


def test_more_epochs_that_raise_the_rate_again_say_so(
    done: Path, nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(done, tmp_path / "a"))
    assert main(["train", "--resume", str(run), "--epochs", "2"]) == 0
    (said,) = re.findall(r"warning: the learning rate rises from (\S+) to (\S+) here", capsys.readouterr().out)
    # Three steps of six; the first of them, 5 % in whole steps, is none of warming up.
    assert [float(rate) for rate in said] == pytest.approx([0, 1e-3 * 0.5 * (1 + math.cos(math.pi / 2))], rel=1e-2)
    assert float(rows(run)[1]["lr"]) == 0
    assert main(["train", "--resume", str(run), "--epochs", "3", "--json"]) == 0
    assert "learning rate rises" in capsys.readouterr().err
    train(nuclei, tmp_path / "b", "--epochs", "1", "--model.schedule", "constant", "--model.warmup", "0")
    assert main(["train", "--resume", str(tmp_path / "b"), "--epochs", "2"]) == 0
    assert "learning rate" not in capsys.readouterr().out


def test_no_network_is_announced_where_there_is_none(
    nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--data", str(nuclei), *TINY, "--epochs", "1", "--trainer.limit_val_batches", "0"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    assert not (tmp_path / "a" / "best.safetensors").exists()
    assert re.search(r"no best\.safetensors, because no epoch has been validated", capsys.readouterr().out)
    assert "patience" in refused(capsys, *words[1:], "--patience", "2", "--out", str(tmp_path / "b"))


# Judged


@pytest.mark.parametrize(
    ("row", "score"),
    [
        ({"val_loss": 0.5, "dice": 0.25, "recall": 0.0}, Score(True, 0.25)),
        ({"val_loss": 0.5, "dice": 0.0, "recall": None}, Score(False, -0.5)),  # something was found where nothing is
        ({"val_loss": 0.5, "dice": None, "recall": None}, Score(False, -0.5)),
        ({"val_loss": math.nan, "dice": None, "recall": None}, Score(False, -math.inf)),
    ],
)
def test_an_epoch_is_judged_by_dice_or_by_the_loss_where_no_class_occurs(
    row: dict[str, float | None], score: Score
) -> None:
    assert score_of(row) == score
    assert score < Score(True, 0.3)


@pytest.mark.parametrize(
    ("monitor", "score"),
    [
        ("iou", Score(True, 0.125)),
        ("recall/rim", Score(True, 0.75)),
        ("val_loss", Score(False, -0.5)),
        ("precision", Score(False, -0.5)),  # not defined in this epoch
        ("object_pq", Score(True, 0.0)),
    ],
)
def test_an_epoch_is_judged_by_the_figure_that_is_named(monitor: str, score: Score) -> None:
    row = {"val_loss": 0.5, "dice": 0.25, "recall": 0.5, "recall/rim": 0.75, "iou": 0.125, "precision": None}
    assert score_of({**row, "object_pq": 0.0, "objects_true": 3, "object_ap_50": 0.9}, monitor) == score


@pytest.mark.parametrize("rate", ["0", "0.03"])
def test_an_epoch_that_is_no_good_is_not_called_the_best_so_far(
    rate: str, nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a network whose masks are empty, at a rate at which they stay so, and at one at which they do not."""
    bias = [f"--trainer.callbacks+={__name__}.EmptyMasks", "--epochs", "2", "--augmentation", "none"]
    words = once("--data", str(nuclei), *TINY, *bias, "--lr", rate, "--loss", "dice", "--model.warmup", "0")
    assert main(["train", *words, "--out", str(tmp_path / "a")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    dice = [float(row["dice"]) for row in rows(tmp_path / "a")]
    assert (max(dice) == 0) == (rate == "0")
    for k, line in enumerate(lines):
        assert ("best so far" in line) == (dice[k] > max([0.0, *dice[:k]]))


def test_the_best_epoch_is_that_of_the_figure(nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of rows that figures order otherwise than Dice does, whatever order that is."""
    out = tmp_path / "a"
    words = once("--data", str(nuclei), *TINY, "--epochs", "4", "--monitor", "recall", "--lr", "0.02",
                 "--data.normalisation", "fixed")  # fmt: skip
    assert main(["train", *words, "--out", str(out)]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    values = [float(row["recall"]) for row in rows(out)]
    firsts = [1 + values.index(max(values[: k + 1])) for k in range(4)]
    assert [int(row["best"]) for row in rows(out)] == firsts
    assert unetzoo.Run(out).best_epoch == firsts[-1]
    assert all(f"recall {value:.4f}" in line for value, line in zip(values, said, strict=True))
    dice = [float(row["dice"]) for row in rows(out)]
    assert dice.index(max(dice)) != values.index(max(values))  # else this would show nothing


@pytest.mark.parametrize(
    ("monitor", "said"),
    [
        ("dices", "--monitor dices: did you mean 'dice'"),
        ("val_loss/rim", "dice, dice_per_image, .* are possible"),
        ("object_pq", "figures of objects with --task instances"),
        ("dice/rim", "there is only one class; give --monitor dice"),
    ],
)
def test_figures_that_are_none_are_refused(
    monitor: str, said: str, nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(nuclei), *TINY, "--epochs", "1", "--monitor", monitor, "--out", str(tmp_path / "a")]
    assert re.search(said, refused(capsys, *words))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("schedule", ["cosine", pytest.param("plateau", marks=pytest.mark.slow)])
def test_a_set_without_the_class_is_judged_by_the_loss(schedule: str, nuclei: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(nuclei, tmp_path / "data"))
    for sample in find_samples(data, Labels())["val"]:
        with Image.open(sample.mask) as mask:
            empty = np.zeros_like(np.asarray(mask))
        Image.fromarray(empty).save(sample.mask)
    out = tmp_path / "a"
    train(data, out, "--epochs", "8", "--patience", "1", "--model.schedule", schedule, "--lr", "0.03")
    found = [float(row["val_loss"]) for row in rows(out)]
    best = 1 + found.index(min(found))
    assert not any(row["recall"] for row in rows(out))
    assert len(found) in (best + 1, 8)
    assert unetzoo.Run(out).best_epoch == best
    kept = next(state for name, state in last(out)["callbacks"].items() if "KeepBest" in name)
    assert kept["epoch"] + 1 == best
    resume(out)
    assert len(rows(out)) == len(found)


# Ctrl-C, and a closed pipe


@pytest.fixture
def _hears_ctrl_c() -> Iterator[None]:
    """What a shell starts in the background ignores Ctrl-C, also if that is pytest."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_hears_ctrl_c")
def test_ctrl_c_ends_a_training_with_130_and_it_goes_on(
    whole: Path, nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    words = ["train", "--data", str(nuclei), *TINY, *STEADY, "--keep_steps", "1", "--quiet"]
    assert main([*words, "--out", str(tmp_path / "none"), *with_callback(CtrlC, 0)]) == 130
    assert capsys.readouterr().err == "unetzoo: interrupted\n"
    assert not (tmp_path / "none").exists()
    assert main([*words, "--out", str(tmp_path / "cut"), *with_callback(CtrlC, 4)]) == 130
    assert re.search(
        r"--resume .*cut --trust' continues from last\.ckpt\nunetzoo: interrupted\n", capsys.readouterr().err
    )
    assert signal.getsignal(signal.SIGINT) is before
    resume(tmp_path / "cut", *NO_CALLBACK)
    same_runs(whole, tmp_path / "cut")


@pytest.mark.parametrize(
    ("steps", "where"),
    [("1", r"continues from last\.ckpt"), ("9", "begins again with the first step: nothing was saved yet")],
)
def test_a_signal_to_the_whole_group_is_told_as_one_to_the_process(
    steps: str, where: str, nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ``timeout`` and job schedulers send it: the processes that read images get it, too."""
    out = tmp_path / "cut"
    words = ["train", *once("--data", str(nuclei), *TINY, *STEADY, "--data.workers", "2")]
    words += ["--keep_steps", steps, "--quiet", "--out", str(out), *with_callback(TermOfGroup, 2)]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 128 + signal.SIGTERM
    assert re.fullmatch(rf"unetzoo: stopped; '.*--resume .*cut --trust' {where}\n", capsys.readouterr().err)


@pytest.mark.usefixtures("_hears_ctrl_c")
def test_ctrl_c_reaches_who_called_fit(nuclei: Path, tmp_path: Path) -> None:
    settings = {"trainer.callbacks": [{"class_path": f"{__name__}.CtrlC", "init_args": {"batch": 2}}]}
    settings |= {"model.options.base_channels": 4, "data.workers": 0, "trainer.accelerator": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        unetzoo.fit("unet", data=nuclei, out=tmp_path / "a", crop_size=32, batch_size=4, quiet=True, settings=settings)


def test_a_training_goes_on_where_nobody_reads_of_it(done: Path, nuclei: Path, tmp_path: Path) -> None:
    class Unread(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    words = ["train", "--data", str(nuclei), *TINY, "--epochs", "1", "--json", "--out", str(tmp_path / "a")]
    with contextlib.redirect_stdout(Unread()):
        assert main(words) == 0
    same_runs(done, tmp_path / "a")


# Refused, or drawn, in any precision


def test_a_norm_of_one_value_is_refused_with_what_trains(
    nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    settings = ["--data", str(nuclei), *TINY, "--model", "unet", "--batch-size", "1", "--crop-size", "16"]
    text = refused(capsys, *settings, "--epochs", "1", "--out", str(out))
    said = r"--batch-size 1 with --crop-size .*16.*: .*; use --batch-size 2 or --crop-size (\d+) or"
    fixes = re.search(said, text)
    assert not out.exists()
    assert fixes is not None
    for fix in (["--batch-size", "2"], ["--crop-size", fixes[1]], ["--model.options.norm", "group"]):
        short = ["--epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "0"]
        assert main(["train", *once("--quiet", *settings, *fix, *short, "--out", str(tmp_path / fix[0]))]) == 0


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_runs_in_true_precision_have_sheets(precision: str, nuclei: Path, tmp_path: Path) -> None:
    train(nuclei, tmp_path / "a", "--epochs", "1", "--trainer.precision", precision)
    assert (tmp_path / "a" / "predictions" / "epoch_0001.png").is_file()
    kept = unetzoo.load(tmp_path / "a")
    assert {tensor.dtype for tensor in kept.parameters()} == {
        torch.float64 if precision == "64-true" else torch.bfloat16
    }


def test_an_average_in_sixteen_bits_is_refused(
    nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(capsys, "--data", str(nuclei), *TINY, "--epochs", "1", "--model.ema", "0.999",
                   "--trainer.precision", "bf16-true", "--out", str(tmp_path / "a"))  # fmt: skip
    assert re.search(r"--model\.ema 0\.999 with .*bf16-true.*bf16-mixed.*--model\.ema", text)
