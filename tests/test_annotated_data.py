"""Data sets with annotations, of COCO above all: which classes and images count, what is missing, and conversion."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unetzoo
from unetzoo.cli import main
from unetzoo.data import Labels, annotations, bands, check, convert, find_samples, labels_of, list_samples, masks
from unetzoo.data.annotations.coco import uncompressed
from unetzoo.data.annotations.regions import Polygons
from unetzoo.errors import ConfigError, InputError
from unetzoo.files import strict_json

mask_of = pytest.importorskip("pycocotools.mask")
SIZE = (40, 50)


def write_coco(folder: Path, annotations: list[dict[str, Any]], images: int = 12, **parts: Any) -> Path:
    """Write images and their COCO file; returns the folder."""
    (folder / "images").mkdir(parents=True)
    listed = []
    for k in range(images):
        pixels = np.random.default_rng(k).integers(0, 255, (*SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{k}.png")
        listed.append({"id": k, "file_name": f"{k}.png", "height": SIZE[0], "width": SIZE[1]})
    categories = [{"id": 3, "name": "nucleus"}, {"id": 7, "name": "mitosis"}]
    found = {"images": listed, "annotations": annotations, "categories": categories, **parts}
    (folder / "instances.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


def one(k: int, segmentation: Any, category: int = 3, **others: Any) -> dict[str, Any]:
    """Return an annotation of image ``k``."""
    return {"id": k + 100, "image_id": k, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **others}


def run_lengths(mask: np.ndarray, *, compressed: bool) -> dict[str, Any]:
    """Return a run-length encoding as pycocotools writes it."""
    encoded = mask_of.encode(np.asfortranarray(mask.astype(np.uint8)))
    if compressed:
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}
    flat = mask.T.ravel()
    breaks = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *breaks, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


@pytest.mark.parametrize("seed", range(4))
def test_compressed_counts_are_those_of_pycocotools(seed: int) -> None:
    mask = np.random.default_rng(seed).random((70, 90)) > (0.02, 0.3, 0.5, 0.999)[seed]
    counts = uncompressed(run_lengths(mask, compressed=True)["counts"])
    expected = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(mask.shape[::-1]).T
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize("compressed", [False, True])
def test_what_coco_draws_is_what_pycocotools_decodes(tmp_path: Path, compressed: bool) -> None:
    drawn = np.random.default_rng(1).random((12, *SIZE)) > 0.6
    written = [one(k, run_lengths(mask, compressed=compressed), 3 + 4 * (k % 2)) for k, mask in enumerate(drawn)]
    crowd = np.zeros(SIZE, bool)
    crowd[:, 20:] = True
    written.append(one(0, run_lengths(crowd, compressed=compressed), iscrowd=1))
    source = write_coco(tmp_path, written)
    labels = labels_of(source)
    assert (labels.task, labels.class_names) == ("multiclass", ("background", "nucleus", "mitosis"))
    samples = {sample.name: sample for found in find_samples(source, labels).values() for sample in found}
    assert len(samples) == 12
    for k, mask in enumerate(drawn):
        target = masks.read_target(samples[f"images/{k}"], labels, SIZE).numpy()
        expected = np.where(mask, 1 + k % 2, 0)
        if k == 0:
            expected[crowd & ~mask] = -100
        assert np.array_equal(target, expected)


def test_classes_are_picked_and_ordered(tmp_path: Path) -> None:
    square, other = [[5, 5, 20, 5, 20, 30, 5, 30]], [[0, 0, 9, 0, 9, 9, 0, 9]]
    source = write_coco(tmp_path, [one(0, square), one(0, other, 7)])
    labels = labels_of(source, classes=("mitosis", "nucleus"))
    assert labels.class_names == ("background", "mitosis", "nucleus")
    sample = next(s for found in find_samples(source, labels).values() for s in found if s.name == "images/0")
    target = masks.read_target(sample, labels, SIZE).numpy()
    assert (target[:9, :9] == 1).all()  # the later one lies above
    assert (target[10:30, 5:20] == 2).all()
    assert (target > 0).sum() == 15 * 25 + 81 - 16
    picked = labels_of(source, classes=("mitosis",))
    assert (picked.task, picked.class_names) == ("binary", ("mitosis",))
    assert masks.read_target(sample, picked, SIZE).sum() == 81
    with pytest.raises(ConfigError, match=r"unknown class 'mitoses'.*did you mean 'mitosis'"):
        labels_of(source, classes=("mitoses",))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (one(0, []), "a box is not a mask"),
        (one(99, [[0, 0, 1, 1, 1, 0]]), "image_id 99 is not the id of an image"),
        (one(0, [[0, 0, 1, 1, 1, 0]], 4), "category_id 4 is not the id of a category"),
        (one(0, [[0, 0, 1, 1]]), "3 corners or more"),
        (one(0, {"size": [40, 50], "counts": [3, 4]}), "counts are of 7 pixels, but its image has 2000"),
        (one(0, {"size": [50, 40], "counts": [2000]}), r"size \[50, 40\], but its image has \[40, 50\]"),
        (one(0, {"size": [40, 50], "counts": "é"}), "compressed counts"),
    ],
)
def test_wrong_annotations_are_named_all_at_once(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    source = write_coco(tmp_path, [one(0, [[5, 5, 20, 5, 20, 30, 5, 30]]), wrong, wrong])
    with pytest.raises(ConfigError, match=said) as caught:
        find_samples(source, Labels())
    assert len(caught.value.problems) == 2


def test_coco_in_and_coco_out(tmp_path: Path, no_curves: None) -> None:
    """From COCO to a network of one epoch, and from what it predicts back to COCO, with the classes' names."""
    pytest.importorskip("scipy", reason="objects need SciPy")
    reader = pytest.importorskip("pycocotools.coco")
    square, other = [[5, 5, 30, 5, 30, 30, 5, 30]], [[32, 20, 48, 20, 48, 38, 32, 38]]
    written = [one(k, shape, kind) for k in range(12) for shape, kind in ((square, 3), (other, 7))]
    source = write_coco(tmp_path / "in", written)
    settings = {"model.options.base_channels": 4, "data.workers": 0, "data.repeats": 1, "trainer.accelerator": "cpu"}
    run = unetzoo.fit(
        "unet", data=source, out=tmp_path / "run", epochs=1, crop_size=32, batch_size=4, augmentation="none",
        settings=settings, quiet=True,
    )  # fmt: skip
    asked = ["--out", str(tmp_path / "out"), "--write", "coco"]
    assert main(["predict", str(run.folder), str(source / "images"), *asked]) == 0
    record = reader.COCO(str(tmp_path / "out" / "coco" / "annotations.json"))
    assert [category["name"] for category in record.dataset["categories"]] == ["nucleus", "mitosis"]
    assert [image["file_name"] for image in record.dataset["images"]] == sorted(f"{k}.png" for k in range(12))
    assert len(record.dataset["annotations"]) > 20
    # What was written is a data set again, and reads as the masks that were written beside it.
    (source / "instances.json").unlink()
    shutil.copy(tmp_path / "out" / "coco" / "annotations.json", source)
    labels = labels_of(source, task="multiclass")
    for found in find_samples(source, labels).values():
        for sample in found:
            mask = np.array(Image.open(tmp_path / "out" / f"{sample.image.stem}.png"))
            assert np.array_equal(masks.read_target(sample, labels, SIZE).numpy(), mask)


