"""Slides: levels and µm from headers, resampling in windows, background, outlines in level 0, and a kill on the way."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn import saved
from PIL import Image
from torch import Tensor

import unetzoo
from unetzoo import ConfigError, InputError, Predictor, images
from unetzoo.cli import main
from unetzoo.prediction import by_rows, overlay_by_rows
from unetzoo.prediction.jobs import find_jobs
from unetzoo.prediction.networks import Networks
from unetzoo.prediction.partial import PartialMask
from unetzoo.prediction.slides import SlideRows
from unetzoo.prediction.stored import StoredRows
from unetzoo.slides import Slide, open_slide, tissue_in
from unetzoo.slides.pyramid import TiffLevels
from unetzoo.slides.tissue import otsu

tifffile = pytest.importorskip("tifffile", reason="slides need tifffile")
pytest.importorskip("zarr", reason="and zarr")
pytest.importorskip("imagecodecs", reason="and JPEG of it")
from drawn_slides import aperio, hamamatsu, leica, mirax, ome, smaller, stained  # noqa: E402


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return stained(700, 1010)


@pytest.fixture(scope="module")
def slide(image: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aperio(tmp_path_factory.mktemp("slide") / "a.svs", image, compression=None)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "model.safetensors")


@pytest.fixture
def violet(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Have all networks find what is violet, pixel by pixel, and return what they were shown."""
    seen = []

    def ask(self: Networks, stored: Tensor, height: int, width: int, levels: object) -> Tensor:
        seen.append(tuple(stored.shape))
        return (stored[:, 0] < 150).float()[:, None, :height, :width]

    monkeypatch.setattr(Networks, "__call__", ask)
    return seen


def read(slide: Slide) -> Tensor:
    with SlideRows(slide) as rows:
        return rows.rows(0, rows.height)


def reference(image: np.ndarray, step: float) -> Tensor:
    """Return an image resampled by torch, not rounded: it has the last pixel only where it lies inside as a whole."""
    planes = torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None]
    if step < 1:
        return F.interpolate(planes, scale_factor=1 / step, mode="bilinear", recompute_scale_factor=False)[0]
    return F.interpolate(planes, scale_factor=1 / step, mode="bilinear", antialias=True, recompute_scale_factor=False)[
        0
    ]


def apart(found: Tensor, expected: Tensor) -> float:
    """Return how far two images are apart, but for their last rows and columns, which one of them may lack."""
    height, width = (min(sides) - 1 for sides in zip(found.shape[1:], expected.shape[1:], strict=True))
    found, expected = (image.double()[:, :height, :width] for image in (found, expected))
    return float((found - expected).abs().max())


# Levels


def levels_of(path: Path, planes: str | None = None) -> tuple[list[tuple[int, int]], tuple[float, float] | None]:
    with contextlib.ExitStack() as keeping:
        found = open_slide(path, planes, keeping)
        return [(level.height, level.width) for level in found.levels], found.mpp


def test_levels_are_the_smaller_copies_and_no_label(slide: Path, image: np.ndarray, tmp_path: Path) -> None:
    assert levels_of(slide) == ([(700, 1010), (175, 252), (43, 63)], (0.25, 0.25))
    for number, step in ((0, 1), (1, 4), (2, 16)):
        assert np.array_equal(read(Slide(slide, level=number)).permute(1, 2, 0).numpy(), smaller(image, step))
    assert levels_of(ome(tmp_path / "a.ome.tif", image)) == ([(700, 1010), (350, 505), (175, 252)], (0.5, 0.5))
    channels = np.stack([image[..., k].astype(np.uint16) * 9 for k in (0, 1)])
    path = ome(tmp_path / "b.tif", channels)
    assert levels_of(path) == ([(700, 1010), (350, 505), (175, 252)], (0.5, 0.5))
    assert np.array_equal(read(Slide(path, level=2)).numpy(), tifffile.imread(path, level=2))


def pixels(attributes: str, before: str = "") -> str:
    return f"{before}<OME><Image><Pixels {attributes}/></Image></OME>"


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"resolution": (40_000, 20_000), "resolutionunit": "CENTIMETER"}, (0.5, 0.25)),
        ({"resolution": (50_800, 50_800), "resolutionunit": "INCH"}, (0.5, 0.5)),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ({"resolution": (4, 4), "resolutionunit": "NONE"}, None),
        ({"description": "Aperio x|MPP = 0.2525|Left = 3"}, (0.2525, 0.2525)),
        ({"description": "Aperio x|MPP = 0"}, None),
        ({"description": "Aperio x|MPP = 1.2.3"}, None),
        ({"description": "Aperio x|MPP = 99999999999999999999"}, None),
        ({"description": "ImageJ=1.54\nunit=\\u00B5m\n", "resolution": (2, 2), "resolutionunit": "NONE"}, (0.5, 0.5)),
        ({"description": pixels('PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.5"')}, (0.5, 0.25)),
        ({"description": pixels('PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1"')}, None),
        ({"description": pixels('PhysicalSizeX="&e;" PhysicalSizeY="1"', '<!DOCTYPE a [<!ENTITY e "1">]>')}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_microns_are_what_the_header_says(how: dict[str, Any], expected: object, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((40, 50, 3), np.uint8), photometric="rgb", metadata=None, tile=(16, 16), **how)
    found = levels_of(path)[1]
    assert found == (None if expected is None else pytest.approx(expected))
    if expected is None:
        with pytest.raises(InputError, match=r"50×40 pixels, and does not say .*level=….*mpp_stored=…"):
            SlideRows(Slide(path, mpp=0.5))
        with SlideRows(Slide(path, mpp=0.5, mpp_stored=0.25)) as rows:
            assert (rows.height, rows.width, rows.mpp) == (20, 25, (0.5, 0.5))


# Resampling


@pytest.mark.parametrize("step", [0.95, 1.7, 2, 3.3])
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_any_window_is_what_torch_makes_of_the_whole(step: float, kind: str, tmp_path: Path) -> None:
    """Noise, at sizes that do not divide; the value before rounding is torch's, but for that of float32."""
    image = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (211, 157, 3), kind)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric="rgb", metadata=None, tile=(64, 32))
    with SlideRows(Slide(path, mpp=step, mpp_stored=1.0)) as rows:
        whole = rows.rows(0, rows.height)
        parts = [rows.rows(k, min(k + 7, rows.height)) for k in range(0, rows.height, 7)]
        assert torch.equal(whole, torch.cat(parts, 1))
        assert (rows.height, rows.width) == (round(211 / step), round(157 / step))
    assert apart(whole, reference(image, step)) <= 0.5 + (1e-4 if kind == "uint8" else 0.03)


