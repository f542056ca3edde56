"""Objects of images beyond memory: those of the image in memory."""

from __future__ import annotations

import csv
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.measure import regionprops_table

import unetzoo
from unetzoo import ConfigError, Predictor
from unetzoo.cli import main
from unetzoo.objects import instances
from unetzoo.objects.table import INTENSITIES, PROPERTIES
from unetzoo.prediction import by_rows, objects_by_rows, outlines_by_rows, table_by_rows
from unetzoo.prediction.inputs import as_image
from unetzoo.prediction.partial import PartialMask

tifffile = pytest.importorskip("tifffile", reason="images by rows need tifffile")
pytest.importorskip("zarr", reason="and zarr")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have rows come by 16, so that objects lie over many of them."""
    monkeypatch.setattr(objects_by_rows, "TILE", 16)


def network(task: str, classes: int) -> unetzoo.SegmentationModel:
    """Return a network that finds each class in about half of the coarse noise, and edges in some of it."""
    torch.manual_seed(0)
    model = unetzoo.create("unet", base_channels=4, num_classes=classes, task=task).eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(coarse(96, 96)).permute(2, 0, 1)[None] / 255)
        model.head.conv.bias.sub_(logits.mean((0, 2, 3)))
        if task == "instances":  # edges are seldom
            model.head.conv.bias[-1] -= logits[:, -1].std()
        for parameter in (model.head.conv.weight, model.head.conv.bias):
            parameter.mul_(8)
    return model


def coarse(height: int, width: int) -> np.ndarray:
    """Return noise whose objects are larger than a pixel."""
    noise = np.random.default_rng(3).integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), np.uint8)
    return np.array(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def noisy(path: Path) -> np.ndarray:
    """Write an image of coarse noise."""
    image = coarse(150, 90)
    tifffile.imwrite(path, image, photometric="rgb", metadata=None)
    return image


@pytest.mark.parametrize(
    ("task", "classes"),
    [("binary", 1), ("multiclass", 3), ("multilabel", 2), ("instances", 1), ("instances", 2)],
)
@pytest.mark.parametrize("split", [0, 0.5])
def test_label_images_are_those_of_the_image_in_memory(task: str, classes: int, split: float, tmp_path: Path) -> None:
    predictor = Predictor(network(task, classes), tile=64, split=split, smallest=4)
    image = noisy(tmp_path / "a.tif")
    predictor.write_mask(tmp_path / "a.tif", tmp_path / "rows" / "m.tif", labels=tmp_path / "rows" / "l.tif")
    found = predictor(image)
    found.save_annotations(tmp_path / "whole" / "l.tif", "labels")
    assert len(found.instances()) > 5
    if task == "instances" and split:
        without = instances(found.mask, predictor.config.pixel_task, classes, probabilities=found.probabilities)
        assert len(found.instances()) > len(without)
    grid, boxes = predictor.grid(as_image(image)), found.instances().boxes
    corners = itertools.product(grid.across.starts[1:], grid.down.starts[1:])
    over = [((boxes[:, :2] < x) & (boxes[:, 2:] > x)).all(1) for x in map(torch.tensor, corners)]
    assert torch.stack(over).any()  # an object of four tiles
    names = sorted(path.relative_to(tmp_path / "whole").as_posix() for path in (tmp_path / "whole").rglob("*.tif"))
    assert names == sorted(
        path.relative_to(tmp_path / "rows").as_posix() for path in (tmp_path / "rows").rglob("l.tif")
    )
    for name in names:
        by_row, whole = (tifffile.imread(tmp_path / folder / name) for folder in ("rows", "whole"))
        assert by_row.dtype == whole.dtype
        assert (by_row == whole).all()
    mask = tifffile.imread(tmp_path / "rows" / "m.tif")
    assert (mask == found.mask.numpy() * (1 if task == "multiclass" else 255)).all()
    assert not [path for path in (tmp_path / "rows").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("task", "classes", "split"),
    [
        ("instances", 2, 0.5),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("binary", 1, 0.5), ("multiclass", 3, 0))),
        pytest.param("multilabel", 2, 0, marks=pytest.mark.slow),
    ],
)
def test_tables_are_scikit_image_s_of_the_label_image(
    task: str, classes: int, split: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of tall objects too; made with the mask or later, and again when the mask is there already."""
    for name, value in (("BAND", 16), ("TALL", 20)):
        monkeypatch.setattr(outlines_by_rows, name, value)
    monkeypatch.setattr(table_by_rows, "TILE", 16)
    image = coarse(100, 70)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", metadata=None)
    unetzoo.save(network(task, classes), tmp_path / "m.safetensors")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    command = ["predict", str(tmp_path / "m.safetensors"), str(tmp_path / "a.tif"), "--tile", "64"]
    command += ["--split", str(split), "--out", str(tmp_path / "out"), "--write", "labels"]
    assert main(command) == 0
    written = []
    for _ in range(2):
        assert main([*command, "--table", str(tmp_path / "a.csv")]) == 0
        written.append((tmp_path / "a.csv").read_bytes())
    assert written[0] == written[1]
    rows = list(csv.DictReader(written[0].decode().splitlines()))
    before = 0
    for path in sorted((tmp_path / "out" / "labels").rglob("*.tif")):
        expected = regionprops_table(tifffile.imread(path), image, properties=(*PROPERTIES, *INTENSITIES))
        count = len(expected["label"])
        kind = path.parent.name if task != "binary" else "foreground"
        found = sorted((row for row in rows if row["class"] == kind), key=lambda row: int(row["label"]))
        assert count == len(found) > 5
        for name in expected.keys() - {"label"}:
            values = [float(row[name]) for row in found]
            assert values == pytest.approx(expected[name].tolist(), rel=1e-9, abs=1e-9), name
        if task in ("binary", "multilabel", "instances"):
            assert [int(row["label"]) for row in found] == list(range(before + 1, before + count + 1))
            before += count
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.endswith((".objects", ".partial"))]


