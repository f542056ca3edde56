"""How objects are told apart, found on images whose objects are known: against a plain trial of every choice."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

import unetzoo
from unetzoo import ConfigError, Predictor, calibrate
from unetzoo.cli import main
from unetzoo.evaluation import evaluate
from unetzoo.evaluation.object_trials import SPLITS, Trials
from unetzoo.objects import ObjectScores, cleaned, instances, matched
from unetzoo.prediction.arguments import calibrated

SURE = torch.ones(1, 80, 100)
"""Probabilities, where they do not matter."""


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask of discs that touch, with specks, and the ids of the discs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:80, :100]
    ids = np.zeros((80, 100), np.int64)
    for k in range(1, 12):
        v, u, r = *rng.uniform((8, 8), (72, 92)), rng.uniform(6, 10)
        ids[((y - v) ** 2 + (x - u) ** 2 < r * r) & (ids == 0)] = 3 * k
    specks = np.zeros(ids.shape, bool)
    specks[rng.integers(0, 80, 9), rng.integers(0, 100, 9)] = True
    return ((ids > 0) | specks).astype(np.uint8), ids


def precision_of(scenes: list[tuple[np.ndarray, np.ndarray]], split: float, smallest: int) -> float:
    """Return met / (met + false + missed), by holding each object against each."""
    met = found = true = 0
    for mask, ids in scenes:
        kept = cleaned(torch.from_numpy(mask), "binary", 1, smallest=smallest)
        labels = instances(kept, "binary", 1, split=split).labels.numpy()
        ours = [labels == k for k in range(1, labels.max() + 1)]
        theirs = [ids == k for k in np.unique(ids)[1:]]
        met += sum((a & b).sum() > 0.5 * (a | b).sum() for a in ours for b in theirs)
        found, true = found + len(ours), true + len(theirs)
    return met / (found + true - met)


def test_the_choice_is_the_best_of_all() -> None:
    scenes = [scene(seed) for seed in range(4)]
    trials = Trials()
    for mask, ids in scenes:
        target = torch.from_numpy((ids > 0).astype(np.int64))
        trials.add(torch.from_numpy(mask), target, torch.from_numpy(ids), SURE)
    best = trials.best()
    assert best.plain == pytest.approx(precision_of(scenes, 0, 0))
    assert best.precision == pytest.approx(precision_of(scenes, best.split, best.smallest))
    every = {(split, least): precision_of(scenes, split, least) for split in SPLITS for least in (0, 2, 10, 30)}
    assert best.precision >= max(every.values()) - 1e-9
    assert best.precision > best.plain + 0.2
    assert best.split > 0
    assert 1 < best.smallest < 100


def test_images_of_one_object_each_tell_nothing() -> None:
    mask = torch.ones(80, 100, dtype=torch.uint8)
    trials = Trials()
    trials.add(mask, mask.long(), mask.long(), SURE)
    assert trials.best() is None


def test_where_nothing_meets_the_precision_is_0_without_a_sign() -> None:
    _, ids = scene(0)
    trials = Trials()
    target = torch.from_numpy((ids > 0).astype(np.int64))
    trials.add(torch.zeros(80, 100, dtype=torch.uint8), target, torch.from_numpy(ids), SURE)
    best = trials.best()
    assert json.dumps(best) == "[0.0, 0, 0.0, 0.0]"


def test_pixels_that_do_not_count_are_of_no_object() -> None:
    mask, ids = scene(0)
    target = torch.from_numpy((ids > 0).astype(np.int64))
    target[:, 50:] = -100
    trials = Trials()
    trials.add(torch.from_numpy(mask), target, torch.from_numpy(ids), SURE)
    left = np.where(np.arange(100) < 50, ids, 0)
    assert sum(map(len, trials.true)) == len(np.unique(left)) - 1
    for split in (0.0, 1.0):
        found = instances(torch.from_numpy(mask), "binary", 1, split=split)
        true = instances((target == 1).byte(), "binary", 1, ids=torch.from_numpy(ids))
        expected = matched(found, true, ignored=target == -100)
        met = np.concatenate(trials.met[split])
        assert (int(met.sum()), len(met)) == (expected.met, expected.found)


def two_classes(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a mask of large discs of class 1 and small ones of class 2, that touch, their classes, and their ids."""
    rng, (mask, ids) = np.random.default_rng(seed), scene(seed)
    y, x = np.mgrid[:80, :100]
    small = np.zeros(ids.shape, np.int64)
    for k in range(1, 14):
        v, u = rng.uniform((4, 4), (76, 96))
        small[((y - v) ** 2 + (x - u) ** 2 < 14) & (small == 0)] = 100 + k
    classes = np.where(small > 0, 2, ids > 0)
    return np.where(small > 0, 2, mask).astype(np.uint8), classes, np.where(small > 0, small, ids)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_of_several_classes_it_is_the_best_mean_of_them(task: str) -> None:
    """Against ``matched`` for every choice; small objects of one class keep those of the other from being left out."""
    trials, every = Trials(task), dict.fromkeys(((s, n) for s in SPLITS for n in (0, 2, 4, 8, 20, 40)), ObjectScores())
    for seed in range(3):
        mask, classes, ids = map(torch.from_numpy, two_classes(seed))
        shape = (task, 3 if task == "multiclass" else 2)
        if task == "multilabel":
            mask, classes = (torch.stack([one == 1, one == 2]).to(one.dtype) for one in (mask, classes))
        trials.add(mask, classes.long(), ids, torch.ones(shape[1], 80, 100))
        true = instances(classes.long(), *shape, ids=ids)
        for split, least in every:
            found = instances(cleaned(mask, *shape, smallest=least), *shape, split=split)
            every[split, least] += matched(found, true)
    figures = {choice: scores.pooled()["ap_50"] for choice, scores in every.items()}
    best = trials.best()
    assert best.precision >= max(figures.values()) - 1e-9
    assert best.plain == pytest.approx(figures[0.0, 0])
    again = ObjectScores()
    for seed in range(3):
        mask, classes, ids = map(torch.from_numpy, two_classes(seed))
        if task == "multilabel":
            mask, classes = (torch.stack([one == 1, one == 2]).to(one.dtype) for one in (mask, classes))
        found = instances(cleaned(mask, *shape, smallest=best.smallest), *shape, split=best.split)
        again += matched(found, instances(classes.long(), *shape, ids=ids))
    assert best.precision == pytest.approx(again.pooled()["ap_50"])
    assert best.smallest < 15  # pixels of a small disc


