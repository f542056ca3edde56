"""``unetzoo.fit`` and ``Run``: that they are the command, what they read, and what is refused before work."""

from __future__ import annotations

import csv
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from PIL import Image

import unetzoo
from unetzoo import InputError, Run, drawing, losses
from unetzoo.cli import main
from unetzoo.errors import ConfigError, WeightsError
from unetzoo.train.fitting import fit
from unetzoo.train.flags import FLAGS

pytestmark = pytest.mark.usefixtures("no_curves")

SMALL: dict[str, Any] = {
    "model.options.base_channels": 4,
    "data.workers": 0,
    "data.repeats": 1,
    "trainer.accelerator": "cpu",
}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 15 drawn images of nuclei, painted in red, and their masks."""
    folder = tmp_path_factory.mktemp("cells")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for k in range(15):
        image, mask = drawing.draw_nuclei(40, 48, seed=k)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{k:02}.png")
        Image.fromarray(mask.numpy()[..., None] * np.array([255, 0, 0], np.uint8)).save(
            folder / "masks" / f"{k:02}.png"
        )
    return folder


@pytest.fixture(scope="module")
def run(cells: Path, no_curves: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run that every kind of value was given to."""
    return fit(
        "unet",
        data=cells,
        epochs=np.int64(2),
        out=tmp_path_factory.mktemp("runs") / "a",
        batch_size=4,
        crop_size=(32, 32),
        augmentation=["light", {"RandomBlur": {"p": 0.2}}],
        loss="0.5*bce + dice",
        lr=1e-2,
        task="multiclass",
        class_names=["ground", "cell"],
        colours=("#000000", "#ff0000"),
        ratios=(0.6, 0.2, 0.2),
        group=r"(\d+)",
        seed=3,
        quiet=True,
        settings={**SMALL, "model.ema": 0.5, "model.class_weights": [1.0, 2.0]},
    )


