"""Objects that touch come apart: against a flood written plainly, and drawn scenes of which the number is known."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import small
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import unetzoo
from unetzoo import ConfigError, Predictor
from unetzoo.cli import main
from unetzoo.objects import Instances, instances
from unetzoo.objects.components import components
from unetzoo.objects.separating import basins, summits

MASKS = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(
    lambda size: arrays(np.uint8, size, elements=st.sampled_from([0, 1, 1, 1, 1, 1]))
)
"""Of many pixels, so that there are wide parts."""
RISES = st.sampled_from([0.25, 0.5, 1.0, 2**0.5 - 1, 1.5])
CONNECTIVITIES = st.sampled_from([1, 2])


def distances(part: np.ndarray) -> np.ndarray:
    """Return the distance of each pixel's centre to the nearest that is not of the part, by comparing all."""
    outside, found = np.argwhere(~part), np.zeros(part.shape)
    for y, x in np.argwhere(part):
        found[y, x] = min((math.hypot(y - v, x - u) for v, u in outside), default=1)
    return found


def summits_of(heights: np.ndarray, part: np.ndarray, rise: float, connectivity: int) -> int:
    """Return how many summits of a part rise more than ``rise`` above the saddle to a higher one.

    The land comes up from the highest pixel down. Where islands meet, the lower ones are summits of their own if they
    are high enough above that place.
    """
    island: dict[tuple[int, int], int] = {}
    tops, counts = list[float](), list[int]()
    for y, x in sorted(map(tuple, np.argwhere(part)), key=lambda pixel: -heights[pixel]):
        beside = {
            island[y + dy, x + dx]
            for dy, dx in itertools.product((-1, 0, 1), repeat=2)
            if 0 < abs(dy) + abs(dx) <= connectivity and (y + dy, x + dx) in island
        }
        if not beside:
            beside = {len(tops)}
            tops.append(heights[y, x])
            counts.append(1)
        first, *others = sorted(beside, key=lambda k: -tops[k])
        counts[first] += sum(counts[k] for k in others if tops[k] - rise > heights[y, x])
        island = {pixel: first if k in others else k for pixel, k in island.items()} | {(y, x): first}
    (whole,) = set(island.values())
    return counts[whole]


def check_partition(found: Instances, mask: np.ndarray, connectivity: int = 2) -> None:
    """Hold that objects are all of the mask, in one piece each, and numbered in reading order of their first pixels."""
    labels = found.labels.numpy()
    assert ((labels > 0) == (mask > 0)).all()
    numbers = labels[labels > 0]
    assert list(dict.fromkeys(numbers.tolist())) == list(range(1, len(found) + 1))
    for k in range(1, len(found) + 1):
        assert len(components((labels == k).astype(np.uint8), connectivity)[1]) == 1
    assert found.areas.tolist() == np.bincount(numbers, minlength=len(found) + 1)[1:].tolist()


@settings(max_examples=80, deadline=None)
@given(MASKS, RISES, CONNECTIVITIES)
def test_as_many_objects_as_a_plain_flood_finds_summits(mask: np.ndarray, rise: float, connectivity: int) -> None:
    whole = instances(torch.from_numpy(mask), "binary", 1, connectivity=connectivity)
    found = instances(torch.from_numpy(mask), "binary", 1, connectivity=connectivity, split=rise)
    check_partition(found, mask, connectivity)
    for k in range(1, len(whole) + 1):
        part = whole.labels.numpy() == k
        parts = np.unique(found.labels.numpy()[part])
        assert len(parts) == summits_of(distances(part), part, rise, connectivity)


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
        lambda size: arrays(np.float32, size, elements=st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.8, 1.0]))
    ),
    st.sampled_from([0.1, 0.25, 0.5]),
    CONNECTIVITIES,
)
def test_any_landscape_has_its_summits(heights: np.ndarray, rise: float, connectivity: int) -> None:
    numbers, values = components((heights > 0.15).astype(np.uint8), connectivity)
    for k in range(1, len(values) + 1):
        part = numbers == k
        seeds, count = summits(heights, part, rise, connectivity)
        assert count == summits_of(heights.astype(np.float64), part, rise, connectivity)
        found = basins(heights, seeds, part, connectivity)
        assert ((found > 0) == part).all()
        assert np.unique(found[part]).tolist() == list(range(1, count + 1))


def test_a_ridge_with_small_dips_is_one_summit() -> None:
    """Of two summits of the same height, between which it hardly falls, h_maxima of scikit-image makes two."""
    heights = np.array([[1.0, 5.0, 4.9, 5.0, 1.0, 3.0, 1.0]])
    inside = np.ones((1, 7), bool)
    assert summits(heights, inside, 1.0, 2)[1] == 2
    assert summits(heights, inside, 0.05, 2)[1] == 3
    assert summits(heights, inside, 2.0, 2)[1] == 1  # 3 is not more than 2 above 1


# Drawn scenes


def grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.mgrid[: size[0], : size[1]])  # type: ignore[return-value]