def test_the_nearest_finer_level_is_read(slide: Path, image: np.ndarray) -> None:
    for mpp, level, step in ((0.26, 1, 0.26 / 0.25), (0.9, 1, 3.6), (1.0, 4, 1.0), (2.5, 4, 2.5), (6.0, 16, 1.5)):
        assert apart(read(Slide(slide, mpp=mpp)), reference(smaller(image, level), step)) <= 0.5 + 1e-4


def test_what_cannot_be_meant_is_refused_with_what_there_is(slide: Path, tmp_path: Path) -> None:
    has = "level 0 of 1010×700 pixels of 0.25 µm; level 1 of 252×175 pixels of 1 µm; level 2 of 63×43 pixels of 4 µm"
    for asked, why in (({}, "which is meant"), ({"mpp": 0.2}, "finer than all levels")):
        with pytest.raises(InputError, match=f"{has}: .*{why}"):
            SlideRows(Slide(slide, **asked))
    with pytest.raises(InputError, match=f"level=3: .* has {has}$"):
        SlideRows(Slide(slide, level=3))
    with pytest.raises(ConfigError, match=r"mpp=-1.*\n.*level=1\.5.*\n.*mpp and level.*\n.*background='no'"):
        Slide(slide, mpp=-1, level=1.5, background="no")  # type: ignore[arg-type]
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"not a slide: \.svs"):
        SlideRows(Slide(tmp_path / "a.png", mpp=1))
    scale = [(33550, 12, 3, (1.0, 1.0, 0.0), True)]
    tifffile.imwrite(tmp_path / "map.tif", np.zeros((40, 50), np.uint8), metadata=None, extratags=scale)
    with pytest.raises(InputError, match="is on a map"):
        SlideRows(Slide(tmp_path / "map.tif", level=0))


