"""Crops that hold foreground: how often, about which class, and where they lie."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unetzoo import augmentation
from unetzoo.data import Labels, SegmentationDataset, list_samples
from unetzoo.data.aiming import drawn_class
from unetzoo.errors import ConfigError

DRAWS = 4000
SPREAD = 4 * 0.5 / DRAWS**0.5
"""Four standard deviations of a share of so many draws, at most."""


def shares(target: torch.Tensor, task: str, share: float) -> dict[Any, float]:
    """Return how often each class is drawn, by the places of its pixels, None for no class."""
    torch.manual_seed(0)
    drawn = [drawn_class(target, task, share) for _ in range(DRAWS)]
    counts = Counter(None if plane is None else tuple(map(tuple, plane.nonzero().tolist())) for plane in drawn)
    return {places: count / DRAWS for places, count in counts.items()}


def test_classes_are_drawn_alike_however_many_pixels_they_have() -> None:
    target = torch.tensor([[0, 1, 1, 1], [0, 0, 2, 1], [-100, -100, 0, 0]])
    found = shares(target, "multiclass", 0.6)
    expected = {None: 0.4, ((1, 2),): 0.3, ((0, 1), (0, 2), (0, 3), (1, 3)): 0.3}
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=SPREAD)


@pytest.mark.parametrize("kind", [torch.int8, torch.int16, torch.int64])
def test_planes_are_classes_of_their_own(kind: torch.dtype) -> None:
    planes = torch.zeros(3, 2, 3, dtype=kind)
    planes[0, 0, 0] = planes[2, 0, 0] = planes[2, 1, 2] = 1  # none of the second class
    planes[1, 1, 1] = -100
    expected = {((0, 0),): 0.5, ((0, 0), (1, 2)): 0.5}
    assert shares(planes, "multilabel", 1.0) == pytest.approx(expected, abs=SPREAD)
    # Of instances the last plane has the numbers of the objects, which are no class.
    assert shares(planes, "instances", 1.0) == pytest.approx({((0, 0),): 1.0}, abs=SPREAD)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "instances"])
def test_without_foreground_no_class_is_drawn(task: str) -> None:
    target = torch.zeros(2, 3, 3, dtype=torch.int8) if task in ("multilabel", "instances") else torch.zeros(3, 3).long()
    target[..., 0] = -100
    assert shares(target, task, 1.0) == {None: 1.0}
    assert shares(target + 1, task, 0.0) == {None: 1.0}


def test_the_share_of_crops_with_foreground_is_the_closed_form() -> None:
    """Anywhere, 15 × 10 of 61 × 41 crops of 20 × 20 hold a pixel at (14, 9); of the others a share is moved onto it."""
    mask = torch.zeros(80, 60).long()
    mask[14, 9] = 1
    augment, anywhere = augmentation.build("none", 20), 15 * 10 / (61 * 41)
    for share in (0.0, 0.33, 1.0):
        torch.manual_seed(1)
        held = [
            bool(
                (
                    augment.of_stored(mask[None].float(), mask, lambda m, s=share: drawn_class(m, "binary", s))[1] == 1
                ).any()
            )
            for _ in range(DRAWS)
        ]
        assert sum(held) / DRAWS == pytest.approx(anywhere + share * (1 - anywhere), abs=SPREAD)


def test_a_crop_is_moved_onto_each_pixel_alike() -> None:
    mask = torch.zeros(60, 60).long()
    mask[20, 20:24] = 1
    augment, counts = augmentation.build("none", 6), Counter[int]()
    torch.manual_seed(0)
    for _ in range(DRAWS):
        image = torch.arange(3600.0).reshape(1, 60, 60)
        crop, target = augment.of_stored(image, mask, lambda m: drawn_class(m, "binary", 1.0))
        assert (target == 1).any()
        row, column = divmod(int(crop.as_subclass(torch.Tensor)[0, 3, 3]), 60)
        if row == 20 and 20 <= column < 24:
            counts[column] += 1
    # Of 55² crops 4 × 7 have one in their middle, 4 × 4, as they are, and one of these has it at (3, 3).
    expected = (1 - 28 / 55**2) / 4 + 1 / 55**2
    assert {column: count / DRAWS for column, count in counts.items()} == pytest.approx(
        dict.fromkeys(range(20, 24), expected), abs=SPREAD
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of one image, all black, with a single white pixel in its mask."""
    mask = np.zeros((90, 120), np.uint8)
    mask[60, 9] = 255
    for part, values in (("images", np.zeros((90, 120, 3), np.uint8)), ("masks", mask)):
        (tmp_path / part).mkdir()
        Image.fromarray(values).save(tmp_path / part / "a.png")
    return tmp_path


def crops(folder: Path, spec: Any, share: float, side: int = 32) -> list[torch.Tensor]:
    labels = Labels(task="binary")
    samples = [sample for part in list_samples(folder, labels).samples.values() for sample in part]
    data = SegmentationDataset(
        samples, labels, augmentation=augmentation.build(spec, side), foreground_crops=share, seed=1
    )
    return [data[epoch, 0]["target"] for epoch in range(60)]


def test_a_crop_that_is_moved_goes_as_far_as_the_image(folder: Path) -> None:
    places = Counter(tuple((target == 1).nonzero()[0].tolist()) for target in crops(folder, "none", 1.0))
    assert places[16, 9] > 40  # in its middle, but for the left border; 320 of 5251 crops hold it as they are


def test_turned_and_scaled_crops_keep_what_they_lie_about(folder: Path) -> None:
    mask = np.zeros((90, 120), np.uint8)
    mask[30:34, 40:44] = 255
    Image.fromarray(mask).save(folder / "masks" / "a.png")
    assert all((target == 1).any() for target in crops(folder, "strong", 1.0))
    # As the crop lies about the object and not anywhere, some parts of the image are never seen with it.
    anywhere = [bool((target == 1).any()) for target in crops(folder, "strong", 0.0)]
    assert 0 < sum(anywhere) < len(anywhere)


def test_without_a_share_crops_are_what_they_were(folder: Path) -> None:
    torch.manual_seed(0)
    image, mask = torch.rand(3, 90, 120), torch.randint(0, 2, (90, 120))
    augment = augmentation.build("strong", 32)
    results = []
    for aim in (None, lambda _: None):
        torch.manual_seed(7)
        results.append(augment.of_stored(image, mask, aim))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_an_image_smaller_than_the_crop_lies_anywhere_in_it(folder: Path) -> None:
    places = {tuple((target == 1).nonzero()[0].tolist()) for target in crops(folder, "none", 1.0, side=160)}
    assert len(places) > 20


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share: float, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"foreground_crops=.*from 0 to 1"):
        crops(folder, "none", share)
