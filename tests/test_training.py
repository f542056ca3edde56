"""Training from the command line: what a run leaves behind, that it is exact, and what is refused before work."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import KILL, ROOT, SPAWNED, once
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from trainings import TINY, break_off, last, refused, rows, same_runs, same_tensors, train

import unetzoo
from unetzoo import drawing
from unetzoo.cli import main
from unetzoo.data import Labels, find_samples
from unetzoo.data.sampling import EpochBatches, SizeBatches
from unetzoo.devices import Transfer
from unetzoo.drawing import CLASSES, write_shapes
from unetzoo.errors import ConfigError, TrainingError, WeightsError
from unetzoo.evaluation import evaluate
from unetzoo.train import FolderData, suggesting
from unetzoo.train.averaging import AveragedModel
from unetzoo.train.keeping import WholeFiles


class NanFrom(torch.nn.Module):
    """A loss that breaks at its n-th training batch."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch, self.seen = batch, 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.seen += torch.is_grad_enabled()
        return logits.mean() * (math.nan if self.seen >= self.batch and torch.is_grad_enabled() else 1.0)


class BreakWeights(Callback):
    """Makes a weight infinite after a step, which its loss does not show yet."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            pl_module.network.head.conv.weight.data.fill_(math.inf)


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the picture of the curves, which is looked at in the shared run alone."""
    monkeypatch.setattr("unetzoo.train.reporting.History._write_curves", lambda *_: None)


