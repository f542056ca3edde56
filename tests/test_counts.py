"""Tables of counts, and masks and label images that somebody corrected by hand, against counts made here."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from scipy import ndimage
from test_object_table import rows_of, scene, white

import unetzoo
from unetzoo import ConfigError, objects
from unetzoo.cli import main
from unetzoo.drawing import draw_nuclei
from unetzoo.objects.components import redrawn


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model and three images, of which the second has no object."""
    (tmp_path / "cells").mkdir()
    for k in range(3):
        pixels = scene(k) if k != 1 else np.zeros((24, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "cells" / f"{k}.png")
    unetzoo.save(white(), tmp_path / "m.safetensors")
    return tmp_path


def predict(folder: Path, *more: str, model: str | None = None) -> int:
    command = ["predict", model or str(folder / "m.safetensors"), str(folder / "cells"), "--out", str(folder / "masks")]
    return main([*command, "--counts", str(folder / "counts.csv"), *more])


def counted(folder: Path) -> dict[str, dict[str, str]]:
    return {row["image"]: row for row in rows_of(folder / "counts.csv")}


def test_images_without_objects_have_a_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(folder, "--mpp-stored", "0.5", "--table", str(folder / "objects.csv")) == 0
    assert f"counts in {folder / 'counts.csv'}" in capsys.readouterr().out
    rows = counted(folder)
    assert list(rows) == ["0.png", "1.png", "2.png"]
    header = ["image", "width", "height", "objects", "area", "share", "area_um2", "objects_per_mm2"]
    assert list(rows["0.png"]) == header
    for name, row in rows.items():
        true = scene(int(name[0]))[..., 0] > 0 if name != "1.png" else np.zeros((24, 40), bool)
        count = ndimage.label(true)[1]
        assert (row["width"], row["height"], row["objects"], row["area"]) == ("40", "24", str(count), str(true.sum()))
        assert float(row["share"]) == pytest.approx(true.mean())
        assert float(row["area_um2"]) == true.sum() / 4
        assert float(row["objects_per_mm2"]) == pytest.approx(count / (24 * 40 * 0.25e-6))
    assert {row["image"] for row in rows_of(folder / "objects.csv")} == {"0.png", "2.png"}
    before = (folder / "counts.csv").read_bytes()
    assert predict(folder, "--mpp-stored", "0.5") == 0
    assert "0 segmented, 3 there already" in capsys.readouterr().out
    assert (folder / "counts.csv").read_bytes() == before


@pytest.mark.parametrize("by_rows", [False, True])
def test_counts_of_several_classes(by_rows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pixel is of the class of its brightest channel; pixels without a value are left out of shares."""
    model = white()
    wide = unetzoo.create("unet", base_channels=4, task="multiclass", num_classes=4, class_names=[*"0abc"])
    wide.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("head")}, strict=False)
    with torch.no_grad():
        wide.head.conv.weight.zero_()
        wide.head.conv.weight[2] = 1
        wide.head.conv.bias.copy_(torch.tensor([0.1, 0, 0, 0]))
    unetzoo.save(wide.eval(), tmp_path / "m.safetensors")
    (tmp_path / "cells").mkdir()
    tifffile.imwrite(tmp_path / "cells" / "a.tif", scene(0), photometric="rgb", tile=(16, 16))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 if by_rows else 10**6)
    assert predict(tmp_path) == 0
    (row,) = counted(tmp_path).values()
    columns = [f"{name}/{kind}" for kind in "abc" for name in ("objects", "area", "share")]
    assert list(row) == ["image", "width", "height", "objects", *columns]
    area = int((scene(0)[..., 0] > 0).sum())
    assert (row["objects"], row["objects/b"], row["area/b"], row["objects/a"]) == ("3", "3", str(area), "0")
    assert float(row["share/b"]) == pytest.approx(area / 960)


def test_counts_in_python() -> None:
    mask = torch.tensor([[[1, 0, 1, 0]], [[0, 1, 1, 0]]])
    found = objects.counts(objects.instances(mask, "multilabel", 2), class_names=["a", "b"], mpp=(1000.0, 1000.0))
    assert found == {
        "width": 4, "height": 1, "objects": 3, "objects_per_mm2": 0.75,
        "objects/a": 2, "area/a": 2, "share/a": 0.5, "area_um2/a": 2e6, "objects_per_mm2/a": 0.5,
        "objects/b": 1, "area/b": 2, "share/b": 0.5, "area_um2/b": 2e6, "objects_per_mm2/b": 0.25,
    }  # fmt: skip
    nothing = objects.counts(objects.instances(torch.zeros(2, 3, dtype=torch.uint8), "binary", 1), measured=4)
    assert nothing == {"width": 3, "height": 2, "objects": 0, "area": 0, "share": 0.0}
    with pytest.raises(ConfigError, match="class_names"):
        objects.counts(objects.instances(mask, "multilabel", 2), class_names=["a"])


def test_tables_that_cannot_be(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, message in (
        (["--table", str(folder / "counts.csv")], "--table and --counts would both be"),
        (["--counts", str(folder / "counts.txt")], "ends in .csv|given twice"),
    ):
        assert_refused(folder, more, message, capsys)
    assert not (folder / "masks").exists()


def assert_refused(folder: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", str(folder / "m.safetensors"), str(folder / "cells"), "--out", str(folder / "masks")]
    counts = [] if "--counts" in more else ["--counts", str(folder / "counts.csv")]
    assert main([*command, *counts, *more]) == 2
    assert re.search(message, capsys.readouterr().err)


# Corrected by hand


def test_a_corrected_mask_is_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = ("--table", str(folder / "objects.csv"))
    assert predict(folder, *tables) == 0
    mask = np.asarray(Image.open(folder / "masks" / "0.png")).copy()
    numbers, _ = ndimage.label(mask)
    mask[numbers == 2] = 0
    mask[20:23, 30:34] = 255
    Image.fromarray(mask).save(folder / "masks" / "0.png")
    capsys.readouterr()
    assert predict(folder, *tables, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("corrected") for line in lines] == [True, None, None]
    true, count = ndimage.label(mask, np.ones((3, 3)))
    assert (counted(folder)["0.png"]["objects"], counted(folder)["0.png"]["area"]) == (
        str(count),
        str((mask > 0).sum()),
    )
    rows = [row for row in rows_of(folder / "objects.csv") if row["image"] == "0.png"]
    assert [float(row["area"]) for row in rows] == np.bincount(true.ravel())[1:].tolist()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda mask: np.where(mask, 254, 0).astype(np.uint8), "values such as 254: 0 and 255 are possible"),
        (lambda mask: mask > 0, "values such as 1"),
        (lambda mask: mask[:-2], "40×22 pixels: its image has 40×24"),
        (lambda mask: np.stack([mask, mask * 0, mask], -1), "saved in colour"),
    ],
)
def test_a_corrected_mask_that_cannot_be_measured(
    spoil: object, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named, and the other images are in the tables."""
    assert predict(folder) == 0
    mask = np.asarray(Image.open(folder / "masks" / "0.png"))
    Image.fromarray(spoil(mask)).save(folder / "masks" / "0.png")
    assert predict(folder) == 1
    assert re.search(message, capsys.readouterr().err)
    assert list(counted(folder)) == ["1.png", "2.png"]


@pytest.fixture
def nuclei(tmp_path: Path) -> Path:
    (tmp_path / "cells").mkdir()
    image = torch.maximum(*(draw_nuclei(160, 200, seed=seed)[0] for seed in (1, 11)))  # so that some touch
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "cells" / "a.png")
    assert predict(tmp_path, model="nuclei") == 0
    return tmp_path


def test_a_corrected_label_image_is_measured_exactly(nuclei: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An object that was removed is gone, one that was drawn outside the mask is there, two with one number are one."""
    path = nuclei / "masks" / "labels" / "a.tif"
    labels = tifffile.imread(path)
    count = labels.max()
    free = np.argwhere(ndimage.minimum_filter(labels == 0, 5, mode="constant", cval=0))[0]
    labels[labels == 1] = 0
    labels[labels == 3] = 2
    labels[free[0] - 1 : free[0] + 2, free[1] - 1 : free[1] + 2] = 900
    tifffile.imwrite(path, labels.astype(np.uint32))
    assert predict(nuclei, "--table", str(nuclei / "objects.csv"), model="nuclei") == 0
    assert "1 there already (1 corrected by hand)" in capsys.readouterr().out
    row = counted(nuclei)["a.png"]
    assert (int(row["objects"]), int(row["area"])) == (count - 1, (labels > 0).sum())
    areas = sorted(float(each["area"]) for each in rows_of(nuclei / "objects.csv"))
    assert areas == sorted(np.unique(labels[labels > 0], return_counts=True)[1])
    assert (tifffile.imread(path) == labels).all()


def test_a_corrected_mask_of_objects_keeps_them_apart(nuclei: Path) -> None:
    """One object is erased, and another cut in two; all others are as they were, also those that touch."""
    labels, path = tifffile.imread(nuclei / "masks" / "labels" / "a.tif"), nuclei / "masks" / "a.png"
    mask = np.asarray(Image.open(path)).copy()
    assert labels.max() > ndimage.label(mask, np.ones((3, 3)))[1]  # some touch
    boxes = ndimage.find_objects(labels)
    largest = int(np.bincount(labels.ravel())[1:].argmax()) + 1
    gone = 1 if largest != 1 else 2
    mask[labels == gone] = 0
    down, across = boxes[largest - 1]
    middle = (down.start + down.stop) // 2
    mask[middle, across][labels[middle, across] == largest] = 0
    Image.fromarray(mask).save(path)
    assert predict(nuclei, model="nuclei") == 0
    row = counted(nuclei)["a.png"]
    assert (int(row["objects"]), int(row["area"])) == (labels.max(), (mask > 0).sum())


def test_objects_of_a_mask_that_was_redrawn() -> None:
    ids = np.array([[1, 1, 0, 7, 7, 0, 0, 0], [1, 1, 0, 7, 7, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]])
    mask = np.array([[1, 1, 1, 1, 1, 0, 0, 1], [0, 1, 0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 1, 1]])
    found = redrawn(ids, mask)
    assert ((found > 0) == (mask > 0)).all()
    parts = {tuple(map(tuple, np.argwhere(found == k))) for k in np.unique(found[found > 0])}
    left = {(0, 0), (0, 1), (1, 1)}
    right = {(0, 3), (0, 4), (1, 3), (2, 3)}
    apart = {((0, 7),), ((2, 6), (2, 7))}
    assert apart < parts
    assert len(parts) == 4
    assert {frozenset(part) - {(0, 2)} for part in parts if part not in apart} == {frozenset(left), frozenset(right)}


# The size of pixels as a setting


def test_another_size_of_pixels_is_another_setting(nuclei: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Label images state it: files of two sizes are not mixed, and a size may be added to none."""
    label = nuclei / "masks" / "labels" / "a.tif"
    before = label.read_bytes()
    assert predict(nuclei, "--mpp-stored", "0.5", model="nuclei") == 0
    assert "1 there already" in capsys.readouterr().out
    assert label.read_bytes() == before
    assert float(counted(nuclei)["a.png"]["area_um2"]) * 4 == float(counted(nuclei)["a.png"]["area"])
    for more in (["--mpp-stored", "0.25"], []):
        assert predict(nuclei, *more, model="nuclei") == 2
        assert re.search("other settings.*mpp.stored.* 0.5 there", capsys.readouterr().err, re.DOTALL)
    assert predict(nuclei, "--mpp-stored", "0.25", "--overwrite", model="nuclei") == 0
    with tifffile.TiffFile(label) as file:
        above, below = file.pages.first.tags["XResolution"].value
    assert above / below == pytest.approx(40_000)
    with (nuclei / "counts.csv").open(encoding="utf-8") as stream:
        assert len(list(csv.reader(stream))) == 2