def test_a_class_without_objects_is_none_of_the_mean() -> None:
    trials = Trials("multiclass")
    mask, ids = map(torch.from_numpy, scene(0))
    trials.add(mask, (ids > 0).long(), ids, torch.ones(3, 80, 100))
    alone = Trials()
    alone.add(mask, (ids > 0).long(), ids, SURE)
    assert trials.best() == alone.best()


def test_a_multi_class_model_finds_how_its_objects_are_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The true objects are the model's own, split by a pixel: the file brings them back."""
    torch.manual_seed(0)
    model = unetzoo.create("unet", base_channels=4, num_classes=3, task="multiclass").eval()
    rng = np.random.default_rng(0)
    (tmp_path / "data/images").mkdir(parents=True)
    for k in range(3):
        noise = Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8)).resize((100, 80), Image.Resampling.BICUBIC)
        noise.save(tmp_path / f"data/images/{k}.png")
    with torch.no_grad():
        logits = model(torch.from_numpy(np.array(noise)).permute(2, 0, 1)[None] / 255)
        model.head.conv.bias.sub_(logits.mean((0, 2, 3)))
    unetzoo.save(model, tmp_path / "m.safetensors")
    data, out = tmp_path / "data", tmp_path / "t.json"
    command = [str(tmp_path / "m.safetensors"), str(data / "images"), "--out"]
    assert main(["predict", *command, str(tmp_path / "true"), "--write", "coco", "--split", "1"]) == 0
    (tmp_path / "true/coco/annotations.json").rename(data / "annotations.json")
    calibrate_it = ["calibrate", command[0], "--data", str(data), "--split", "train", "--out", str(out)]
    assert main(calibrate_it) == 0
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["thresholds"] == record["dice"] == []
    assert record["objects"]["precision"] == 1 > record["objects"]["plain"]
    assert 0 < record["objects"]["split"] <= 1
    assert "objects: split" in capsys.readouterr().out
    judged = evaluate(Predictor(command[0], threshold=out), data, split="train", objects=True)
    assert judged.objects.to_dict()["object_ap_50"] == 1
    assert main(["predict", *command, str(tmp_path / "again"), "--threshold", str(out)]) == 0
    assert f"split {record['objects']['split']:g}" in capsys.readouterr().err
    with pytest.raises(
        ConfigError, match="classes 'background', 'class_1', 'class_2', but this model has 'foreground'"
    ):
        Predictor(unetzoo.create("unet", base_channels=4), threshold=out)


