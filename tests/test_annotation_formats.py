"""Formats of annotations: files as others write or document them, and pixels that others fill."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.draw import ellipse, polygon2mask

from unetzoo.data import Labels, annotations, drawn, labels_of
from unetzoo.errors import ConfigError, InputError, UnetzooError
from unetzoo.testing import ContractError, check_annotation_format

SIZE = (60, 80)
RING = [[5.3, 4.2], [70.1, 9.4], [62.0, 50.5], [33.3, 30.0], [8.8, 55.1]]
HOLE = [[20.2, 12.1], [50.7, 14.4], [40.3, 24.9]]
OTHER = [[60.7, 40.3], [79.1, 41.2], [70.2, 59.1]]


def filled(ring: Sequence[Sequence[float]], size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return pixels whose centres lie in a polygon; skimage's centres are whole numbers."""
    return polygon2mask(size, np.array(ring)[:, ::-1] - 0.5)


def overlap(found: np.ndarray, expected: np.ndarray) -> float:
    return float((found & expected).sum() / max((found | expected).sum(), 1))


def drawing_of(path: Path) -> annotations.Drawing:
    """Return what was drawn, where nothing is wrong."""
    document = annotations.read(path)
    assert not document.problems
    (drawing,) = document.drawings.values()
    return drawing


def pixels_of(path: Path, size: tuple[int, int] = SIZE, **labels: Any) -> np.ndarray:
    """Return the target of a file about one image."""
    return drawn.target_of(drawing_of(path), Labels(**labels), size).numpy()


def write_json(path: Path, found: Any) -> Path:
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


# LabelMe


def labelme(path: Path, *shapes: dict[str, Any], **parts: Any) -> Path:
    """Write a file as LabelMe 5 does."""
    written = [
        {"group_id": None, "description": "", "shape_type": "polygon", "flags": {}, "mask": None, **shape}
        for shape in shapes
    ]
    found = {"version": "5.5.0", "flags": {}, "shapes": written, "imagePath": "a.jpg", "imageData": None}
    return write_json(path, {**found, "imageHeight": SIZE[0], "imageWidth": SIZE[1], **parts})


def png(mask: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_labelme_shapes(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((21, 31)) > 0.5
    circle = np.zeros(SIZE, bool)
    circle[ellipse(30.2 - 0.5, 40.7 - 0.5, 9, 9, shape=SIZE)] = True
    tilted = [[40.1, 5.2], [60.3, 25.9], [41.1, 45.2], [20.2, 25.4]]
    square = [[10.0, 5.7], [60.2, 5.7], [60.2, 50.1], [10.0, 50.1]]
    at = {"shape_type": "mask", "points": [[40.0, 20.0], [70.0, 40.0]], "mask": png(mask)}
    cases: list[tuple[dict[str, Any], np.ndarray]] = [
        ({"points": RING}, filled(RING)),
        ({"shape_type": "rectangle", "points": [square[2], square[0]]}, filled(square)),
        ({"shape_type": "circle", "points": [[40.7, 30.2], [40.7, 39.2]]}, circle),
        (at, np.pad(mask, ((20, 19), (40, 9)))),
        ({"shape_type": "oriented_rectangle", "points": tilted}, filled(tilted)),
    ]
    for shape, expected in cases:
        found = pixels_of(labelme(tmp_path / "a.json", {"label": "cell", **shape}))
        assert overlap(found == 1, expected) >= 0.995
        if shape.get("shape_type") == "mask":
            assert np.array_equal(found, expected)


def test_labelme_groups_holes_and_what_does_not_count(tmp_path: Path) -> None:
    path = labelme(
        tmp_path / "a.json",
        {"label": "cell", "points": RING, "group_id": 1},
        {"label": "_background_", "points": HOLE},
        {"label": "cell", "points": OTHER, "group_id": 1},
        {"label": "nerve", "points": OTHER, "group_id": 1},
        {"label": "__ignore__", "points": [[0, 0], [80, 0], [80, 60], [0, 60]]},
    )
    document = annotations.read(path)
    assert document.names == ("cell", "nerve")
    assert len(drawing_of(path).annotations) == 4
    found = pixels_of(path, task="multiclass", num_classes=3, class_names=("background", "cell", "nerve"))
    # The two parts of the cell are one object, in the place of the second: the hole is below it.
    expected = np.where(filled(RING), 1, -100)
    expected[filled(OTHER)] = 2
    expected[filled(HOLE) & ~filled(RING)] = 0
    assert np.array_equal(found, expected)


def test_holes_are_cut_by_a_background(tmp_path: Path) -> None:
    path = labelme(tmp_path / "a.json", {"label": "cell", "points": RING}, {"label": "Background", "points": HOLE})
    assert np.array_equal(pixels_of(path), filled(RING) & ~filled(HOLE))
    found = pixels_of(path, task="multilabel", num_classes=2, class_names=("cell", "nerve"))
    assert np.array_equal(found, np.stack([filled(RING) & ~filled(HOLE), np.zeros(SIZE, bool)]))


def test_what_has_no_area_stops_those_who_want_it(tmp_path: Path) -> None:
    path = labelme(
        tmp_path / "a.json",
        {"label": "cell", "points": RING},
        {"label": "fibre", "shape_type": "linestrip", "points": RING},
    )
    with pytest.raises(InputError, match=r"annotation 2: a line has no area: .* name the other classes"):
        pixels_of(path)
    assert np.array_equal(pixels_of(path, classes=("cell",)), filled(RING))


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"points": RING[:2]}, "3 corners or more"),
        ({"points": [[0, 0], [1, float("inf")], [2, 2]]}, "Infinity is not a JSON number"),
        ({"points": [[0, 0], [1, 1e300], [2, 2]]}, "finite numbers"),
        ({"points": [[0, 0], [1, 10**400], [2, 2]]}, "finite numbers"),
        ({"points": [[0, 0], [1, "1"], [2, 2]]}, "finite numbers"),
        ({"points": RING, "shape_type": "cuboid"}, "shape_type 'cuboid': polygon, rectangle, circle or mask"),
        ({"points": RING, "group_id": [1]}, "group_id"),
        ({"points": RING, "label": None}, "a label and points"),
        ({"points": [[0, 0], [9, 9]], "shape_type": "mask"}, "has no PNG"),
        ({"points": [[0, 0], [9, 9]], "shape_type": "mask", "mask": "?"}, "not base64"),
        ({"points": [[0, 0], [9, 9]], "shape_type": "mask", "mask": "AAAA"}, "not a PNG"),
        ({"points": [[0, 0], [8, 9]], "shape_type": "mask", "mask": png(np.ones((10, 10)))}, "10×10 pixels, but its"),
        ({"points": [[0, 0], [98, 9]], "shape_type": "mask", "mask": png(np.ones((10, 99)))}, "larger than the image"),
    ],
)  # fmt: skip
def test_wrong_shapes_of_labelme_are_named(tmp_path: Path, shape: dict[str, Any], said: str) -> None:
    path = labelme(tmp_path / "a.json", {"label": "cell", "points": RING}, {"label": "cell", **shape})
    if "Infinity" in said:
        with pytest.raises(InputError, match=said):
            annotations.read(path)
        return
    (problem,) = annotations.read(path).problems
    assert "shape 2: " in problem
    assert said in problem


