"""Drawn shapes: what the masks hold against geometry, and the files against the arrays."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage import measure

from unetzoo import ConfigError, WriteError, drawing
from unetzoo.drawing import CLASSES, draw_nuclei, draw_shapes, write_shapes

DISC, BOX, RING, LINE = range(1, 5)


@pytest.fixture
def lone(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[np.ndarray]]:
    """Return masks of one shape of a class each, none of which touches the border."""

    def draw(label: int) -> list[np.ndarray]:
        monkeypatch.setattr(drawing, "_kinds", lambda generator: [label])
        layers = [draw_shapes(128, 128, seed, "multilabel")[1] for seed in range(60)]
        assert all(layer[label - 1].any() for layer in layers)
        assert not any(np.delete(layer.numpy(), label - 1, 0).any() for layer in layers)
        inner = [layer[label - 1].numpy().astype(bool) for layer in layers]
        found = [image for image in inner if not (image[[0, -1]].any() or image[:, [0, -1]].any())]
        assert len(found) > 15
        return found

    return draw


def test_images_and_masks_have_their_types_and_the_seed_decides() -> None:
    for task, shape in (("multiclass", (80, 100)), ("multilabel", (4, 80, 100))):
        image, mask = draw_shapes(80, 100, 3, task)
        assert (image.shape, image.dtype, mask.shape, mask.dtype) == ((3, 80, 100), torch.uint8, shape, torch.uint8)
        torch.manual_seed(5)  # the caller's generator is no part of it
        again = draw_shapes(80, 100, 3, task)
        assert torch.equal(image, again[0])
        assert torch.equal(mask, again[1])
        assert not torch.equal(image, draw_shapes(80, 100, 4, task)[0])
    before = torch.get_rng_state()
    draw_shapes()
    assert torch.equal(before, torch.get_rng_state())


Lone = Callable[[int], list[np.ndarray]]


def test_discs_have_the_area_of_their_width(lone: Lone) -> None:
    for image in lone(DISC):
        (region,) = measure.regionprops(image.astype(np.uint8))
        height, width = region.image.shape
        assert abs(height - width) <= 1
        assert region.area == pytest.approx(math.pi / 16 * (height + width) ** 2, rel=0.06)
        assert 0.08 * 128 - 1 < height / 2 < 0.18 * 128 + 1


def test_boxes_have_straight_sides_at_right_angles(lone: Lone) -> None:
    shapes = []
    for image in lone(BOX):
        points = np.argwhere(image)
        # The smallest rectangle around it, over all turns, is the box itself.
        turns = np.radians(np.arange(0, 90, 1))
        sides = [
            np.ptp(points @ [[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]], axis=0) + 0.8 for t in turns
        ]
        shapes.append(min(sides, key=np.prod))
        assert image.sum() == pytest.approx(np.prod(shapes[-1]), rel=0.1)  # an ellipse would have 0.79 of it
    forms = [min(pair) / max(pair) for pair in shapes]
    assert min(forms) < 0.65
    assert max(forms) > 0.9


def test_rings_are_discs_with_a_round_hole(lone: Lone) -> None:
    for image in lone(RING):
        assert measure.euler_number(image) == 0
        filled = ndimage.binary_fill_holes(image)
        (region,) = measure.regionprops(filled.astype(np.uint8))
        assert region.area == pytest.approx(math.pi / 16 * sum(region.image.shape) ** 2, rel=0.06)
        hole = math.sqrt((filled.sum() - image.sum()) / filled.sum())
        assert 0.75 / 1.25 - 0.05 < hole < 0.85 / 1.15 + 0.05


def test_a_line_is_one_piece_of_one_to_two_pixels_width(lone: Lone) -> None:
    for image in lone(LINE):
        assert measure.label(image, connectivity=2).max() == 1
        points = np.argwhere(image)
        length = np.hypot(*np.ptp(points, axis=0)) + 1
        assert 0.8 <= image.sum() / length <= 2.3
        assert not ndimage.binary_erosion(image, np.ones((3, 3))).any()


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_lines_are_thin_and_rare_and_never_absent(size: int) -> None:
    for seed in range(25):
        _, mask = draw_shapes(size, size, seed, "multilabel")
        line = mask[LINE - 1].numpy().astype(bool)
        assert 0 < line.mean() < 0.02
        assert not ndimage.binary_erosion(line, np.ones((4, 4))).any()  # not even where two cross


def test_classes_are_as_unbalanced_as_said() -> None:
    masks = torch.stack([draw_shapes(seed=seed)[1] for seed in range(100)])
    shares = torch.bincount(masks.flatten(), minlength=5) / masks.numel()
    assert len(shares) == len(CLASSES) == 5
    assert 0.7 < shares[0] < 0.9
    assert all(0.03 < share < 0.12 for share in shares[1:LINE])
    assert 0.002 < shares[LINE] < 0.02
    present = torch.stack([(masks == label).flatten(1).any(1) for label in range(5)]).float().mean(1)
    assert present[0] == present[LINE] == 1
    assert all(0.5 < share < 0.95 for share in present[1:LINE])  # a class is absent from some images


def test_shapes_of_several_labels_overlap() -> None:
    depth = torch.stack([draw_shapes(seed=seed, task="multilabel")[1].sum(0) for seed in range(50)])
    assert (depth > 1).flatten(1).any(1).float().mean() > 0.5
    assert depth.max() <= 4


def test_multiclass_lines_lie_on_top() -> None:
    for seed in range(20):
        classes, layers = (draw_shapes(seed=seed, task=task)[1] for task in ("multiclass", "multilabel"))
        assert torch.equal(classes == LINE, layers[LINE - 1] == 1)
        assert torch.equal(classes == 0, (layers == 0).all(0))
        assert all(((classes == label) <= (layers[label - 1] == 1)).all() for label in (DISC, BOX, RING))


def test_shapes_are_seen_but_colour_does_not_tell_them_apart() -> None:
    colours: dict[int, list[torch.Tensor]] = {label: [] for label in (DISC, BOX, RING)}
    for seed in range(150):
        image, mask = draw_shapes(64, 64, seed)
        ground = image[:, mask == 0].float().mean(1)
        for label, means in colours.items():
            if (mask == label).any():
                colour = image[:, mask == label].float()
                assert (colour - ground[:, None]).abs().max(0).values.mean() > 25
                means.append(colour.mean(1))
    for means in colours.values():
        mean, std = torch.stack(means).mean(0), torch.stack(means).std(0)
        assert ((mean - 127).abs() < 20).all()  # whatever the class
        assert (std > 35).all()


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_files_hold_the_drawn_arrays(tmp_path: Path, task: str) -> None:
    write_shapes(tmp_path / "set", 12, (40, 56), task, seed=2)
    names = [f"{index:03d}.png" for index in range(12)]
    assert sorted(path.name for path in (tmp_path / "set" / "images").iterdir()) == names
    assert {path.name for path in (tmp_path / "set").iterdir()} == {"images", "masks"}
    for index, name in enumerate(names):
        image, mask = draw_shapes(40, 56, 2 * 1_000_000 + index, task)
        with Image.open(tmp_path / "set" / "images" / name) as file:
            assert file.mode == "RGB"
            assert np.array_equal(np.asarray(file), image.permute(1, 2, 0))
        wanted = {".": mask} if task == "multiclass" else dict(zip(CLASSES[1:], mask * 255, strict=True))
        for folder, layer in wanted.items():
            with Image.open(tmp_path / "set" / "masks" / folder / name) as file:
                assert file.mode == "L"
                assert np.array_equal(np.asarray(file), layer)


def test_sets_of_two_seeds_share_no_image(tmp_path: Path) -> None:
    seen = set()
    for seed in (0, 1):
        write_shapes(tmp_path / str(seed), 15, (32, 32), seed=seed)
        seen |= {hashlib.sha256(path.read_bytes()).digest() for path in (tmp_path / str(seed) / "images").iterdir()}
    assert len(seen) == 30


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"height": 31}, "height=31: .*whole number.*32 up"),
        ({"width": 64.0}, r"width=64\.0"),
        ({"seed": -1}, "seed=-1: .*whole number.*0 to 9,223,372,036,854,775,807"),
        ({"seed": 2**63}, "seed="),
        ({"seed": True}, "seed=True"),
        ({"task": "multilable"}, "task='multilable'.* did you mean 'multil"),
        ({"height": 0, "seed": "x", "task": "binary"}, "3 things are wrong"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        draw_shapes(**arguments)


def test_folders_that_hold_something_are_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(ConfigError, match="not an empty folder"):
        write_shapes(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(ConfigError, match="not an empty folder"):
        write_shapes(tmp_path / "mine.txt", 2)
    with pytest.raises(ConfigError, match="4 things are wrong") as caught:
        write_shapes(tmp_path / "new", 0, (8, 8), "binary", seed=10**12 + 1)
    assert all(any(word in problem for problem in caught.value.problems) for word in ("count", "size", "task", "seed"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    write_shapes(tmp_path / "empty", 1, (32, 32))
    assert (tmp_path / "empty" / "images" / "000.png").is_file()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "set").write_bytes(b"")
    with pytest.raises(WriteError, match="set"):
        drawing.write_shapes(tmp_path / "set" / "inner", 1)


def test_drawn_nuclei_are_bright_where_the_mask_is() -> None:
    image, mask = draw_nuclei(200, 300, seed=1)
    assert image.shape == (3, 200, 300)
    assert image.dtype == torch.uint8
    assert torch.equal(image[0], image[2])
    assert 0.05 < mask.float().mean() < 0.6
    assert image[0][mask].float().mean() > 3 * image[0][~mask].float().mean()
    assert torch.equal(draw_nuclei(200, 300, seed=1)[0], image)
    assert not torch.equal(draw_nuclei(200, 300, seed=2)[0], image)


def test_drawn_nuclei_are_round_and_stay_apart() -> None:
    inner = 0
    for seed in range(4):
        _, mask = draw_nuclei(300, 300, seed)
        for region in measure.regionprops(measure.label(mask.numpy(), connectivity=2)):
            top, left, bottom, right = region.bbox
            if top > 0 and left > 0 and bottom < 300 and right < 300:
                inner += 1
                # Two that melt into one are neither so small nor so nearly convex.
                assert region.solidity > 0.9
                assert math.pi * 5**2 < region.area < math.pi * 14 * 19 * 1.2
    assert inner > 80


@pytest.mark.parametrize(
    ("arguments", "said"), [((0, 9), "height=0"), ((9, 2.5), "width=2.5"), ((9, 9, -1), "seed=-1")]
)
def test_nuclei_that_cannot_be_drawn(arguments: tuple, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        draw_nuclei(*arguments)
