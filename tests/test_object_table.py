"""Tables of objects, against scikit-image, closed forms, and the pixels themselves."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import ROOT
from drawn import white
from PIL import Image
from skimage.measure import regionprops_table

import unetzoo
from unetzoo import ConfigError, InputError
from unetzoo.cli import main
from unetzoo.evaluation import evaluate
from unetzoo.objects import columns, instances, table
from unetzoo.objects.columns import MICRONS, NAMED, SHAPES, columns_of
from unetzoo.objects.table import INTENSITIES, PROPERTIES, table_file
from unetzoo.prediction import Predictor


def scene(seed: int) -> np.ndarray:
    """Return an image (24, 40, 3) with three boxes of different colours on black."""
    rng = np.random.default_rng(seed)
    image = np.zeros((24, 40, 3), np.uint8)
    for left in (2, 14, 27):
        top, bottom = rng.integers(1, 8), rng.integers(12, 23)
        image[top:bottom, left : left + rng.integers(5, 10)] = rng.integers(60, 250, 3)
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cells").mkdir()
    for k in range(3):
        Image.fromarray(scene(k)).save(tmp_path / "cells" / f"{k}.png")
    unetzoo.save(white(class_names=["cell"]), tmp_path / "m.safetensors")
    return tmp_path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def predict(folder: Path, *more: str) -> int:
    command = ["predict", str(folder / "m.safetensors"), str(folder / "cells"), "--out", str(folder / "masks")]
    return main([*command, "--table", str(folder / "objects.csv"), *more])


def test_columns_are_those_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    mask = torch.from_numpy((rng.random((30, 40)) < 0.4).astype(np.uint8))
    image = torch.from_numpy(rng.integers(0, 60000, (2, 30, 40)).astype(np.uint16))
    found = instances(mask, "binary", 1)
    columns = table(found, image, class_names=["cell"])
    expected = regionprops_table(
        found.labels.numpy(), image.numpy().transpose(1, 2, 0), properties=(*PROPERTIES, *INTENSITIES)
    )
    assert list(columns) == ["label", "class", *[name for name in expected if name != "label"]]
    assert set(columns["class"]) == {"cell"}
    for name, values in expected.items():
        assert np.array_equal(columns[name], values), name
    centroids = np.stack([columns["centroid-1"], columns["centroid-0"]], 1)
    assert centroids + 0.5 == pytest.approx(found.centroids.numpy())
    boxes = np.stack([columns[f"bbox-{k}"] for k in (1, 0, 3, 2)], 1)
    assert (boxes == found.boxes.numpy()).all()
    assert "intensity_mean-0" not in table(found)


def test_an_ellipse_in_closed_form() -> None:
    y, x = torch.meshgrid(torch.arange(200), torch.arange(200), indexing="ij")
    mask = ((x - 100) / 80) ** 2 + ((y - 90) / 40) ** 2 < 1
    columns = {name: values[0] for name, values in table(instances(mask, "binary", 1)).items()}
    assert (columns["centroid-0"], columns["centroid-1"]) == pytest.approx((90, 100))
    assert columns["area"] == pytest.approx(np.pi * 80 * 40, rel=1e-2)
    assert (columns["axis_major_length"], columns["axis_minor_length"]) == pytest.approx((160, 80), rel=1e-2)
    assert columns["eccentricity"] == pytest.approx(3**0.5 / 2, rel=1e-2)
    assert abs(columns["orientation"]) == pytest.approx(np.pi / 2, abs=1e-2)  # along the columns
    assert columns["solidity"] == pytest.approx(1, abs=0.02)


def test_microns_in_closed_form() -> None:
    """An ellipse of 80 × 40 µm, and a box, on pixels that are no squares and lie in a larger image."""
    y, x = torch.meshgrid(torch.arange(200), torch.arange(200), indexing="ij")
    mask = ((x - 100) / 80) ** 2 + ((y - 90) / 40) ** 2 < 1
    found = {name: values[0] for name, values in table(instances(mask, "binary", 1), mpp=(0.5, 0.5)).items()}
    assert found["area_um2"] == pytest.approx(np.pi * 40 * 20, rel=1e-2)
    assert (found["axis_major_length_um"], found["axis_minor_length_um"]) == pytest.approx((80, 40), rel=1e-2)
    assert found["feret_diameter_max_um"] == pytest.approx(80, rel=1e-2)
    assert found["equivalent_diameter_area_um"] == pytest.approx(2 * (40 * 20) ** 0.5, rel=1e-2)
    a, b = 40, 20
    around = np.pi * (3 * (a + b) - ((3 * a + b) * (a + 3 * b)) ** 0.5)  # Ramanujan
    assert found["perimeter_um"] == pytest.approx(around, rel=5e-2)
    assert (found["centroid-0_um"], found["centroid-1_um"]) == pytest.approx((45, 50))
    assert found["area"] == 4 * found["area_um2"]
    box = torch.zeros(50, 90, dtype=torch.uint8)
    box[10:30, 20:80] = 1
    found = table(instances(box, "binary", 1), mpp=(0.5, 0.25), corner=(100, 200))
    (area,), (centre,), (longest,) = (found[k] for k in ("area_um2", "centroid-1_um", "feret_diameter_max_um"))
    assert area == 20 * 60 * 0.5 * 0.25
    assert centre == pytest.approx((200 + 20 + 29.5) * 0.25)
    assert longest == pytest.approx(np.hypot(20 * 0.5, 60 * 0.25), rel=0.03)
    assert found["axis_major_length_um"] == pytest.approx(4 * (60**2 / 12) ** 0.5 * 0.25, rel=1e-3)
    assert np.isnan(found["perimeter_um"]).all()
    assert [found[f"bbox-{k}"][0] for k in range(4)] == [110, 220, 130, 280]


@pytest.mark.parametrize("by_rows", [False, True])
def test_masks_and_label_images_say_the_microns_of_the_image(
    by_rows: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a µm across and a quarter down are 20,000 and 40,000 pixels a centimetre."""
    for inner in (folder / "cells").iterdir():
        inner.unlink()
    where = {"resolution": (20_000, 40_000), "resolutionunit": "CENTIMETER"}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 if by_rows else 10**6)
    command = ["predict", str(folder / "m.safetensors"), str(folder / "cells"), "--out", str(folder / "masks")]
    said = ["--mpp-stored", "2", "--overwrite"]
    for stated, more, (across, down) in (
        (where, [], (20_000, 40_000)),
        (where, said, (20_000, 40_000)),
        ({}, said, (5_000, 5_000)),
    ):
        tifffile.imwrite(folder / "cells" / "a.tif", scene(3), photometric="rgb", tile=(16, 16), **stated)
        assert main([*command, "--write", "labels", *more]) == 0
        for path in (folder / "masks" / "a.tif", folder / "masks" / "labels" / "a.tif"):
            with tifffile.TiffFile(path) as file:
                tags = file.pages.first.tags
                assert ("TileWidth" in tags) == by_rows
                found = [tags[name].value for name in ("XResolution", "YResolution")]
                assert [above / below for above, below in found] == [across, down]
                assert tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER


