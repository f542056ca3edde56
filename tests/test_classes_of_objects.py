"""Objects of two classes: a network that learns them, and what all that uses it says of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unetzoo
from unetzoo import Predictor
from unetzoo.cli import main
from unetzoo.data import SegmentationDataset, labels_of, list_samples
from unetzoo.data.edges import edges_of
from unetzoo.evaluation import evaluate
from unetzoo.train.runs import Run

pytestmark = pytest.mark.usefixtures("no_curves")

SIZE = 64
NAMES = ["disc", "plate"]


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of discs and of plates (2, H, W), some of which touch, of both classes too, and their image."""
    y, x = np.mgrid[:SIZE, :SIZE]
    ids = np.zeros((2, SIZE, SIZE), np.uint16)
    for k, (v, u) in enumerate(((14, 12), (14, 26), (40, 12), (52, 46)), 1):
        ids[0][(y - v) ** 2 + (x - u) ** 2 <= 55] = k
    for k, (v, u) in enumerate(((6, 36), (20, 36), (6, 48), (32, 19)), 1):
        ids[1, v : v + 13, u : u + 12] = k
    ids[0][ids[1] > 0] = 0
    apart = ids[0] + 100 * ids[1].astype(np.int64)
    edges = edges_of(torch.from_numpy(apart)).numpy()
    noise = np.random.default_rng(0).integers(0, 5, (SIZE, SIZE))
    return ids, (noise + 130 * (ids[0] > 0) + 235 * (ids[1] > 0) - 50 * edges).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes") / "data"
    ids, image = scene()
    for part in ("train", "val"):
        for place, values in {"images": image, **{f"masks/{NAMES[k]}": ids[k] for k in range(2)}}.items():
            (folder / part / place).mkdir(parents=True)
            Image.fromarray(values).save(folder / part / place / "a.png")
    return folder


@pytest.fixture(scope="module")
def run(data: Path) -> Run:
    return unetzoo.fit(
        "unet",
        data=data,
        out=data.parent / "run",
        task="instances",
        class_names=NAMES,
        epochs=8,
        crop_size=SIZE,
        batch_size=2,
        lr=1e-2,
        augmentation="none",
        quiet=True,
        settings={"data.workers": 0, "data.repeats": 24, "model.options.base_channels": 8},
    )


def test_the_log_has_the_objects_of_both_classes(run: Run, data: Path) -> None:
    best = max(run.history, key=lambda row: (row["object_ap_50"] or 0, row["dice"]))
    assert run.best_epoch == best["epoch"]
    assert best["object_ap_50"] > 0.6  # of one class alone it is a half at most
    assert best["objects_true"] == 8
    judged = evaluate(run.folder, data, split="train", objects=True)
    assert [(one.true, one.met[0]) for one in judged.objects.classes] == [(4, 4), (4, 4)]
    assert judged.objects.pooled()["ap_50"] == pytest.approx(best["object_ap_50"])


def test_found_are_objects_of_both_classes_that_never_overlap(run: Run, data: Path) -> None:
    found = Predictor(run.folder)(data / "val" / "images" / "a.png")
    assert found.mask.shape == (2, SIZE, SIZE)
    assert int(found.mask.sum(dim=0).max()) == 1
    objects = found.instances()
    assert sorted(set(objects.classes.tolist())) == [0, 1]
    assert {row["class_name"] for row in objects.rows(run.load().config.class_names)} == set(NAMES)
    noise = torch.rand(1, 40, 56, generator=torch.Generator().manual_seed(0))  # of which it knows nothing
    assert int(Predictor(run.folder)(noise).mask.sum(dim=0).max()) <= 1


def test_label_images_come_back_as_they_were_found(run: Run, data: Path, tmp_path: Path) -> None:
    """Through the command and ``unetzoo.data``: masks, edges and numbers of a data set are those of the prediction."""
    out = tmp_path / "out"
    command = ["predict", str(run.folder), str(data / "val" / "images"), "--out", str(out), "--write", "labels"]
    assert main(command) == 0
    (tmp_path / "new").mkdir()
    (out / "labels").rename(tmp_path / "new" / "masks")
    shutil.copytree(data / "val" / "images", tmp_path / "new" / "images")
    labels = labels_of(tmp_path / "new", task="instances", class_names=NAMES)
    (item,) = SegmentationDataset(list_samples(tmp_path / "new", labels).samples[""], labels, in_channels=1)
    found = Predictor(run.folder)(data / "val" / "images" / "a.png")
    assert torch.equal(item["target"], found.mask.long())
    numbers = found.instances().labels.sum(dim=0)
    pairs = torch.stack([item["ids"], numbers]).flatten(1).unique(dim=1)
    assert pairs.shape[1] == len(found.instances()) + 1
    assert torch.equal(pairs[0].sort().values, torch.arange(pairs.shape[1]))
    assert torch.equal(item["edges"], edges_of(numbers).long())


def test_calibration_is_of_both_classes(run: Run, data: Path, tmp_path: Path) -> None:
    found = unetzoo.calibrate(run.folder, data, split="train")
    assert found.classes == tuple(NAMES)
    assert found.separation.precision > 0.9 > found.separation.plain  # plates that touch are one without a split
    found.write(tmp_path / "t.json")
    judged = evaluate(Predictor(run.folder, threshold=tmp_path / "t.json"), data, split="train", objects=True)
    assert judged.objects.pooled()["ap_50"] == pytest.approx(found.separation.precision)