@pytest.fixture(scope="session")
def first(nuclei: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two epochs, with a checkpoint after each step."""
    out = tmp_path_factory.mktemp("runs") / "first"
    train(nuclei, out, "--epochs", "2", "--keep_steps", "1")
    return out


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, which finds the callbacks of this file."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads()), **environment}
    command = [sys.executable, "-m", "unetzoo", "train", *once(*arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables, timeout=300)


# What is drawn, and at which rate


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_an_epoch_draws_each_image_as_often_as_asked(processes: int) -> None:
    parts = [EpochBatches(12, 2, repeats=3, seed=1, rank=rank, processes=processes) for rank in range(processes)]
    draws = [draw for part in parts for batch in part for draw in batch]
    assert sorted(draws) == [(time, i) for time in range(3) for i in range(12)]


def test_images_are_drawn_as_often_as_each_is_asked_for() -> None:
    batches = EpochBatches(4, 2, repeats=[3, 0, 1, 2], seed=1)
    assert len(batches) == 3
    for epoch in (0, 5):
        batches.set_epoch(epoch)
        draws = [draw for batch in batches for draw in batch]
        # No draw of an epoch is drawn in another: each has its own augmentation.
        expected = [(3 * epoch + k, 0) for k in range(3)] + [(epoch, 2)] + [(2 * epoch + k, 3) for k in range(2)]
        assert sorted(draws, key=lambda draw: draw[::-1]) == expected
    batches.set_epoch(6)
    assert [draw for batch in batches for _, draw in batch] != [draw for _, draw in draws]


def test_balance_draws_each_kind_of_image_as_often(nuclei: Path, tmp_path: Path) -> None:
    kinds = ["many"] * 11 + ["few"] * 4
    rows = [f"{nuclei}/images/v{k:02}.png,{nuclei}/masks/v{k:02}.png,{kind}" for k, kind in enumerate(kinds)]
    (tmp_path / "list.csv").write_text("\n".join(["image,mask,kind", *rows]), encoding="utf-8")
    data = FolderData(str(tmp_path / "list.csv"), crop_size=16, batch_size=1, repeats=6, balance=True, workers=0)
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, is_global_zero=True)
    data.setup()
    shown = Counter(data.training_set().samples[i].kind for batch in data._batches() for _, i in batch)
    images = Counter(sample.kind for sample in data.training_set().samples)
    assert images["many"] > images["few"] > 0
    each = 6 * images.total() / 2  # as many crops in all as without
    assert shown == {kind: count * round(each / count) for kind, count in images.items()}


def test_two_processes_share_one_s_batches() -> None:
    whole = list(EpochBatches(21, 4, seed=3))
    halves = [list(EpochBatches(21, 2, seed=3, rank=rank, processes=2)) for rank in range(2)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    assert len(whole) == 5


def test_an_epoch_goes_on_from_a_batch_and_the_next_is_whole() -> None:
    batches, whole = EpochBatches(10, 2, seed=5), EpochBatches(10, 2, seed=5)
    for one in (batches, whole):
        one.set_epoch(4)
    batches.first = 3
    assert list(batches) == list(whole)[3:]
    assert list(batches) == list(whole)
    batches.set_epoch(5)
    assert list(batches) != list(whole)
    assert {time for batch in batches for time, _ in batch} == {5}


def test_batches_larger_than_an_epoch_are_refused() -> None:
    said = r"batch_size=8 in 2 processes .* the 5 training images.*repeats=4, or batch_size=2$"
    with pytest.raises(ConfigError, match=said):
        EpochBatches(5, 8, processes=2)


def test_every_process_has_a_image_to_validate_on() -> None:
    assert [list(SizeBatches([(8, 8)] * 3, 8, rank=rank, processes=3)) for rank in range(3)] == [[[0]], [[1]], [[2]]]
    with pytest.raises(ConfigError, match=r"1 validation image for 2 processes"):
        SizeBatches([(8, 8)], 8, processes=2)


@pytest.mark.parametrize("processes", [1, 3])
def test_validation_sees_each_image_once_in_batches_of_one_size(processes: int) -> None:
    sizes = [(8, 8), (4, 6), (8, 8), (100, 100), (4, 6), (8, 8), (100, 100)]
    parts = [SizeBatches(sizes, 2, pixels=200, rank=rank, processes=processes) for rank in range(processes)]
    batches = [batch for part in parts for batch in part]
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    for batch in batches:
        assert len({sizes[i] for i in batch}) == 1
        assert len(batch) == 1 or len(batch) * math.prod(sizes[batch[0]]) <= 200


def test_the_average_is_its_recursion() -> None:
    model = unetzoo.create("unet", base_channels=4)
    average = AveragedModel(model, 0.3)
    name = "head.conv.weight"
    expected = model.state_dict()[name].clone().double()
    for n in range(5):
        with torch.no_grad():
            model.head.conv.weight.add_(1 + n)
        average.update(model)
        decay = min(0.3, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * model.head.conv.weight.double()
    torch.testing.assert_close(average.model.state_dict()[name].double(), expected, rtol=1e-6, atol=1e-6)
    assert not average.train().training
    assert not any(parameter.requires_grad for parameter in average.parameters())


# What a run leaves behind


def test_a_run_leaves_a_network_its_figures_and_images(first: Path, nuclei: Path) -> None:
    assert {path.name for path in first.iterdir()} == {
        *(
            "best.safetensors",
            "config.yaml",
            "curves.png",
            "data.json",
            "last.ckpt",
            "metrics.csv",
            "report.html",
            "predictions",
            "README.md",
        )
    }
    table = rows(first)
    assert [row["epoch"] for row in table] == ["1", "2"]
    assert [row["step"] for row in table] == ["3", "6"]  # 12 images in batches of 4
    best = max(table, key=lambda row: float(row["dice"]))
    model = unetzoo.load(first / "best.safetensors", verify=True)
    again = evaluate(model, nuclei, split="val")
    for name in ("dice", "iou", "recall", "boundary_f"):
        assert again.scores.to_dict()[name] == pytest.approx(float(best[name]), abs=1e-9)
    assert f"| dice | {float(best['dice']):g} |" in (first / "README.md").read_text(encoding="utf-8")
    for path in (first / "curves.png", first / "predictions" / "epoch_0002.png"):
        with Image.open(path) as image:
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_the_saved_settings_reproduce_the_run(first: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((first / "config.yaml").read_text(encoding="utf-8"))
    assert settings["model"]["options"] == {"base_channels": 4}
    assert settings["trainer"]["max_epochs"] == 2
    assert main(["train", "--config", str(first / "config.yaml"), "--out", str(tmp_path / "b"), "--quiet"]) == 0
    same_runs(first, tmp_path / "b")


def printed_config(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["train", *words, "--print-config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_the_saved_settings_are_those_that_were_set(
    nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No null of Lightning's is in the file, and read back it gives every setting that there was, nulls included."""
    more = ["--epochs", "1", "--trainer.accumulate_grad_batches", "2", "--trainer.gradient_clip_val", "3"]
    train(nuclei, tmp_path / "a", *more)
    file = tmp_path / "a" / "config.yaml"
    saved = yaml.safe_load(file.read_text(encoding="utf-8"))
    trainer = {"accelerator": "cpu", "max_epochs": 1, "accumulate_grad_batches": 2, "gradient_clip_val": 3.0}
    assert saved["trainer"] == trainer
    asked = printed_config(capsys, "--data", str(nuclei), *once(*TINY, *more))
    assert printed_config(capsys, "--config", str(file)) == asked
    assert asked["trainer"].items() > trainer.items()
    assert {name: saved[name] for name in saved if name != "trainer"} == {
        name: asked[name] for name in asked if name != "trainer"
    }


def test_what_follows_from_the_data_is_remarked_and_not_kept(nuclei: Path, tmp_path: Path) -> None:
    """So the file serves another task; a file of before, which named the loss, goes on."""
    folder, other = tmp_path / "a", tmp_path / "b"
    train(nuclei, folder, "--epochs", "1")
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    for line in ("loss: null  # here bce + dice", "task: null  # here binary", "num_classes: null  # here 1"):
        assert f"\n  {line}\n" in text
    assert "\n  monitor: null  # here dice\n" in text
    again = ["train", "--config", str(folder / "config.yaml"), "--out", str(other), "--quiet"]
    assert main([*again, "--task", "multiclass", "--colours", "#000000,#ffffff"]) == 0
    assert "loss: null  # here cross_entropy + dice" in (other / "config.yaml").read_text(encoding="utf-8")
    (folder / "config.yaml").write_text(text.replace("loss: null", "loss: bce + dice"), encoding="utf-8")
    assert main(["train", "--resume", str(folder), "--epochs", "2", "--quiet"]) == 0
    assert len(rows(folder)) == 2


def test_another_seed_makes_another_run(first: Path, nuclei: Path, tmp_path: Path) -> None:
    train(nuclei, tmp_path / "b", "--epochs", "1", "--seed", "1")
    assert rows(tmp_path / "b")[0]["loss"] != rows(first)[0]["loss"]


def test_the_average_is_what_is_judged_and_kept(nuclei: Path, tmp_path: Path) -> None:
    train(nuclei, tmp_path / "a", "--epochs", "1", "--model.ema", "0.5")
    state = last(tmp_path / "a")["state_dict"]
    kept = unetzoo.load(tmp_path / "a" / "best.safetensors").state_dict()
    same_tensors(kept, {name: state[f"average.model.{name}"] for name in kept})
    assert not torch.equal(kept["head.conv.weight"], state["network.head.conv.weight"])
    judged = evaluate(unetzoo.load(tmp_path / "a" / "best.safetensors"), nuclei, split="val").scores.iou.mean
    assert float(rows(tmp_path / "a")[0]["iou"]) == pytest.approx(judged, abs=1e-6)


def test_a_frozen_encoder_stays_and_thaws(nuclei: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    train(nuclei, out, "--epochs", "2", "--model.frozen_epochs", "1", "--keep_steps", "1", "--model.warmup", "0",
          f"--trainer.callbacks+={__name__}.Snapshots", f"--trainer.callbacks.folder={tmp_path}")  # fmt: skip
    start, middle, end = (torch.load(tmp_path / f"{k}.pt") for k in range(3))
    encoder = [name for name in start if name.startswith("encoder.")]
    assert all(torch.equal(start[name], middle[name]) for name in encoder)
    assert not torch.equal(start["head.conv.weight"], middle["head.conv.weight"])
    weights = [name for name in encoder if name.endswith("weight")]
    assert all(not torch.equal(middle[name], end[name]) for name in weights)


@pytest.mark.parametrize(
    ("option", "fix"), [("pretrained", "--pretrained"), ("name", "--model"), ("num_classes", "--num-classes")]
)
def test_what_has_a_home_of_its_own_is_no_option_of_the_network(
    option: str, fix: str, nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--data", str(nuclei), "--out", str(tmp_path / "a"), f"--model.options.{option}", "3")
    said = refused(capsys, "--model", "resunet18", *given)
    assert re.search(rf"{option}: .*give it as {fix}\b", said)


@pytest.mark.parametrize("given", [("--pretrained",), ("--pretrained", "none.pth"), ("--pretrained=none.pth",)])
def test_pretrained_takes_a_file_or_nothing(
    given: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", "--model", "resunet18", "--data", str(tmp_path), "--print-config", *given])
    kept = yaml.safe_load(capsys.readouterr().out)["model"]["pretrained"]
    assert kept == (True if given == ("--pretrained",) else "none.pth")


class Snapshots(Callback):
    """Keeps the network's state at each epoch's start, and at the end."""

    def __init__(self, folder: str) -> None:
        self.folder, self.count = Path(folder), 0

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        torch.save(pl_module.network.state_dict(), self.folder / f"{self.count}.pt")
        self.count += 1

    on_train_end = on_train_epoch_start


@pytest.mark.parametrize("start", [TINY, ("--model", "nuclei"), ("--model", "resunet18", "--model.pretrained", "true")])
def test_a_rate_that_is_none_is_refused_once(
    start: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before data are looked for, and weights."""
    said = refused(capsys, "--data", str(tmp_path / "none"), "--out", str(tmp_path / "a"), *start, "--lr", "-1")
    assert said.count("--lr -1.0: ") == 1
    assert re.search(r" --lr -1\.0: .*number.* 0 up", said)
    assert "encoder_lr" not in said


def test_rates_of_encoder_and_decoder_follow_the_schedule(nuclei: Path, tmp_path: Path) -> None:
    train(nuclei, tmp_path / "a", "--epochs", "2", "--lr", "0.01", "--model.encoder_lr", "0.001", "--model.warmup",
          "0", "--model.weight_decay", "0.3")  # fmt: skip
    groups = {group["name"]: group for group in last(tmp_path / "a")["optimizer_states"][0]["param_groups"]}
    assert [groups[name]["initial_lr"] for name in ("encoder", "decoder")] == [0.001, 0.01]
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        "encoder": 0.3,
        "encoder, no decay": 0.0,
        "decoder": 0.3,
        "decoder, no decay": 0.0,
    }
    # Six steps in all: after three of them cosine stands at a half.
    assert [float(row["lr"]) for row in rows(tmp_path / "a")] == pytest.approx([0.005, 0.0])


def test_a_run_without_a_better_score_stops_and_stays_stopped(nuclei: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    # Without batch norm's statistics nothing changes: the first epoch is the best one, and two more are waited for.
    train(nuclei, out, "--epochs", "9", "--lr", "0", "--patience", "2", "--model.options.norm", "group")
    found = rows(out)
    assert len(found) == 3
    assert main(["train", "--resume", str(out), "--quiet"]) == 0
    assert rows(out) == found


def test_a_plateau_lowers_the_rates(nuclei: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    train(nuclei, out, "--epochs", "13", "--lr", "1e-9", "--model.schedule", "plateau", "--images_every", "99")
    dice = [float(row["dice"]) for row in rows(out)]
    rates = [float(row["lr"]) for row in rows(out)]
    best, bad, rate = -1.0, 0, 1e-9
    expected = []
    for value in dice:  # torch's rule: ten validations no better by one in ten thousand are forgiven
        bad = 0 if value > best * (1 + 1e-4) else bad + 1
        best = max(best, value) if bad == 0 else best
        rate, bad = (rate / 10, 0) if bad > 10 else (rate, bad)
        expected.append(rate)
    assert rates == pytest.approx(expected)


TASKS = {
    "multiclass": ["--task", "multiclass", "--class-names", ",".join(CLASSES), "--model.class_weights", "auto"],
    "multilabel": ["--task", "multilabel", "--loss", "lovasz + bce"],
}


@pytest.mark.parametrize("task", TASKS)
def test_more_classes_train(task: str, tmp_path: Path) -> None:
    write_shapes(tmp_path / "data", 24, size=(48, 48), task=task, seed=1)
    train(tmp_path / "data", tmp_path / "a", "--epochs", "1", *TASKS[task])
    model = unetzoo.load(tmp_path / "a" / "best.safetensors")
    names = CLASSES if task == "multiclass" else tuple(sorted(CLASSES[1:]))
    assert (model.config.task, model.config.class_names) == (task, names)
    found = evaluate(model, tmp_path / "data", split="val")
    row = rows(tmp_path / "a")[0]
    for name in ("dice", "dice/ring", "iou/line"):
        known = found.scores.to_dict()[name]
        assert known == pytest.approx(float(row[name])) if row[name] else known is None


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "unet3p_resnet18", "--model.options.deep_supervision=true", "--loss", "unet3p",
         "--model.options.classification_guided=true", "--model.options.branch_channels=16"),
        ("--model", "unetpp_resnet18", "--model.options.deep_supervision=true", "--model.options.base_width=8",
         "--model.options.output=average", "--model.head_weights", "[1, 0.5, 0.5, 0.5]", "--loss", "unetpp"),
        ("--model", "unet_valid", "--model.options.base_channels=2", "--crop-size", "188", "--batch-size", "2"),
        ("--model", "unet", "--model.options.base_channels=4", "--model.options.norm=group", "--trainer.precision",
         "bf16-mixed", "--trainer.accumulate_grad_batches", "2", "--trainer.gradient_clip_val", "0.1",
         "--model.gradient_checkpointing", "true", "--trainer.deterministic", "true"),
    ],
    ids=["unet3p", "unetpp", "unet_valid", "bf16"],
)  # fmt: skip
def test_every_kind_of_network_trains_and_is_judged_as_it_predicts(
    arguments: Sequence[str], nuclei: Path, tmp_path: Path
) -> None:
    data, out = nuclei, tmp_path / "a"
    if "unet_valid" in arguments:
        data = tmp_path / "data"
        for part in ("images", "masks"):
            (data / part).mkdir(parents=True)
        for k in range(10):
            image, mask = drawing.draw_nuclei(190, 200, seed=k)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(data / "images" / f"{k}.png")
            Image.fromarray(mask.numpy()).save(data / "masks" / f"{k}.png")
    common = [*TINY[4:], "--epochs", "1", "--quiet", "--data", str(data), "--out", str(out)]
    assert main(["train", *once(*common, *arguments)]) == 0
    found = evaluate(unetzoo.load(out / "best.safetensors"), data, split="val")
    bound = 0.02 if "bf16-mixed" in arguments else 1e-6  # validated in bfloat16 there, in float32 here
    assert found.scores.to_dict()["iou"] == pytest.approx(float(rows(out)[0]["iou"]), abs=bound)


def test_a_saved_network_is_trained_on(first: Path, nuclei: Path, tmp_path: Path) -> None:
    best = first / "best.safetensors"
    common = [*TINY[4:], "--epochs", "1", "--quiet", "--data", str(nuclei), "--out", str(tmp_path / "a")]
    assert main(["train", "--model", str(best), "--lr", "0", "--trainer.limit_train_batches", "1", *common]) == 0
    kept, before = (unetzoo.load(path).state_dict() for path in (tmp_path / "a" / "best.safetensors", best))
    parameters = [name for name in kept if "running" not in name and "num_batches" not in name]
    assert parameters
    for name in parameters:
        assert torch.equal(kept[name], before[name])
    groups = last(tmp_path / "a")["optimizer_states"][0]["param_groups"]
    assert {group["initial_lr"] for group in groups} == {0.0}
    card = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    assert "\n- fine-tuned from: best.safetensors\n" in card
    assert str(first) not in card


def test_a_network_kept_in_half_precision_is_trained_in_full(nuclei: Path, tmp_path: Path) -> None:
    half = unetzoo.create("unet", base_channels=4).half()
    unetzoo.save(half, tmp_path / "half.safetensors")
    common = ["--epochs", "1", "--quiet", "--data", str(nuclei), "--out", str(tmp_path / "a"), *TINY[4:]]
    assert main(["train", "--model", str(tmp_path / "half.safetensors"), *common]) == 0
    trained = unetzoo.load(tmp_path / "a" / "best.safetensors")
    assert {parameter.dtype for parameter in trained.parameters()} == {torch.float32}
    assert trained.head.conv.weight.isfinite().all()
    assert not torch.equal(trained.head.conv.weight, half.head.conv.weight.float())


def test_events_of_tensorboard_hold_the_figures(nuclei: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(nuclei, tmp_path / "a", "--epochs", "2", "--logger", "csv", "tensorboard", "--trainer.log_every_n_steps", "1")
    events = EventAccumulator(str(tmp_path / "a" / "tensorboard"))
    events.Reload()
    written = [event.value for event in events.Scalars("val/dice")]
    assert written == pytest.approx([float(row["dice"]) for row in rows(tmp_path / "a")], rel=1e-6)
    assert len(events.Scalars("loss")) == 6


# What is printed


def test_json_lines_repeat_the_table(nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [a for a in TINY if a != "--quiet"]
    assert (
        main(["train", "--data", str(nuclei), "--out", str(tmp_path / "a"), "--json", "--epochs", "2", *arguments]) == 0
    )
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["epoch"] for record in printed] == [1, 2]
    assert [f"{record['dice']}" for record in printed] == [row["dice"] for row in rows(tmp_path / "a")]


def test_quiet_runs_print_nothing(nuclei: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(nuclei, tmp_path / "a", "--epochs", "1")
    assert capfd.readouterr() == ("", "")


def test_the_bar_shows_loss_score_pace_and_the_time_left(
    nuclei: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    arguments = ["train", "--data", str(nuclei), "--out", str(tmp_path / "a"), "--epochs", "3", *TINY]
    with contextlib.suppress(AttributeError):
        monkeypatch.setenv("TQDM_MININTERVAL", "0")
    assert main(arguments) == 0
    out, bar = capsys.readouterr()
    assert "epoch 3/3: 100%" in bar
    assert "36/36" in bar
    assert "images/s" in bar
    assert "<00:00" in bar
    assert "loss=" in bar
    assert "dice=" in bar
    assert "epoch 1/3  loss " in out


def test_a_learning_rate_is_suggested(
    nuclei: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suggesting, "STEPS", 9)
    monkeypatch.setattr(suggesting, "RATES", (1e-4, 1e-2, 1e6, 1e7, 1e8))
    arguments = ["train", "--data", str(nuclei), "--out", str(tmp_path / "a"), *TINY, "--epochs", "50", "--suggest"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out == "--lr 0.01\n"
    first, outlook, _, *lines, why = err.splitlines()
    assert first == "trying up to 5 learning rates, from 0.0001 to 1e+08, with 9 steps each"
    assert re.fullmatch(r"the first took \d+ s; the others may take \d+ s at most", outlook)
    assert why == "0.01 has the lowest loss"
    tried = [line.split()[0] for line in lines]
    assert tried == ["0.0001", "0.01", "1e+06", "1e+07"]  # two worse ones end it
    assert not (tmp_path / "a").exists()


def test_rates_are_tried_from_the_same_weights_on_the_same_crops(
    nuclei: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suggesting, "STEPS", 3)
    monkeypatch.setattr(suggesting, "RATES", (1e-5, 1e-4, 1e-3))
    found: list[list[float]] = []
    losses = suggesting._losses
    monkeypatch.setattr(suggesting, "_losses", lambda *given: found.append(losses(*given)) or found[-1])
    main(["train", "--data", str(nuclei), "--out", str(tmp_path / "a"), *TINY, "--epochs", "1", "--suggest", "--quiet"])
    assert [len(each) for each in found] == [3, 3, 3]
    assert len({each[0] for each in found}) == 1
    assert len({each[1] for each in found}) == 3


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ([(1e-4, 0.995), (3e-4, 0.99)], "none lowered the loss of 1 by 2 %; the lowest loss was 0.99"),
        ([(1e-4, math.inf), (3e-4, math.inf)], "none lowered the loss"),
    ],
)
def test_a_rate_that_does_not_stand_out_is_not_suggested(trials: list[tuple[float, float]], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        suggesting.suggestion(trials, 1.0)


def test_the_lowest_rate_that_comes_far_enough_is_suggested() -> None:
    """Half of the way from 0.9 to 0.2 is 0.55; the rate of 0.54 is the first that is below it."""
    trials = [(1e-4, 0.9), (3e-4, 0.56), (1e-3, 0.54), (3e-3, 0.2), (1e-2, math.inf)]
    assert suggesting.suggestion(trials, 1.0) == 1e-3
    assert suggesting.reason(trials, 1e-3).startswith(
        "0.003 has the lowest loss, but 0.001 is suggested: the lowest rate that"
    )
    assert suggesting.suggestion(trials[3:], 1.0) == 3e-3
    assert suggesting.suggestion([(1e-4, math.inf), *trials[2:]], 1.0) == 1e-3


# Killed, and gone on with


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_killed_run_goes_on_bit_for_bit(seed: int, nuclei: Path, tmp_path: Path) -> None:
    by_steps = ["--steps", "8", "--steps-per-epoch", "2", "--data.repeats", "null"]
    length = ["--epochs", "4"] if seed else by_steps
    most = (8, 12, 12)[seed]
    batch = int(torch.randint(2, most, (1,), generator=torch.Generator().manual_seed(seed)))
    settings = [*length, "--keep_steps", "1", "--seed", str(seed), "--model.ema", "0.9", "--augmentation",
                "strong", "--model.options.dropout", "0.3", "--model.schedule", ("cosine", "plateau", "poly")[seed],
                "--patience", "5", "--model.frozen_epochs", "1"]  # fmt: skip
    common = ["--data", str(nuclei), *TINY, *settings]
    train(nuclei, tmp_path / "whole", *settings)
    killed = SPAWNED.Process(target=main, args=(["train", *once(*common), "--out", str(tmp_path / "cut"),
        "--trainer.callbacks+=trainings.KillAt", "--trainer.callbacks.batch", str(batch)],))  # fmt: skip
    killed.start()
    killed.join()
    assert abs(killed.exitcode) == KILL
    assert last(tmp_path / "cut")["global_step"] == batch - 1
    (tmp_path / "cut" / ".last.ckpt.saving").write_bytes(b"half a checkpoint")
    resumed = ["train", "--resume", str(tmp_path / "cut"), "--quiet", "--trainer.callbacks", "null", "--trust"]
    assert main(resumed) == 0
    same_runs(tmp_path / "whole", tmp_path / "cut")
    assert main(resumed) == 0  # finished: nothing is left to do
    same_runs(tmp_path / "whole", tmp_path / "cut")


def test_one_batch_is_one_and_one_point_nought_is_all(nuclei: Path, tmp_path: Path) -> None:
    for limit, steps in (("1", 1), ("1.0", 3), ("0.67", 2)):
        train(nuclei, tmp_path / limit, "--epochs", "1", "--keep_steps", "1", "--trainer.limit_train_batches", limit)
        assert last(tmp_path / limit)["global_step"] == steps


def test_accumulated_gradients_are_not_cut_in_two(nuclei: Path, tmp_path: Path) -> None:
    settings = ["--epochs", "2", "--batch-size", "1", "--keep_steps", "1", "--trainer.accumulate_grad_batches", "3"]
    train(nuclei, tmp_path / "whole", *settings)
    break_off(nuclei, tmp_path / "cut", *settings, batch=8)
    assert last(tmp_path / "cut")["global_step"] == 2
    assert main(["train", "--resume", str(tmp_path / "cut"), "--quiet", "--trainer.callbacks", "null", "--trust"]) == 0
    same_runs(tmp_path / "whole", tmp_path / "cut")


def test_a_run_killed_before_it_kept_anything_begins_anew(first: Path, nuclei: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    break_off(nuclei, out, "--epochs", "2", "--keep_steps", "1", batch=1)
    assert not (out / "last.ckpt").exists()
    assert main(["train", "--resume", str(out), "--quiet", "--trainer.callbacks", "null", "--trust"]) == 0
    same_runs(first, out)


def test_a_finished_run_takes_more_epochs(first: Path, nuclei: Path, tmp_path: Path) -> None:
    train(nuclei, tmp_path / "a", "--epochs", "1", "--model.schedule", "constant", "--model.warmup", "0")
    assert main(["train", "--resume", str(tmp_path / "a"), "--epochs", "3", "--quiet"]) == 0
    train(nuclei, tmp_path / "b", "--epochs", "3", "--model.schedule", "constant", "--model.warmup", "0")
    same_runs(tmp_path / "a", tmp_path / "b")


def test_fewer_epochs_leave_a_run_as_it_was(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(first, tmp_path / "a"))
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert main(["train", "--resume", str(run), "--epochs", "1", "--quiet"]) == 2
    assert "--epochs 1: 2 are already done" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_checkpoints_that_run_code_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch ran",)

    torch.save({"state_dict": Evil()}, tmp_path / "last.ckpt")
    (tmp_path / "best.safetensors").touch()
    with pytest.raises(WeightsError, match=r"last\.ckpt .*damaged.*checkpoint.*model=.*best\.safetensors"):
        WholeFiles().load_checkpoint(tmp_path / "last.ckpt")
    assert not (Path.cwd() / "ran").exists()


def test_a_damaged_checkpoint_is_one_error(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a"
    out.mkdir()
    for name in ("config.yaml", "data.json"):
        (out / name).write_bytes((first / name).read_bytes())
    whole = (first / "last.ckpt").read_bytes()
    (out / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    assert "last.ckpt is damaged" in refused(capsys, "--resume", str(out))


# Several processes


TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")


@pytest.mark.slow
def test_two_processes_are_killed_and_go_on_bit_for_bit(nuclei: Path, tmp_path: Path) -> None:
    settings = [
        "--data",
        str(nuclei),
        *TINY,
        *TWO,
        "--batch-size",
        "2",
        "--epochs",
        "2",
        "--keep_steps",
        "1",
        "--quiet",
    ]
    whole = process(*settings, "--out", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    killed = process(*settings, "--out", str(tmp_path / "cut"), "--trainer.callbacks+=trainings.KillAt",
                     "--trainer.callbacks.batch", "2")  # fmt: skip
    assert killed.returncode != 0
    done = process("--resume", str(tmp_path / "cut"), "--quiet", "--trainer.callbacks", "null", "--trust")
    assert done.returncode == 0, done.stderr
    same_runs(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow  # test_two_processes.py has the gradients
def test_one_process_and_two_agree(nuclei: Path, tmp_path: Path) -> None:
    # Group norm, as batch norm's statistics are each process's own.
    settings = ["--model.options.norm=group", "--epochs", "1"]
    train(nuclei, tmp_path / "one", *settings)
    done = process("--data", str(nuclei), *TINY, *TWO, *settings, "--batch-size", "2", "--quiet", "--out",
                   str(tmp_path / "two"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    a, b = (last(tmp_path / name)["state_dict"] for name in ("one", "two"))
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-3, atol=2e-5, msg=name)
    (one,), (two,) = rows(tmp_path / "one"), rows(tmp_path / "two")
    for name in ("loss", "val_loss", "dice", "iou", "dice_per_image"):
        assert float(two[name]) == pytest.approx(float(one[name]), abs=2e-3)
    assert one["images"] == two["images"]


# Refused before work


def test_errors_come_before_work(nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], first: Path) -> None:
    out = ["--out", str(tmp_path / "a")]
    data = ["--data", str(nuclei), *TINY, *out, "--epochs", "1"]
    one = tmp_path / "one"
    for part in ("images", "masks"):
        (one / part).mkdir(parents=True)
        (one / part / "00.png").write_bytes((nuclei / part / "v00.png").read_bytes())
    for words, arguments in (
        ("--trainer.accelerator gpu: .*no GPU.*leave it out", [*data, "--trainer.accelerator", "gpu"]),
        (r"--crop-size 64\b.*larger .*training image.*smaller", [*data, "--crop-size", "64"]),
        ("1 image", ["--data", str(one), "--model", "unet", *out]),
        ("no-such", ["--data", str(tmp_path / "no-such"), "--model", "unet", *out]),
        ("did you mean 'unet3p", ["--data", str(nuclei), "--model", "unt3p", *out]),
        ("base_chanels", [*data, "--model.options.base_chanels", "4"]),
        ("in_channels: follows from the data; leave it out", [*data, "--model.options.in_channels", "4"]),
        ("dic", [*data, "--loss", "dic"]),
        ("--model.schedule cosin", [*data, "--model.schedule", "cosin"]),
        ("--batch-size 99", [*data, "--batch-size", "99"]),
        ("--model.lrr 1; did you mean --lr", [*data, "--model.lrr", "1"]),
        ("--numclass; did you mean '--num-classes'", [*data, "--numclass", "2"]),
        ("--model.ema high: a number", [*data, "--model.ema", "high"]),
        (r"--crop-size big: a whole number or .*\[0, 0\]", [*data, "--crop-size", "big"]),
        ("--trainer.precision 17: 64 or 32 or 16", [*data, "--trainer.precision", "17"]),
        ("head", [*data, "--model.head_weights", "[1, 2]"]),
        (
            "--out .*: the folder is not empty; .*resume .*another folder",
            ["--data", str(nuclei), *TINY, "--epochs", "1", "--out", str(first)],
        ),
        (r"--resume .*: .*no config\.yaml", ["--resume", str(tmp_path / "one")]),
        ("--batch-size 2: it was 4", ["--resume", str(first), "--batch-size", "2"]),
        ("val_check_interval", [*data, "--trainer.val_check_interval", "0.5"]),
        ("--epochs many: a whole number", [*data[:-1], "many"]),
    ):
        text = refused(capsys, *arguments)
        assert text.startswith("unetzoo: ")
        assert re.search(words, text), (words, text)
        assert not (tmp_path / "a").exists() or not (tmp_path / "a" / "last.ckpt").exists()


def test_labels_outside_the_classes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shapes(tmp_path / "data", 12, size=(48, 48))
    text = refused(capsys, "--data", str(tmp_path / "data"), *TINY, "--task", "multiclass", "--num-classes", "3",
                   "--epochs", "1", "--out", str(tmp_path / "a"))  # fmt: skip
    assert "masks" in text
    assert "3" in text


def test_unknown_keys_in_a_file_are_refused(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = yaml.safe_load((first / "config.yaml").read_text(encoding="utf-8"))
    settings["model"]["learning_rate"] = 1
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert "learning_rate" in refused(capsys, "--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "a"))


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_broken_loss_names_the_images_and_keeps_what_was_good(
    ahead: int, nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a loss is read one step late, as on a GPU."""
    monkeypatch.setattr(Transfer, "ahead", ahead)
    out = tmp_path / "a"
    text = refused(capsys, "--data", str(nuclei), *TINY, "--epochs", "2", "--keep_steps", "1", "--out", str(out),
                   "--loss", f"dice + {__name__}.NanFrom(batch=4)")  # fmt: skip
    batches = EpochBatches(12, 4)
    batches.set_epoch(1)
    known = find_samples(nuclei, Labels())["train"]
    assert re.search(r"loss .*nan .*epoch 2, batch 1\b", text)
    assert all(known[i].name in text for _, i in next(iter(batches)))
    assert last(out)["global_step"] == 3


@pytest.mark.parametrize("batch", [2, 3], ids=["amid an epoch", "at its end"])
def test_a_broken_loss_that_is_read_late_is_no_other_batch_s(
    batch: int, nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are broken by then: what is said is the loss, which came first."""
    monkeypatch.setattr(Transfer, "ahead", 1)
    text = refused(capsys, "--data", str(nuclei), *TINY, "--epochs", "2", "--out", str(tmp_path / "a"),
                   "--loss", f"dice + {__name__}.NanFrom(batch={batch})")  # fmt: skip
    assert re.search(rf"loss .*nan .*epoch 1, batch {batch}\b", text)
    assert not (tmp_path / "a" / "last.ckpt").exists()


def test_broken_weights_are_not_kept(nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a"
    text = refused(capsys, "--data", str(nuclei), *TINY, "--epochs", "3", "--keep_steps", "1", "--out", str(out),
                   f"--trainer.callbacks+={__name__}.BreakWeights", "--trainer.callbacks.batch", "3")  # fmt: skip
    assert re.search(r"step 3 .*\b1 weights NaN or infinite.*network\.head\.conv\.weight", text)
    kept = last(out)
    assert kept["global_step"] == 2
    assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())


def test_a_full_disk_leaves_no_half_a_checkpoint(
    nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource", reason="there is no module resource here to bound a file's size")
    out, before = tmp_path / "a", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    try:
        said = refused(capsys, "--data", str(nuclei), "--out", str(out), *TINY, "--epochs", "1", "--keep_steps", "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert re.search("no space left .*free some", said)
    assert not (out / "last.ckpt").exists()
    assert not list(out.glob(".*saving"))


def test_errors_of_the_recipe_are_unetzoo_s() -> None:
    assert issubclass(TrainingError, unetzoo.UnetzooError)


# Real images


SETS = {
    "vessels": ["--group", r"Image_(\d+)"],
    "polyps": [],
    "nuclei_16bit": [],
    "floods": ["--ignore", "-1"],
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "polyps" else name for name in SETS]
)
def test_sets_of_every_kind_train_without_a_special_case(name: str, shared_data: Path, tmp_path: Path) -> None:
    data = shared_data / name
    if name == "floods":
        chip = shared_data / "floods_multiband"
        pair = f"{chip / 'images' / 'Spain_7370579_S2Hand.tif'},{chip / 'masks' / 'Spain_7370579_LabelHand.tif'}"
        data = tmp_path / "floods.csv"
        data.write_text(f"image,mask,split\n{pair},train\n{pair},val\n", encoding="utf-8")
    out = tmp_path / "run"
    train(data, out, "--epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1",
          "--batch-size", "1", "--trainer.precision", "32", *SETS[name])  # fmt: skip
    config = unetzoo.load(out / "best.safetensors").config
    splits = find_samples(data, Labels(ignore=-1 if name == "floods" else None), group=(SETS[name] or [None])[-1]
                          if name == "vessels" else None)  # fmt: skip
    assert config.in_channels == {"nuclei_16bit": 1, "floods": 13}.get(name, 3)
    if name != "floods":  # whole numbers of up to three channels
        assert (config.normalisation, config.mean) == ("image", None)
        return
    import tifffile

    scale = 32767
    pixels = [tifffile.imread(sample.image) / scale for sample in splits["train"]]
    stacked = np.stack([image.reshape(-1, *image.shape[-2:]) for image in pixels])
    assert config.mean == pytest.approx(stacked.mean(axis=(0, 2, 3)).tolist(), rel=1e-6)
    assert config.std == pytest.approx(stacked.std(axis=(0, 2, 3)).tolist(), rel=1e-6)


def test_two_eyes_of_a_child_stay_together(shared_data: Path) -> None:
    splits = find_samples(shared_data / "vessels", Labels(), group=r"Image_(\d+)")
    children = {part: {sample.name[:8] for sample in samples} for part, samples in splits.items()}
    assert sorted(map(len, children.values())) == [1, 1, 8]
    assert len(set().union(*children.values())) == 10


def test_epochs_without_a_validation_have_no_figures_of_one(nuclei: Path, tmp_path: Path) -> None:
    train(nuclei, tmp_path / "a", "--epochs", "4", "--trainer.check_val_every_n_epoch", "2")
    assert [bool(row["dice"]) for row in rows(tmp_path / "a")] == [False, True, False, True]
    assert [bool(row["val_loss"]) for row in rows(tmp_path / "a")] == [False, True, False, True]
    assert all(row["loss"] for row in rows(tmp_path / "a"))


def test_a_setting_of_another_version_is_named_with_the_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("model: {name: unet}\ndata: {folder: x}\ntensorboard: false\n")
    said = refused(capsys, "--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "a"))
    assert "has 'tensorboard', which this version of unetzoo does not know; remove it from the file" in said