def discs(size: tuple[int, int], *places: tuple[float, float, float]) -> np.ndarray:
    """Return a mask of discs at y, x of a radius."""
    y, x = grid(size)
    return np.any([(y - v) ** 2 + (x - u) ** 2 <= r * r for v, u, r in places], 0).astype(np.uint8)


def rod(size: tuple[int, int], start: tuple[float, float], end: tuple[float, float], radius: float) -> np.ndarray:
    """Return a mask of what lies within ``radius`` of a line."""
    y, x = grid(size)
    way = np.subtract(end, start)
    along = (((y - start[0]) * way[0] + (x - start[1]) * way[1]) / (way @ way)).clip(0, 1)
    return (np.hypot(y - start[0] - along * way[0], x - start[1] - along * way[1]) <= radius).astype(np.uint8)


SIZE = (70, 90)
SCENES = {
    "two discs": (discs(SIZE, (30, 30, 14), (30, 56, 14)), 2),
    "a row of discs": (discs(SIZE, *((35, 12 + 16 * k, 9) for k in range(5))), 5),
    "a heap of discs": (discs(SIZE, (20, 20, 10), (20, 38, 10), (36, 29, 10), (52, 20, 10), (52, 38, 10)), 5),
    "a small one at a large one": (discs(SIZE, (35, 30, 20), (35, 56, 8)), 2),
    "one disc": (discs(SIZE, (35, 45, 25)), 1),
    "a rod, upright": (rod(SIZE, (10, 40), (60, 40), 5), 1),
    "a rod, aslant": (rod(SIZE, (10, 12), (55, 80), 5), 1),
    "another": (rod(SIZE, (60, 15), (33, 77), 6.3), 1),
    "a ring": (discs(SIZE, (35, 45, 28)) - discs(SIZE, (35, 45, 18)), 1),
    "an object inside a ring": (discs(SIZE, (35, 45, 28)) - discs(SIZE, (35, 45, 18)) + discs(SIZE, (35, 45, 9)), 2),
    "two inside a ring": (
        discs(SIZE, (35, 45, 30)) - discs(SIZE, (35, 45, 24)) + discs(SIZE, (35, 37, 9), (35, 53, 9)), 3,
    ),
    "two that the border cuts": (discs(SIZE, (0, 30, 14), (0, 56, 14)), 2),
    "one that the border cuts": (discs(SIZE, (2, 45, 20)), 1),
    "one in the corner": (discs(SIZE, (-3, -3, 20)), 1),
    "nothing": (np.zeros(SIZE, np.uint8), 0),
    "all of it": (np.ones(SIZE, np.uint8), 1),
    "single pixels": (discs(SIZE, (3, 3, 0), (3, 5, 0), (9, 9, 0)), 3),
}  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("scene", SCENES)
def test_drawn_objects_are_counted_exactly(scene: str, turned: bool) -> None:
    mask, count = SCENES[scene]
    mask = np.ascontiguousarray(mask.T[::-1]) if turned else mask
    found = instances(torch.from_numpy(mask), "binary", 1, split=1.5)
    assert len(found) == count
    check_partition(found, mask)


def test_two_discs_are_cut_where_they_meet() -> None:
    mask, _ = SCENES["two discs"]
    labels = instances(torch.from_numpy(mask), "binary", 1, split=1.5).labels.numpy()
    middle = np.where(mask > 0, np.where(grid(SIZE)[1] < 43, 1, 2), 0)
    away = mask * (np.abs(grid(SIZE)[1] - 43) > 0)  # the column between may go to either
    assert (labels * away == middle * away).all()


def test_nothing_is_split_unless_it_is_asked_for() -> None:
    mask, _ = SCENES["a row of discs"]
    assert len(instances(torch.from_numpy(mask), "binary", 1)) == 1
    assert len(instances(torch.from_numpy(mask), "binary", 1, split=0)) == 1
    assert len(instances(torch.from_numpy(mask), "binary", 1, split=20)) == 1


def test_what_else_is_in_the_image_changes_nothing() -> None:
    """A part is divided as where it is alone: so it is in a strip that holds all of it."""
    rng = np.random.default_rng(0)
    places = [(*rng.uniform((8, 8), (192, 192)), rng.uniform(4, 9)) for _ in range(90)]
    mask = discs((200, 200), *places)
    whole = instances(torch.from_numpy(mask), "binary", 1)
    found = instances(torch.from_numpy(mask), "binary", 1, split=1.0)
    assert len(found) > len(whole) > 10
    for k, (left, top, right, bottom) in enumerate(whole.boxes.tolist(), 1):
        alone = (whole.labels.numpy() == k).astype(np.uint8)
        cut = alone[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1]
        labels = instances(torch.from_numpy(cut), "binary", 1, split=1.0).labels.numpy()
        expected = found.labels.numpy()[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] * cut
        new = {number: n for n, number in enumerate(dict.fromkeys(expected[cut > 0].tolist()), 1)} | {0: 0}
        assert (labels == np.vectorize(new.get)(expected)).all()


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_each_class_is_split_by_itself(task: str) -> None:
    first, _ = SCENES["two discs"]
    second = discs(SIZE, (58, 30, 8), (58, 43, 8), (58, 56, 8)) * (1 - first)
    probabilities = torch.rand(3 if task == "multiclass" else 2, *SIZE)
    mask = torch.from_numpy(first + 2 * second if task == "multiclass" else np.stack([first, second]))
    classes = 3 if task == "multiclass" else 2
    found = instances(mask, task, classes, probabilities=probabilities, split=1.0)
    for k, plane in enumerate((first, second)):
        kind = k + 1 if task == "multiclass" else k
        expected = instances(torch.from_numpy(plane), "binary", 1, probabilities=probabilities[kind, None], split=1.0)
        own = found.of_class(kind)
        assert len(own) == (2, 3)[k]
        for name in ("labels", "areas", "boxes", "centroids"):
            assert torch.equal(getattr(own, name), getattr(expected, name)), name
        assert torch.allclose(own.scores, expected.scores)


