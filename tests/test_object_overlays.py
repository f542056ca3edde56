"""Objects laid over images: neighbours differ in colour, and rims lie between them."""

import re
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

import unetzoo
from unetzoo import ConfigError, Predictor, images, sheets
from unetzoo.cli import main
from unetzoo.data import Labels, SegmentationDataset, list_samples
from unetzoo.data.previewing import preview


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


def test_objects_on_a_red_image_are_not_red() -> None:
    red = torch.zeros(3, 60, 80, dtype=torch.uint8)
    red[0] = 200
    shown = images.overlay_objects(red, scattered(60, 80, 60, 0), alpha=1)
    colours = torch.unique(shown.flatten(1).T, dim=0).int()
    assert len(colours) > 3
    assert all(colour[0] <= 1.5 * max(colour[1:]) for colour in colours.tolist())


@pytest.mark.parametrize("split", [0.0, 1.0])
def test_outlines_alone_leave_the_rest_as_it_is(split: float, tmp_path: Path) -> None:
    segmentation = pytest.importorskip("skimage.segmentation")
    image = torch.randint(0, 200, (3, 40, 40), dtype=torch.uint8)
    found = Predictor(unetzoo.create("unet", base_channels=4), split=split)(image)
    found.overlay(tmp_path / "filled.png")
    found.overlay(tmp_path / "outline.png", outline=True)
    filled, outline = (images.read_image(tmp_path / f"{name}.png") for name in ("filled", "outline"))
    numbers = found.instances().labels if split else found.mask
    rim = torch.from_numpy(segmentation.find_boundaries(numbers.int().numpy(), connectivity=2, mode="inner"))
    assert rim.any()
    assert torch.equal(outline, torch.where(rim, filled, image))


def test_overlays_of_two_kinds_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unetzoo.save(unetzoo.create("unet", base_channels=4), tmp_path / "m.safetensors")
    monkeypatch.chdir(tmp_path)
    images.write_png(torch.randint(0, 200, (3, 40, 40), dtype=torch.uint8), tmp_path / "a.png")
    written = []
    for words, status in (
        (["--overlay", "a.png"], 0),
        (["--overlay", "outline", "a.png"], 2),
        (["a.png"], 0),
        (["a.png", "--overlay=outline"], 2),
        (["--overlay", "outline", "a.png", "--overwrite"], 0),
        (["a.png", "--overlay=outline"], 0),
        (["a.png", "--overlay"], 2),
    ):
        assert main(["predict", "m.safetensors", *words]) == status
        said = capsys.readouterr()
        if status:
            assert re.search("masks/overlays holds overlays of another kind.* --out, or --overwrite", said.err)
        written.append((tmp_path / "masks" / "overlays" / "a.png").read_bytes())
    assert main(["predict", "m.safetensors", "a.png", "--overlay", "outline", "--out", "lines"]) == 0
    assert capsys.readouterr().out == "masks in lines: 1 segmented; overlays in lines/overlays\n"
    found = Predictor(tmp_path / "m.safetensors")(tmp_path / "a.png")
    for outline, name in ((False, "f.png"), (True, "o.png")):
        found.overlay(tmp_path / name, outline=outline)
    assert written == [(tmp_path / name).read_bytes() for name in (*["f.png"] * 4, *["o.png"] * 3)]


def test_overlays_by_class_become_overlays_by_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    unetzoo.save(unetzoo.create("unet", base_channels=4, task="instances"), tmp_path / "m.safetensors")
    monkeypatch.chdir(tmp_path)
    images.write_png(torch.randint(0, 200, (3, 40, 40), dtype=torch.uint8), tmp_path / "a.png")
    words = ["predict", "m.safetensors", "a.png", "--overlay"]
    with monkeypatch.context() as patch:
        patch.setattr("unetzoo.objects.separating.check_separable", Mock(side_effect=ConfigError("")))
        assert main(words) == 0
    first = (tmp_path / "masks" / "overlays" / "a.png").read_bytes()
    assert main(words) == 0
    assert (tmp_path / "masks" / "overlays" / "a.png").read_bytes() != first
    Predictor(tmp_path / "m.safetensors")(tmp_path / "a.png").overlay(tmp_path / "o.png")
    assert (tmp_path / "masks" / "overlays" / "a.png").read_bytes() == (tmp_path / "o.png").read_bytes()


def test_a_preview_has_objects_in_their_colours(tmp_path: Path) -> None:
    ids = scattered(64, 64, 12, 0).int()
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    images.write_png(torch.full((3, 64, 64), 90, dtype=torch.uint8), tmp_path / "images" / "a.png")
    Image.fromarray(ids.numpy().astype("uint16")).save(tmp_path / "masks" / "a.png")
    labels = Labels(task="instances", foreground="any")
    samples = list_samples(tmp_path, labels).samples[""]
    preview(SegmentationDataset(samples, labels), tmp_path / "sheet.png", count=1, columns=1)
    sheet = images.read_image(tmp_path / "sheet.png")
    expected = images.overlay_objects(sheets.stretched(torch.full((3, 64, 64), 90 / 255)), ids, alpha=0.4)
    windows = sheet.unfold(1, 64, 1).unfold(2, 64, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    assert any(torch.equal(window, expected) for window in windows)


def test_a_misspelt_kind_of_overlay_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "nuclei", "--overlay", "outlin", str(tmp_path)])
    assert "did you mean 'outline'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mean", "unseen"),
    [
        ((190, 140, 180), {"#911eb4", "#f032e6"}),  # tissue in haematoxylin and eosin: purple and magenta
        ((150, 70, 50), {"#e6194b", "#f58231"}),  # a retina, or a view of an endoscope: red and orange
        ((60, 110, 55), {"#3cb44b"}),  # vegetation: green
        ((128, 120, 124), set()),
        ((0, 0, 0), set()),
    ],
)
def test_objects_have_no_colour_of_the_image_itself(mean: tuple[int, int, int], unseen: set[str]) -> None:
    image = torch.tensor(mean, dtype=torch.uint8)[:, None, None].expand(3, 32, 32)
    assert set(images.COLOURS) - set(images.object_palette(image)) == unseen
    labels = torch.zeros(32, 32, dtype=torch.long)
    for k in range(7):
        labels[2:30, 4 * k + 2 : 4 * k + 6] = k + 1
    shown = images.overlay_objects(image, labels, outline=True)
    used = {"#" + bytes(pixel).hex() for pixel in shown.flatten(1).T.tolist()}
    assert len(used) > 2
    assert not used & unseen
    assert images.object_palette(image[:1]) == images.COLOURS