def test_categories_that_are_missing(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [one(0, [[0, 0, 1, 1, 1, 0]])], categories=None)
    with pytest.raises(InputError, match=r"instances\.json' is COCO JSON without categories"):
        labels_of(source)


def test_images_that_are_missing_are_named(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [])
    (source / "images" / "3.png").unlink()
    with pytest.raises(ConfigError, match=r"'3.png' of instances.json: there is no such image"):
        find_samples(source, Labels())


def test_files_of_no_known_format(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"version": 1}', encoding="utf-8")
    with pytest.raises(InputError, match="in a known format: COCO JSON"):
        annotations.read(tmp_path / "a.json")


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "I;16", "jpg"])
def test_files_of_one_object_each(tmp_path: Path, mode: str) -> None:
    drawn = np.zeros(SIZE, bool)
    drawn[8:24, 16:40] = True
    image = Image.fromarray(drawn.astype(np.uint8) * 255)
    path = tmp_path / f"one.{'jpg' if mode == 'jpg' else 'png'}"
    if mode == "P":  # white is stored first
        image = Image.fromarray((~drawn).astype(np.uint8), "L")
        image.putpalette([255, 255, 255, 0, 0, 0])
    elif mode == "I;16":
        image = Image.fromarray(drawn.astype(np.uint16) * 7)
    elif mode == "RGBA":
        image = Image.merge("RGBA", [Image.new("L", image.size, 90)] * 3 + [image])
    elif mode != "jpg":
        image = image.convert(mode)
    image.save(path)
    found = np.zeros(SIZE, bool)
    part = annotations.MaskFile(path).pixels(SIZE)
    found[part.slices] = part.inside
    assert np.array_equal(found, drawn)
    with pytest.raises(InputError, match="50×40 pixels, but its image is 9×9"):
        annotations.MaskFile(path).pixels((9, 9))