def test_masks_of_labelme_that_are_cut_off(tmp_path: Path) -> None:
    whole = base64.b64decode(png(np.random.default_rng(0).random((30, 40)) > 0.5))
    text = base64.b64encode(whole[: len(whole) // 2]).decode()
    shape = {"label": "cell", "shape_type": "mask", "points": [[0, 0], [39, 29]], "mask": text}
    with pytest.raises(InputError, match="annotation 1: its mask cannot be read"):
        pixels_of(labelme(tmp_path / "a.json", shape))


# GeoJSON


def feature(coordinates: Any, kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    """Return a feature as QuPath writes it."""
    geometry = {"type": kind, ("geometries" if kind == "GeometryCollection" else "coordinates"): coordinates}
    properties = {"objectType": "annotation", **properties}
    return {"type": "Feature", "id": "6ab2", "geometry": geometry, "properties": properties}


def closed(ring: list[list[float]]) -> list[list[float]]:
    return [*ring, ring[0]]


@pytest.mark.parametrize("shape", ["collection", "list", "feature", "geometry", "napari"])
def test_geojson_with_holes(tmp_path: Path, shape: str) -> None:
    features = pytest.importorskip("rasterio.features")
    one = feature([[closed(RING), closed(HOLE)], [closed(OTHER)]], "MultiPolygon")
    if shape == "napari":
        parts = [feature([closed(RING), closed(HOLE)])["geometry"], feature([closed(OTHER)])["geometry"]]
        one = feature(parts, "GeometryCollection")
    written: Any = {"type": "FeatureCollection", "features": [one]}
    written = {"list": [one], "feature": one, "geometry": one["geometry"]}.get(shape, written)
    path = write_json(tmp_path / "a.geojson", written)
    expected = features.rasterize([one["geometry"]], out_shape=SIZE, fill=0, default_value=1)
    found = pixels_of(path)
    assert np.array_equal(found, expected)
    assert len(drawing_of(path).annotations) == 1


def test_classes_of_geojson(tmp_path: Path) -> None:
    everywhere = [[0.0, 0.0], [80.0, 0.0], [80.0, 60.0], [0.0, 60.0]]
    path = write_json(
        tmp_path / "a.json",
        [
            feature([closed(everywhere)], classification={"name": "Region*"}),
            feature([closed(everywhere)], objectType="tmaCore"),
            {"type": "Feature", "geometry": None, "properties": {"objectType": "root"}},
            feature([closed(RING)], classification={"name": "Tumor", "color": [200, 0, 0]}),
            feature([closed(HOLE)], classification={"names": ["Tumor", "Positive"], "color": [200, 0, 0]}),
            feature([closed(OTHER)], classification="Stroma"),
            feature([closed(OTHER)], class_name="Nucleus"),
            feature([closed(everywhere)], classification={"name": "Ignore*"}),
            feature([closed(everywhere)]),
        ],
    )
    document = annotations.read(path)
    assert document.names == ("Tumor", "Tumor: Positive", "Stroma", "Nucleus")
    names = ("background", *document.names)
    # One has no class, and is left out as others are named.
    found = pixels_of(path, task="multiclass", num_classes=5, class_names=names, classes=document.names)
    expected = np.full(SIZE, -100)
    for k, ring in enumerate((RING, HOLE, OTHER, OTHER), 1):
        expected[filled(ring)] = k
    assert np.array_equal(found, expected)


def test_geojson_that_is_not_in_pixels(tmp_path: Path) -> None:
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    path = write_json(tmp_path / "a.geojson", {"type": "FeatureCollection", "crs": crs, "features": []})
    with pytest.raises(InputError, match=r"EPSG::32633.*not in pixels.*gdal_rasterize"):
        annotations.read(path)


def test_wrong_features_are_named_all_at_once(tmp_path: Path) -> None:
    deep: Any = feature([closed(RING)])["geometry"]
    for _ in range(20):
        deep = {"type": "GeometryCollection", "geometries": [deep]}
    plane = feature([closed(RING)])
    plane["geometry"]["plane"] = {"c": -1, "z": 3, "t": 0}
    wrong = [
        feature([]),
        feature([[]]),
        feature([[[0, 0], [1, 1]]]),
        feature(None, "MultiPolygon"),
        feature([closed(RING)], "Circle"),
        feature([], "GeometryCollection"),
        {"type": "Feature", "properties": {}},
        {"type": "Feature", "geometry": 7, "properties": {}},
        7,
        {"type": "Feature", "geometry": deep, "properties": {}},
    ]
    found = {"type": "FeatureCollection", "features": [*wrong, feature([closed(RING)]), plane]}
    document = annotations.read(write_json(tmp_path / "a.geojson", found))
    assert [problem.partition(":")[0] for problem in document.problems] == [
        *(f"feature {k}" for k in range(1, 11)),
        "features",
    ]
    (drawing,) = document.drawings.values()
    assert len(drawing.annotations) == 2


# CVAT

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>4</id><name>cells</name><size>2</size><mode>annotation</mode>
    <labels>
      <label><name>cell</name><color>#c06060</color><type>any</type><attributes>
        <attribute><name>stain</name><values>no label</values></attribute></attributes></label>
      <label><name>axon &amp; nerve</name><type>polygon</type><attributes></attributes></label>
      <label><name>fibre</name><type>polyline</type><attributes></attributes></label>
      <label><name>never</name><attributes></attributes></label>
    </labels></task><dumped>2026-01-01</dumped></meta>
  {}
</annotations>
"""
DOCUMENTED = "3, 5, 7, 7, 5, 9, 3, 11, 2, 11, 2, 12, 1, 12, 1, 26, 1, 12, 1, 12, 2, 11, 3, 9, 5, 7, 7, 5, 3"
"""The mask in CVAT's own description of the format, of 13×15 pixels."""


def cvat(path: Path, *shapes: str, images: str = "") -> Path:
    """Write a file as CVAT does."""
    image = f'<image id="0" name="set/a.png" width="80" height="60">{"".join(shapes)}<tag label="good"></tag></image>'
    path.write_text(CVAT.format(image + images), encoding="utf-8")
    return path


def points(ring: Sequence[Sequence[float]]) -> str:
    return ";".join(f"{x:.2f},{y:.2f}" for x, y in ring)


def test_cvat_shapes(tmp_path: Path) -> None:
    turned = np.array([[-15.1, -8.2], [15.1, -8.2], [15.1, 8.2], [-15.1, 8.2]])
    turned = turned @ np.array([[np.cos(0.5), np.sin(0.5)], [-np.sin(0.5), np.cos(0.5)]]) + [40, 30]
    square = [[10.2, 5.1], [41.1, 5.1], [41.1, 30.6], [10.2, 30.6]]
    oval = np.zeros(SIZE, bool)
    oval[ellipse(29.6, 39.3, 10.3, 25.3, shape=SIZE, rotation=-np.radians(30))] = True
    counts = [int(text) for text in DOCUMENTED.split(",")]
    mask = np.repeat(np.arange(29) % 2 == 1, counts).reshape(15, 13)
    cases = [
        (f'<polygon label="cell" source="manual" occluded="0" points="{points(RING)}"></polygon>', filled(RING)),
        ('<box label="cell" occluded="1" xtl="10.20" ytl="5.10" xbr="41.10" ybr="30.60" z_order="0"/>', filled(square)),
        (
            f'<box label="cell" xtl="24.9" ytl="21.8" xbr="55.1" ybr="38.2" rotation="{np.degrees(0.5):.6f}"/>',
            filled(turned.tolist()),
        ),
        ('<ellipse label="cell" cx="39.8" cy="30.1" rx="25.3" ry="10.3" rotation="30"/>', oval),
        (
            f'<mask label="cell" source="manual" rle="{DOCUMENTED}" left="60" top="40" width="13" height="15"/>',
            np.pad(mask, ((40, 5), (60, 7))),
        ),
    ]
    for text, expected in cases:
        assert overlap(pixels_of(cvat(tmp_path / "a.xml", text)) == 1, expected) >= 0.995
    assert np.array_equal(pixels_of(tmp_path / "a.xml"), cases[-1][1])


def test_cvat_order_groups_and_classes(tmp_path: Path) -> None:
    path = cvat(
        tmp_path / "a.xml",
        f'<polygon label="axon &amp; nerve" points="{points(HOLE)}" z_order="1"/>',
        f'<polygon label="cell" points="{points(RING)}" z_order="0" group_id="7"/>',
        f'<polygon label="cell" points="{points(OTHER)}" z_order="0" group_id="7"/>',
        f'<polyline label="fibre" points="{points(OTHER)}" z_order="3"/>',
        images='<image id="1" name="set/b.png" width="9" height="7"></image>',
    )
    document = annotations.read(path)
    assert not document.problems
    assert document.names == ("cell", "axon & nerve", "never")
    assert {name: drawing.size for name, drawing in document.drawings.items()} == {
        "set/a.png": (60, 80),
        "set/b.png": (7, 9),
    }
    drawing = document.drawings["set/a.png"]
    assert [one.kind for one in drawing.annotations] == ["cell", "axon & nerve", "fibre"]
    names = ("background", *document.names)
    found = drawn.target_of(drawing, Labels(task="multiclass", num_classes=4, class_names=names), SIZE).numpy()
    expected = np.where(filled(RING) | filled(OTHER), 1, 0)
    expected[filled(HOLE)] = 2
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ('<polygon label="cell" points="1,1;2,2"/>', "3 corners"),
        ('<polygon label="cell" points="1,1;2,nan;3,1"/>', "finite"),
        ('<polygon label="cell" points="1;2;3"/>', "3 corners"),
        ('<polygon label="cell" points="a"/>', "x,y;x,y"),
        ('<polygon points="1,1;2,2;1,3"/>', "a label"),
        ('<box label="cell" xtl="1" ytl="1" xbr="9"/>', "ybr=None"),
        ('<ellipse label="cell" cx="1" cy="1" rx="0" ry="3"/>', "rx and ry above 0"),
        ('<mask label="cell" rle="5, 5" left="0" top="0" width="3" height="3"/>', "10 pixels, but its box is 3×3"),
        ('<mask label="cell" rle="0,81" left="0" top="0" width="81" height="1"/>', "larger than the image"),
        ('<mask label="cell" rle="x" left="0" top="0" width="81" height="1"/>', "whole numbers"),
        ('<mask label="cell" rle="1" left="0.5" top="0" width="1" height="1"/>', "left='0.5': a whole number"),
        ('<blob label="cell"/>', "this shape is not known"),
    ],
)
def test_wrong_shapes_of_cvat_are_named(tmp_path: Path, shape: str, said: str) -> None:
    path = cvat(tmp_path / "a.xml", shape, shape, images='<image name="b.png" width="0" height="1"/><image/>')
    first, second, third, fourth = annotations.read(path).problems
    assert "image 'set/a.png', shape 2" in second
    assert said in first
    assert "'b.png'" in third
    assert "a finite number" in fourth


def test_xml_that_is_a_trap(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(
        '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
        '<annotations><image name="&b;" width="1" height="1"/></annotations>',
        encoding="utf-8",
    )
    with pytest.raises(InputError, match="declares a document type"):
        annotations.read(path)
    path.write_text('<!DOCTYPE a SYSTEM "file:///etc/hostname"><annotations/>', encoding="utf-8")
    with pytest.raises(InputError, match="declares a document type"):
        annotations.read(path)
    path.write_text("<annotations>" + "<a>" * 100_000, encoding="utf-8")
    with pytest.raises(InputError, match="nested too deep"):
        annotations.read(path)
    path.write_text("<annotations><image", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read as XML"):
        annotations.read(path)


# ImageJ


def rois(path: Path, *found: Any) -> Path:
    """Write regions with roifile."""
    with zipfile.ZipFile(path, "w") as archive:
        for k, roi in enumerate(found):
            archive.writestr(f"{roi.name or f'{k:04}-0001'}.roi", roi.tobytes())
    return path


def test_imagej_shapes(tmp_path: Path) -> None:
    roifile = pytest.importorskip("roifile")
    whole = np.round(np.array(RING)).astype(int)
    polygon = roifile.ImagejRoi.frompoints(whole)
    exact = roifile.ImagejRoi.frompoints(np.array(RING, np.float32))
    traced = roifile.ImagejRoi.frompoints(whole)
    traced.roitype = roifile.ROI_TYPE.TRACED
    square = roifile.ImagejRoi()
    square.roitype, square.left, square.top, square.right, square.bottom = roifile.ROI_TYPE.RECT, 10, 5, 41, 30
    oval = roifile.ImagejRoi()
    oval.roitype, oval.left, oval.top, oval.right, oval.bottom = roifile.ROI_TYPE.OVAL, 10, 5, 60, 45
    round_ = np.zeros(SIZE, bool)
    round_[ellipse(24.5, 34.5, 20, 25, shape=SIZE)] = True
    steps: list[float] = []
    for ring in (RING, HOLE):
        for k, (x, y) in enumerate(ring):
            steps += [float(k > 0), x, y]
        steps.append(4.0)
    composite = roifile.ImagejRoi()
    composite.roitype, composite.right, composite.bottom = roifile.ROI_TYPE.RECT, 80, 60
    composite.multi_coordinates = np.array(steps, np.float32)
    composite.shape_roi_size = len(steps)
    square_pixels = np.zeros(SIZE, bool)
    square_pixels[5:30, 10:41] = True
    for roi, expected in (
        (polygon, filled(whole)),
        (exact, filled(np.array(RING, np.float32))),
        (traced, filled(whole)),
        (square, square_pixels),
        (oval, round_),
        (composite, filled(RING) & ~filled(HOLE)),
    ):
        (tmp_path / "a.roi").write_bytes(roi.tobytes())
        assert overlap(pixels_of(tmp_path / "a.roi") == 1, expected) >= 0.995
        assert np.array_equal(pixels_of(rois(tmp_path / "a.zip", roi)), pixels_of(tmp_path / "a.roi"))


def test_names_of_imagej(tmp_path: Path) -> None:
    roifile = pytest.importorskip("roifile")
    names = ("nucleus", "nucleus-1", "0012-0034", "", "type-b", "ignore")
    found = [roifile.ImagejRoi.frompoints(np.array(RING, np.float32), name=name or None) for name in names]
    found[3].name = ""
    document = annotations.read(rois(tmp_path / "RoiSet.zip", *found))
    assert document.names == ("nucleus", "type-b")
    assert [(one.kind, one.ignored) for one in document.drawings[""].annotations] == [
        ("nucleus", False), ("nucleus", False), ("", False), ("", False), ("type-b", False), ("", True),
    ]  # fmt: skip


def test_wrong_regions_of_imagej_are_named(tmp_path: Path) -> None:
    roifile = pytest.importorskip("roifile")
    good = roifile.ImagejRoi.frompoints(np.array(RING, np.float32), name="good")
    line = roifile.ImagejRoi.frompoints(np.array(RING, np.float32), name="line")
    line.roitype = roifile.ROI_TYPE.POLYLINE
    later = roifile.ImagejRoi.frompoints(np.array(RING, np.float32), name="later")
    good.position, later.position = 1, 2
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for roi in (good, later):
            archive.writestr(f"{roi.name}.roi", roi.tobytes())
        archive.writestr("short.roi", b"Iout")
        archive.writestr("cut.roi", good.tobytes()[:70])
        archive.writestr("none.roi", b"x" * 100)
    problems = annotations.read(path).problems
    assert [problem.partition(":")[0] for problem in problems] == [
        "region 'short.roi'", "region 'cut.roi'", "region 'none.roi'", "regions",
    ]  # fmt: skip
    with pytest.raises(InputError, match="annotation 1: a line has no area"):
        pixels_of(rois(path, line))


def test_zips_that_are_bombs(tmp_path: Path) -> None:
    pytest.importorskip("roifile")
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(3):
            archive.writestr(f"{k}.roi", b"Iout" + bytes(100 * 2**20))
    assert path.stat().st_size < 2**20
    with pytest.raises(InputError, match="3 regions of more than 256 MiB"):
        annotations.read(path)


# YOLO


@pytest.mark.parametrize(
    ("name", "text", "above"),
    [
        ("data.yaml", "train: images/train\nnc: 2\nnames: [cell, 'axon']\n", 2),
        ("data.yaml", "path: ../x\nnames:\n  0: cell\n  1: axon\n", 1),
        ("classes.txt", "cell\naxon\n", 0),
    ],
)
def test_names_of_yolo(tmp_path: Path, name: str, text: str, above: int) -> None:
    folder = tmp_path / "labels" / "train"
    folder.mkdir(parents=True)
    path = folder / "a.txt"
    (folder, *folder.parents)[above].joinpath(name).write_text(text, encoding="utf-8")
    path.write_text("1 0.1 0.1 0.9 0.1 0.5 0.8\n", encoding="utf-8")
    document = annotations.read(path)
    assert document.names == ("cell", "axon")
    assert [one.kind for one in document.drawings[""].annotations] == ["axon"]
    path.write_text("0 0.1 0.1 0.9 0.1 0.5 0.8\n2 0.1 0.1 0.9 0.1 0.5 0.8\n", encoding="utf-8")
    assert annotations.read(path).problems == ("line 2: class 2 has no name; only 0, 1 have one",)


@pytest.mark.parametrize(
    "text",
    ["names: !!python/object/apply:os.getcwd []", "names: 7", "names: [yes]", "names: &a [*a]", "[" * 5000],
)
def test_wrong_names_of_yolo(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "a.txt").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"data\.yaml"):
        annotations.read(tmp_path / "a.txt")


# What is not read, and what no file should do


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a_seg.npy", "\x80", "_cp_masks.png"),
        ("a.json", '[{"id": 1, "data": {"image": "a.png"}, "annotations": []}]', "Label Studio.*COCO"),
        ("a.json", '[{"id": 1, "image": "a.png", "annotation_id": 3}]', "Label Studio.*COCO"),
        ("a.json", '{"_via_img_metadata": {}, "_via_settings": {}}', "VIA.*COCO"),
        ("a.json", '{"a.png7": {"filename": "a.png", "size": 7, "regions": []}}', "VIA.*COCO"),
        ("a.json", '{"size": {"height": 3, "width": 3}, "objects": [], "tags": []}', "Supervisely.*COCO"),
        ("a.json", '[{"data_row": {"id": "x"}}]', "Labelbox.*COCO"),
        ("a.json", '{"info": {}, "categories": {}, "items": []}', "Datumaro.*COCO"),
        (
            "a.xml",
            '<annotations><version>1.1</version><track id="0" label="car"/></annotations>',
            "CVAT for images 1.1",
        ),
        ("a.xml", "<annotation><filename>a</filename><object><bndbox/></object></annotation>", "SegmentationClass"),
        ("a.xml", "<ASAP_Annotations><Annotations/></ASAP_Annotations>", "QuPath"),
        ("a.qpdata", "x", "GeoJSON"),
    ],
)
def test_what_is_not_read_says_what_to_export(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=said):
        annotations.read(tmp_path / name)