def test_real_nuclei_come_apart(shared_data: Path) -> None:
    """Of true masks without ids, the number of objects is nearer to that of the ids."""
    off = {0.0: 0, 1.0: 0}
    for path in sorted((shared_data / "nuclei" / "instances").iterdir())[:12]:
        ids = np.asarray(Image.open(path))
        mask = torch.from_numpy((ids > 0).astype(np.uint8))
        for split in off:
            found = instances(mask, "binary", 1, split=split)
            check_partition(found, mask.numpy()) if len(found) < 40 else None
            off[split] += abs(len(found) - len(np.unique(ids)) + 1)
    assert off[1.0] < 0.6 * off[0.0]


@pytest.mark.parametrize("split", [-1, math.nan, math.inf, "2", True, None])
def test_a_split_that_is_none_is_refused(split: Any) -> None:
    with pytest.raises(ConfigError, match=r"split=.*pixels.*0 splits nothing"):
        instances(torch.zeros(4, 4, dtype=torch.uint8), "binary", 1, split=split)


def test_without_scikit_image_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ConfigError, match=r"pip install 'unetzoo\[objects\]'"):
        instances(torch.ones(4, 4, dtype=torch.uint8), "binary", 1, split=1)
    assert len(instances(torch.ones(4, 4, dtype=torch.uint8), "binary", 1)) == 1


# Predictors


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = small()
    with torch.no_grad():
        logits = network.eval()(torch.rand(1, 3, 64, 64))
        network.head.conv.bias.sub_(logits.quantile(0.2))  # most of the image is foreground
    unetzoo.save(network, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for k in range(2):
        values = np.random.default_rng(k).integers(0, 256, (40, 56, 3), np.uint8)
        Image.fromarray(values).save(tmp_path / "in" / f"{k}.png")
    return tmp_path / "in"


def test_a_predictor_s_objects_are_those_of_its_mask(model: Path, noise: Path) -> None:
    found = Predictor(model, split=0.5)(noise / "0.png")
    expected = instances(found.mask, "binary", 1, probabilities=found.probabilities, split=0.5)
    assert torch.equal(found.instances().labels, expected.labels)
    assert torch.equal(found.instances().scores, expected.scores)
    whole = Predictor(model)(noise / "0.png")
    assert torch.equal(whole.mask, found.mask)
    assert len(whole.instances()) < len(expected) == len(found.geojson()["features"])


def test_all_that_predict_writes_has_the_same_objects(
    model: Path, noise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(model), str(noise), "--out", str(tmp_path / "out"), "--write", "labels,coco,geojson"]
    assert main([*command, "--split", "0.5", "--json"]) == 0
    counts = [json.loads(line)["objects"] for line in capsys.readouterr().out.splitlines()]
    record = json.loads((tmp_path / "out/coco/annotations.json").read_text(encoding="utf-8"))
    for k in range(2):
        found = Predictor(model, split=0.5)(noise / f"{k}.png").instances()
        assert (np.asarray(Image.open(tmp_path / f"out/labels/{k}.tif")) == found.labels.numpy()).all()
        areas = [entry["area"] for entry in record["annotations"] if entry["image_id"] == k + 1]
        assert areas == found.areas.tolist()
        assert counts[k] == len(found) > len(Predictor(model)(noise / f"{k}.png").instances())
    assert main([*command, "--split", "1.5"]) == 2
    assert "--split 0.5 there, --split 1.5 now" in capsys.readouterr().err


def test_evaluation_counts_objects_that_are_split(model: Path, noise: Path, capsys: pytest.CaptureFixture) -> None:
    data = noise.parent / "data"
    (data / "masks").mkdir(parents=True)
    noise.rename(data / "images")
    for k in range(2):
        mask = Predictor(model)(data / f"images/{k}.png").mask.numpy()
        Image.fromarray(mask * 255).save(data / f"masks/{k}.png")
    assert main(["evaluate", str(model), "--data", str(data), "--split-objects", "0.5", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    found = [Predictor(model, split=0.5)(data / f"images/{k}.png").instances() for k in range(2)]
    true = [Predictor(model)(data / f"images/{k}.png").instances() for k in range(2)]
    assert record["objects_found"] == sum(map(len, found)) > record["objects_true"] == sum(map(len, true))


def test_a_predictor_refuses_a_split_before_any_work(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"split=-1"):
        Predictor(model, split=-1)
