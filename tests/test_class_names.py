"""Classes of annotations: in an order that stands, and told when two may be one."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unetzoo.cli import main
from unetzoo.data import Labels, check, labels_of, masks
from unetzoo.data.stacks import list_samples

SIDE = 16
SQUARE = [[2, 2], [8, 2], [8, 8], [2, 8]]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(path.name) + ord(path.stem[0])).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


def labelme(path: Path, *kinds: str) -> None:
    shapes = [{"label": kind, "points": SQUARE, "shape_type": "polygon"} for kind in kinds]
    found = {"version": "5.5.0", "imagePath": "a.png", "imageHeight": SIDE, "imageWidth": SIDE, "shapes": shapes}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found), encoding="utf-8")


def geojson(path: Path, *kinds: str) -> None:
    geometry = {"type": "Polygon", "coordinates": [[*SQUARE, SQUARE[0]]]}
    features = [{"type": "Feature", "geometry": geometry, "properties": {"class": kind}} for kind in kinds]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


def imagej(path: Path, *kinds: str) -> None:
    roifile = pytest.importorskip("roifile")
    path.parent.mkdir(parents=True, exist_ok=True)
    rois = [roifile.ImagejRoi.frompoints(SQUARE, name=kind) for kind in kinds]
    roifile.roiwrite(path, rois, mode="w")


def names(source: Path) -> tuple[str, ...]:
    return labels_of(source).class_names or ()


@pytest.mark.parametrize(("write", "ending"), [(labelme, "json"), (geojson, "json"), (imagej, "zip")])
@pytest.mark.parametrize("place", ["masks/{}", "{}"])
def test_a_new_image_leaves_the_order(tmp_path: Path, write: Callable[..., None], ending: str, place: str) -> None:
    images = "images" if "/" in place else "."
    for stem, kinds in (("b", ("type 10", "Type 2")), ("c", ("axon", "type 10"))):
        picture(tmp_path / images / f"{stem}.png")
        write(tmp_path / f"{place.format(stem)}.{ending}", *kinds)
    assert names(tmp_path) == ("background", "axon", "Type 2", "type 10")
    picture(tmp_path / images / "a.png")
    write(tmp_path / f"{place.format('a')}.{ending}", "type 10", "axon")
    assert names(tmp_path) == ("background", "axon", "Type 2", "type 10")
    assert list_samples(tmp_path, labels_of(tmp_path)).labels.class_names == names(tmp_path)
    assert names(tmp_path)[1:] == labels_of(tmp_path, task="multilabel").class_names


def test_the_order_by_a_pattern_and_by_a_list_is_the_same(tmp_path: Path) -> None:
    rows = ["image,mask"]
    for stem, kinds in (("a", ("rod", "disc")), ("b", ("disc", "rod"))):
        picture(tmp_path / f"{stem}.png")
        labelme(tmp_path / "drawn" / f"{stem}.json", *kinds)
        rows.append(f"{stem}.png,drawn/{stem}.json")
    (tmp_path / "list.csv").write_text("\n".join(rows), encoding="utf-8")
    assert labels_of(tmp_path, masks="drawn/{name}.json").class_names == ("background", "disc", "rod")
    labels = labels_of(tmp_path / "list.csv")
    assert labels.class_names == ("background", "disc", "rod")
    (samples,) = list_samples(tmp_path / "list.csv", labels).samples.values()
    assert [int(masks.read_target(sample, labels, (SIDE, SIDE)).max()) for sample in samples] == [1, 2]


def test_formats_with_a_list_keep_it(tmp_path: Path) -> None:
    for stem in "ab":
        picture(tmp_path / "images" / f"{stem}.png")
    listed = [{"id": k, "file_name": f"{stem}.png", "height": SIDE, "width": SIDE} for k, stem in enumerate("ab")]
    ring = [number for corner in SQUARE for number in corner]
    drawn = [{"id": k, "image_id": k, "category_id": 2 - k, "segmentation": [ring], "iscrowd": 0} for k in range(2)]
    found = {"images": listed, "annotations": drawn, "categories": [{"id": 1, "name": "z"}, {"id": 2, "name": "a"}]}
    (tmp_path / "coco.json").write_text(json.dumps(found), encoding="utf-8")
    assert names(tmp_path) == ("background", "z", "a")
    (tmp_path / "coco.json").unlink()
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("z\na\n", encoding="utf-8")
    for stem, kind in (("a", 1), ("b", 0)):
        (tmp_path / "labels" / f"{stem}.txt").write_text(f"{kind} .1 .1 .5 .1 .5 .5", encoding="utf-8")
    assert names(tmp_path) == ("background", "z", "a")


@pytest.mark.parametrize(
    ("first", "second", "written"),
    [
        ("Large", "large", ["'Large'", "'large'"]),
        ("large", " large", ["'large'", "' large'"]),
        ("two  words", "Two words", ["'two  words'", "'Two words'"]),
        ("cell\u00e9", unicodedata.normalize("NFD", "cell\u00e9"), [r"'cell\xe9'", r"'celle\u0301'"]),
    ],
)
def test_two_names_for_one_class_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture, first: str, second: str, written: list[str]
) -> None:
    for stem in "abc":
        picture(tmp_path / "images" / f"{stem}.png")
        labelme(tmp_path / "masks" / f"{stem}.json", first, second, "other")
    (said,) = (line for line in check(tmp_path, labels_of(tmp_path)).warnings if "meant" in line)
    assert all(name in said for name in [*written, "classes=…", "rename"])
    assert "other" not in said
    main(["data", "check", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "--classes" in shown
    assert shown.count("may be meant as one") == 1
    # Who names one is told of the other, and who names both has settled it.
    (said,) = (line for line in check(tmp_path, labels_of(tmp_path, classes=[first])).warnings if "meant" in line)
    assert all(name in said for name in [*written, "classes=…", "left out"])
    for classes in ([first, second], ["other"]):
        assert not any("meant" in line for line in check(tmp_path, labels_of(tmp_path, classes=classes)).warnings)
    assert not any("meant" in line for line in check(tmp_path, Labels()).warnings)


def test_two_folders_for_one_class_are_told(tmp_path: Path) -> None:
    for stem in "abc":
        picture(tmp_path / "images" / f"{stem}.png")
        for kind in ("Large", "large", "small"):
            path = tmp_path / "masks" / kind / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.eye(SIDE, dtype=np.uint8) * 255).save(path)
    if len([*(tmp_path / "masks").iterdir()]) < 3:
        pytest.skip("a file system that takes them for one")
    found = check(tmp_path, labels_of(tmp_path, task="multilabel")).warnings
    assert any("'Large' and 'large'" in line for line in found)