@pytest.mark.parametrize("why", ["nothing", "masks", "augmentation"])
def test_an_own_loss_that_learns_from_ignored_pixels_stops_a_training(
    why: str, cells: Path, tmp_path: Path, registries: None
) -> None:
    """Where there are such: in masks, or where a turned image ends. Before the first step; else it is taken."""

    def learns(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (logits.float()[:, 0].sigmoid() - (target == 1).float()).square().mean()

    def right(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        counted = target != -100
        return ((logits.float()[:, 0].sigmoid() - target) * counted).square().sum() / counted.sum().clamp(min=1)

    for loss in (learns, right):
        losses.register_loss(loss.__name__, tasks=("binary",))(loss)
    data = Path(shutil.copytree(cells, tmp_path / "data"))
    for path in (data / "masks").iterdir() if why == "masks" else ():
        mask = np.asarray(Image.open(path)).copy()
        mask[15:25] = (0, 255, 0)
        Image.fromarray(mask).save(path)

    def trained(loss: str) -> Run:
        return fit(
            "unet", data=data, epochs=1, batch_size=4, crop_size=32, loss=f"bce + {loss}", out=tmp_path / loss,
            augmentation="strong" if why == "augmentation" else "none", colours=("#000000", "#ff0000"),
            ignore_colour="#00ff00", quiet=True, settings=SMALL,
        )  # fmt: skip

    if why == "nothing":
        assert len(trained("learns").history) == 1
        return
    with pytest.raises(InputError, match="the loss learns learns from pixels whose target is -100"):
        trained("learns")
    assert not list((tmp_path / "learns").rglob("*.ckpt"))
    assert len(trained("right").history) == 1


@pytest.mark.parametrize(
    ("setting", "option", "value"),
    [
        ("ignore_colour", "--ignore-colour", "#00ff00"),
        ("ignore_colour", "--data.ignore_colour", "#00ff00"),
        ("group", "--group", r"(\d+) #"),
        ("colours", "--colours", "#000000,#ff0000"),
    ],
)
def test_what_looks_like_a_comment_of_yaml_is_taken(
    setting: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--model", "unet", "--data", "x", "--print-config"]
    words += [] if setting == "colours" else ["--colours", "#000000,#ff0000"]
    for more in ([option, value], [f"{option}={value}"]):
        assert main([*words, *more]) == 0
        found = yaml.safe_load(capsys.readouterr().out)["data"][setting]
        assert found == (value.split(",") if setting == "colours" else value)


def test_fit_is_the_command(run: Run, cells: Path, tmp_path: Path) -> None:
    """The same settings as flags give the same run, byte for byte."""
    words = ["--model", "unet", "--data", str(cells), "--epochs", "2", "--out", str(tmp_path / "b"), "--quiet"]
    words += ["--batch-size", "4", "--crop-size", "[32, 32]", "--augmentation", "[light, {RandomBlur: {p: 0.2}}]"]
    words += ["--loss", "0.5*bce + dice", "--lr", "0.01", "--task", "multiclass", "--class-names", "ground,cell"]
    words += ["--colours", "#000000,#ff0000", "--ratios", "0.6", "0.2", "0.2", "--group", r"(\d+)", "--seed", "3"]
    words += [
        "--model.options.base_channels",
        "4",
        "--data.workers",
        "0",
        "--data.repeats",
        "1",
        "--trainer.accelerator",
    ]
    words += ["cpu", "--model.ema", "0.5", "--model.class_weights", "[1.0, 2.0]"]
    assert main(["train", *words]) == 0
    for name in ("config.yaml", "metrics.csv", "best.safetensors"):
        assert (tmp_path / "b" / name).read_bytes() == (run.folder / name).read_bytes(), name


def test_keywords_are_the_flags() -> None:
    keywords = inspect.signature(fit).parameters
    assert {flag.name for flag in FLAGS} < set(keywords)
    assert set(keywords) - {flag.name for flag in FLAGS} == {
        *("out", "config", "resume", "quiet", "style", "settings", "trust", "others")
    }
    for name in keywords:
        assert name == "others" or f"{name}: " in fit.__doc__.replace("model, ", "model: ")


def test_a_run_reads_what_was_written(run: Run) -> None:
    with (run.folder / "metrics.csv").open(encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert len(run.history) == len(table) == 2
    for row, texts in zip(run.history, table, strict=True):
        assert {name: "" if value is None else str(value) for name, value in row.items()} == texts
        assert isinstance(row["epoch"], int)
    dice = [float(row["dice"]) for row in table]
    assert (run.best_dice, run.best_epoch) == (max(dice), dice.index(max(dice)) + 1)
    assert f"Dice {max(dice):.4f} in epoch {run.best_epoch} of 2" in str(run)
    kept = unetzoo.load(run.folder / "best.safetensors")
    image = torch.rand(1, 3, 40, 48)
    assert torch.equal(run.load()(image), kept(image))
    one_image = (image[0] * 255).to(torch.uint8)
    found = run.predictor(tta="flips", tile=None)(one_image)
    assert torch.equal(found.mask, unetzoo.Predictor(kept, tta="flips", tile=None)(one_image).mask)
    assert repr(Run(run)) == repr(run)


@pytest.mark.parametrize(
    ("rows", "epoch", "dice"),
    [
        ("", None, None),
        ("1,0.5,\n2,,\n", 1, None),  # no class occurs in the validation images
        ("1,,\n2,0.5,0.25\n3,0.4,0.75\n4,0.3,0.75\n", 3, 0.75),  # the first of equals was kept
    ],
)
def test_the_best_epoch_is_that_of_the_kept(rows: str, epoch: int | None, dice: float | None, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(f"epoch,val_loss,dice\n{rows}", encoding="utf-8")
    found = Run(tmp_path)
    assert (found.best_epoch, found.best_dice) == (epoch, dice)
    assert str(tmp_path) in str(found)
    with pytest.raises(WeightsError, match=r"best\.safetensors: not written yet"):
        found.load()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"no run .*{tmp_path.name}.*config\.yaml"):
        Run(tmp_path)


def test_a_run_goes_on_to_more_epochs(cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**SMALL, "model.schedule": "constant", "model.warmup": 0}
    common = {"data": cells, "colours": ["#000000", "#ff0000"], "crop_size": 32, "batch_size": 4, "quiet": True}
    common["settings"] = settings
    fit("unet", out=tmp_path / "a", epochs=1, task="multiclass", **common)
    once = fit("unet", out=tmp_path / "b", epochs=2, task="multiclass", **common)
    capsys.readouterr()
    resumed = fit(resume=tmp_path / "a", epochs=2, style="lines")
    assert resumed.history == once.history
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]) == 1


def test_all_that_is_wrong_comes_at_once(cells: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(
            "unet", data=cells, out=tmp_path / "a", resume=tmp_path, lr=1e-3, style="loud", quiet=1,
            dat=cells, ema=0.9, workers=2, devices=2, ratios=[object()],
            settings={"model.lr": 1, "--model.ema": 0.5, "trainer.callbacks": print},
        )  # fmt: skip
    for words in (
        "unknown keyword 'dat'; did you mean 'data'",
        "settings={'model.ema': …}",
        "settings={'data.workers': …}",
        "settings={'trainer.devices': …}",
        r"'model\.lr' .*\blr\b",
        r"'--model\.ema': .*full name.*'model\.ema'",
        "ratios=",
        "trainer.callbacks=",
        "style=",
        "quiet=",
        "out=",
    ):
        assert sum(bool(re.search(words, problem)) for problem in caught.value.problems) == 1, words
    assert not (tmp_path / "a").exists()


def test_own_parts_are_given_by_their_paths(cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import functools
import torch

class Focus(torch.nn.Module):
    def forward(self, logits, target):
        return logits.sum() * 0

def tversky(logits, target):
    return logits.sum() * 0

def made():
    def inner(logits, target):
        return 0
    return inner

later = functools.partial(tversky)
"""
    (tmp_path / "owned.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    owned = importlib.import_module("owned")
    for given, said in (
        ({"loss": owned.tversky}, r"loss=.*dotted path as text, such as 'owned\.tversky'"),
        ({"loss": owned.Focus}, r"loss=.*dotted path .*'owned\.Focus'"),
        ({"loss": owned.Focus()}, r"loss=.*dotted path .*'owned\.Focus'"),
        ({"loss": owned.made()}, r"loss=.*dotted path .*'mine\.name'"),
        ({"loss": owned.later}, r"loss=.*dotted path .*'mine\.name'"),
        ({"loss": lambda logits, target: 0}, r"loss=.*dotted path .*'mine\.name'"),
        ({"augmentation": ["light", owned.Focus()]}, r"augmentation=.*dotted path .*'owned\.Focus'"),
        ({"augmentation": [{owned.Focus: {}}]}, r"augmentation=.*dotted path .*'owned\.Focus'"),
        ({"settings": {"model.metrics": [owned.tversky]}}, r"model\.metrics=.*dotted path .*'owned\.tversky'"),
        ({"settings": {"model.optimiser": torch.optim.SGD}}, r"model\.optimiser=.*'torch\.optim\.sgd\.SGD'"),
        ({"lr": owned.tversky}, "lr=.*: give text, a number, True or False, or a list"),
    ):
        with pytest.raises(ConfigError) as caught:
            fit("unet", data=cells, out=tmp_path / "run", **given)
        assert re.search(f"(?s){said}", str(caught.value)), (said, str(caught.value))
    assert not (tmp_path / "run").exists()


def test_wrong_settings_are_refused(cells: Path, tmp_path: Path) -> None:
    for given, words in (
        ({}, "model and data .*config.*resume"),
        ({"model": "unet"}, "cannot train: data is needed, as in data='cells'; or config.*resume"),
        ({"data": cells}, "cannot train: model is needed, as in model='resunet18'; or config.*resume"),
        ({"model": cells}, "cannot train: data is needed: model='.*' is a folder without a model; if it is a data set"),
        ({"model": "unet", "data": cells, "settings": [1]}, r"settings=\[1\]: .*mapping.*'model\.ema'"),
        (
            {"model": unetzoo.create("unet", base_channels=4), "data": cells},
            "cannot train: model: .*not a SegmentationModel.*unetzoo.save",
        ),
        ({"model": "unet", "data": cells, "settings": {"model.emma": 1}}, "did you mean --model.ema"),
        ({"model": "unet", "data": cells, "epochs": "many"}, "epochs='many'"),
        ({"model": "unet", "data": cells, "class_names": "cell"}, "class_names"),
        ({"resume": tmp_path / "none"}, r"resume=.*none: .*no config\.yaml"),
        ({"config": tmp_path / "none.yaml"}, "none.yaml"),
    ):
        with pytest.raises(ConfigError) as caught:
            fit(**given)
        assert re.search(words, str(caught.value)), words


def test_without_lightning_the_extra_is_named(run: Run) -> None:
    code = f"""
import sys
sys.modules["pytorch_lightning"] = None
import unetzoo
from unetzoo.cli import main
assert unetzoo.Run({str(run.folder)!r}).best_epoch == {run.best_epoch}
said = []
for call in (lambda: unetzoo.fit("unet", data="a"), lambda: unetzoo.train.Recipe):
    try:
        call()
    except unetzoo.ConfigError as error:
        said.append(str(error))
assert len(said) == 2 and all("pip install 'unetzoo[train]'" in text for text in said), said
assert "pytorch_lightning is needed" in said[1], said
sys.exit(main(["train", "--model", "unet", "--data", "a"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    assert "pip install 'unetzoo[train]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_augmentations_that_clip_are_refused_for_16_bits(tmp_path: Path) -> None:
    for number in range(4):
        for folder, values in (("images", np.uint16(4000)), ("masks", np.uint8(255))):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.eye(32, dtype=values.dtype) * values).save(tmp_path / "set" / folder / f"{number}.png")
    settings = {"model.options.base_channels": 4}
    for name in ("GaussianNoise", "RandomAutocontrast"):
        with pytest.raises(ConfigError, match=rf"{name} of torchvision .*8-bit.*these are uint16: .*RandomNoise"):
            fit("unet", data=tmp_path / "set", augmentation=["light", name], settings=settings, out=tmp_path / "run")
    assert not list(tmp_path.glob("run/*.safetensors"))
    assert main(["data", "preview", str(tmp_path / "set"), "--augmentation", "GaussianNoise"]) == 2