def test_folders_of_other_tools_say_what_to_export(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "a_seg.npy").write_bytes(b"\x80")
    write_json(tmp_path / "project.json", [{"id": 1, "data": {"image": "a.png"}, "annotations": []}])
    with pytest.raises(ConfigError) as caught:
        labels_of(tmp_path)
    told = " ".join(caught.value.problems)
    assert "project.json: it is Label Studio" in told
    assert "a_seg.npy" in told
    for name, said in (("project.json", "Label Studio"), ("a.json", "LabelMe JSON, about one image")):
        labelme(tmp_path / "a.json", {"label": "cell", "points": RING})
        with pytest.raises(UnetzooError, match=said):
            labels_of(tmp_path / name)


@pytest.mark.parametrize("name", ["a.json", "a.geojson", "a.xml", "a.txt"])
def test_gigabytes_are_refused_unread(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as stream:
        stream.truncate(2**30)
    with pytest.raises(InputError, match="more than 512 MiB"):
        annotations.read(tmp_path / name)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, '{"a": NaN}', "\xff", '{"a": 1, "a": 2}', "9" * 10_000])
def test_wrong_json_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        annotations.read(tmp_path / "a.json")


KINDS = ["coco", "labelme", "geojson", "cvat", "imagej", "yolo"]


@pytest.mark.parametrize(
    ("kind", "count"),
    [(kind, count) for kind in KINDS for count in (1, 7)]
    + [pytest.param(kind, 30_000, marks=pytest.mark.slow) for kind in KINDS],
)
def test_many_objects(tmp_path: Path, kind: str, count: int) -> None:
    """Squares of two pixels in rows: each is where it should be, and the last one is that of the last line."""
    side = 400
    rows = [(2 * (k % 200), 2 * (k // 200)) for k in range(count)]
    squares = [[[x, y], [x + 2, y], [x + 2, y + 2], [x, y + 2]] for x, y in rows]
    path = tmp_path / {"cvat": "a.xml", "imagej": "a.zip", "yolo": "a.txt"}.get(kind, "a.json")
    if kind == "coco":
        one = {"image_id": 1, "category_id": 1, "iscrowd": 0}
        write_json(
            path,
            {
                "images": [{"id": 1, "file_name": "a.png", "height": side, "width": side}],
                "categories": [{"id": 1, "name": "cell"}],
                "annotations": [
                    {**one, "id": k, "segmentation": [[n for corner in s for n in corner]]}
                    for k, s in enumerate(squares)
                ],
            },
        )
    elif kind == "labelme":
        labelme(path, *({"label": "cell", "points": s} for s in squares), imageHeight=side, imageWidth=side)
    elif kind == "geojson":
        write_json(path, [feature([closed(s)], classification={"name": "cell"}) for s in squares])
    elif kind == "cvat":
        shapes = "".join(f'<polygon label="cell" points="{points(s)}"/>' for s in squares)
        path.write_text(
            CVAT.format(f'<image name="a.png" width="{side}" height="{side}">{shapes}</image>'), encoding="utf-8"
        )
    elif kind == "imagej":
        roifile = pytest.importorskip("roifile")
        named = ((np.array(s, np.float32), f"cell-{k}") for k, s in enumerate(squares))
        rois(path, *(roifile.ImagejRoi.frompoints(ring, name=name) for ring, name in named))
    else:
        lines = (" ".join(f"{n / side}" for corner in s for n in corner) for s in squares)
        path.write_text("".join(f"0 {line}\n" for line in lines), encoding="utf-8")
    drawing = drawing_of(path)
    assert len(drawing.annotations) == count
    expected = np.zeros((side, side), bool)
    for x, y in rows:
        expected[y : y + 2, x : x + 2] = True
    assert np.array_equal(drawn.target_of(drawing, Labels(), (side, side)), expected)


def test_what_lies_outside_is_cut_off(tmp_path: Path) -> None:
    far = [[-50.0, -1e6], [2e9, 20.2], [-50.0, 30.3]]
    rise = (1e6 + 20.2) / 2e9  # of its upper edge
    inside = filled([[0, -1e6 + 50 * rise], [80.0, -1e6 + 130 * rise], [80, 30.3], [0, 30.3]])
    away = [[100.0, 100.0], [120.0, 100.0], [120.0, 120.0]]
    found = pixels_of(labelme(tmp_path / "a.json", {"label": "a", "points": far}, {"label": "a", "points": away}))
    assert np.array_equal(found, inside)
    for shape in (
        {"shape_type": "circle", "points": [[200, 200], [210, 200]]},
        {"shape_type": "circle", "points": [[-2e9, 0], [0, 0]]},
        {"shape_type": "rectangle", "points": [[-20, -20], [-10, -10]]},
        {"shape_type": "mask", "points": [[70, 50], [89, 69]], "mask": png(np.ones((20, 20)))},
    ):
        found = pixels_of(labelme(tmp_path / "a.json", {"label": "a", **shape}))
        assert found.sum() == (100 if shape["shape_type"] == "mask" else 0)


def test_outlines_of_many_corners_on_large_images() -> None:
    """Memory goes with the pixels, not with rows times corners, which were 2.5 GB here."""
    angles = np.linspace(0, 2 * np.pi, 500_000, endpoint=False)
    rough = 2400 + 80 * np.random.default_rng(0).random(len(angles))
    ring = np.stack([2500 + rough * np.cos(angles), 2500 + rough * np.sin(angles)], 1)
    part = annotations.Polygons(((ring,),)).pixels((5000, 5000))
    x, y = ring.T
    area = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
    assert abs(part.inside.sum() / area - 1) < 1e-3


def test_corners_that_are_no_numbers() -> None:
    for wrong in (np.nan, np.inf):
        with pytest.raises(InputError, match="not finite"):
            annotations.Polygons(((np.array([[0, 0], [wrong, 3], [3, 0.0]]),),)).pixels(SIZE)


# The contract


def sample_of(kind: str, folder: Path) -> Path:
    """Return a file of a format, with objects of every sort."""
    if kind == "coco":
        runs = {"size": list(SIZE), "counts": [4000, 300, 500]}
        one = {"image_id": 1, "category_id": 1, "iscrowd": 0}
        found = {
            "images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
            "categories": [{"id": 1, "name": "cell"}],
            "annotations": [{**one, "segmentation": [np.ravel(RING).tolist()]}, {**one, "segmentation": runs}],
        }
        return write_json(folder / "a.json", found)
    if kind == "labelme":
        mask = {"shape_type": "mask", "points": [[3, 4], [12, 9]], "mask": png(np.eye(6, 10))}
        circle = {"shape_type": "circle", "points": [[30, 30], [36, 30]]}
        shapes = (mask, circle, {"points": RING, "group_id": 1}, {"points": HOLE, "group_id": 1})
        return labelme(folder / "a.json", *({"label": "cell", **shape} for shape in shapes))
    if kind == "geojson":
        several = [[closed(RING), closed(HOLE)], [closed(OTHER)]]
        return write_json(folder / "a.geojson", [feature(several, "MultiPolygon"), feature([closed(OTHER)])])
    if kind == "cvat":
        return cvat(
            folder / "a.xml",
            f'<polygon label="cell" points="{points(RING)}" z_order="2" group_id="1"/>',
            f'<mask label="cell" rle="{DOCUMENTED}" left="60" top="40" width="13" height="15"/>',
            '<ellipse label="cell" cx="40" cy="30" rx="25" ry="10" rotation="30"/>',
        )
    if kind == "imagej":
        roifile = pytest.importorskip("roifile")
        outlines = (np.array(ring, np.float32) for ring in (RING, OTHER))
        return rois(folder / "a.zip", *(roifile.ImagejRoi.frompoints(ring, name="cell") for ring in outlines))
    (folder / "a.txt").write_text("0 0.1 0.1 0.9 0.1 0.5 0.8\n3 0 0 1 0 1 1 0 1\n", encoding="utf-8")
    return folder / "a.txt"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_formats_keep_their_contract(tmp_path: Path, kind: str) -> None:
    assert set(KINDS) == set(annotations.ANNOTATION_FORMATS)
    check_annotation_format(kind, [sample_of(kind, tmp_path)])


class Square:
    """A region with what may go wrong."""

    def __init__(self, fault: str) -> None:
        self.fault, self.told = fault, 0

    def pixels(self, size: tuple[int, int]) -> annotations.Part:
        self.told += 1
        inside = np.ones((2, 2), np.uint8 if self.fault == "kind" else bool)
        if self.fault == "reach":
            return annotations.Part(0, size[1], inside)
        if self.fault == "random" and self.told % 2:
            inside[0] = 0
        return annotations.Part(0, 0, inside[: size[0], : size[1]] * (self.fault != "empty"))

    @property
    def fingerprint(self) -> str:
        return str(id(self)) if self.fault == "fingerprint" else "square"


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("", ""),
        ("problem", "reading: .*finds problems"),
        ("two", "reading: .*2 drawings"),
        ("source", "reading: .*source"),
        ("unknown", r"recognising \(a\.squares\)"),
        ("names", "names of classes .*'square'"),
        ("kind", "pixels .*array"),
        ("reach", "pixels .*outside an image"),
        ("random", "pixels .*second time"),
        ("fingerprint", "fingerprints .*read again"),
        ("same", "fingerprints .*another region"),
        ("local", "copies .*pickle"),
        ("damage", "damages .*ValueError"),
        ("empty", "objects: no object"),
    ],
)
def test_each_fault_of_a_format_is_found(tmp_path: Path, fault: str, said: str) -> None:
    def recognises(path: Path) -> bool:
        return path.read_bytes() == b"square" * 9 if fault != "damage" else path.read_bytes()[:6] == b"square"

    @annotations.register_annotation_format(
        "squares",
        title="squares",
        suffixes=[".squares"],
        recognises=lambda path: fault != "unknown" and recognises(path),
    )
    def read(path: Path) -> annotations.Document:
        if not recognises(path):
            raise InputError("no square")
        if path.read_bytes() != b"square" * 9:
            raise ValueError("damaged")

        class Local(Square):
            pass

        regions: list[Any] = [(Local if fault == "local" else Square)(fault)]
        if fault == "same":
            regions.append(Odd(""))
        found = tuple(annotations.Annotation("square", region) for region in regions)
        drawing = annotations.Drawing(tmp_path if fault == "source" else path, found)
        drawings = {"": drawing} | ({"b": drawing} if fault == "two" else {})
        return annotations.Document(
            drawings, () if fault == "names" else ("square",), ("x",) if fault == "problem" else ()
        )

    path = tmp_path / "a.squares"
    path.write_bytes(b"square" * 9)
    if not fault:
        check_annotation_format("squares", [path])
        return
    with pytest.raises(ContractError, match=said):
        check_annotation_format("squares", [path])


class Odd(Square):
    """Another region with the same fingerprint."""

    def pixels(self, size: tuple[int, int]) -> annotations.Part:
        return annotations.Part(0, 0, np.ones((1, 1), bool))


def test_what_is_checked_is_told_in_full(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'coko'.*did you mean 'coco'"):
        check_annotation_format("coko", ["a.json"])
    for wrong in ("a.json", Path("a.json"), []):
        with pytest.raises(ConfigError, match="a list of files"):
            check_annotation_format("coco", wrong)
