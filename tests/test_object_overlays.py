"""Objects laid over images: neighbours differ in colour, and rims lie between them."""

from pathlib import Path

import numpy as np
import pytest
import torch

import unetzoo
from unetzoo import Predictor, images


def scattered(height: int, width: int, count: int, gap: float) -> torch.Tensor:
    """Return label images of cells around points, with or without room between them."""
    points = np.random.default_rng(3).uniform(0, (height, width), (count, 2))
    at = np.stack(np.mgrid[:height, :width], -1)[:, :, None]
    distance = np.linalg.norm(at - points, axis=-1)
    first, second = np.sort(distance, -1)[..., :2].transpose(2, 0, 1)
    return torch.from_numpy((distance.argmin(-1) + 1) * (second - first >= gap))


@pytest.mark.parametrize("gap", [0, 2])
def test_neighbours_differ_in_colour(gap: float) -> None:
    labels = scattered(60, 80, 60, gap)
    colours, numbers = images.object_colours(labels).tolist(), labels.numpy()
    assert len(set(colours)) > 3
    pairs = set()
    for y, x in np.argwhere(numbers):
        near = np.unique(numbers[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4])
        pairs |= {(numbers[y, x], other) for other in near if other not in (0, numbers[y, x])}
    assert len(pairs) > 100
    assert all(colours[one - 1] != colours[other - 1] for one, other in pairs)


@pytest.mark.parametrize("gap", [0, 2])
def test_rims_are_inner_boundaries(gap: float) -> None:
    segmentation = pytest.importorskip("skimage.segmentation")
    labels = scattered(50, 70, 20, gap)
    shown = images.overlay_objects(torch.zeros(1, 50, 70, dtype=torch.uint8), labels)
    palette = torch.tensor([[*bytes.fromhex(name[1:])] for name in images.COLOURS])
    whole = palette[images.object_colours(labels)][(labels - 1).clamp(min=0)].permute(2, 0, 1)
    rim = torch.from_numpy(segmentation.find_boundaries(labels.numpy(), connectivity=2, mode="inner"))
    assert torch.equal(shown, torch.where(rim, whole, whole / 2).byte() * (labels > 0))


def test_nothing_and_a_line_are_laid_over_too() -> None:
    image = torch.full((3, 1, 5), 9, dtype=torch.uint8)
    assert torch.equal(images.overlay_objects(image, torch.zeros(1, 5, dtype=torch.int32)), image)
    one, other = images.object_colours(torch.tensor([[1, 1, 0, 2, 2]])).tolist()
    assert one != other


def test_an_overlay_of_split_objects_has_their_colours(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    image = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    found = Predictor(unetzoo.create("unet", base_channels=4), split=1.0)(image)
    found.overlay(tmp_path / "o.png")
    expected = images.overlay_objects(image, found.instances().labels)
    assert torch.equal(images.read_image(tmp_path / "o.png"), expected)
    assert not torch.equal(expected, images.overlay(image, found.mask > 0))