@pytest.mark.parametrize(
    ("task", "classes", "split"),
    [("binary", 1, 0.5), ("multiclass", 3, 0), ("multilabel", 2, 0), ("instances", 2, 0.5)],
)
def test_outlines_are_those_of_the_image_in_memory(
    task: str, classes: int, split: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of tall objects as well, which are traced by themselves, and of such that hang together by corners alone."""
    monkeypatch.setattr(outlines_by_rows, "BAND", 16)
    monkeypatch.setattr(outlines_by_rows, "TALL", 20)
    predictor = Predictor(network(task, classes), tile=64, split=split)
    image = noisy(tmp_path / "a.tif")
    predictor.write_mask(tmp_path / "a.tif", tmp_path / "m.tif", geojson=tmp_path / "a.geojson")
    written = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
    found = predictor(image)
    expected = found.geojson()
    for feature in expected["features"]:
        del feature["properties"]["score"], feature["properties"]["measurements"]["score"]
    written["features"].sort(key=lambda feature: feature["properties"]["id"])
    assert written == expected
    heights = found.instances().boxes[:, 3] - found.instances().boxes[:, 1]
    assert heights.min() < 16 < 32 < heights.max()


def test_without_scikit_image_nothing_is_begun_of_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that tells objects apart gives masks without it; label images take as long as these."""
    noisy(tmp_path / "a.tif")
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    predictor = Predictor(network("instances", 1), tile=64)
    with pytest.raises(ConfigError, match=r"pip install 'unetzoo\[objects\]'"):
        predictor.write_mask(tmp_path / "a.tif", tmp_path / "m.tif", labels=tmp_path / "l.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    predictor.write_mask(tmp_path / "a.tif", tmp_path / "m.tif")
    assert set(np.unique(tifffile.imread(tmp_path / "m.tif"))) == {0, 255}


@pytest.mark.parametrize("task", ["binary", "instances"])
def test_the_command_writes_label_images_and_counts(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unetzoo.save(network(task, 1), tmp_path / "m.safetensors")
    (tmp_path / "in").mkdir()
    image = noisy(tmp_path / "in" / "a.tif")
    expected = Predictor(tmp_path / "m.safetensors", tile=64, split=0.5, smallest=4)(image).instances()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    out = tmp_path / "out"
    command = ["predict", str(tmp_path / "m.safetensors"), str(tmp_path / "in"), "--out", str(out), "--tile", "64"]
    command += ["--split", "0.5", "--smallest", "4"]
    assert main([*command, "--write", "labels", "--json"]) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (line["status"], line["objects"]) == ("segmented", len(expected))
    with tifffile.TiffFile(out / "labels" / "a.tif") as file:
        assert file.pages[0].is_tiled
        labels = file.asarray()
    assert (labels == expected.labels.numpy()).all()
    assert main([*command, "--write", "labels"]) == 0
    assert "1 there already" in capsys.readouterr().out
    labels[:9] = 0
    tifffile.imwrite(out / "labels" / "a.tif", labels)  # corrected by hand
    (out / "a.tif").unlink()
    assert main([*command, "--write", "labels"]) == 1
    assert "corrected by hand" in capsys.readouterr().err
    assert main([*command, "--write", "coco"]) == 1
    assert re.search(r"by rows, without coco", capsys.readouterr().err)


@pytest.mark.parametrize("task", ["binary", "instances"])
@pytest.mark.parametrize("stop", ["clean", "numbers", "labels"])
def test_a_kill_while_objects_are_written_changes_nothing(
    stop: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of the work on objects is done anew, from rows of which some are cleaned already."""
    predictor = Predictor(network(task, 1), tile=64, split=0.5, smallest=9)
    noisy(tmp_path / "a.tif")
    predictor.write_mask(tmp_path / "a.tif", tmp_path / "m.tif", labels=tmp_path / "l.tif")
    place = {
        "clean": (PartialMask, "replace"), "numbers": (objects_by_rows, "_numbered"), "labels": (by_rows, "write"),
    }[stop]  # fmt: skip
    for count in range(3 if stop == "clean" else 1):
        real, calls = getattr(*place), itertools.count()

        def killed(*given: object, real=real, calls=calls, count=count) -> object:
            if next(calls) == count:
                raise KeyboardInterrupt
            return real(*given)

        target = tmp_path / f"{stop}{count}"
        with monkeypatch.context() as patch:
            patch.setattr(*place, killed)
            with pytest.raises(KeyboardInterrupt):
                predictor.write_mask(tmp_path / "a.tif", target / "m.tif", labels=target / "l.tif")
        assert not (target / "m.tif").exists()
        predictor.write_mask(tmp_path / "a.tif", target / "m.tif", labels=target / "l.tif")
        for name in ("m.tif", "l.tif"):
            assert (target / name).read_bytes() == (tmp_path / name).read_bytes()


def test_rows_without_edges_are_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a version left which kept the mask alone: objects of its rows would not come apart."""
    predictor, put = Predictor(network("instances", 1), tile=64, split=0.5), PartialMask.put
    noisy(tmp_path / "a.tif")
    names, done = ("m.tif", "l.tif"), []

    def counted(self: PartialMask, part: torch.Tensor, **options: bool) -> None:
        put(self, part, **options)
        done.append(part.shape[0])
        if len(done) == 1:
            raise KeyboardInterrupt

    def write(folder: Path) -> None:
        predictor.write_mask(tmp_path / "a.tif", folder / names[0], labels=folder / names[1])

    write(tmp_path / "new")
    monkeypatch.setattr(PartialMask, "put", counted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "old")
    folder = tmp_path / "old" / ".m.tif.partial"
    note = json.loads((folder / "note.json").read_text(encoding="utf-8"))
    del note["settings"]["edge"]
    (folder / "note.json").write_text(json.dumps(note), encoding="utf-8")
    rows = np.fromfile(folder / "rows", np.uint8)
    assert by_rows.EDGE in rows
    np.where(rows == by_rows.EDGE, 255, rows).astype(np.uint8).tofile(folder / "rows")
    write(tmp_path / "old")
    assert sum(done[1:]) == 150
    for name in names:
        assert (tmp_path / "old" / name).read_bytes() == (tmp_path / "new" / name).read_bytes()