def test_microns_are_those_of_the_file_or_as_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An OME-TIFF says it, and is right; of the others nothing does, unless the command does."""
    cells = folder / "cells"
    said = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 500}
    said |= {"PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(cells / "3.ome.tif", scene(3), photometric="rgb", metadata=said)
    assert predict(folder) == 0
    rows = rows_of(folder / "objects.csv")
    assert list(rows[0]) == ["image", *(column.name for column in columns_of(3, microns=True))]
    for row in rows:
        known = row["image"].startswith("3")
        assert {row[column.name] == "" for column in MICRONS} == {not known}
        if known:
            assert float(row["area_um2"]) == float(row["area"]) / 4
    command = ["predict", str(folder / "m.safetensors"), str(cells), "--out", str(folder / "masks")]
    assert main([*command, "--table", str(folder / "objects.csv"), "--mpp-stored", "2"]) == 0
    rows = rows_of(folder / "objects.csv")
    for row in rows:
        assert float(row["perimeter_um"]) / float(row["perimeter"]) == (0.5 if row["image"].startswith("3") else 2)
    warning = r"^3\.ome\.tif is .* 0\.5 µm, not of --mpp-stored 2: what the file says is used"
    assert len(re.findall(warning, capsys.readouterr().err, re.MULTILINE)) == 1
    data = folder / "data"
    for name in ("images", "masks"):
        (data / name).mkdir(parents=True)
    (data / "images" / "3.tif").write_bytes((cells / "3.ome.tif").read_bytes())
    Image.fromarray(np.uint8(scene(3)[..., 0] > 0) * 255).save(data / "masks" / "3.png")
    evaluate(Predictor(white(class_names=["cell"])), data, table=folder / "judged.csv")
    assert [float(row["area_um2"]) * 4 for row in rows_of(folder / "judged.csv")] == [
        float(row["area"]) for row in rows if row["image"].startswith("3")
    ]
    capsys.readouterr()
    assert predict(folder, "--mpp-stored", "2", "--overwrite") == 0
    assert len(re.findall(warning, capsys.readouterr().err, re.MULTILINE)) == 1


def test_the_guide_describes_every_column() -> None:
    guide = (ROOT / "docs" / "prediction.md").read_text(encoding="utf-8")
    written = re.findall(
        r"^\| (`.*`[^|]*) \| ([^|]*)\| (.*) \|$", guide.partition("### A table of objects")[2], re.MULTILINE
    )
    expected = [(f"`{column.name}`", column.unit, column.said) for column in (*NAMED, *SHAPES)]
    expected += [
        (f"`{column.name}-0`, `{column.name}-1`, …", column.unit, column.said) for column in columns.INTENSITIES
    ]
    expected += [(f"`{column.name}`", column.unit, column.said) for column in MICRONS]
    assert [(name, unit.strip(), said) for name, unit, said in written[1 : len(expected) + 1]] == expected


def test_classes_of_each_task_have_their_names() -> None:
    many = instances(torch.tensor([[1, 1, 0, 2]]), "multiclass", 3)
    assert table(many)["class"].tolist() == ["class_1", "class_2"]
    layers = instances(torch.tensor([[[1, 1, 1, 0]], [[0, 1, 0, 1]]]), "multilabel", 2)
    columns = table(layers, torch.arange(4.0).reshape(1, 1, 4), class_names=["a", "b"])
    assert columns["label"].tolist() == [1, 2, 3]
    assert columns["class"].tolist() == ["a", "b", "b"]
    assert columns["intensity_mean-0"].tolist() == [1, 1, 3]
    nothing = table(instances(torch.zeros(3, 4, dtype=torch.uint8), "binary", 1), torch.zeros(1, 3, 4))
    assert {len(values) for values in nothing.values()} == {0}
    with pytest.raises(InputError, match="channels, 1, 4"):
        table(many, torch.zeros(1, 1, 5))
    with pytest.raises(ConfigError, match="class_names"):
        table(many, class_names=["a"])


def test_predict_writes_a_row_an_object(folder: Path) -> None:
    assert predict(folder) == 0
    rows = rows_of(folder / "objects.csv")
    assert [(row["image"], row["label"]) for row in rows] == [(f"{k}.png", str(n)) for k in range(3) for n in (1, 2, 3)]
    assert list(rows[0])[:5] == ["image", "label", "class", "area", "centroid-0"]
    for row in rows:
        image = scene(int(row["image"][0]))
        top, left, bottom, right = (int(row[f"bbox-{k}"]) for k in range(4))
        box = image[top:bottom, left:right]
        assert float(row["area"]) == (box[..., 0] > 0).sum() == box[..., 0].size
        means = [float(row[f"intensity_mean-{k}"]) for k in range(3)]
        assert means == pytest.approx(box.reshape(-1, 3).mean(0))
        assert row["class"] == "cell"


def test_what_is_there_already_is_in_the_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same table comes of one call, of one that goes on, and of one that has nothing to do."""
    predict(folder)
    whole = (folder / "objects.csv").read_bytes()
    (folder / "objects.csv").unlink()
    (folder / "masks" / "1.png").unlink()
    capsys.readouterr()
    assert predict(folder) == 0
    assert f"1 segmented, 2 there already; objects in {folder / 'objects.csv'}\n" in capsys.readouterr().out
    assert (folder / "objects.csv").read_bytes() == whole
    (folder / "objects.csv").write_text("anything", encoding="utf-8")
    assert predict(folder) == 0
    assert (folder / "objects.csv").read_bytes() == whole


