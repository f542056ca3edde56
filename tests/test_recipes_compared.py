"""The benchmark of the recipe beside others: its splits, drawings, commands, scores and file of results."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from unetzoo import drawing

BENCHMARKS = ROOT / "examples" / "benchmarks"


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import recipes

    return recipes  # type: ignore[no-any-return]


def write(folder: Path, **masks: Any) -> Path:
    """Write masks as PNGs by their names."""
    folder.mkdir(parents=True)
    for name, mask in masks.items():
        Image.fromarray(np.asarray(mask, np.uint8)).save(folder / f"{name}.png")
    return folder


# Data.


def test_the_nuclei_are_parted_as_the_model_was(recipes: ModuleType, shared_data: Path) -> None:
    found = recipes.split_of("nuclei", shared_data)
    assert {part: len(pairs) for part, pairs in found.items()} == {"train": 387, "val": 84, "test": 82}
    assert len({image.read_bytes() for pairs in found.values() for image, _ in pairs}) == 553
    assert all(image.name == mask.name for pairs in found.values() for image, mask in pairs)


def test_both_eyes_of_a_child_are_in_one_part(recipes: ModuleType, shared_data: Path) -> None:
    parts = recipes.split_of("vessels", shared_data)
    children = {part: {image.stem[:-1] for image, _ in pairs} for part, pairs in parts.items()}
    assert {part: len(pairs) for part, pairs in parts.items()} == {"train": 12, "val": 4, "test": 4}
    assert sum(len(names) for names in children.values()) == len(set().union(*children.values())) == 10


def test_each_polyp_is_in_one_part(recipes: ModuleType, shared_data: Path) -> None:
    parts = recipes.split_of("polyps", shared_data)
    images = [image.read_bytes() for pairs in parts.values() for image, _ in pairs]
    assert len(images) == len(set(images)) == 400
    assert min(map(len, parts.values())) >= 30


def test_all_ways_read_pngs_of_class_indices(recipes: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    """JPEG's ringing about black and white is gone; alpha, too; and what is there is not written again."""
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    mask = np.array([[0, 127, 128, 255, 9, 250, 0]] * 5, np.uint8)
    Image.fromarray(mask).save(tmp_path / "m.png")
    monkeypatch.setattr(recipes, "split_of", lambda *_: {"val": [(tmp_path / "a.png", tmp_path / "m.png")]})
    recipes.prepare("polyps", tmp_path, tmp_path / "polyps")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "polyps/val/images/a.png")), image[..., :3])
    written = tmp_path / "polyps" / "val" / "masks" / "a.png"
    assert np.asarray(Image.open(written)).tolist() == [[0, 0, 1, 1, 0, 1, 0]] * 5
    written.unlink()
    recipes.prepare("polyps", tmp_path, tmp_path / "polyps")
    assert not written.exists()


def test_rings_and_boxes_are_rare(recipes: ModuleType, tmp_path: Path) -> None:
    recipes.draw(tmp_path, {"train": 13, "test": 4}, 40)
    masks = [np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("train/masks/*.png"))]
    for name, holders in (("ring", [0, 12]), ("box", [0, 4, 8, 12])):
        there = [bool((mask == drawing.CLASSES.index(name)).any()) for mask in masks]
        assert [index for index, has in enumerate(there) if has] == holders
    assert len({path.read_bytes() for path in tmp_path.glob("*/images/*.png")}) == 17


# Scores.


def test_scores_of_black_and_white(recipes: ModuleType, tmp_path: Path) -> None:
    """2·1 / (2 + 3) of the first image, an image without anything counts for nothing, and in all 2·1 / (3 + 3)."""
    true = write(tmp_path / "true", a=[[1, 1, 0, 0], [1, 0, 0, 0]], b=[[0, 0]], c=[[0, 0]])
    found = write(tmp_path / "found", a=[[255, 0, 0, 0], [0, 255, 0, 0]], b=[[0, 0]], c=[[0, 255]])
    assert recipes.scores(found, true, 2) == {
        "dice": pytest.approx(1 / 3),
        "dice_per_image": pytest.approx((2 / 5 + 0) / 2),
        "dice_each": [pytest.approx(1 / 3)],
        "test_images": 3,
    }


def test_scores_of_classes_leave_the_background_out(recipes: ModuleType, tmp_path: Path) -> None:
    true = write(tmp_path / "true", a=[[0, 1, 1, 2]], b=[[0, 0, 2, 2]])
    found = write(tmp_path / "found", a=[[0, 1, 2, 2]], b=[[0, 0, 0, 2]])
    scores = recipes.scores(found, true, 3)
    assert scores["dice_each"] == pytest.approx([2 / 3, 2 * 2 / 6])
    assert scores["dice"] == pytest.approx(2 / 3)
    # Class 1 is in the first image alone; class 2 has 2·1 / 3 in both.
    assert scores["dice_per_image"] == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_the_table_has_means_and_half_the_range(recipes: ModuleType) -> None:
    def one(way: str, dice: float, steps: int) -> dict[str, Any]:
        return {"set": "cells", "way": way, "dice": dice, "dice_per_image": dice / 2, "steps": steps, "seconds": 90}

    lines = recipes.table([one("smp", 0.5, 1000), one("unetzoo", 0.25, 10), one("smp", 0.6, 2001)]).splitlines()
    assert lines[2:] == [
        "| cells | smp | 0.550 ± 0.050 | 0.275 ± 0.025 | 1,500 | 1.5 | 2 |",
        "| cells | unetzoo | 0.250 | 0.125 | 10 | 1.5 | 1 |",
    ]