def test_real_nuclei_and_the_file_is_the_door(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Label images of nuclei: what calibrate finds is what predict and evaluate do, unless they are told otherwise."""
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for path in sorted((shared_data / "nuclei/images").iterdir())[:3]:
        image = Image.open(path)
        image.crop((0, 0, 192, 192)).save(tmp_path / "data/images" / path.name)
        Image.open(shared_data / "nuclei/instances" / path.name).crop((0, 0, 192, 192)).save(
            tmp_path / "data/masks" / path.name
        )
    predictor, out = Predictor("nuclei"), tmp_path / "t.json"
    found = calibrate(predictor, tmp_path / "data", split=None, foreground="any")
    assert found.separation.precision >= found.separation.plain > 0.3
    assert calibrate(predictor, tmp_path / "data", split=None, foreground="any") == found
    found.write(out)
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["objects"] == found.separation._asdict()
    judged = evaluate(Predictor("nuclei", threshold=out), tmp_path / "data", foreground="any", objects=True)
    assert judged.objects.to_dict()["object_ap_50"] == pytest.approx(found.separation.precision)
    record["objects"] |= {"split": 1.25, "smallest": 7}
    out.write_text(json.dumps(record), encoding="utf-8")
    assert (calibrated(out).split, calibrated(out).smallest) == (1.25, 7)
    read, told = Predictor("nuclei", threshold=out), Predictor("nuclei", threshold=out, split=0, smallest=3)
    assert (read.split, read.smallest, read.thresholds) == (1.25, 7, found.thresholds)
    assert (told.split, told.smallest, told.thresholds) == (0, 3, found.thresholds)
    assert read.settings()["split"] == 1.25
    command = ["predict", "nuclei", str(tmp_path / "data/images"), "--out", str(tmp_path / "m"), "--write", "labels"]
    capsys.readouterr()
    assert main([*command, "--threshold", str(out)]) == 0
    assert (
        f"settings from {out}: threshold {found.thresholds[0]:g}; split 1.25; smallest 7; tta none"
        in capsys.readouterr().err
    )
    for path in (tmp_path / "data/images").iterdir():
        labels = np.asarray(Image.open((tmp_path / "m/labels" / path.name).with_suffix(".tif")))
        assert (labels == read(path).instances().labels.numpy()).all()


@pytest.mark.parametrize(
    ("ids", "lacking"),
    [
        ([[1, 1, 0], [0, 0, 0]], "no image has two objects of a class"),
        ([[1, 2, 0], [0, 0, 0]], "no image has two objects of a class"),  # one of each
        ([[1, 2, 3], [4, 0, 0]], None),
    ],
)
def test_objects_that_say_nothing_are_refused_before_the_work(
    ids: list[list[int]], lacking: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Pascal VOC's kind: classes in one file, objects in another; odd ids are of class 1, even ones of class 2."""
    for part in ("JPEGImages", "SegmentationClass", "SegmentationObject"):
        (tmp_path / part).mkdir()
    numbers = np.kron(np.array(ids, np.uint8), np.ones((20, 20), np.uint8))
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "JPEGImages/a.jpg")
    classes = np.where(numbers > 0, 2 - numbers % 2, 0).astype(np.uint8)
    for part, values in (("SegmentationObject", numbers), ("SegmentationClass", classes)):
        Image.fromarray(values).save(tmp_path / part / "a.png")
    model = unetzoo.create("unet", base_channels=2, num_classes=21, task="multiclass")
    asked = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(Predictor, "__call__", asked)
    with pytest.raises(KeyboardInterrupt if lacking is None else ConfigError, match=lacking):
        calibrate(model, tmp_path, split=None)
    assert asked.called == (lacking is None)


def test_files_of_before_and_broken_ones(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"thresholds": [0.4]}', encoding="utf-8")
    assert calibrated(path)[:4] == ([0.4], 0, 0.0, "none")
    path.write_text('{"thresholds": [0.4], "objects": {"split": -1, "smallest": 0}}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"not a file that 'unetzoo calibrate' writes.*split=-1"):
        calibrated(path)
