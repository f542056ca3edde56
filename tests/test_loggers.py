"""Loggers: what TensorBoard, W&B and MLflow are told of a run, without a network, held against ``metrics.csv``."""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import once
from pytorch_lightning.loggers.logger import DummyLogger
from trainings import TINY, refused, rows, train

from unetzoo import drawing
from unetzoo.cli import main
from unetzoo.train import loggers

pytestmark = pytest.mark.usefixtures("no_curves")


def missing(package: str) -> Any:
    reason = f"{package} is heavy, and not installed; pip install 'unetzoo[{package}]'"
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=reason)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    drawing.write_shapes(folder, 15, size=(32, 32), task="multiclass", seed=0)
    return folder


CLASSES = ("--task", "multiclass", "--class-names", "ground,a,b (round),c,d", "--images_every", "2")


def test_tensorboard_has_rate_classes_and_sheets(shapes: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(shapes, tmp_path / "a", "--epochs", "2", *CLASSES, "--logger", "tensorboard")
    events = EventAccumulator(str(tmp_path / "a" / "tensorboard"))
    events.Reload()
    found = rows(tmp_path / "a")
    for tag, column in (("lr", "lr"), ("val/dice", "dice"), ("val_by_class/iou/b _round_", "iou/b (round)")):
        written = [event.value for event in events.Scalars(tag)]
        assert written == pytest.approx([float(row[column]) for row in found], rel=1e-6)
        assert [event.step for event in events.Scalars(tag)] == [int(row["step"]) for row in found]
    # Of a short run each step is there, the first as 1.
    assert [event.step for event in events.Scalars("loss")] == list(range(1, int(found[-1]["step"]) + 1))
    (image,) = events.Images("validation")
    assert image.encoded_image_string[:4] == b"\x89PNG"
    assert image.step == int(found[-1]["step"])


@pytest.mark.parametrize(("steps", "every"), [(1, 1), (199, 1), (3000, 30), (5000, 50), (90_000, 50)])
def test_the_loss_has_a_hundred_points_or_one_in_fifty_steps(steps: int, every: int) -> None:
    trainer: Any = SimpleNamespace(estimated_stepping_batches=steps, log_every_n_steps=50)
    loggers.LogOften().on_train_start(trainer, None)  # type: ignore[arg-type]
    assert trainer.log_every_n_steps == every


@missing("wandb")
def test_wandb_offline_has_the_figures_and_goes_on_as_the_same_run(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = tmp_path / "a"
    train(shapes, out, "--epochs", "1", *CLASSES, "--logger", "wandb")
    name = json.loads((out / "loggers.json").read_text(encoding="utf-8"))["wandb"]
    assert main(["train", "--resume", str(out), "--epochs", "2", "--quiet"]) == 0
    assert json.loads((out / "loggers.json").read_text(encoding="utf-8"))["wandb"] == name
    folders = sorted((out / "wandb").glob("offline-run-*"))
    assert folders
    assert {folder.name.rpartition("-")[2] for folder in folders} == {name}
    kept = [record for folder in folders for record in history(next(folder.glob("*.wandb")))]
    for tag, column in (("lr", "lr"), ("val_by_class/iou/b _round_", "iou/b (round)"), ("val/dice", "dice")):
        written = [float(record[tag]) for record in kept if tag in record]
        assert written == pytest.approx([float(row[column]) for row in rows(out)], rel=1e-6)
    assert list(out.rglob("validation_*.png"))


def history(path: Path) -> list[dict[str, Any]]:
    """Return what a file of W&B's has logged: records of LevelDB's log format, behind seven bytes.

    https://github.com/google/leveldb/blob/main/doc/log_format.md: blocks of 32 KiB hold pieces of records, each behind
    a checksum (4 bytes), its length (2) and its kind (1): whole, first, middle or last.
    """
    from wandb.proto import wandb_internal_pb2

    data, at, whole, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            if record.WhichOneof("record_type") == "history":
                names = ["/".join(item.nested_key) or item.key for item in record.history.item]
                values = [json.loads(item.value_json) for item in record.history.item]
                found.append(dict(zip(names, values, strict=True)))
    return found


@missing("mlflow")
def test_mlflow_in_the_folder_has_the_figures_and_goes_on_as_the_same_run(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "a"
    train(shapes, out, "--epochs", "1", *CLASSES, "--logger", "mlflow")
    assert main(["train", "--resume", str(out), "--epochs", "2", "--quiet"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a"]  # nothing beside the run
    client = MlflowClient((out / "mlruns").as_uri())
    (experiment,) = (one for one in client.search_experiments() if one.name == "unetzoo")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == json.loads((out / "loggers.json").read_text(encoding="utf-8"))["mlflow"]
    for tag, column in (("lr", "lr"), ("val/dice", "dice"), ("val_by_class/iou/b _round_", "iou/b (round)")):
        written = [metric.value for metric in client.get_metric_history(run.info.run_id, tag)]
        assert written == pytest.approx([float(row[column]) for row in rows(out)], rel=1e-6)
    assert [path.suffix for path in (out / "mlruns").rglob("step_*")] == [".png"] * 2


def test_what_no_logger_is_called_is_refused(nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = once("--data", str(nuclei), *TINY, "--epochs", "1", "--out", str(tmp_path / "a"))
    error = refused(capsys, *words, "--logger", "csv", "tensorbord")
    assert "--logger tensorbord: one of 'csv', 'tensorboard', 'wandb', 'mlflow' is needed; did you mean" in error
    assert not (tmp_path / "a").exists()


def test_a_logger_that_is_not_installed_is_refused_with_the_fix(
    nuclei: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    words = once("--data", str(nuclei), *TINY, "--epochs", "1", "--out", str(tmp_path / "a"))
    assert "pip install 'unetzoo[wandb]'" in refused(capsys, *words, "--logger", "wandb")
    assert not (tmp_path / "a" / "last.ckpt").exists()


def test_a_logger_that_cannot_begin_is_refused(
    nuclei: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one whose server is not there: its error is a sentence, before a step is taken."""

    class BrokenLogger(DummyLogger):
        @property
        def experiment(self) -> Any:
            raise OSError("no such server")

    monkeypatch.setitem(loggers.LOGGERS, "tensorboard", lambda *_: BrokenLogger())
    words = once("--data", str(nuclei), *TINY, "--epochs", "1", "--out", str(tmp_path / "a"))
    assert "--logger broken cannot start: no such server" in refused(capsys, *words, "--logger", "tensorboard")
    assert not (tmp_path / "a").exists()