def test_images_that_fail_are_left_out(folder: Path) -> None:
    (folder / "cells" / "1.png").write_bytes(b"none")
    assert predict(folder) == 1
    assert {row["image"] for row in rows_of(folder / "objects.csv")} == {"0.png", "2.png"}


def test_images_of_other_channels_have_a_set_a_channel(folder: Path) -> None:
    """Grey is one channel, however many a model is shown, and opacity none."""
    Image.fromarray(scene(0)[..., 0]).save(folder / "cells" / "0.png")
    Image.fromarray(scene(1)).convert("RGBA").save(folder / "cells" / "1.png")
    assert predict(folder) == 0
    rows = rows_of(folder / "objects.csv")
    assert {row["image"] for row in rows} == {"0.png", "1.png", "2.png"}
    assert (rows[0]["image"], rows[-1]["image"]) == ("0.png", "2.png")
    assert all(float(row["intensity_max-0"]) in scene(0)[..., 0] for row in rows[:3])
    assert all(rows[0][f"intensity_{kind}-{k}"] == "" for kind in ("mean", "std", "min", "max") for k in (1, 2))
    assert all(rows[-1][f"intensity_mean-{k}"] for k in range(3))


def test_where_all_are_grey_there_is_one_set(folder: Path) -> None:
    assert predict(folder) == 0
    whole = rows_of(folder / "objects.csv")
    for k in range(3):
        Image.fromarray(scene(k)[..., 0]).save(folder / "cells" / f"{k}.png")
    assert predict(folder, "--overwrite") == 0
    rows = rows_of(folder / "objects.csv")
    assert list(rows[0]) == [name for name in whole[0] if not re.fullmatch(r"intensity_\w+-[12]", name)]
    kept = ("label", "area", "intensity_mean-0", "intensity_std-0", "intensity_min-0", "intensity_max-0")
    assert [[row[name] for name in kept] for row in rows] == [[row[name] for name in kept] for row in whole]


