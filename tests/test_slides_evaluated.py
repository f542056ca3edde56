"""Slides held against true masks: those of the image in memory, and counted pixel by pixel."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import saved
from PIL import Image, ImageDraw
from torch import Tensor

import unetzoo
from unetzoo import ConfigError, InputError, Predictor, Slide
from unetzoo.cli import main
from unetzoo.data import list_samples
from unetzoo.data.labels import Labels
from unetzoo.evaluation import evaluate, slides
from unetzoo.metrics import SegmentationMetrics
from unetzoo.prediction import layout
from unetzoo.prediction.networks import Networks
from unetzoo.prediction.slides import loaded

tifffile = pytest.importorskip("tifffile", reason="slides need tifffile")
pytest.importorskip("zarr", reason="and zarr")
from drawn_slides import aperio, ome, smaller, stained  # noqa: E402


@pytest.fixture
def image() -> np.ndarray:
    return stained(400, 500)


@pytest.fixture
def folder(image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a slide, and a model; rows are compared by 32."""
    monkeypatch.setattr(slides, "TOGETHER", 32)
    aperio(tmp_path / "a.svs", image, compression=None)
    saved(tmp_path / "m.safetensors")
    return tmp_path


def listed(folder: Path, mask: str, image: str = "a.svs") -> Path:
    (folder / "list.csv").write_text(f"image,mask\n{image},{mask}\n", encoding="utf-8")
    return folder / "list.csv"


def violet(self: Networks, stored: Tensor, height: int, width: int, levels: object) -> Tensor:
    return (stored[:, 0] < 150).float()[:, None, :height, :width]


def dice(found: np.ndarray, true: np.ndarray) -> float:
    return 2 * (found & true).sum() / (found.sum() + true.sum())


