"""Objects of masks, against plain searches, SciPy, scikit-image, GDAL (by rasterio) and pycocotools."""

from __future__ import annotations

import itertools
import json
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.features
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rasterio.crs import CRS
from rasterio.transform import Affine
from scipy import ndimage
from skimage import measure, morphology
from torch import Tensor

from unetzoo import ConfigError, InputError, images
from unetzoo.objects import Instances, cleaned, instances, polygons, to_coco, to_geojson

SIDES = st.tuples(st.integers(1, 12), st.integers(1, 12))
CONNECTIVITIES = st.sampled_from([1, 2])


def planes(highest: int) -> st.SearchStrategy[np.ndarray]:
    return SIDES.flatmap(lambda size: arrays(np.uint8, size, elements=st.integers(0, highest)))


def drawn(*rows: str) -> Tensor:
    """Return a mask of the digits, a point being 0."""
    return torch.tensor([[0 if sign == "." else int(sign) for sign in row] for row in rows], dtype=torch.uint8)


def neighbours(y: int, x: int, size: tuple[int, int], connectivity: int) -> Iterator[tuple[int, int]]:
    for dy, dx in itertools.product((-1, 0, 1), repeat=2):
        if 0 < abs(dy) + abs(dx) <= connectivity and 0 <= y + dy < size[0] and 0 <= x + dx < size[1]:
            yield y + dy, x + dx


def searched(plane: np.ndarray, connectivity: int) -> list[list[tuple[int, int]]]:
    """Return the pixels of each component of equal values, 0 included, in reading order: a search pixel by pixel."""
    seen, found = set(), []
    for start in itertools.product(*map(range, plane.shape)):
        if start in seen:
            continue
        seen.add(start)
        pixels, queue = [], deque([start])
        while queue:
            here = queue.popleft()
            pixels.append(here)
            for there in neighbours(*here, plane.shape, connectivity):
                if there not in seen and plane[there] == plane[here]:
                    seen.add(there)
                    queue.append(there)
        found.append(pixels)
    return found


