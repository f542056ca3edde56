"""The recipe on real pictures, until it is good: ``pytest -m slow -n0 tests/test_training_proofs.py -s``.

The figures that docs/training.md gives were measured so.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import unetzoo
from unetzoo.cli import main
from unetzoo.data import Labels, find_samples
from unetzoo.drawing import CLASSES, write_shapes
from unetzoo.evaluation import evaluate, settings_of_run

pytestmark = pytest.mark.slow


def trained(out: Path, *arguments: str) -> dict[str, float]:
    """Train, and return the figures of the epoch with the best Dice."""
    assert main(["train", "--out", str(out), "--images_every", "1000", *arguments]) == 0
    with (out / "metrics.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    best = max(rows, key=lambda row: float(row["dice"] or 0))
    return {name: float(value) for name, value in best.items() if value}


@pytest.fixture
def crops(shared_data: Path, tmp_path: Path) -> Path:
    """Return 40 crops of 40 pictures of nuclei, of 96 × 96 pixels, to train on and, the same, to validate on.

    They are of fluorescence: with bright stained tissue among the dark pictures, the statistics of small batches are
    those of no batch norm's average, and what trains at Dice 0.96 is judged at 0.73 on the same pictures.
    """
    samples = find_samples(shared_data / "nuclei", Labels())["train"]
    kept = 0
    for part in ("images", "masks"):
        (tmp_path / "crops" / "train" / part).mkdir(parents=True)
    for sample in samples[:: len(samples) // 80]:
        assert isinstance(sample.mask, Path)
        with Image.open(sample.image) as image, Image.open(sample.mask) as mask:
            top = (min(image.size) - 96) // 2
            box = (top, top, top + 96, top + 96)
            cut = mask.crop(box)
            red, green, *_ = image.crop(box).split()
            if kept < 40 and cut.getextrema()[1] and red.tobytes() == green.tobytes():
                image.crop(box).save(tmp_path / "crops" / "train" / "images" / f"{kept:02}.png")
                cut.save(tmp_path / "crops" / "train" / "masks" / f"{kept:02}.png")
                kept += 1
    assert kept == 40
    shutil.copytree(tmp_path / "crops" / "train", tmp_path / "crops" / "val")
    return tmp_path / "crops"


@pytest.mark.parametrize("name", ["resunet18", "unetpp_resnet18", "unet3p_resnet18"])
def test_forty_crops_are_learned_by_heart(name: str, crops: Path, tmp_path: Path) -> None:
    best = trained(tmp_path / "run", "--model", name, "--data", str(crops), "--augmentation", "none", "--crop-size",
                   "96", "--epochs", "80", "--data.repeats", "1", "--trainer.precision", "bf16-mixed",
                   "--trainer.check_val_every_n_epoch", "10")  # fmt: skip
    assert best["dice"] >= 0.95


def test_a_short_run_segments_nuclei(shared_data: Path, tmp_path: Path) -> None:
    best = trained(tmp_path / "run", "--model", "resunet18", "--data", str(shared_data / "nuclei"), "--epochs", "8",
                   "--crop-size", "128", "--data.repeats", "2", "--trainer.precision", "bf16-mixed", "--lr",
                   "2e-3")  # fmt: skip
    assert best["dice"] >= 0.88


def test_drawn_shapes_of_five_classes_are_told_apart(tmp_path: Path) -> None:
    write_shapes(tmp_path / "data", 400, size=(128, 128), seed=0)
    best = trained(tmp_path / "run", "--model", "unet", "--model.options.base_channels", "16",
                   "--data", str(tmp_path / "data"), "--task", "multiclass", "--class-names", ",".join(CLASSES),
                   "--epochs", "120", "--crop-size", "128", "--batch-size", "4", "--data.repeats", "1", "--lr", "3e-3",
                   "--trainer.precision", "bf16-mixed", "--trainer.check_val_every_n_epoch", "10")  # fmt: skip
    assert best["iou"] >= 0.9


def test_drawn_shapes_of_many_labels_are_told_apart(tmp_path: Path) -> None:
    """Overlapping shapes look in many more ways: 3000 pictures, of which batches of four have no use for batch norm."""
    write_shapes(tmp_path / "data", 3000, size=(128, 128), task="multilabel", seed=0)
    trained(tmp_path / "run", "--model", "unet", "--model.options.base_channels", "24", "--model.options.norm", "group",
            "--data", str(tmp_path / "data"), "--task", "multilabel", "--epochs", "30", "--crop-size", "128",
            "--batch-size", "4", "--data.repeats", "1", "--lr", "3e-3", "--trainer.precision", "bf16-mixed",
            "--trainer.check_val_every_n_epoch", "5", "--data.workers", "0")  # fmt: skip
    run = tmp_path / "run"
    found = evaluate(unetzoo.load(run), tmp_path / "data", split="test", **settings_of_run(run))
    assert found.to_dict()["iou"] >= 0.9


def test_vessels_by_child_polyps_16_bits_and_13_bands_train_alike(shared_data: Path, tmp_path: Path) -> None:
    chip = shared_data / "floods_multiband"
    label = chip / "masks" / "Spain_7370579_LabelHand.tif"
    bands = chip / "images" / "Spain_7370579_S2Hand.tif"
    (tmp_path / "floods.csv").write_text(
        "image,mask,split\n" + "".join(f"{bands},{label},{split}\n" for split in ("train", "val")),
        encoding="utf-8",
    )
    sets = {
        "vessels": [str(shared_data / "vessels"), "--group", r"Image_(\d+)", "--data.repeats", "8"],
        "polyps": [str(shared_data / "polyps"), "--data.repeats", "1"],
        "nuclei_16bit": [str(shared_data / "nuclei_16bit"), "--data.repeats", "8"],
        "floods": [str(tmp_path / "floods.csv"), "--ignore", "-1", "--data.repeats", "64"],
    }
    found = {}
    for name, (data, *options) in sets.items():
        torch.manual_seed(0)
        best = trained(tmp_path / name, "--model", "resunet18", "--data", data, *options, "--epochs", "5",
                       "--crop-size", "128", "--lr", "2e-3", "--trainer.precision", "bf16-mixed")  # fmt: skip
        found[name] = best["dice"]
        print(name, best)
    assert found["nuclei_16bit"] > 0.9
    assert found["vessels"] > 0.6
    assert found["floods"] > 0.6
    assert found["polyps"] > 0.3