@pytest.mark.parametrize("smallest", [0, 30])
def test_it_is_the_dice_of_the_mask_that_predict_writes(
    smallest: int, folder: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a TIFF of the size that is looked at, with pixels that do not count, and against level 1 of another."""
    monkeypatch.setattr(Networks, "__call__", violet)
    predictor = Predictor(folder / "m.safetensors", tile=64, smallest=smallest)
    slide = {"mpp": 0.5, "background": "keep"}
    found = predictor(Slide(folder / "a.svs", **slide)).mask.numpy() > 0
    true = image[::2, ::2, 1] < 170
    stored = np.uint8(true) * 255
    stored[50:60] = 127
    tifffile.imwrite(folder / "t.tif", stored, extratags=[(42113, 2, None, "127", True)], metadata=None)
    said = evaluate(predictor, listed(folder, "t.tif"), slides=slide)
    counted = stored != 127
    expected = dice(found[counted], true[counted])
    assert 0.05 < expected < 0.95
    assert float(said.scores.dice.pooled) == pytest.approx(expected, abs=1e-12)
    assert said.rows[0]["dice"] == pytest.approx(expected, abs=1e-12)
    assert said.rows[0]["pixel_accuracy"] == pytest.approx((found == true)[counted].mean(), abs=1e-12)
    assert said.scores.boundary_f is None
    with tifffile.TiffWriter(folder / "p.tif") as writer:  # of which level 1 has the size
        for level in (np.kron(np.uint8(true), np.ones((2, 2), np.uint8)), np.uint8(true)):
            writer.write(level * 255, tile=(64, 64), metadata=None, photometric="minisblack")
    said = evaluate(predictor, listed(folder, "p.tif"), slides=slide)
    assert float(said.scores.dice.pooled) == pytest.approx(dice(found, true), abs=1e-12)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_polygons_are_in_pixels_of_level_0(task: str, folder: Path) -> None:
    """Filled by Pillow at level 0, of which a pixel of the mask is that at its centre; with a hole."""
    shapes = {
        "gland": [(20.0, 60.0), (180.0, 30.0), (240.0, 310.0), (40.0, 280.0)],
        "vessel": [(300, 20), (470, 380), (310, 390)],
    }
    hole = [(80.0, 100.0), (160.0, 100.0), (160.0, 200.0), (80.0, 200.0)]
    features = [
        {
            "type": "Feature",
            "properties": {"classification": {"name": name}},
            "geometry": {
                "type": "Polygon",
                "coordinates": [[*ring, ring[0]], *([[*hole, hole[0]]] if name == "gland" else [])],
            },
        }
        for name, ring in shapes.items()
    ]
    (folder / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    drawn = Image.new("L", (2000, 1600))
    for value, ring in enumerate(shapes.values(), 1):
        ImageDraw.Draw(drawn).polygon([(4 * x - 0.5, 4 * y - 0.5) for x, y in ring], fill=value)
    ImageDraw.Draw(drawn).rectangle((320, 400, 639, 799), fill=0)
    true = np.asarray(drawn)[4::8, 4::8]  # of 0.5 µm
    torch.manual_seed(1)
    names = ["background", "gland", "vessel"] if task == "multiclass" else None
    network = unetzoo.create("unet", base_channels=4, task=task, num_classes=3 if names else 1, class_names=names)
    predictor = Predictor(network, tile=64)
    found = predictor(Slide(folder / "a.svs", mpp=0.5)).mask.numpy()
    said = evaluate(predictor, listed(folder, "a.geojson"), slides={"mpp": 0.5})
    for k, value in enumerate(said.scores.dice.pooled.tolist()):
        one, other = (found == k, true == k) if names else (found > 0, true > 0)
        expected = dice(one, other) if one.any() or other.any() else np.nan
        assert value == pytest.approx(expected, abs=2e-3, nan_ok=True), k
    slide, true_tile, _ = said.worst[0]
    assert slide.shape == true_tile.shape == (3, 200, 250)
    changed = (true_tile != slide).any(0).numpy()
    assert (changed == (true > 0)).mean() > 0.99


def test_tiles_of_slides_do_not_depend_on_the_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same counts on every machine; what is no slide is cut as memory allows."""
    predictor = Predictor(unetzoo.create("unet", base_channels=4), device="cpu")
    slide, sides = loaded(Slide(folder / "a.svs", mpp=0.5), None), []
    monkeypatch.setattr(layout, "SLIDE_TILE", 64)
    for free in (2**20, 2**36):
        monkeypatch.setattr(layout, "free_memory", lambda device, free=free: free)
        usual = predictor.layout.grid(slide.height, slide.width, predictor.device)
        sides.append((predictor.grid(slide).down.window, usual.down.window))
    assert [of_slide for of_slide, _ in sides] == [64, 64]
    assert sides[0][1] != sides[1][1]


@pytest.mark.parametrize("tile", [64, None])
def test_the_command_takes_tiles(tile: int | None, folder: Path, capsys: Any) -> None:
    torch.manual_seed(2)
    unetzoo.save(unetzoo.create("unet", base_channels=4), folder / "m.safetensors")
    tifffile.imwrite(folder / "p.tif", np.uint8(np.random.default_rng(0).integers(0, 2, (200, 250))) * 255)
    source, model = listed(folder, "p.tif"), str(folder / "m.safetensors")
    expected = evaluate(Predictor(model, tile=tile), source, slides={"mpp": 0.5}).to_dict()
    assert main(["evaluate", model, "--data", str(source), "--mpp", "0.5", "--tile", str(tile).lower(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(expected))


def test_the_command_says_the_scores_and_leaves_nothing_behind(folder: Path, tmp_path: Path, capsys: Any) -> None:
    aperio(folder / "b.svs", stained(300, 300, seed=1), compression=None)
    for name, size in (("a", (200, 250)), ("b", (150, 150))):
        tifffile.imwrite(folder / f"{name}.tif", np.full(size, 255, np.uint8))
    (folder / "list.csv").write_text("image,mask\na.svs,a.tif\nb.svs,b.tif\n", encoding="utf-8")
    command = ["evaluate", str(folder / "m.safetensors"), "--data", str(folder / "list.csv"), "--mpp", "0.5"]
    assert main([*command, "--report", str(tmp_path / "report")]) == 0
    assert "2 images" in capsys.readouterr().out
    with (tmp_path / "report" / "per_image.csv").open(encoding="utf-8") as stream:
        assert {row["name"] for row in csv.DictReader(stream)} == {"a", "b"}
    with Image.open(tmp_path / "report" / "worst.png") as shown:
        assert shown.width > 700
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_what_does_not_fit_is_said_before_any_slide_is_segmented(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "write_rows", lambda *_, **__: pytest.fail("it was worked on"))
    predictor = Predictor(folder / "m.safetensors")
    tifffile.imwrite(folder / "t.tif", np.zeros((90, 80), np.uint8))
    Image.new("L", (250, 200)).save(folder / "t.png")
    for mask, asked, why in (
        (
            "t.tif",
            {"mpp": 0.5},
            "t.tif' is 80×90 pixels, and its slide is read at 250×200: give the mpp=… or level=…",
        ),
        ("t.png", {"mpp": 0.5}, "for a slide, give a .tif .*or a .geojson"),
        ("t.tif", {}, "which is meant\\? Give mpp=…"),
        ("t.tif", {"mpp": 0.01}, "finer than all"),
    ):
        with pytest.raises(InputError, match=why):
            evaluate(predictor, listed(folder, mask), slides=asked)
    for more in ({"objects": True}, {"table": folder / "t.csv"}):
        with pytest.raises(ConfigError, match="objects of slides"):
            evaluate(predictor, listed(folder, "t.tif"), slides={"mpp": 0.5}, **more)
    with pytest.raises(ConfigError, match="holes"):
        evaluate(Predictor(folder / "m.safetensors", holes=5), listed(folder, "t.tif"), slides={"mpp": 0.5})
    with pytest.raises(ConfigError, match="mpp=-1"):
        evaluate(predictor, listed(folder, "t.tif"), slides={"mpp": -1})


def test_slides_are_no_images_to_train_on(folder: Path, capsys: Any) -> None:
    """It took their level 0, whatever size the network was for."""
    tifffile.imwrite(folder / "t.tif", np.zeros((400, 500), np.uint8))
    source = listed(folder, "t.tif")
    (problem,) = list_samples(source, Labels()).problems
    assert "a.svs': that is a slide, which 'unetzoo predict' takes" in problem
    assert "export regions at the resolution of the training" in problem
    for command in (
        ["calibrate", str(folder / "m.safetensors"), "--data", str(source), "--out", str(folder / "t.json")],
        ["data", "check", str(source)],
    ):
        assert main(command) == 2
        said = capsys.readouterr()
        assert "that is a slide" in said.out + said.err
    (folder / "d" / "images").mkdir(parents=True)
    (folder / "d" / "masks").mkdir()
    (folder / "a.svs").rename(folder / "d" / "images" / "a.svs")
    tifffile.imwrite(folder / "d" / "masks" / "a.tif", np.zeros((400, 500), np.uint8))
    assert main(["evaluate", str(folder / "m.safetensors"), "--data", str(folder / "d"), "--mpp", "0.5"]) == 2
    said = capsys.readouterr().err
    assert "images/a.svs': that is a slide" in said
    assert ", then a line for each, such as images/a.svs,masks/a.tif." in said
    assert "no image with that stem" not in said
    # What it says works.
    (folder / "d" / "list.csv").write_text("image,mask\nimages/a.svs,masks/a.tif\n", encoding="utf-8")
    asked = ["evaluate", str(folder / "m.safetensors"), "--data", str(folder / "d" / "list.csv"), "--level", "0"]
    assert main(asked) == 0
    # Another mask without an image is still told.
    tifffile.imwrite(folder / "d" / "masks" / "b.tif", np.zeros((400, 500), np.uint8))
    capsys.readouterr()
    assert main(["data", "check", str(folder / "d")]) == 2
    said = capsys.readouterr().out
    assert "masks/b.tif: no image with that stem" in said
    assert "masks/a.tif: no image" not in said
    assert "left out: images/a.svs" not in said


def test_a_data_set_says_which_level_of_its_pyramids_it_reads(image: np.ndarray, tmp_path: Path, capsys: Any) -> None:
    for name in ("images", "masks"):
        (tmp_path / "d" / name).mkdir(parents=True)

    def checked() -> list[str]:
        for path in (tmp_path / "d" / "images").iterdir():
            Image.fromarray(np.uint8(image[..., 1] < 120) * 255).save(tmp_path / f"d/masks/{path.name[0]}.png")
        assert main(["data", "check", str(tmp_path / "d"), "--json"]) == 0
        return [said for said in json.loads(capsys.readouterr().out)["warnings"] if "pyramid" in said]

    inner = tmp_path / "d" / "images"
    for name, kind in (("a", {"tile": (64, 64)}), ("b", {}), ("c", {}), ("d", {})):
        tifffile.imwrite(inner / f"{name}.tif", image, photometric="rgb", metadata=None, **kind)
    with tifffile.TiffWriter(inner / "e.tif") as writer:  # a thumbnail in strips makes no pyramid
        writer.write(image, tile=(64, 64), photometric="rgb", metadata=None)
        writer.write(smaller(image, 8), photometric="rgb", metadata=None, subfiletype=1)
    with tifffile.TiffWriter(inner / "f.tif") as writer:  # nor do a map's overviews
        on_a_map = [(33550, "d", 3, (10.0, 10.0, 0.0), True)]
        for step in (1, 2):
            writer.write(smaller(image, step), tile=(64, 64), photometric="rgb", metadata=None, extratags=on_a_map)
    assert checked() == []
    for count, name in enumerate("ac", 1):
        with tifffile.TiffWriter(inner / f"{name}.tif") as writer:
            for step in (1, 4):
                writer.write(smaller(image, step), tile=(64, 64), photometric="rgb", metadata=None)
        (said,) = checked()
        many = "1 image is a pyramid" if count == 1 else "2 images are pyramids"
        assert said.startswith(f"{many} of several sizes, 'a' first: level 0, the finest, is read, 500 × 400 pixels, ")


def test_a_tiff_that_is_a_slide_is_refused_wherever_a_slide_is(folder: Path, image: np.ndarray, capsys: Any) -> None:
    """Prediction refused it; evaluation, training and the check of data read its finest level without a word."""
    (folder / "d" / "images").mkdir(parents=True)
    (folder / "d" / "masks").mkdir()
    ome(folder / "d" / "images" / "s.tif", image, 0.25)
    tifffile.imwrite(folder / "d" / "masks" / "s.tif", np.uint8(image[..., 1] < 120) * 255)
    source, model = listed(folder, "d/masks/s.tif", "d/images/s.tif"), str(folder / "m.safetensors")
    said = []
    for command in (
        ["evaluate", model, "--data", str(source)],
        ["predict", model, str(folder / "d" / "images" / "s.tif"), "--out", str(folder / "o")],
    ):
        assert main(command) == (2 if command[0] == "evaluate" else 1)  # of an image of several
        said.append(capsys.readouterr().err.partition("has level 0")[2].strip())
    assert "which is meant? Give --mpp" in said[0]
    assert said[0] == said[1]
    assert main(["evaluate", model, "--data", str(source), "--level", "0"]) == 0
    capsys.readouterr()
    for command in (
        ["data", "check", str(folder / "d")],
        ["train", "--model", "unet", "--data", str(folder / "d"), "--out", str(folder / "run")],
    ):
        assert main(command) == 2
        captured = capsys.readouterr()
        assert "s.tif': that is a slide" in captured.out + captured.err
    assert not (folder / "run").exists()


def test_parts_of_an_image_count_as_the_whole() -> None:
    torch.manual_seed(0)
    predicted, target = torch.randint(3, (40, 30)), torch.randint(-1, 3, (40, 30))
    target[target < 0] = -100

    def metrics() -> SegmentationMetrics:
        return SegmentationMetrics("multiclass", 3, boundary_tolerance=None)

    whole, parts = metrics(), metrics()
    expected = whole.update_masks(predicted[None], target[None]).rows()
    cut: list[tuple[Tensor, Tensor]] = [(predicted[None, k : k + 7], target[None, k : k + 7]) for k in range(0, 40, 7)]
    assert parts.update_masks_in_parts(cut).rows() == expected
    assert str(parts.compute()) == str(whole.compute())
    assert parts.compute().images == 1
    with pytest.raises(ConfigError, match="boundary_tolerance"):
        SegmentationMetrics("multiclass", 3).update_masks_in_parts(cut)
    with pytest.raises(InputError):
        parts.update_masks_in_parts([*cut, (predicted[None], target[None] + 7)])
    assert parts.compute().images == 1