# Runs.


@pytest.fixture
def compare(recipes: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Any]]:
    """Runs the program on two images, with trainings that copy the true masks; returns what was trained."""
    pinned: list[set[int]] = []
    monkeypatch.setattr(recipes.os, "sched_setaffinity", lambda _, cores: pinned.append(cores), raising=False)

    def main(*words: str, failing: str = "") -> list[Any]:
        trained = []

        def train(way: str, data: Path, out: Path, minutes: float, seed: int) -> dict[str, Any]:
            trained.append((data.name, way, seed, minutes))
            if way == failing:
                raise subprocess.CalledProcessError(3, "train")
            write(out / "masks", a=[[0, 1]])
            return {"steps": 7, "seconds": 1.5, "classes": 2}

        monkeypatch.setattr(recipes, "train", train)
        monkeypatch.setattr(recipes, "find_spec", lambda _: True)
        monkeypatch.setattr(recipes, "versions", lambda way: {way: "1"})
        for name in recipes.SETS:
            masks = tmp_path / "out" / "data" / name / "test" / "masks"
            if not masks.exists():
                write(masks, a=[[0, 1]])
        recipes.main(["--data", "nowhere", "--minutes", "2", "--out", str(tmp_path / "out.json"), *words])
        assert all(len(cores) == 1 for cores in pinned)
        return trained

    return main


def test_all_of_a_seed_comes_before_the_next(compare: Callable[..., list[Any]], tmp_path: Path) -> None:
    done = compare("--sets", "polyps", "shapes", "--ways", "unetzoo", "smp", "--seeds", "0", "4")
    assert done == [
        (name, way, seed, 2) for seed in (0, 4) for name in ("polyps", "shapes") for way in ("unetzoo", "smp")
    ]
    kept = json.loads((tmp_path / "out.json").read_text())
    assert [(one["set"], one["way"], one["seed"], one["minutes"]) for one in kept] == done
    assert all((one["dice"], one["steps"], one["versions"]) == (1.0, 7, {one["way"]: "1"}) for one in kept)


def test_what_is_in_the_file_is_not_done_again(compare: Callable[..., list[Any]], tmp_path: Path, capsys: Any) -> None:
    compare("--sets", "nuclei", "--ways", "unetzoo", "--seeds", "0")
    before = json.loads((tmp_path / "out.json").read_text())
    more = ("--sets", "nuclei", "--ways", "unetzoo", "nnunet", "--seeds", "0")
    assert compare(*more, failing="nnunet") == [("nuclei", "nnunet", 0, 2)]
    assert "nuclei-nnunet-0-2 failed, status 3" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text()) == before
    assert compare(*more) == [("nuclei", "nnunet", 0, 2)]  # what failed is tried again
    assert compare(*more) == []
    assert len(re.findall("^. nuclei", capsys.readouterr().out, re.M)) == 4  # tables of both calls have both
    assert compare(*more, "--minutes", "3") == [("nuclei", way, 0, 3) for way in ("unetzoo", "nnunet")]


def test_what_is_not_installed_is_said_before_any_work(
    recipes: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(recipes, "find_spec", lambda module: None if module == "nnunetv2" else True)
    monkeypatch.setattr(recipes, "run_all", lambda _: pytest.fail("it began"))
    with pytest.raises(SystemExit) as ended:
        recipes.main(["--data", str(tmp_path), "--out", str(tmp_path / "out.json")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("pip install nnunetv2")


def test_the_recipe_is_called_with_nothing_but_the_budget(
    recipes: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a user would: data, folder, minutes and seed, and what the masks mean where they have five classes."""
    called: list[list[str]] = []

    def run(command: list[str], *, env: dict[str, str], check: bool) -> None:
        assert check
        assert env["OMP_NUM_THREADS"] == "1"
        called.append(command[1:])
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(recipes.subprocess, "run", run)
    for name in ("polyps", "shapes"):
        with pytest.raises(subprocess.CalledProcessError):
            recipes.train("unetzoo", tmp_path / name, tmp_path / "out", 20.0, 3)
    given = f"--model resunet18 --data {tmp_path}/polyps --out {tmp_path}/out/run --minutes 20.0 --seed 3"
    assert " ".join(called[0]) == f"-m unetzoo train {given}"
    assert " ".join(called[1]).endswith("--minutes 20.0 --seed 3 --task multiclass --num-classes 5")


# Rivals.


def test_crops_of_smp_flip_images_and_masks_together(recipes: ModuleType, tmp_path: Path) -> None:
    import recipe_rivals

    mask = np.arange(35, dtype=np.uint8).reshape(5, 7)
    image = write(tmp_path / "images", a=np.stack([mask] * 3, -1)) / "a.png"
    crops = recipe_rivals.Crops([(image, write(tmp_path / "masks", a=mask) / "a.png")])
    seen = set()
    for _ in range(200):
        pixels, classes = crops[0]
        back = (pixels.permute(1, 2, 0).numpy() * recipe_rivals.IMAGENET[1] + recipe_rivals.IMAGENET[0]) * 255
        assert np.array_equal(back.round(), np.stack([classes.numpy()] * 3, -1))
        seen.add(tuple(classes[0, [0, -1]].tolist()))
    assert classes.shape == (5, 5)  # the smallest side
    # Three windows, each as it is and mirrored; turned upside down, the last row comes first.
    rows = [(left, left + 4) for left in (0, 1, 2, 28, 29, 30)]
    assert seen == {*rows, *((last, first) for first, last in rows)}