def filled(parts: list[list[Any]], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of polygons by the even-odd rule: each upright edge turns all to its right over."""
    inside = np.zeros(size, bool)
    for ring in itertools.chain.from_iterable(parts):
        points = np.asarray(ring)
        for (x, y), (other_x, other_y) in zip(points, np.roll(points, -1, 0), strict=True):
            if x == other_x:
                inside[min(y, other_y) : max(y, other_y), x:] ^= True
            else:
                assert y == other_y
    return inside


def shoelace(ring: Any) -> float:
    x, y = np.asarray(ring, float).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def nuclei(folder: Path, count: int) -> Iterator[Tensor]:
    paths = sorted((folder / "nuclei" / "masks").iterdir())
    for path in paths[:: len(paths) // count]:
        yield (images.read_image(path)[0] > 127).byte()


# Components


@settings(max_examples=150, deadline=None)
@given(planes(3), CONNECTIVITIES)
def test_objects_are_what_a_search_finds_in_reading_order(plane: np.ndarray, connectivity: int) -> None:
    found = instances(torch.from_numpy(plane), "multiclass", 4, connectivity=connectivity)
    expected = [pixels for pixels in searched(plane, connectivity) if plane[pixels[0]]]
    numbers = np.zeros(plane.shape, np.int32)
    for number, pixels in enumerate(expected, 1):
        numbers[tuple(np.transpose(pixels))] = number
    assert found.labels.dtype == torch.int32
    np.testing.assert_array_equal(found.labels, numbers)
    assert found.classes.tolist() == [plane[pixels[0]] for pixels in expected]
    assert found.areas.tolist() == [len(pixels) for pixels in expected]
    for pixels, box, centroid in zip(expected, found.boxes.tolist(), found.centroids.tolist(), strict=True):
        y, x = np.transpose(pixels)
        assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert centroid == pytest.approx([x.mean() + 0.5, y.mean() + 0.5])


@pytest.mark.parametrize("connectivity", [1, 2])
def test_real_nuclei_are_scikit_image_s_regions(shared_data: Path, connectivity: int) -> None:
    for mask in nuclei(shared_data, 12):
        probabilities = torch.rand(1, *mask.shape)
        found = instances(mask, "binary", 1, probabilities=probabilities, connectivity=connectivity)
        labels = measure.label(mask.numpy(), connectivity=connectivity)
        np.testing.assert_array_equal(found.labels, labels)
        regions = measure.regionprops(labels, intensity_image=probabilities[0].numpy())
        assert found.areas.tolist() == [region.area for region in regions]
        assert found.boxes[:, [1, 0, 3, 2]].tolist() == [[*region.bbox] for region in regions]
        np.testing.assert_allclose(found.centroids.flip(1), np.array([r.centroid for r in regions]) + 0.5, rtol=1e-12)
        assert found.scores is not None
        np.testing.assert_allclose(found.scores, [region.intensity_mean for region in regions], rtol=1e-5)


def test_corners_join_by_connectivity() -> None:
    mask = drawn("1..", ".1.", "..1")
    assert len(instances(mask, "binary", 1)) == 1
    assert instances(mask, "binary", 1, connectivity=1).areas.tolist() == [1, 1, 1]


def test_classes_that_touch_are_two_objects() -> None:
    found = instances(drawn("2211", "2111", "...1"), "multiclass", 3)
    assert found.labels.tolist() == [[1, 1, 2, 2], [1, 2, 2, 2], [0, 0, 0, 2]]
    assert found.classes.tolist() == [2, 1]


def test_multilabel_classes_overlap_and_their_numbers_run_on() -> None:
    first, second = drawn("11.1"), drawn(".11.")
    probabilities = torch.tensor([[[0.5, 1, 0, 0.25]], [[0, 0.75, 0.25, 0]]])
    found = instances(torch.stack([first, second]), "multilabel", 2, probabilities=probabilities)
    assert found.labels.tolist() == [[[1, 1, 0, 2]], [[0, 3, 3, 0]]]
    assert found.classes.tolist() == [0, 0, 1]
    assert found.scores is not None
    assert found.scores.tolist() == [0.75, 0.25, 0.5]
    assert [filled(parts, (1, 4)).tolist() for parts in polygons(found)] == [
        [[True, True, False, False]],
        [[False, False, False, True]],
        [[False, True, True, False]],
    ]


def test_scores_are_of_the_object_s_own_class() -> None:
    probabilities = torch.tensor([[[0.1, 0.1, 0.4]], [[0.7, 0.1, 0.3]], [[0.2, 0.8, 0.3]]])
    found = instances(drawn("12."), "multiclass", 3, probabilities=probabilities)
    assert found.rows(["ground", "cell", "wall"]) == [
        {"id": 1, "class": 1, "class_name": "cell", "area": 1}
        | {"left": 0, "top": 0, "right": 1, "bottom": 1, "x": 0.5, "y": 0.5, "score": 0.7},
        {"id": 2, "class": 2, "class_name": "wall", "area": 1}
        | {"left": 1, "top": 0, "right": 2, "bottom": 1, "x": 1.5, "y": 0.5, "score": 0.8},
    ]


def test_classes_without_names_have_one_rule() -> None:
    assert [row["class_name"] for row in instances(drawn("1.2"), "multiclass", 3).rows()] == ["class_1", "class_2"]
    both = torch.stack([drawn("1."), drawn(".1")])
    assert [row["class_name"] for row in instances(both, "multilabel", 2).rows()] == ["class_0", "class_1"]
    (row,) = instances(drawn("1"), "binary", 1).rows()
    assert row["class_name"] == "foreground"
    assert "score" not in row


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 4)])
def test_empty_and_full_masks(size: tuple[int, int]) -> None:
    height, width = size
    empty = instances(torch.zeros(size, dtype=torch.uint8), "binary", 1, probabilities=torch.zeros(1, *size))
    assert (len(empty), empty.rows(), polygons(empty)) == (0, [], [])
    assert [tuple(column.shape) for column in (empty.boxes, empty.centroids, empty.areas)] == [(0, 4), (0, 2), (0,)]
    assert to_geojson(empty) == {"type": "FeatureCollection", "features": []}
    assert to_coco([("a.png", empty)])["annotations"] == []
    full = instances(torch.ones(size, dtype=torch.uint8), "binary", 1)
    (((ring,),),) = polygons(full)
    assert ring.tolist() == [[0, 0], [width, 0], [width, height], [0, height]]
    assert full.centroids.tolist() == [[width / 2, height / 2]]
    for mask in (torch.zeros(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8)):
        assert torch.equal(cleaned(mask, "binary", 1, smallest=height * width, holes="all"), mask)
        assert not cleaned(mask, "binary", 1, smallest=height * width + 1, holes="all").any()


# Cleaning


@settings(max_examples=150, deadline=None)
@given(planes(1), CONNECTIVITIES, st.integers(0, 12))
def test_small_objects_go_as_in_scikit_image(plane: np.ndarray, connectivity: int, smallest: int) -> None:
    found = cleaned(torch.from_numpy(plane), "binary", 1, smallest=smallest, connectivity=connectivity)
    labels = measure.label(plane, connectivity=connectivity)
    expected = plane.copy()
    for region in measure.regionprops(labels):
        if region.area < smallest:
            expected[labels == region.label] = 0
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=150, deadline=None)
@given(planes(1), CONNECTIVITIES, st.integers(1, 12))
def test_holes_are_filled_as_in_scikit_image_and_scipy(plane: np.ndarray, connectivity: int, limit: int) -> None:
    mask, dual = torch.from_numpy(plane), 3 - connectivity
    structure = ndimage.generate_binary_structure(2, dual)
    whole = cleaned(mask, "binary", 1, holes="all", connectivity=connectivity)
    np.testing.assert_array_equal(whole, ndimage.binary_fill_holes(plane, structure))
    # A wide frame makes one large component of all background that reaches the border, which is no hole of ours.
    framed = np.pad(plane.astype(bool), 5)
    expected = morphology.remove_small_holes(framed, max_size=limit, connectivity=dual)[5:-5, 5:-5]
    np.testing.assert_array_equal(cleaned(mask, "binary", 1, holes=limit, connectivity=connectivity), expected)


@settings(max_examples=150, deadline=None)
@given(planes(2), CONNECTIVITIES, st.integers(0, 8), st.one_of(st.integers(0, 8), st.just("all")))
def test_multiclass_cleaning_is_what_a_search_says(
    plane: np.ndarray, connectivity: int, smallest: int, holes: Any
) -> None:
    expected = plane.copy()
    for pixels in searched(plane, connectivity):
        if plane[pixels[0]] and len(pixels) < smallest:
            expected[tuple(np.transpose(pixels))] = 0
    dual, size = 3 - connectivity, plane.shape
    kept = expected.copy()
    for pixels in searched(kept, dual):
        around = {kept[there] for here in pixels for there in neighbours(*here, size, dual)} - {0}
        reaches = any(y in (0, size[0] - 1) or x in (0, size[1] - 1) for y, x in pixels)
        if not kept[pixels[0]] and not reaches and len(around) == 1 and (holes == "all" or len(pixels) <= holes):
            expected[tuple(np.transpose(pixels))] = around.pop()
    options = {"smallest": smallest, "holes": holes, "connectivity": connectivity}
    found = cleaned(torch.from_numpy(plane), "multiclass", 3, **options)
    np.testing.assert_array_equal(found, expected)
    assert torch.equal(cleaned(found, "multiclass", 3, **options), found)


def test_a_speck_in_another_class_goes_to_it_where_holes_are_filled() -> None:
    mask = drawn(".......", ".11111.", ".112.1.", ".11111.", ".......")
    assert torch.equal(cleaned(mask, "multiclass", 3, smallest=3), drawn(*ROWS[0]))
    assert torch.equal(cleaned(mask, "multiclass", 3, smallest=3, holes=1), drawn(*ROWS[0]))
    assert torch.equal(cleaned(mask, "multiclass", 3, smallest=3, holes=2), drawn(*ROWS[1]))
    assert torch.equal(cleaned(mask, "multiclass", 3, holes="all"), mask)  # its hole lies between two classes


ROWS = [
    (".......", ".11111.", ".11..1.", ".11111.", "......."),
    (".......", ".11111.", ".11111.", ".11111.", "......."),
]


def test_all_holes_with_islands_and_holes_in_them_are_filled() -> None:
    mask = drawn("1111111", "1.....1", "1.111.1", "1.1.1.1", "1.111.1", "1.....1", "1111111")
    assert torch.equal(cleaned(mask, "binary", 1, holes="all"), torch.ones_like(mask))
    assert torch.equal(cleaned(mask, "binary", 1, holes=1).sum(), mask.sum() + 1)


def test_what_reaches_the_border_is_no_hole() -> None:
    mask = drawn("11.11", "1...1", "11111")
    assert torch.equal(cleaned(mask, "binary", 1, holes="all"), mask)


def test_multilabel_classes_are_cleaned_by_themselves() -> None:
    mask = torch.stack([drawn("111", "1.1", "111"), drawn("...", ".1.", "..."), drawn("11.", "...", "..1")])
    found = cleaned(mask, "multilabel", 3, smallest=2, holes=1)
    assert torch.equal(
        found, torch.stack([drawn("111", "111", "111"), drawn(*["..."] * 3), drawn("11.", "...", "...")])
    )


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.int64]
)
def test_types_stay_and_the_mask_given_too(dtype: torch.dtype) -> None:
    mask = drawn("1111.", "1.11.", "1111.", "....1").to(dtype)
    before = mask.clone()
    found = cleaned(mask, "binary", 1, smallest=2, holes=1, connectivity=1)
    assert found.dtype == dtype
    assert torch.equal(found, drawn("1111.", "1111.", "1111.", ".....").to(dtype))
    assert torch.equal(mask, before)
    untouched = cleaned(mask, "binary", 1)
    assert torch.equal(untouched, mask)
    assert untouched.data_ptr() != mask.data_ptr()
    assert instances(mask, "binary", 1).areas.tolist() == [12]


def test_many_classes_need_no_narrow_type() -> None:
    mask = torch.zeros(7, 7, dtype=torch.int64)
    mask[1:6, 1:6] = 300
    mask[3, 3] = 0
    found = cleaned(mask, "multiclass", 301, holes=1)
    assert (found == 300).sum() == 25
    assert instances(mask, "multiclass", 301).classes.tolist() == [300]
    assert (cleaned((mask > 0).byte() * 255, "multiclass", 256, holes=1) == 255).sum() == 25


# Outlines


@settings(max_examples=300, deadline=None)
@given(planes(2), CONNECTIVITIES)
def test_filled_polygons_give_the_mask_back_and_are_valid(plane: np.ndarray, connectivity: int) -> None:
    found = instances(torch.from_numpy(plane), "multiclass", 3, connectivity=connectivity)
    outlines = polygons(found)
    assert len(outlines) == len(found)
    for number, parts in enumerate(outlines, 1):
        np.testing.assert_array_equal(filled(parts, plane.shape), found.labels.numpy() == number)
        for part in parts:
            assert measure.label(filled([part], plane.shape), connectivity=1).max() == 1  # hangs together by edges
            areas = [shoelace(ring) for ring in part]
            assert areas[0] > 0
            assert all(area < 0 for area in areas[1:])
            assert filled([part], plane.shape).sum() == sum(areas)
            for ring in part:
                corners = ring.tolist()
                assert len({*map(tuple, corners)}) == len(corners)  # no ring meets itself
                steps = (ring - ring.roll(1, 0)).ne(0)
                assert steps.sum(1).eq(1).all()
                assert steps.ne(steps.roll(1, 0)).all()  # each corner is one
                assert min(corners, key=lambda corner: corner[::-1]) == corners[0]
        pieces = measure.label(found.labels.numpy() == number, connectivity=1).max()
        assert len(parts) == pieces


def test_a_ring_of_pixels_that_closes_by_a_corner_has_a_hole() -> None:
    found = instances(drawn("111", "1.1", "11."), "binary", 1, connectivity=1)
    (((outer, hole),),) = polygons(found)
    assert outer.tolist() == [[0, 0], [3, 0], [3, 2], [2, 2], [2, 3], [0, 3]]
    assert hole.tolist() == [[1, 1], [1, 2], [2, 2], [2, 1]]


def test_holes_in_holes_belong_to_the_object_around_them() -> None:
    mask = drawn("1111111", "1.....1", "1.111.1", "1.1.1.1", "1.111.1", "1.....1", "1111111")
    outer, inner = polygons(instances(mask, "binary", 1))
    assert [[shoelace(ring) for ring in part] for part in outer] == [[49, -25]]
    assert [[shoelace(ring) for ring in part] for part in inner] == [[9, -1]]


def test_long_spirals_are_one_ring() -> None:
    side = 101
    plane, y, x, dy, dx = np.zeros((side, side), np.uint8), 0, 0, 0, 1
    plane[0, 0] = 1
    for length in [side - 1, *(n for k in range(side - 1, 1, -2) for n in (k, k))]:
        for _ in range(length):
            y, x = y + dy, x + dx
            plane[y, x] = 1
        dy, dx = dx, -dy
    found = instances(torch.from_numpy(plane), "binary", 1)
    ((rings,),) = polygons(found)
    assert len(rings) == 1
    assert len(rings[0]) > 190
    np.testing.assert_array_equal(filled([rings], plane.shape), plane)


@pytest.mark.parametrize("connectivity", [1, 2])
def test_gdal_draws_real_nuclei_from_their_geojson(shared_data: Path, connectivity: int) -> None:
    for mask in nuclei(shared_data, 12):
        found = instances(mask, "binary", 1, connectivity=connectivity)
        features = to_geojson(found)["features"]
        shapes = [(feature["geometry"], feature["properties"]["id"]) for feature in features]
        drawn_back = rasterio.features.rasterize(shapes, mask.shape, dtype="int32")
        np.testing.assert_array_equal(drawn_back, found.labels)


def test_gdal_traces_the_same_rings_of_real_nuclei(shared_data: Path) -> None:
    def normal(ring: Any) -> tuple[tuple[float, float], ...]:
        points = [tuple(map(float, point)) for point in ring]
        start = points.index(min(points))
        forth = points[start:] + points[:start]
        return min(tuple(forth), (forth[0], *forth[:0:-1]))

    compared = 0
    for mask in nuclei(shared_data, 12):
        found = instances(mask, "binary", 1, connectivity=1)
        theirs = rasterio.features.shapes(found.labels.numpy(), mask.numpy().astype(bool), connectivity=4)
        rings = {int(number): [normal(ring[:-1]) for ring in shape["coordinates"]] for shape, number in theirs}
        for number, ((part),) in enumerate(polygons(found), 1):
            own = [normal(ring.tolist()) for ring in part]
            assert own[0] == rings[number][0]
            assert sorted(own) == sorted(rings[number])
            compared += 1
    assert compared > 200


# GeoJSON


FRAME = drawn("....", ".111", ".1.1", ".111", "1...")
"""A frame with a hole of one pixel, and a pixel that touches it by a corner."""


def test_geojson_of_a_drawn_mask_in_closed_form() -> None:
    found = instances(FRAME, "binary", 1, probabilities=torch.full((1, 5, 4), 0.75))
    record = to_geojson(found, ["nucleus"])
    assert json.loads(json.dumps(record)) == {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {
                    "type": "MultiPolygon",
                    "coordinates": [
                        [
                            [[1, 1], [4, 1], [4, 4], [1, 4], [1, 1]],
                            [[2, 2], [2, 3], [3, 3], [3, 2], [2, 2]],
                        ],
                        [[[0, 4], [1, 4], [1, 5], [0, 5], [0, 4]]],
                    ],
                },
                "properties": {
                    "id": 1,
                    "class": 0,
                    "class_name": "nucleus",
                    "area": 9,
                    "score": 0.75,
                    "objectType": "detection",
                    "classification": {"name": "nucleus"},
                    "measurements": {"area": 9, "score": 0.75},
                },
            }
        ],
    }


def test_geojson_in_coordinates_of_a_map() -> None:
    found = instances(FRAME, "binary", 1, connectivity=1)
    record = to_geojson(found, transform=Affine(10, 0, 300000, 0, -10, 5000000), crs="EPSG:32633")
    assert [feature["geometry"] for feature in record["features"]] == [
        {
            "type": "Polygon",
            "coordinates": [
                [[300010, 4999990], [300010, 4999960], [300040, 4999960], [300040, 4999990], [300010, 4999990]],
                [[300020, 4999980], [300030, 4999980], [300030, 4999970], [300020, 4999970], [300020, 4999980]],
            ],
        },
        {
            "type": "Polygon",
            "coordinates": [
                [[300000, 4999960], [300000, 4999950], [300010, 4999950], [300010, 4999960], [300000, 4999960]]
            ],
        },
    ]
    assert [feature["properties"] for feature in record["features"]] == [
        {"id": 1, "class": 0, "class_name": "foreground", "area": 8},
        {"id": 2, "class": 0, "class_name": "foreground", "area": 1},
    ]
    name = record["crs"]["properties"]["name"]
    assert record["crs"]["type"] == "name"
    assert CRS.from_user_input(name) == CRS.from_epsg(32633)


@pytest.mark.parametrize("crs", ["EPSG:4326", "epsg:4326", "OGC:CRS84"])
def test_geojson_in_degrees_has_the_longitude_first(crs: str) -> None:
    found = instances(FRAME, "binary", 1)
    record = to_geojson(found, transform=(1e-4, 0, 13, 0, -1e-4, 52), crs=crs)
    assert CRS.from_user_input(record["crs"]["properties"]["name"]) == CRS.from_user_input("OGC:CRS84")


@pytest.mark.parametrize(
    "transform",
    [
        None,
        (1, 0, 0, 0, -1, 0),
        (-2, 0, 5, 0, 3, 1),
        (0, 1, 0, 1, 0, 0),
        (0.6, -0.8, 7, 0.8, 0.6, 9),
        (2, 1, 0, 1, 3, 0),
    ],
)
def test_geojson_rings_are_closed_and_follow_the_right_hand_rule(transform: tuple[float, ...] | None) -> None:
    crs = None if transform is None else "EPSG:32633"
    (feature,) = to_geojson(instances(FRAME, "binary", 1), transform=transform, crs=crs)["features"]
    (outer, hole), (pixel,) = feature["geometry"]["coordinates"]
    assert all(ring[0] == ring[-1] for ring in (outer, hole, pixel))
    a, b, _, d, e, _ = transform or (1, 0, 0, 0, 1, 0)
    unit = abs(a * e - b * d)
    assert [shoelace(ring[:-1]) for ring in (outer, hole, pixel)] == pytest.approx([9 * unit, -unit, unit])


# COCO


def loaded(record: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = json.loads(json.dumps(record))
    coco.createIndex()
    return coco


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # its own
@settings(max_examples=100, deadline=None)
@given(planes(2), CONNECTIVITIES)
def test_pycocotools_draws_every_object_from_coco(plane: np.ndarray, connectivity: int) -> None:
    found = instances(torch.from_numpy(plane), "multiclass", 3, connectivity=connectivity)
    coco = loaded(to_coco([("a.png", found)]))
    assert len(coco.anns) == len(found)
    for annotation in coco.loadAnns(coco.getAnnIds()):
        np.testing.assert_array_equal(coco.annToMask(annotation), found.labels.numpy() == annotation["id"])
        encoded = coco.annToRLE(annotation)
        assert coco_masks.area(encoded) == annotation["area"]
        assert coco_masks.toBbox(encoded).tolist() == annotation["bbox"]


def test_coco_of_drawn_masks_in_closed_form() -> None:
    first = instances(drawn("11..", "..2."), "multiclass", 3, connectivity=1)
    second = instances(drawn("111", "1.1", "111"), "multiclass", 3)
    record = to_coco(iter([("a.png", first), ("b.png", second)]), ["ground", "cell", "wall"])
    shared = {"image_id": 1, "iscrowd": 0}
    assert record == {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 4, "height": 2},
            {"id": 2, "file_name": "b.png", "width": 3, "height": 3},
        ],
        "annotations": [
            {"id": 1, "category_id": 1, "bbox": [0, 0, 2, 1], "area": 2, "segmentation": [[0, 0, 2, 0, 2, 1, 0, 1]]}
            | shared,
            {"id": 2, "category_id": 2, "bbox": [2, 1, 1, 1], "area": 1, "segmentation": [[2, 1, 3, 1, 3, 2, 2, 2]]}
            | shared,
            {
                "id": 3,
                "image_id": 2,
                "category_id": 1,
                "bbox": [0, 0, 3, 3],
                "area": 8,
                "iscrowd": 0,
                "segmentation": {"size": [3, 3], "counts": [0, 4, 1, 4]},
            },
        ],
        "categories": [
            {"id": 1, "name": "cell", "supercategory": ""},
            {"id": 2, "name": "wall", "supercategory": ""},
        ],
    }


def test_coco_categories_of_other_tasks_count_from_one() -> None:
    mask = torch.stack([drawn("1.", ".."), drawn("..", "11")])
    record = to_coco([("a.png", instances(mask, "multilabel", 2))], ["cell", "wall"])
    assert [(c["id"], c["name"]) for c in record["categories"]] == [(1, "cell"), (2, "wall")]
    assert [(a["category_id"], a["bbox"]) for a in record["annotations"]] == [(1, [0, 0, 1, 1]), (2, [0, 1, 2, 1])]
    ring = torch.stack([drawn("...", "...", "..."), drawn("111", "1.1", "111")])
    (annotation,) = to_coco([("a.png", instances(ring, "multilabel", 2))])["annotations"]
    assert annotation["segmentation"] == {"size": [3, 3], "counts": [0, 4, 1, 4]}
    record = to_coco([("a.png", instances(drawn("1"), "binary", 1))])
    assert [(c["id"], c["name"]) for c in record["categories"]] == [(1, "foreground")]


def test_real_nuclei_found_are_all_right_to_coco_s_own_evaluation(shared_data: Path) -> None:
    masks = list(nuclei(shared_data, 6))
    found = [instances(mask, "binary", 1, probabilities=torch.full((1, *mask.shape), 0.5)) for mask in masks]
    truth = loaded(to_coco((f"{k}.png", each) for k, each in enumerate(found)))
    results = [{**annotation} for annotation in truth.dataset["annotations"]]
    assert {annotation["score"] for annotation in results} == {0.5}
    for annotation in results:  # results are to be run-length encodings
        annotation["segmentation"] = truth.annToRLE(annotation)
    evaluation = COCOeval(truth, truth.loadRes(results), "segm")
    evaluation.params.maxDets = [1, 100, 10_000]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    assert precision.min() == precision.max() == 1


# What is refused


WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a task": ({"task": "multi_class"}, ["did you mean 'multiclass'"]),
    "one class of multiclass": ({"task": "multiclass", "num_classes": 1}, ["num_classes=1"]),
    "two classes of binary": ({"num_classes": 2}, ["num_classes=2"]),
    "no classes": ({"num_classes": True}, ["num_classes=True"]),
    "connectivity": ({"connectivity": 8}, ["connectivity=8", "share an edge"]),
    "a truth as connectivity": ({"connectivity": True}, ["connectivity=True"]),
    "a negative size": ({"smallest": -1}, ["smallest=-1"]),
    "a size that is no whole number": ({"smallest": 2.5}, ["smallest=2.5"]),
    "holes": ({"holes": "every"}, ["holes='every'", "'all'"]),
    "all at once": (
        {"task": "x", "num_classes": 0, "connectivity": 4, "smallest": None, "holes": -2},
        ["5 things are wrong", "task='x'", "num_classes=0", "connectivity=4", "smallest=None", "holes=-2"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_all_named(case: str) -> None:
    changes, parts = WRONG[case]
    arguments = {"task": "binary", "num_classes": 1, **changes}
    with pytest.raises(ConfigError) as caught:
        cleaned(drawn("1"), **arguments)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    if not {"smallest", "holes"} & set(changes):
        with pytest.raises(ConfigError, match="cannot find objects") as caught:
            instances(drawn("1"), **arguments)
        assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize(
    ("mask", "task", "parts"),
    [
        (np.zeros((2, 2), np.uint8), "binary", ["torch.Tensor", "torch.from_numpy"]),
        ([[0, 1]], "binary", ["not list"]),
        (torch.zeros(1, 2, 2).byte(), "binary", ["(1, 2, 2)", "(H, W)"]),
        (torch.zeros(2, 2).byte(), "multilabel", ["(2, 2)", "(3, H, W)"]),
        (torch.zeros(2, 2, 2).byte(), "multilabel", ["(2, 2, 2)", "(3, H, W)"]),
        (torch.zeros(0, 2).byte(), "multiclass", ["no pixel"]),
        (torch.zeros(2, 2), "binary", ["torch.float32", "threshold"]),
        (torch.zeros(1, 2, 2), "multiclass", ["(1, 2, 2)", "torch.float32"]),
        (torch.tensor([[0, 255]]), "binary", ["from 0 to 255", "0…1", "mask > 0"]),
        (torch.tensor([[-1, 1]]), "binary", ["from -1 to 1"]),
        (torch.tensor([[1, 3]]), "multiclass", ["from 1 to 3", "0…2"]),
    ],
)
def test_masks_of_another_kind_are_refused(mask: Any, task: str, parts: list[str]) -> None:
    for function in (cleaned, instances):
        with pytest.raises(InputError) as caught:
            function(mask, task, 1 if task == "binary" else 3)
        assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize(
    ("probabilities", "parts"),
    [
        ([[0.5]], ["not list"]),
        (torch.zeros(1, 1, 2).byte(), ["torch.uint8"]),
        (torch.zeros(1, 2), ["(1, 2)", "(1, 1, 2)"]),
        (torch.tensor([[[-3.0, 4.5]]]), ["from -3 to 4.5", "logits"]),
        (torch.tensor([[[0.5, torch.nan]]]), ["nan"]),
    ],
)
def test_probabilities_of_another_kind_are_refused(probabilities: Any, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        instances(drawn("11"), "binary", 1, probabilities=probabilities)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_names_that_do_not_fit_are_refused_everywhere() -> None:
    found = instances(drawn("12"), "multiclass", 3)
    for names, part in ((["a", "b"], "2 names for num_classes=3"), ("abc", "list or tuple"), ([1, 2, 3], "strings")):
        for function in (found.rows, lambda n: to_geojson(found, n), lambda n: to_coco([("a", found)], n)):
            with pytest.raises(ConfigError, match=part):
                function(names)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"transform": (1, 0, 0)}, ["six finite numbers"]),
        ({"transform": (1, 0, 0, 0, 1, torch.inf)}, ["six finite numbers"]),
        ({"transform": "abcdef"}, ["six finite numbers"]),
        ({"transform": (1, 2, 0, 2, 4, 0)}, ["on one line"]),
        ({"crs": "EPSG:32633"}, ["crs without transform"]),
        ({"transform": (10, 0, 300000, 0, -10, 5000000)}, ["transform without crs", "'EPSG:4326'"]),
        ({"crs": "WGS 84", "transform": (1, 2, 3), "class_names": ()}, ["3 things", "'EPSG:32633'", "six", "0 names"]),
        ({"crs": 32633, "transform": (1, 0, 0, 0, 1, 0)}, ["crs=32633"]),
    ],
)
def test_places_that_are_none_are_refused(options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError, match="cannot write GeoJSON") as caught:
        to_geojson(instances(drawn("1"), "binary", 1), **options)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_coco_of_no_image_or_of_two_models_is_refused() -> None:
    with pytest.raises(ConfigError, match="no images"):
        to_coco([])
    pair = [("a", instances(drawn("1"), "binary", 1)), ("b.png", instances(drawn("1"), "multiclass", 3))]
    with pytest.raises(ConfigError, match=r"'b.png' has 3 multiclass classes"):
        to_coco(pair)


def test_without_scipy_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Instances = instances(drawn("1.", ".1"), "binary", 1)
    for name in ("scipy", "scipy.ndimage"):
        monkeypatch.setitem(sys.modules, name, None)
    for work in (
        lambda: cleaned(drawn("1"), "binary", 1, holes="all"),
        lambda: instances(drawn("1"), "binary", 1),
        lambda: polygons(found),
    ):
        with pytest.raises(ConfigError, match=r"unetzoo\[objects\]"):
            work()