def test_a_table_that_cannot_be(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(folder)
    for command in (["predict", "m.safetensors", "cells"], ["evaluate", "m.safetensors", "--data", "cells"]):
        assert main([*command, "--table", "objects.xlsx"]) == 2
        assert "objects.xlsx" in capsys.readouterr().err
    assert not (folder / "masks").exists()


def test_a_table_is_written_all_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("old", encoding="utf-8")
    found = instances(torch.ones(2, 2, dtype=torch.uint8), "binary", 1)

    def begin() -> None:
        with table_file(tmp_path / "old.csv", 3) as write:
            write("a", table(found, torch.zeros(3, 2, 2)))
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        begin()
    assert [path.name for path in tmp_path.iterdir()] == ["old.csv"]
    assert (tmp_path / "old.csv").read_text(encoding="utf-8") == "old"


def test_evaluate_writes_the_same_table(folder: Path, tmp_path: Path) -> None:
    predict(folder)
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    (data / "masks").mkdir()
    for k in range(3):
        Image.fromarray(scene(k)).save(data / "images" / f"{k}.png")
        Image.fromarray(np.uint8(scene(k)[..., 0] > 0) * 255).save(data / "masks" / f"{k}.png")
    found = evaluate(Predictor(white(class_names=["cell"])), data, objects=True, table=tmp_path / "new" / "judged.csv")
    assert rows_of(tmp_path / "new" / "judged.csv") == rows_of(folder / "objects.csv")
    assert (found.objects.true, found.objects.met) == (9, 9)


def test_evaluate_takes_the_size_of_a_pixel_as_predict_does(folder: Path) -> None:
    """PNGs state none; an OME-TIFF does, and planes of a stack are named as their masks are."""
    data = folder / "data"
    for name in ("images", "masks"):
        (data / name / "plate").mkdir(parents=True)
    stack = np.stack([scene(k)[..., 0] for k in range(2)])
    for name, pixels, said in (
        ("a", stack[:1], {}),
        ("b", stack, {"resolution": (20_000, 20_000), "resolutionunit": 3}),
    ):
        tifffile.imwrite(data / "images" / "plate" / f"{name}.tif", pixels, photometric="minisblack", **said)
        tifffile.imwrite(data / "masks" / "plate" / f"{name}.tif", np.uint8(pixels > 0) * 255, photometric="minisblack")
    tables = [folder / name for name in ("judged.csv", "objects.csv")]
    more = ["--planes", "split", "--mpp-stored", "2", "--table"]
    assert main(["evaluate", str(folder / "m.safetensors"), "--data", str(data), *more, str(tables[0])]) == 0
    command = ["predict", str(folder / "m.safetensors"), str(data), "--out", str(folder / "masks")]
    assert main([*command, *more, str(tables[1])]) == 0
    judged, predicted = map(rows_of, tables)
    assert judged == predicted
    assert {row["image"] for row in judged} == {"plate/a.tif", "plate/b_0.tif", "plate/b_1.tif"}
    for row in judged:
        assert float(row["area_um2"]) / float(row["area"]) == (4 if "a.tif" in row["image"] else 0.25)