def pyramid(
    path: Path, image: np.ndarray, microns: float | None = 0.25, tags: tuple[Any, ...] = (), **how: Any
) -> Path:
    """Write a TIFF whose first page has two smaller copies behind it."""
    scale = {} if microns is None else {"resolution": (1e4 / microns, 1e4 / microns), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        for step in (1, 2, 4):
            extra = {"extratags": tags, **scale} if step == 1 else {"subfiletype": 1}
            writer.write(smaller(image, step), photometric="rgb", metadata=None, tile=(64, 64), **extra)
    return path


@pytest.mark.parametrize("kind", ["pages", "ome", "mask"])
def test_a_pyramid_with_microns_is_a_slide_whatever_its_name(
    kind: str, image: np.ndarray, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, part = tmp_path / "a.tif", image[300:700, 500:1000]
    if kind == "mask":  # of unetzoo
        predictor, big = Predictor(model, device="cpu"), np.tile(image, (2, 1, 1))
        predictor.write_mask(Slide(aperio(tmp_path / "big.svs", big, compression=None), level=0), path)
    else:
        pyramid(path, part) if kind == "pages" else ome(path, part, 0.25)
    which = "level 0 of .* pixels of 0.25 µm; level 1 .*which is meant"
    assert main(["predict", str(model), str(path), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert re.search(which, said)
    assert "Give --mpp, the µm a pixel of the training, or --level\n" in said
    with pytest.raises(InputError, match=which + r".*to unetzoo\.Slide"):
        Predictor(model)(path)
    with pytest.raises(InputError, match=which):
        Predictor(model).write_mask(path, tmp_path / "mask.tif")
    assert main(["predict", str(model), str(path), "--level", "0", "--out", str(tmp_path / "out")]) == 0


def test_other_tiffs_are_images(image: np.ndarray, model: Path, tmp_path: Path) -> None:
    part = image[:256, :256]
    on_a_map = ((33550, 12, 3, (1.0, 1.0, 0.0), True),)
    others = [
        pyramid(tmp_path / "no_microns.tif", part, None),
        pyramid(tmp_path / "paper.tif", part, 84.7),  # 300 dots an inch
        pyramid(tmp_path / "map.tif", part, tags=on_a_map),
        pyramid(tmp_path / "nodata.tif", part, tags=((42113, 2, 0, "0", True),)),
    ]
    tifffile.imwrite(tmp_path / "b.tif", part, tile=(64, 64), resolution=(4e4, 4e4), resolutionunit="CENTIMETER")
    jobs = find_jobs([*others, tmp_path / "b.tif"])
    assert [job.slide for job in jobs] == [None] * 5
    assert tuple(Predictor(model)(others[0]).mask.shape) == (256, 256)
    (tmp_path / "cut.tif").write_bytes(others[0].read_bytes()[:300])
    assert find_jobs([tmp_path / "cut.tif"])[0].slide is None  # and reading it says why


@pytest.mark.parametrize("name", ["a.svs", "a.tif", "a.zarr"])
def test_what_is_not_there_is_said_alike_at_every_door(
    name: str, slide: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The predictor, slides, writing by rows and both commands: no such file, and what may be meant."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.svs").write_bytes(b"")
    predictor, absent = Predictor(model), f"'{name}': there is no such file"
    fix = "did you mean 'b.svs'?" if name == "a.svs" else "check the path"
    for door in (
        lambda: predictor(name),
        lambda: predictor((name, "b.svs")),
        lambda: predictor(Slide(name, level=0)),
        lambda: predictor.write_mask(name, "out.tif"),
        lambda: predictor.write_mask(Slide(name, mpp=0.5), "out.tif"),
    ):
        with pytest.raises(InputError) as raised:
            door()
        assert str(raised.value) == f"{absent}: {fix}"
    assert main(["predict", str(model), name, "--mpp", "0.5", "--out", "out"]) == 2
    assert main(["evaluate", str(model), "--data", name]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"unetzoo: {absent} or folder: ")
    assert said[1].startswith(f"unetzoo: '{name}': there is no such folder, and no such .csv file: ")
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "b.svs"}


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, model: Path) -> None:
    with pytest.raises(InputError, match=r"a\.svs': there is no such file, and no folder '.*none': check the path"):
        Predictor(model)(Slide(tmp_path / "none" / "a.svs", level=0))
    with pytest.raises(InputError, match="is a folder, not a file: give the path of a file in it"):
        Predictor(model)(Slide(tmp_path, level=0))


# Prediction


def test_at_a_resolution_it_is_what_the_predictor_says_of_the_resampled_image(
    slide: Path, image: np.ndarray, model: Path, tmp_path: Path
) -> None:
    predictor = Predictor(model, tile=128)
    asked, plain = Slide(slide, mpp=0.47, background="keep"), reference(image, 1.88).round().byte()
    assert apart(read(asked), plain) <= 1
    assert (read(asked)[:, :371, :536] != plain[:, :371, :536]).double().mean() < 2e-3  # halves, rounded in float32
    expected = predictor(read(asked))
    assert (expected.mask[:350, :520] == predictor(plain).mask[:350, :520]).double().mean() > 0.999
    assert torch.equal(predictor(asked).probabilities, expected.probabilities)
    predictor.write_mask(asked, tmp_path / "m.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "m.tif"), expected.mask.numpy() * 255)
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        tags = {name: file.pages[0].tags[name].value for name in ("XResolution", "YResolution", "ResolutionUnit")}
    assert tags["ResolutionUnit"] == 3
    for name in ("XResolution", "YResolution"):
        assert tags[name][0] / tags[name][1] == pytest.approx(1e4 / 0.47)


@pytest.mark.parametrize("merge", ["probabilities", "logits"])
def test_without_background_the_tissue_is_as_it_was(slide: Path, merge: str, model: Path, image: np.ndarray) -> None:
    predictor = Predictor(model, tile=96, merge=merge)
    kept, skipped = (predictor(Slide(slide, mpp=0.5, background=how)) for how in ("keep", "skip"))
    with SlideRows(Slide(slide, mpp=0.5)) as rows:
        assert rows.tissue is not None
        tissue = rows.tissue.rows(0, rows.height, rows.width)
        assert rows.tissue.share == pytest.approx(float(tissue.double().mean()), abs=0.05)
    assert torch.equal(skipped.probabilities, kept.probabilities * tissue)
    pink = torch.from_numpy(image[::2, ::2, 1] < 200)
    assert 0.1 < float(pink.double().mean()) < 0.3
    assert bool(tissue[pink].all())
    assert float(tissue.double().mean()) < 0.6


def test_tiles_of_background_are_neither_read_nor_computed(
    slide: Path, model: Path, violet: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, read = Predictor(model, tile=32, overlap=0), []
    with SlideRows(Slide(slide, mpp=0.5)) as rows:
        real = rows._image.rows
        monkeypatch.setattr(rows._image, "rows", lambda a, b: read.append((a, b)) or real(a, b))
        grid, ticks = predictor.grid(rows), []
        strips = list(predictor.strips(rows, grid, tick=lambda: ticks.append(1)))
        tissue = rows.tissue.rows(0, rows.height, rows.width)
    assert len(ticks) == grid.count
    places = [(y, x) for y in grid.down.starts for x in grid.across.starts]
    assert len(violet) == sum(bool(tissue[y : y + 32, x : x + 32].any()) for y, x in places) < 0.8 * grid.count
    assert sum(len(strip.probabilities[0]) for strip in strips) == 350
    shown = {y for y in grid.down.starts if bool(tissue[y : y + 32].any())}
    assert {first for first, _ in read} - {0} == shown - {0}
    assert 0 < len(shown) < len(grid.down.starts)


def test_tissue_is_known_by_its_rule(image: np.ndarray) -> None:
    filters = pytest.importorskip("skimage.filters", reason="whose threshold it is")
    for seed in range(5):
        values = torch.from_numpy(np.random.default_rng(seed).integers(0, 40 + 40 * seed, 5000))
        values[:2000] += 30
        assert abs(otsu(values) - filters.threshold_otsu(values.numpy(), nbins=256)) <= 1
    glass = torch.full((3, 20, 20), 243, dtype=torch.uint8)
    assert not tissue_in(glass).any()
    glass[:, 9, 9] = torch.tensor([226, 190, 210])
    assert tissue_in(glass).nonzero().aminmax(dim=0)[0].tolist() == [7, 7]
    assert int(tissue_in(glass).sum()) == 25
    assert tissue_in(torch.full((3, 4, 4), 120, dtype=torch.uint8)).all()  # grey, and dark
    everywhere = torch.from_numpy(np.random.default_rng(0).integers(150, 200, (3, 30, 30), np.uint8))
    assert tissue_in(everywhere).all()  # no glass: Otsu alone would part it


def test_outlines_are_those_of_level_0(violet: object, model: Path, tmp_path: Path) -> None:
    """A bar that is drawn on level 0 has its corners there again, whatever is looked at; objects are the same."""
    image = np.full((640, 960, 3), 243, np.uint8)
    image[300:420, 200:560] = (226, 150, 190)
    image[336:384, 240:480] = (90, 60, 140)
    path = aperio(tmp_path / "bar.svs", image, compression=None)
    predictor = Predictor(model, tile=64)
    for asked, slack in (
        ({"level": 0}, 0),
        ({"mpp": 0.5}, 0),
        ({"level": 1}, 0),
        ({"mpp": 0.4}, 1.6),
        ({"mpp": 1.3}, 5.2),
    ):
        slide, target = Slide(path, **asked), tmp_path / "bar.geojson"
        predictor.write_mask(slide, tmp_path / "bar.tif", geojson=target)
        (feature,) = json.loads(target.read_text(encoding="utf-8"))["features"]
        corners = np.array(feature["geometry"]["coordinates"][0])
        assert np.abs([*corners.min(0), *corners.max(0)] - np.array([240, 336, 480, 384])).max() <= slack
        if not slack:
            assert corners.tolist() == [[240, 336], [480, 336], [480, 384], [240, 384], [240, 336]]
        assert feature["properties"]["objectType"] == "detection"
        (same,) = predictor(slide).geojson()["features"]
        assert same["geometry"] == feature["geometry"]


def test_the_overlay_says_both_sides_of_a_pixel_that_is_no_square(
    violet: object, model: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay_by_rows, "SIDE", 50)
    ome(tmp_path / "a.ome.tif", stained(200, 160), 0.5, PhysicalSizeY=0.25)
    command = ["predict", str(model), str(tmp_path / "a.ome.tif"), "--level", "0", "--overlay", "--tile", "128"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    said = "4 × 4 of the mask, 2 × 1 µm"  # width and height, as everywhere
    assert said in capsys.readouterr().err
    with Image.open(tmp_path / "out" / "overlays" / "a.ome.png") as file:
        assert file.info["Description"] == f"1 pixel is {said}"


def test_a_table_that_has_no_place_is_refused_before_any_work(
    slide: Path, model: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "t.csv").mkdir()
    (tmp_path / "kept").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "kept" and access(path, mode))
    for table, said in (
        ("file/a/t.csv", "is a file, not a folder"),
        ("t.csv", "is a folder"),
        ("kept/b/t.csv", "cannot be written (Permission denied)"),
    ):
        command = ["predict", str(model), str(slide), "--mpp", "0.5", "--table", str(tmp_path / table)]
        assert main([*command, "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
        assert not [*tmp_path.glob("out/**/a*")]


def test_a_table_of_a_slide_is_in_microns(slide: Path, violet: object, model: Path, tmp_path: Path) -> None:
    """Areas are those of the outlines in level 0, by the formula of the shoelace, times 0.25² µm²."""
    out = tmp_path / "out"
    command = ["predict", str(model), str(slide), "--out", str(out), "--mpp", "0.4", "--tile", "128"]
    assert main([*command, "--write", "geojson", "--table", str(tmp_path / "t.csv")]) == 0
    features = json.loads((out / "geojson" / "a.geojson").read_text(encoding="utf-8"))["features"]
    with (tmp_path / "t.csv").open(encoding="utf-8") as stream:
        rows = {int(row["label"]): row for row in csv.DictReader(stream)}
    assert len(rows) == len(features) > 20
    for feature in features:
        row, rings = rows[feature["properties"]["id"]], feature["geometry"]["coordinates"]
        polygons = [rings] if feature["geometry"]["type"] == "Polygon" else rings
        parts = [np.array(ring) for polygon in polygons for ring in polygon]
        areas = [(p[:-1, 0] * p[1:, 1] - p[1:, 0] * p[:-1, 1]).sum() / 2 for p in parts]  # holes turn the other way
        assert float(row["area_um2"]) == pytest.approx(abs(sum(areas)) * 0.25**2, rel=1e-3)
        measured = feature["properties"]["measurements"]  # what QuPath shows
        assert measured == {"area": int(row["area"].split(".")[0]), "area_um2": pytest.approx(float(row["area_um2"]))}
        corners = np.concatenate(parts) * 0.25
        assert float(row["bbox-0"]) * 0.4 == pytest.approx(corners[:, 1].min(), abs=1e-2)
        assert corners[:, 1].min() < float(row["centroid-0_um"]) + 0.2 < corners[:, 1].max()
        assert 0 <= float(row["intensity_max-0"]) < 150  # violet


def test_the_command_segments_a_folder_of_slides(
    slide: Path, image: np.ndarray, violet: object, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "a.svs").write_bytes(slide.read_bytes())
    ome(folder / "b.ome.tif", image, 0.25)
    aperio(folder / "c.svs", image, mpp=None)
    command = ["predict", str(model), str(folder), "--out", str(out), "--tile", "128", "--mpp", "0.5"]
    command += ["--write", "geojson,labels", "--json"]
    assert main(command) == 1
    lines = {Path(line["image"]).name: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert "give --level" in lines["c.svs"]["error"]
    assert "or --mpp-stored" in lines["c.svs"]["error"]
    assert lines["a.svs"]["objects"] > 20
    assert 0.4 < lines["a.svs"]["background"] < 0.8
    assert lines["a.svs"]["mask"] == "a.tif"
    assert (tifffile.imread(out / "a.tif") == tifffile.imread(out / "b.ome.tif")).mean() > 0.99  # of another level
    features = json.loads((out / "geojson" / "a.geojson").read_text(encoding="utf-8"))["features"]
    assert len(features) == lines["a.svs"]["objects"] == tifffile.imread(out / "labels" / "a.tif").max()
    assert main([*command[:-3], "--write", "geojson,labels"]) == 1
    assert "2 there already, 1 failed" in capsys.readouterr().out
    assert main([*command, "--background", "keep"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert main(["predict", str(model), str(slide), "--out", str(tmp_path / "other"), "--level", "1"]) == 0
    assert re.search(r"a\.svs: [45]\d% is not tissue and is skipped", capsys.readouterr().err)


@pytest.mark.parametrize("asked", [["--mpp", "5000"], ["--mpp", "1", "--level", "1"]])
def test_what_is_wrong_for_all_slides_names_none(asked: list[str], model: Path, slide: Path, capsys: Any) -> None:
    assert main(["predict", str(model), str(slide), *asked]) == 2
    said = capsys.readouterr().err
    assert re.match("unetzoo: slides cannot be read with these settings: (--mpp 5000|mpp and level)", said)


@pytest.mark.parametrize("outline", [False, True])
def test_the_overlay_is_a_small_copy_of_slide_and_mask(
    outline: bool, slide: Path, image: np.ndarray, violet: object, model: Path, tmp_path: Path, capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Half of the mask's size, of level 1 and not of level 0: the same by Pillow, and by slices of the mask."""
    monkeypatch.setattr(overlay_by_rows, "SIDE", 250)
    read: list[int] = []
    window = TiffLevels.window
    monkeypatch.setattr(TiffLevels, "window", lambda self, k, *a: read.append(k) or window(self, k, *a))
    out = tmp_path / "out"
    command = ["predict", str(model), str(slide), "--out", str(out), "--mpp", "0.5", "--tile", "128"]
    command += ["--overlay", "outline" if outline else "filled"]
    assert main(command) == 0
    assert "a.svs: a pixel of the overlay is 2.02 × 2.02 of the mask, 1.01 µm" in capsys.readouterr().err
    assert read[-1] == 1
    with Image.open(out / "overlays" / "a.png") as file:
        assert file.info["Description"] == "1 pixel is 2.02 × 2.02 of the mask, 1.01 µm"
        shown = np.asarray(file).astype(int)
    assert shown.shape == (173, 250, 3)
    plain = np.asarray(Image.fromarray(smaller(image, 4)).resize((250, 173), Image.Resampling.BILINEAR)).astype(int)
    mask = tifffile.imread(out / "a.tif")
    y, x = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip((173, 250), mask.shape, strict=True))
    small = mask[y][:, x] > 0
    assert 200 < small.sum() < 9000
    assert np.abs(shown - plain)[~small].max() <= 1
    beside = np.pad(~small, 1)
    rim = small & np.logical_or.reduce([beside[a : a + 173, b : b + 250] for a in range(3) for b in range(3)])
    colour = np.array([0xE6, 0x19, 0x4B])
    assert np.abs(shown - colour)[rim].max() <= 1
    inside = small & ~rim
    assert inside.any()
    assert np.abs(shown - (plain if outline else (plain + colour) / 2))[inside].max() <= 2
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "there already"


def test_an_overlay_of_16_bits_shows_what_was_measured(tmp_path: Path, violet: object) -> None:
    """Channels, no levels, and nodata, which has the least value elsewhere and not the type's."""
    values = np.random.default_rng(0).integers(2000, 3000, (1, 90, 120)).astype(np.uint16)
    values[0, :30] = 65535
    tifffile.imwrite(tmp_path / "a.tif", values[0], metadata=None, extratags=[(42113, 2, None, "65535", True)])
    with StoredRows(tmp_path / "a.tif") as rows:
        small = rows.small(30, 40)
    expected = np.where(values[0] == 65535, values[0, 30:].min(), values[0]).astype(np.float64)
    reference = F.interpolate(torch.from_numpy(expected)[None, None], size=(30, 40), mode="bilinear", antialias=True)
    assert small.dtype == torch.uint16
    assert float((small.double() - reference[0]).abs().max()) <= 0.6


def test_what_is_asked_of_slides_is_said_at_once(model: Path, slide: Path, tmp_path: Path, capsys: Any) -> None:
    command = ["predict", str(model), str(slide), "--out", str(tmp_path / "out")]
    assert main([*command, "--mpp", "0"]) == 2
    assert "--mpp 0" in capsys.readouterr().err
    for option in (["--probabilities"], ["--write", "coco"], ["--holes", "all"]):
        assert main([*command, "--mpp", "0.5", *option]) == 1
        assert f"without {option[-1].strip('-').replace('all', 'holes')}" in capsys.readouterr().err
        assert not (tmp_path / "out" / "a.tif").exists()
    assert main(command) == 1
    assert "Give --mpp" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["stopped", pytest.param("killed", marks=pytest.mark.slow)])
def test_resumed_it_writes_the_same_bytes(
    how: str, slide: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    command = ["predict", str(model), str(slide), "--tile", "64", "--mpp", "0.45", "--write", "geojson,labels"]
    command += ["--overlay", "--out"]
    if how == "killed":
        code = (
            "import os, signal, sys\nfrom unetzoo.cli import main\nfrom unetzoo.prediction.partial import PartialMask\n"
            "put = PartialMask.put\n"
            "def die(self, *args, **more):\n    put(self, *args, **more)\n"
            "    if self.done > 100: os.kill(os.getpid(), signal.SIGKILL)\n"
            "PartialMask.put = die\nmain(sys.argv[1:])"
        )
        killed = subprocess.run([sys.executable, "-c", code, *command, str(tmp_path / "a")], check=False)
        assert killed.returncode == -signal.SIGKILL
    else:
        put = PartialMask.put

        def stop(self: PartialMask, *args: Any, **more: Any) -> None:
            put(self, *args, **more)
            if self.done > 100:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(PartialMask, "put", stop)
            assert main([*command, str(tmp_path / "a")]) == 130
    note = json.loads((tmp_path / "a" / ".a.tif.partial" / "note.json").read_text(encoding="utf-8"))
    assert 100 < note["rows"] < 300
    capsys.readouterr()
    assert main([*command, str(tmp_path / "a")]) == 0
    assert f"a.tif: continues at row {note['rows']} of " in capsys.readouterr().err
    assert main([*command, str(tmp_path / "b")]) == 0
    for name in ("a.tif", "labels/a.tif", "geojson/a.geojson", "overlays/a.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len(json.loads((tmp_path / "a" / "geojson" / "a.geojson").read_text(encoding="utf-8"))["features"]) > 1


# Masks


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_a_mask_is_a_pyramid_to_other_readers(
    slide: Path, image: np.ndarray, violet: object, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By tifffile, OpenSlide and GDAL: levels of nearest pixels, and µm a pixel; and a mask as any to this package."""
    openslide = pytest.importorskip("openslide", reason="which reads the mask, too")
    rasterio = pytest.importorskip("rasterio", reason="and so does GDAL")
    monkeypatch.setattr(by_rows, "TILE", 64)
    predictor, target = Predictor(model, tile=128), tmp_path / "m.tif"
    predictor.write_mask(Slide(slide, mpp=0.4), target)
    whole = predictor(Slide(slide, mpp=0.4)).mask.numpy() * 255
    height, width = whole.shape
    assert (height, width) == (438, 631)
    expected = [whole]
    for step in (4, 16):
        columns = np.arange(width // step) * step + step // 2
        expected.append(whole[np.arange(height // step) * step + step // 2][:, columns])
    with tifffile.TiffFile(target) as file:
        levels = file.series[0].levels
        assert [level.asarray().tolist() for level in levels] == [level.tolist() for level in expected]
        assert [page.tags["NewSubfileType"].value for page in file.pages] == [0, 1, 1]
        for page in file.pages:
            above, below = page.tags["XResolution"].value
            assert 1e4 * below / above * page.imagewidth == pytest.approx(0.4 * width)
    with openslide.OpenSlide(target) as opened:
        assert opened.level_dimensions == tuple(level.shape[::-1] for level in expected)
        assert [float(opened.properties[f"openslide.mpp-{axis}"]) for axis in "xy"] == pytest.approx([0.4, 0.4])
        for k, level in enumerate(expected):
            found = np.asarray(opened.read_region((0, 0), k, level.shape[::-1]))
            assert np.array_equal(found[..., 0], level)
            assert np.array_equal(found[..., 2], level)
    with rasterio.open(target) as opened:
        assert opened.overviews(1) == [4, 16]
    assert np.array_equal(images.read_values(target)[0].numpy(), whole)
    assert levels_of(target) == ([(438, 631), (109, 157), (27, 39)], pytest.approx((0.4, 0.4)))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (512, 512), (513, 3), (7, 40_000), (100_001, 60_003)])
def test_levels_end_with_one_tile(height: int, width: int) -> None:
    steps = by_rows.steps_of(height, width)
    assert steps == [4**k for k in range(len(steps))]
    assert min(height, width) // steps[-1] >= 1
    assert max(height, width) / steps[-1] <= 512 or min(height, width) < 4 * steps[-1]
    assert len(steps) == 1 or max(height, width) // steps[-2] > 512


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_no_class_is_mixed_of_two(task: str, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_rows, "TILE", 64)
    torch.manual_seed(0)
    predictor = Predictor(unetzoo.create("unet", base_channels=4, num_classes=4, task=task), tile=128)
    predictor.write_mask(Slide(slide, mpp=1, background="keep"), tmp_path / "m.tif")
    whole, small = (tifffile.imread(tmp_path / "m.tif", level=k) for k in (0, 1))
    assert np.array_equal(small, whole[..., 2::4, 2::4][..., : small.shape[-2], : small.shape[-1]])
    assert len(np.unique(small)) > 1


def test_a_pyramid_that_was_cut_off_is_written_again(
    slide: Path, violet: object, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """In the last level, and in the tags before it: all of the mask itself is still there."""
    monkeypatch.setattr(by_rows, "TILE", 64)
    command = ["predict", str(model), str(slide), "--tile", "128", "--mpp", "0.5", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    target = tmp_path / "out" / "a.tif"
    whole = target.read_bytes()
    with tifffile.TiffFile(target) as file:
        last = file.pages[-1]
        cuts = [len(whole) - 1, last.offset + 20]
    for cut in cuts:
        target.write_bytes(whole[:cut])
        assert main(command) == 0
        assert "1 segmented" in capsys.readouterr().out
        assert target.read_bytes() == whole
    assert main(command) == 0
    assert "1 there already" in capsys.readouterr().out


# Hostile and damaged files


@pytest.mark.parametrize(
    ("tag", "value", "why"),
    [
        (256, 2**31, "pixels: sides can have 1 to 1,000,000"),
        (257, 900_000, "cut off"),
        (322, 2**30, "parts of 1073741824×256"),
        (323, 2**24, "parts of 256×16777216"),
        (322, 0, "tiles of 0×256"),
        (324, 2**31, "cut off"),
    ],
)
def test_no_header_is_believed(tag: int, value: int, why: str, slide: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    path.write_bytes(slide.read_bytes())
    with tifffile.TiffFile(path) as file:
        found = file.pages[0].tags[tag]
        place = found.valueoffset if found.count > 1 else found.offset + 8
        kind = found.offset + 2
    with path.open("r+b") as stream:
        stream.seek(kind)
        stream.write((4).to_bytes(2, "little"))
        stream.seek(place)
        stream.write(value.to_bytes(4, "little"))
    with pytest.raises(InputError, match=why):
        SlideRows(Slide(path, level=0))


def test_sub_pages_may_lead_anywhere(image: np.ndarray, tmp_path: Path) -> None:
    path = ome(tmp_path / "a.tif", image[:200, :200])
    with tifffile.TiffFile(path) as file:
        found = file.pages[0].tags[330]
        own = file.pages[0].offset
    with path.open("r+b") as stream:
        stream.seek(found.valueoffset)
        for offset in (own, 2**31):
            stream.write(offset.to_bytes(4 if found.dtype in (4, 13) else 8, "little"))
    assert levels_of(path)[0] == [(200, 200)]


# OpenSlide


def test_mirax_by_openslide(image: np.ndarray, violet: object, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="MIRAX needs the extra slides")
    path = mirax(tmp_path / "m.mrxs", image)
    found = read(Slide(path, level=1))
    assert np.array_equal(found.permute(1, 2, 0).numpy()[:350, :505], smaller(image, 2))
    assert apart(read(Slide(path, mpp=0.75))[:, :231, :331], reference(smaller(image, 2), 1.5)) <= 0.5 + 1e-4
    predictor, out = Predictor(model, tile=128), tmp_path / "out"
    assert main(["predict", str(model), str(path), "--out", str(out), "--mpp", "0.5", "--tile", "128"]) == 0
    as_tiff = predictor(Slide(ome(tmp_path / "a.ome.tif", image, 0.25), mpp=0.5))
    assert np.array_equal(tifffile.imread(out / "m.tif")[:350, :505], as_tiff.mask.numpy() * 255)
    with SlideRows(Slide(path, mpp=0.5)) as rows:
        (path.with_suffix("") / "Data0000.dat").write_bytes(b"another")
        with pytest.raises(InputError, match="was changed while it was read"):
            rows.check_unchanged()
    with pytest.raises(InputError, match="OpenSlide says"):
        SlideRows(Slide(path, level=0)).rows(0, 10)


def test_hamamatsu_by_openslide(image: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="NDPI needs the extra slides")
    path = hamamatsu(tmp_path / "h.ndpi", image)
    assert levels_of(path)[1] == pytest.approx((0.23, 0.23))
    found = read(Slide(path, level=0)).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(found - image).mean() < 3  # JPEG


def test_leica_by_openslide_is_where_the_slide_lies(image: np.ndarray, tmp_path: Path) -> None:
    """On the glass, of 1310 × 900 pixels, it begins at column 120 and row 80: what is read is the slide."""
    openslide = pytest.importorskip("openslide", reason="SCN needs the extra slides")
    path = leica(tmp_path / "l.scn", image)
    with openslide.OpenSlide(path) as opened:
        assert opened.dimensions == (1310, 900)
    sizes, mpp = levels_of(path)
    assert sizes[:2] == [(700, 1010), (350, 505)]
    assert mpp == pytest.approx((0.5, 0.5))
    for level in (0, 1):  # the third does not divide, and OpenSlide puts it between pixels
        found = read(Slide(path, level=level)).permute(1, 2, 0).numpy()
        assert np.array_equal(found, smaller(image, 2**level))


def test_without_openslide_it_is_said_which_extra_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mrxs").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(ConfigError, match=r"pip install 'unetzoo\[slides\]'"):
        SlideRows(Slide(tmp_path / "a.mrxs", mpp=0.5))


# Memory


STUB = """
import resource, sys
from unetzoo.cli import main
from unetzoo.prediction import by_rows, overlay_by_rows
from unetzoo.prediction.jobs import find_jobs
from unetzoo.prediction.networks import Networks

def violet(self, stored, height, width, levels):
    return (stored[:, 0] < 150).float()[:, None, :height, :width]

Networks.__call__ = violet
status = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(status)
"""


def large(path: Path, side: int) -> Path:
    """Write a slide of two tiles over and over, by blocks of 8192 pixels with tissue or without, on all levels."""
    imagecodecs = pytest.importorskip("imagecodecs", reason="which packs its tiles")
    tile = stained(512, 512)
    kinds = [imagecodecs.jpeg_encode(each, colorspace="rgb", outcolorspace="rgb") for each in (tile, tile * 0 + 243)]
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for step in (1, 4, 16):
            across = -(-(side // step) // 512)
            writer.write(
                (kinds[(k // across * step // 16 + k % across * step // 16) % 4 > 0] for k in range(across**2)),
                shape=(side // step, side // step, 3),
                dtype="u1",
                tile=(512, 512),
                photometric="rgb",
                compression="jpeg",
                description="Aperio x|MPP = 0.25",
                metadata=None,
            )
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="getrusage gives the peak of memory in KiB on Linux alone")
def test_memory_does_not_grow_with_the_slide(model: Path, tmp_path: Path) -> None:
    """Slides of 10,000 and of 40,000 pixels a side, with all that is written of them: some minutes."""
    peaks = {}
    for side in (10_000, 40_000):
        path, out, begun = large(tmp_path / f"{side}.svs", side), tmp_path / f"out{side}", time.time()
        command = ["predict", str(model), str(path), "--tile", "256", "--mpp", "0.5", "--write", "geojson,labels"]
        command += ["--overlay", "--table", str(tmp_path / "t.csv")]
        code = [sys.executable, "-c", STUB, *command, "--out", str(out)]
        done = subprocess.run(code, check=True, capture_output=True, text=True)
        peaks[side] = int(done.stdout.split()[-1])
        print(f"{side}: peak {peaks[side] / 2**20:.0f} MiB, {time.time() - begun:.0f} s; {done.stderr.strip()}")
        with tifffile.TiffFile(out / f"{side}.tif") as file:
            assert file.pages[0].shape == (side // 2, side // 2)
    assert peaks[40_000] < 1.3 * peaks[10_000]


def test_the_size_in_the_file_comes_before_the_one_that_is_given(
    slide: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Level 0 has 0.25 µm by its file, whatever is given; only a difference is worth a warning."""
    with SlideRows(Slide(slide, mpp=0.5)) as rows:
        size = rows.height, rows.width
    for given, warnings in ((0.25, 0), (1.0, 1)):
        caplog.clear()
        with SlideRows(Slide(slide, mpp=0.5, mpp_stored=given)) as rows:
            assert (rows.height, rows.width, rows.mpp) == (*size, (0.5, 0.5))
        assert [record.getMessage().startswith("a.svs is ") for record in caplog.records] == [True] * warnings
    assert "0.25 µm, not of mpp_stored=1:" in caplog.text


def test_a_resolution_for_images_that_are_no_slides(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused at once, with what was meant."""
    for k in range(3):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / f"{k}.png")
    command = ["predict", str(model), str(tmp_path), "--out", str(tmp_path / "out")]
    for more, fix in (
        (["--mpp", "0.5"], "2 others are no slides, .*give --mpp-stored 0.5 instead"),
        (["--mpp", "0.5", "--mpp-stored", "0.3"], "give --mpp-stored 0.3 instead"),
        (["--level", "0"], "leave --level 0 out"),
    ):
        assert main([*command, *more]) == 2
        assert re.search(fix, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="no slide, and give mpp_stored=…"):
        SlideRows(Slide(tmp_path / "0.png", mpp=0.5))


def test_nanometres_for_micrometres_are_refused(tmp_path: Path, capsys: Any) -> None:
    """A mask of 2 × 2 pixels was written."""
    for mpp in (500, 50.5):
        with pytest.raises(ConfigError, match=rf"mpp={mpp}: give µm per pixel, from 0.001 to 50; 20× is about 0.5"):
            Slide("a.svs", mpp=mpp)
    path = aperio(tmp_path / "a.svs", stained(400, 500), mpp="0.2500")
    unetzoo.save(unetzoo.create("unet", base_channels=4), tmp_path / "m.safetensors")
    command = ["predict", str(tmp_path / "m.safetensors"), str(path), "--out", str(tmp_path / "o"), "--tile", "64"]
    assert main([*command, "--mpp", "7"]) == 1
    assert "with --mpp 7.0 the image would have 18×14 pixels; give µm per pixel" in capsys.readouterr().err
    assert main([*command, "--mpp", "4"]) == 0
    capsys.readouterr()
    assert main([*command, "--mpp", "2", "--smallest", "9"]) == 2
    said = capsys.readouterr().err
    assert "--mpp 4 there, --mpp 2 now" in said
    assert "--smallest 0 there, --smallest 9 now" in said
    assert "{" not in said
    assert "level" not in said
