"""Objects that files tell apart beside a mask of classes, and drawn ones that no pixel shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import save
from PIL import Image

from unetzoo.cli import main
from unetzoo.data import SegmentationDataset, check, labels_of, list_samples, masks
from unetzoo.errors import ConfigError, InputError

SIZE = (16, 20)
CLASSES = np.zeros(SIZE, np.uint8)
CLASSES[2:6, 2:6] = CLASSES[2:6, 6:9] = 1  # two objects of a class that touch
CLASSES[10:13, 3:15] = 15
CLASSES[8, 2:15] = 255
IDS = np.zeros(SIZE, np.int64)
IDS[2:6, 2:6], IDS[2:6, 6:9], IDS[10:13, 3:15] = 1, 2, 3
AREAS = [16, 12, 36]


def picture(path: Path) -> None:
    save(np.random.default_rng(ord(path.stem[0])).integers(0, 256, (*SIZE, 3), dtype=np.uint8), path)


def indexed(values: np.ndarray, path: Path) -> None:
    found = Image.frombytes("P", SIZE[::-1], values.tobytes())
    found.putpalette([k * 37 % 256 for k in range(768)])
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save(path)


def voc(folder: Path, stems: str = "abc") -> None:
    for stem in stems:
        picture(folder / "JPEGImages" / f"{stem}.jpg")
        save(CLASSES, folder / "SegmentationClass" / f"{stem}.png")


def ids_of(folder: Path, **options: object) -> np.ndarray:
    labels = labels_of(folder, **options)
    sample = next(sample for found in list_samples(folder, labels).samples.values() for sample in found)
    decoded = masks.decode(sample, labels, SIZE, ids=True)
    assert decoded.ids is not None
    assert masks.decode(sample, labels, SIZE).ids is None
    return decoded.ids.numpy()


def test_a_mask_of_classes_alone_tells_no_objects_apart(tmp_path: Path) -> None:
    voc(tmp_path)
    labels = labels_of(tmp_path, task="instances")
    sample = next(sample for part in list_samples(tmp_path, labels).samples.values() for sample in part)
    with pytest.raises(InputError, match="does not tell objects apart"):
        SegmentationDataset([sample], labels)[0]


def same_objects(found: np.ndarray) -> bool:
    """Return whether ids are those that were written, whatever their numbers."""
    pairs = {*zip(found.flat, IDS.flat, strict=True)}
    return len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs}) and (0, 0) in pairs


@pytest.mark.parametrize("written", ["indices", "palette", "colours"])
def test_objects_of_pascal_voc(tmp_path: Path, written: str) -> None:
    voc(tmp_path)
    values = np.where(CLASSES == 255, 255, IDS).astype(np.uint8)
    for stem in "abc":
        path = tmp_path / "SegmentationObject" / f"{stem}.png"
        if written == "colours":
            colours = np.zeros((256, 3), np.uint8)
            colours[[1, 2, 3, 255]] = [(128, 0, 0), (0, 128, 0), (0, 0, 7), (224, 224, 192)]
            save(colours[values], path)
        elif written == "palette":
            indexed(values, path)
        else:
            save(values, path)
    assert same_objects(ids_of(tmp_path))
    report = check(tmp_path, labels_of(tmp_path))
    assert "SegmentationObject/" in report.understood
    assert not report.problems
    for split in report.splits.values():
        assert split.objects is not None
        assert (split.objects.how, split.objects.total) == ("told apart by the masks", 3 * split.images)
        assert (split.objects.touching, split.objects.area) == (2 * split.images, np.median(AREAS))
    labels = labels_of(tmp_path, task="instances")
    assert (labels.task, labels.num_classes) == ("instances", 1)
    for sample in (sample for part in list_samples(tmp_path, labels).samples.values() for sample in part):
        (item,) = SegmentationDataset([sample], labels)
        assert same_objects(item["ids"].numpy())
        assert np.array_equal(item["target"].numpy() == 1, IDS > 0)
    with pytest.raises(ConfigError, match="give one class in classes"):
        labels_of(tmp_path, task="instances", classes=("person", "aeroplane"))
    # Of a class that is picked, its objects alone.
    people = check(tmp_path, labels_of(tmp_path, classes=("person",))).splits["train"]
    assert people.objects is not None
    assert (people.objects.total, people.objects.area) == (people.images, 36)


def test_objects_of_another_size_are_a_problem(tmp_path: Path) -> None:
    voc(tmp_path)
    save(np.ones((9, 9), np.uint8), tmp_path / "SegmentationObject" / "b.png")
    (problem,) = check(tmp_path, labels_of(tmp_path)).problems
    assert all(part in problem for part in ("SegmentationObject", "b.png", "9×9", "20×16"))


def test_objects_of_cityscapes(tmp_path: Path) -> None:
    codes = np.select([CLASSES == 1, CLASSES == 15, CLASSES == 255], [26, 24, 4], 7)  # cars, a person, road
    for split in ("train", "val"):
        for stem in "ab":
            start = f"{split}/town/{stem}_000000_000019"
            picture(tmp_path / "leftImg8bit" / f"{start}_leftImg8bit.png")
            save(codes.astype(np.uint8), tmp_path / "gtFine" / f"{start}_gtFine_labelIds.png")
            ids = np.where(IDS > 0, codes * 1000 + IDS - 1, codes)
            save(ids.astype(np.uint16), tmp_path / "gtFine" / f"{start}_gtFine_instanceIds.png")
    assert same_objects(ids_of(tmp_path))
    report = check(tmp_path, labels_of(tmp_path))
    assert "instanceIds" in report.understood
    objects = report.splits["train"].objects
    assert objects is not None
    assert (objects.how, objects.total, objects.touching) == ("told apart by the masks", 6, 4)


@pytest.mark.parametrize(("value", "channels"), [(21, 1), (200, 1), (15, 3)])
def test_folders_like_pascal_voc_have_its_classes_if_they_fit(tmp_path: Path, value: int, channels: int) -> None:
    voc(tmp_path)
    assert labels_of(tmp_path).num_classes == 21
    found = np.where(CLASSES == 15, value, CLASSES).astype(np.uint8)
    if channels == 3:
        found = np.stack([found, found // 2, found], 2)
    for stem in "abc":
        save(found, tmp_path / "SegmentationClass" / f"{stem}.png")
    with pytest.raises(ConfigError, match="class_names") as caught:
        labels_of(tmp_path)
    assert "class_names.txt" in str(caught.value)
    if channels == 1:
        names = ("background", *(f"kind {k}" for k in range(value)))
        assert labels_of(tmp_path, class_names=names).class_names == names
        (tmp_path / "class_names.txt").write_text("\n".join(names), encoding="utf-8")
        assert labels_of(tmp_path).class_names == names


def test_names_go_before_those_that_only_fit(tmp_path: Path) -> None:
    voc(tmp_path)
    names = ("background", *(f"kind {k}" for k in range(15)))
    labels = labels_of(tmp_path, class_names=names)
    assert (labels.task, labels.class_names, labels.ignore) == ("multiclass", names, 255)
    assert not check(tmp_path, labels).problems
    assert labels_of(tmp_path, task="multiclass", class_names=("background", "person")).codes is not None


def ring(x: float, y: float, side: float = 4) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


def drawn(folder: Path, kind: str, places: dict[str, list[tuple[float, float, float]]]) -> None:
    """Write squares by the stem of their image."""
    for stem in places:
        picture(folder / "images" / f"{stem}.png")
    height, width = SIZE
    if kind == "coco":
        listed = [{"id": k, "file_name": f"{s}.png", "height": height, "width": width} for k, s in enumerate(places)]
        found = [
            {"image_id": k, "category_id": 1, "segmentation": [[n for corner in ring(*one) for n in corner]]}
            for k, ones in enumerate(places.values())
            for one in ones
        ]
        record = {"images": listed, "annotations": found, "categories": [{"id": 1, "name": "cell"}]}
        (folder / "coco.json").write_text(json.dumps(record), encoding="utf-8")
    if kind == "cvat":
        boxes = {
            stem: "".join(
                f'<box label="cell" xtl="{x}" ytl="{y}" xbr="{x + side}" ybr="{y + side}"/>' for x, y, side in ones
            )
            for stem, ones in places.items()
        }
        inner = "".join(
            f'<image id="{k}" name="{stem}.png" width="{width}" height="{height}">{found}</image>'
            for k, (stem, found) in enumerate(boxes.items())
        )
        (folder / "cvat.xml").write_text(f"<annotations>{inner}</annotations>", encoding="utf-8")
    if kind in ("labelme", "geojson", "labelme boxes"):
        (folder / "masks").mkdir()
    for stem, ones in places.items():
        if kind.startswith("labelme"):
            shapes = [
                {"label": "cell", "points": ring(*one)[::2], "shape_type": "rectangle"}
                if "boxes" in kind
                else {"label": "cell", "points": ring(*one), "shape_type": "polygon"}
                for one in ones
            ]
            record = {"version": "5", "imagePath": "", "imageHeight": height, "imageWidth": width, "shapes": shapes}
            (folder / "masks" / f"{stem}.json").write_text(json.dumps(record), encoding="utf-8")
        if kind == "geojson":
            features = [
                {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring(*one)]}}
                for one in ones
            ]
            record = {"type": "FeatureCollection", "features": features}
            (folder / "masks" / f"{stem}.json").write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.parametrize("kind", ["coco", "cvat", "labelme", "labelme boxes", "geojson"])
def test_drawn_objects_that_no_pixel_shows_are_told_once(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture
) -> None:
    inside, partly = (4, 4, 4), (18, 2, 4)
    places = {
        "a": [inside],
        "b": [inside, (40, 3, 4), partly],
        "c": [inside, (3, -9, 4), (5.6, 5.6, 0.2)],
        "d": [inside],
    }
    drawn(tmp_path, kind, places)
    labels = labels_of(tmp_path)
    report = check(tmp_path, labels)
    (said,) = (line for line in report.warnings if "outside the image" in line)
    assert all(part in said for part in ("3 objects", "2 images", "b' first"))
    assert sum(split.objects.total for split in report.splits.values() if split.objects) == 5
    samples = [sample for found in list_samples(tmp_path, labels).samples.values() for sample in found]
    areas = [int((masks.read_target(sample, labels, SIZE) > 0).sum()) for sample in samples]
    assert areas == [16, 16 + 8, 16, 16]  # what lies partly inside is cut off at the edge
    main(["data", "check", str(tmp_path)])
    assert capsys.readouterr().out.count("outside the image") == 1


def test_regions_that_do_not_count_are_not_told(tmp_path: Path) -> None:
    drawn(tmp_path, "labelme", {"a": [(4, 4, 4)], "b": [(4, 4, 4)], "c": [(4, 4, 4)]})
    path = tmp_path / "masks" / "a.json"
    found = json.loads(path.read_text())
    found["shapes"] += [
        {"label": name, "points": ring(40, 3), "shape_type": "polygon"} for name in ("__ignore__", "_background_")
    ]
    path.write_text(json.dumps(found))
    assert not any("outside the image" in line for line in check(tmp_path, labels_of(tmp_path)).warnings)
