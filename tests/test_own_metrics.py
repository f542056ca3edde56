"""Figures of one's own: what functions are given, their mean, and who judges by them."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import unetzoo
from unetzoo import ConfigError, Predictor, TrainingError, drawing
from unetzoo.data import Labels
from unetzoo.train.own_metrics import OwnMetrics

pytestmark = pytest.mark.usefixtures("no_curves")

SETTINGS = {"data.workers": 0, "model.options.base_channels": 4}
HERE = __name__


def found_share(mask: torch.Tensor, target: torch.Tensor) -> float | None:
    """Return the share of true pixels that are found."""
    true = target == 1
    return None if not true.any() else float((mask[true] == 1).double().mean())


def minus_area(mask: torch.Tensor, _: torch.Tensor) -> float:
    return -float((mask > 0).double().mean())


def dice(mask: torch.Tensor, target: torch.Tensor) -> float:
    return float((mask == target).float().mean())


def broken(mask: torch.Tensor, target: torch.Tensor) -> float:
    return 1 / int((target > 0).any() * 0 + (len(target) == 16))


def of_three(mask: torch.Tensor, target: torch.Tensor, image: torch.Tensor) -> float:
    return 0.0


NUMBER = 3


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for part, count in (("train", 4), ("val", 5)):
        for name in ("images", "masks"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
        for k in range(count):
            image, mask = drawing.draw_nuclei(32, 32, seed=k)
            mask = mask if k else torch.zeros_like(mask)  # of the first nothing is true
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "data" / part / "images" / f"{k}.png")
            Image.fromarray(mask.numpy()).save(tmp_path / "data" / part / "masks" / f"{k}.png")
    return tmp_path / "data"


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def train(data: Path, out: Path, metrics: list[str], **how: Any) -> unetzoo.Run:
    settings = {**SETTINGS, "model.metrics": metrics, **how.pop("settings", {})}
    return unetzoo.fit(
        "unet", data=data, out=out, epochs=3, crop_size=32, lr=0.01, quiet=True, settings=settings, **how
    )


def test_figures_are_means_over_images_and_judge(data: Path, tmp_path: Path) -> None:
    metrics = [f"{HERE}.found_share", f"{HERE}.minus_area"]
    run = train(data, tmp_path / "run", metrics, monitor="minus_area")
    table = rows(run.folder)
    areas = [float(row["minus_area"]) for row in table]
    assert run.best_epoch == 1 + areas.index(max(areas))
    predictor, shares, parts = Predictor(run.folder / "best.safetensors"), [], []
    for k in range(5):
        mask = predictor(data / "val" / "images" / f"{k}.png").mask.numpy()
        true = np.asarray(Image.open(data / "val" / "masks" / f"{k}.png")) > 0
        parts.append(-mask.mean())
        shares += [mask[true].mean()] if k else []
    best = table[run.best_epoch - 1]
    # The image that is worst by it is the first of the report, whatever its Dice.
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "By minus_area. Each row: the image" in page
    shown = re.search(r"(\d)(?:   dice [0-9.]+   minus_area (-?[0-9.]+)|   both masks are empty)", page)
    assert shown is not None
    assert parts[int(shown[1])] == min(parts)
    assert float(best["minus_area"]) == pytest.approx(np.mean(parts), abs=1e-9)
    assert float(best["found_share"]) == pytest.approx(np.mean(shares), abs=1e-9)


def test_a_run_goes_on_bit_for_bit(data: Path, tmp_path: Path) -> None:
    whole = train(data, tmp_path / "whole", [f"{HERE}.found_share"], monitor="found_share")
    train(
        data,
        tmp_path / "cut",
        [f"{HERE}.found_share"],
        monitor="found_share",
        settings={"trainer.max_time": "00:00:00:00"},
    )
    with pytest.raises(ConfigError, match=r"model\.metrics names"):
        unetzoo.fit(resume=tmp_path / "cut", quiet=True)
    again = unetzoo.fit(resume=tmp_path / "cut", quiet=True, trust=True, settings={"trainer.max_time": None})
    assert (again.folder / "metrics.csv").read_bytes() == (whole.folder / "metrics.csv").read_bytes()


@pytest.mark.parametrize(
    ("task", "classes", "logits", "expected"),
    [
        ("binary", 1, [[[5.0, -5.0]]], [[1, 0]]),
        ("multiclass", 3, [[[1.0, 0.0]], [[0.0, 3.0]], [[2.0, 1.0]]], [[2, 1]]),
        ("multilabel", 2, [[[5.0, -5.0]], [[5.0, 5.0]]], [[[1, 0]], [[1, 1]]]),
        ("instances", 2, [[[5.0, -5.0]], [[6.0, -1.0]], [[9.0, 9.0]]], [[[0, 0]], [[1, 0]]]),
    ],
)
def test_masks_are_those_of_the_task(
    task: str, classes: int, logits: list, expected: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr("test_own_metrics.found_share", lambda mask, _: seen.append(mask) or 0.5)
    own = OwnMetrics([f"{HERE}.found_share"], Labels(task=task, num_classes=classes))
    own.update(torch.tensor([logits]), {"target": torch.zeros(1, 1, 2), "name": ["a"]})
    assert seen[0].tolist() == expected
    assert own.row() == {"found_share": 0.5}


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["math.nothing"], "math has no 'nothing'"),
        (["word"], "'word' is not a dotted path"),
        ([f"{HERE}.NUMBER"], "NUMBER is not a function"),
        ([f"{HERE}.dice"], "the figure dice exists already"),
        ([f"{HERE}.minus_area", f"{HERE}.minus_area"], "2 functions are named minus_area"),
        ([f"{HERE}.of_three"], r"of_three cannot be called with an empty mask .*TypeError"),
    ],
)
def test_what_is_no_metric_is_refused_before_any_work(paths: list[str], said: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        train(data, tmp_path / "run", paths)
    assert not (tmp_path / "run").exists()


def test_a_metric_that_fails_is_named_with_its_image(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"metric broken failed on the image '0' \(ZeroDivisionError"):
        train(data, tmp_path / "run", [f"{HERE}.broken"])