def test_objects_without_a_class_are_refused_where_others_have_one(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    square = [[[2, 2], [9, 2], [9, 9], [2, 9], [2, 2]]]
    for k in range(4):
        Image.new("RGB", (20, 20)).save(tmp_path / "images" / f"{k}.png")
        named = [{"name": name} for name in ("tumour", "stroma")] + [None] * (k == 1)
        features = [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": square},
                "properties": {"objectType": "annotation"} | ({} if kind is None else {"classification": kind}),
            }
            for kind in named
        ]
        text = json.dumps({"type": "FeatureCollection", "features": features})
        (tmp_path / "labels" / f"{k}.geojson").write_text(text, encoding="utf-8")
    said = r"1\.geojson': 1 object without a class next to 'stroma', 'tumour': give classes=\('stroma', 'tumour'\), or"
    for task in ("binary", "instances", "multiclass", "multilabel"):
        (problem,) = check(tmp_path, labels_of(tmp_path, task=task)).problems
        assert re.search(said, problem)
    assert not check(tmp_path, labels_of(tmp_path, classes=("stroma",))).problems
    # In the files of other images, too: as one class, it would be all of its image.
    text = json.dumps({"type": "FeatureCollection", "features": features[:1]}).replace("classification", "colour")
    (tmp_path / "labels" / "1.geojson").write_text(text, encoding="utf-8")
    labels = labels_of(tmp_path, task="binary")
    (problem,) = check(tmp_path, labels).problems
    assert re.search(r"1\.geojson': objects without a class next to 'stroma', 'tumour': give classes=", problem)
    assert not check(tmp_path, labels_of(tmp_path, classes=("stroma",))).problems
    for path in (tmp_path / "labels").iterdir():
        path.write_text(text, encoding="utf-8")
    assert not check(tmp_path, labels_of(tmp_path, task="binary")).problems


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_a_slide_with_an_outline_without_a_class_is_refused_before_it_is_read(tmp_path: Path, task: str) -> None:
    square = Polygons(((np.array([[2.0, 2], [9, 2], [9, 9]]),),))
    drawing = annotations.Drawing(tmp_path / "a.geojson", tuple(annotations.Annotation(k, square) for k in ("a", "")))
    names = ("a",) if task == "binary" else ("background", "a")
    labels = Labels(task=task, num_classes=len(names), class_names=names)
    with pytest.raises(InputError, match=r"1 object without a class next to 'a': give classes=\('a',\)"):
        bands.of_drawing(drawing, labels, (20, 20), (1.0, 1.0))


def test_the_category_that_roboflow_adds_is_no_class(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "cells", "supercategory": "none"}, {"id": 3, "name": "a", "supercategory": "x"}]
    source = write_coco(tmp_path, [one(0, [[5, 5, 20, 5, 20, 30, 5, 30]])], categories=categories)
    assert labels_of(source).class_names == ("a",)


def test_the_image_of_another_size_is_named(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [one(0, [[5, 5, 20, 5, 20, 30, 5, 30]])])
    Image.new("RGB", (9, 9)).save(source / "images" / "3.png")
    (problem,) = check(source, labels_of(source)).problems
    assert "'images/3'" in problem
    assert "50×40" in problem


def test_broken_json_is_told_where_nothing_else_is_there(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [])
    text = (source / "instances.json").read_text(encoding="utf-8")
    (source / "instances.json").write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(ConfigError, match=r"instances\.json' cannot be read as JSON"):
        labels_of(source)


def test_what_is_converted_is_read_by_itself(tmp_path: Path) -> None:
    square, other = [[5, 5, 20, 5, 20, 30, 5, 30]], [[0, 0, 9, 0, 9, 9, 0, 9]]
    source = write_coco(tmp_path / "in", [one(0, square), one(1, other, 7)])
    labels = labels_of(source)
    convert(source, tmp_path / "out", labels)
    again = labels_of(tmp_path / "out")
    assert again == labels
    before, after = (list_samples(p, labels).samples[""] for p in (source, tmp_path / "out"))
    for old, new in zip(before, after, strict=True):
        pair = (masks.read_target(sample, labels, SIZE).numpy() for sample in (old, new))
        assert np.array_equal(*pair)


def test_files_are_parsed_for_what_they_are_and_for_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each door asks what the folder is, and files of this kind have up to half a gigabyte."""
    source = write_coco(tmp_path, [one(0, [[5, 5, 20, 5, 20, 30, 5, 30]])])
    found = json.loads((source / "instances.json").read_text(encoding="utf-8"))
    for split, images in (("train", found["images"][:8]), ("val", found["images"][8:])):
        listed = [each for each in found["annotations"] if any(each["image_id"] == image["id"] for image in images)]
        text = json.dumps({**found, "images": images, "annotations": listed})
        (source / f"instances_{split}.json").write_text(text, encoding="utf-8")
    (source / "instances.json").unlink()
    parsed: list[str] = []
    loads = strict_json.loads
    monkeypatch.setattr(strict_json, "loads", lambda text: (parsed.append(text), loads(text))[1])
    labels = labels_of(source)
    assert not check(source, labels).problems
    find_samples(source, labels)
    assert len(parsed) == 4
