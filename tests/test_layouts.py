"""Layouts of data sets: each is built as its documentation shows it, and read by a rule that is printed."""

from __future__ import annotations

import dataclasses
import json
import os
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import save
from PIL import Image

import unetzoo
from unetzoo import images
from unetzoo.cli import main
from unetzoo.data import (
    Labels,
    SegmentationDataset,
    check,
    convert,
    edges,
    find_samples,
    labels_of,
    list_samples,
    masks,
)
from unetzoo.data.listing import Listing
from unetzoo.data.record import DataRecord
from unetzoo.errors import ConfigError, InputError

pytestmark = pytest.mark.usefixtures("no_curves")

SIZE = (18, 16)


def picture(path: Path) -> Path:
    generator = np.random.default_rng(zlib.crc32(path.name.encode()))
    return save(generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8), path)


def shape(k: int) -> np.ndarray:
    """Return a mask that is another for every k, as booleans."""
    found = np.zeros(SIZE, bool)
    found[1 : 3 + k % 8, 2 : 4 + k // 8 % 6] = True
    return found


def black_and_white(k: int, path: Path) -> Path:
    return save(shape(k).astype(np.uint8) * 255, path)


def target(listing: Listing, name: str, split: str = "") -> np.ndarray:
    (sample,) = (sample for sample in listing.samples[split] if sample.name == name)
    return masks.read_target(sample, listing.labels, SIZE).numpy()


def names(listing: Listing) -> dict[str, list[str]]:
    return {split: [sample.name for sample in found] for split, found in listing.samples.items()}


# Folders and endings.


@pytest.mark.parametrize(
    ("images", "of_masks"),
    [
        ("images", "masks"),
        ("Images", "Masks"),
        ("image", "label"),
        ("img", "ann"),
        ("imgs", "labels"),
        ("JPEGImages", "annotations"),
        ("images", "Ground Truth"),
        ("images", "ground-truth"),
        ("images", "gt"),
        ("images", "1st_manual"),
        ("train/Images", "train/GT"),
        ("images/train", "gt/train"),
        ("train", "trainannot"),
        ("train", "train_labels"),
        ("train_images", "train-masks"),
        ("images_train", "masks_train"),
    ],
)
@pytest.mark.parametrize(("image", "mask"), [("{}", "{}"), ("{}", "{}_mask"), ("{}_sat", "{}_mask")])
def test_folders_and_endings(tmp_path: Path, images: str, of_masks: str, image: str, mask: str) -> None:
    splits = ["train", "val"] if "train" in images else [""]
    for split in splits:
        for k in range(4):
            picture(tmp_path / images.replace("train", split or "-") / f"{image.format(k)}.jpg")
            black_and_white(k, tmp_path / of_masks.replace("train", split or "-") / f"{mask.format(k)}.png")
    listing = list_samples(tmp_path, Labels())
    assert not listing.problems
    assert not listing.leftovers
    assert names(listing) == {split: [image.format(k) for k in range(4)] for split in splits}
    assert all(np.array_equal(target(listing, image.format(k), splits[0]), shape(k)) for k in range(4))
    assert "'_mask'" in listing.understood or mask == "{}"
    assert "'_sat'" in listing.understood or image == "{}"


@pytest.mark.parametrize(
    ("of_images", "of_ids"),
    [("images", "instances"), ("train/images", "train/instances"), ("images/train", "instances/train"),
     ("train_images", "train_instances")],
)  # fmt: skip
def test_label_images_in_a_folder_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], of_images: str, of_ids: str
) -> None:
    """Each object is a number: the folder's name says so, and no flag is needed."""
    splits = ["train", "val"] if "train" in of_images else [""]
    ids = np.kron(np.arange(12, dtype=np.uint8).reshape(4, 3), np.ones((4, 5), np.uint8))
    ids = np.pad(ids, ((1, 1), (0, 1)))
    for split in splits:
        for k in range(6):
            picture(tmp_path / of_images.replace("train", split) / f"{k}.png")
            save(ids, tmp_path / of_ids.replace("train", split) / f"{k}.png")
    labels = labels_of(tmp_path)
    assert labels == Labels(task="instances", foreground="any")
    listing = list_samples(tmp_path, labels)
    assert not listing.problems
    assert [*names(listing)] == splits
    np.testing.assert_array_equal(edges.read_numbers(listing.samples[splits[0]][0], labels, SIZE)[1].squeeze(), ids)
    assert labels_of(tmp_path, task="binary") == Labels(foreground="any")
    assert main(["data", "check", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{tmp_path}: objects, each told apart (instances)"
    assert "--task" not in said[-1]


def test_masks_go_before_label_images_unless_objects_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k in range(6):
        picture(tmp_path / "images" / f"{k}.png")
        black_and_white(k, tmp_path / "masks" / f"{k}.png")
        save(shape(k).astype(np.uint8) * 7, tmp_path / "instances" / f"{k}.png")
    assert labels_of(tmp_path) == Labels()
    masked = list_samples(tmp_path, Labels())
    assert masked.samples[""][0].mask == tmp_path / "masks" / "0.png"
    numbered = list_samples(tmp_path, labels_of(tmp_path, task="instances"))
    assert numbered.samples[""][0].mask == tmp_path / "instances" / "0.png"
    assert not numbered.warnings
    assert main(["data", "check", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert sum("the task 'instances' uses the label images" in line for line in said.splitlines()) == 1
    assert said.splitlines()[-1].endswith(f"--data {tmp_path}")
    assert main(["data", "check", str(tmp_path), "--task", "instances"]) == 0
    assert (
        "instances/: masks have the stem of their image; the masks next to them are left out" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("image", "mask", "said"),
    [
        ("images/im{}.png", "masks/gt_im{}_x.png", "masks='masks/gt_{name}_x.png'"),
        ("images/im{}_image.png", "masks/outlined im{}.png", "masks='masks/outlined {name}.png'"),
        ("train/images/{}.png", "train/labels/{}_drawn.png", "masks='{split}/labels/{name}_drawn.png'"),
        ("images/a{}_S1.png", "masks/a{}_S2.png", ".csv file with the columns image and mask"),
    ],
)
def test_masks_of_no_known_name_have_a_way_out(tmp_path: Path, image: str, mask: str, said: str) -> None:
    """It is taken: where a pattern is told, all masks have an image by it."""
    for k in (1, 12, 3):
        for split in ("train/", "val/")[: 1 + image.startswith("train")]:
            picture(tmp_path / image.format(k).replace("train/", split))
            black_and_white(k, tmp_path / mask.format(k).replace("train/", split))
    with pytest.raises(ConfigError, match="no mask has the name of an image") as caught:
        list_samples(tmp_path, Labels())
    assert said in str(caught.value)
    if "csv" in said:
        return
    listing = list_samples(tmp_path, Labels(masks=eval(said.removeprefix("masks="))))
    assert not listing.problems
    assert {len(samples) for samples in listing.samples.values()} == {3}


def test_images_alone_name_both_folders_that_may_stand_beside_them(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    with pytest.raises(ConfigError, match=r"no masks/ .* instances/ of label images"):
        list_samples(tmp_path, Labels())


@pytest.mark.parametrize("split", ["", "train/"])
@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{}.png", "{}_mask.png"),
        ("{}.JPG", "{}-MASK.PNG"),
        ("{}_sat.jpg", "{}_mask.png"),  # DeepGlobe
        ("{}.tif", "{}_cp_masks.png"),  # Cellpose
        ("ISIC_{}.jpg", "ISIC_{}_segmentation.png"),
        ("{}.ome.tif", "{}_labels.ome.tif"),
        ("{}.ome.tif", "{}_labels.png"),
        ("case{0}/{0}.tif", "case{0}/{0}_mask.tif"),
    ],
)
def test_masks_beside_their_images(tmp_path: Path, split: str, image: str, mask: str) -> None:
    for k in range(4):
        for one in (split, split and "val/"):
            picture(tmp_path / one / image.format(k))
            black_and_white(k, tmp_path / one / mask.format(k))
    listing = list_samples(tmp_path, Labels())
    assert (listing.problems, listing.leftovers) == ((), ())
    stems = [image.format(k).rpartition(".")[0] for k in range(4)]
    assert names(listing) == ({"train": stems, "val": stems} if split else {"": stems})
    place = split.strip("/")
    assert all(np.array_equal(target(listing, stem, place), shape(k)) for k, stem in enumerate(stems))
    (tmp_path / split / mask.format(2)).unlink()
    (problem,) = list_samples(tmp_path, Labels()).problems
    assert problem.startswith(f"{split}{image.format(2)}: no mask")


def test_splits_without_any_mask_are_left_out_and_named(tmp_path: Path) -> None:
    """As DeepGlobe is: only what trains has masks."""
    for k in range(12):
        picture(tmp_path / "train" / f"{k}_sat.jpg")
        black_and_white(k, tmp_path / "train" / f"{k}_mask.png")
    picture(tmp_path / "valid" / "90_sat.jpg")
    listing = list_samples(tmp_path, Labels())
    assert [*listing.samples] == [""]
    assert len(listing.samples[""]) == 12
    assert listing.leftovers == ("valid/90_sat.jpg",)
    assert "valid" in listing.understood
    assert all(find_samples(tmp_path, Labels()).values())


def test_a_test_without_masks_is_left_out_and_named(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        picture(tmp_path / split / "images" / "a.png")
    for split in ("train", "val"):
        black_and_white(1, tmp_path / split / "masks" / "a.png")
    listing = list_samples(tmp_path, Labels())
    assert names(listing) == {"train": ["a"], "val": ["a"]}
    assert listing.leftovers == ("test/images/a.png",)
    assert "test/images" in listing.understood


# Two that fit.


def chase(folder: Path) -> None:
    for k, name in enumerate(("Image_01L", "Image_01R", "Image_02L")):
        picture(folder / f"{name}.jpg")
        black_and_white(k, folder / f"{name}_1stHO.png")
        black_and_white(k + 8, folder / f"{name}_2ndHO.png")


def drive(folder: Path) -> None:
    for split, first in (("training", 21), ("test", 1)):
        for k in range(2):
            picture(folder / split / "images" / f"{first + k:02}_{split}.tif")
            black_and_white(k, folder / split / "1st_manual" / f"{first + k:02}_manual1.gif")
            black_and_white(k + 8, folder / split / "mask" / f"{first + k:02}_{split}_mask.gif")


@pytest.mark.parametrize(
    ("make", "both", "pattern", "name", "split"),
    [
        (chase, ["_1stHO", "_2ndHO"], "{name}_2ndHO.png", "Image_01L", ""),
        (drive, ["mask/", "1st_manual/"], "{split}/mask/{name}_mask.gif", "01_test", "test"),
    ],
)
def test_where_two_fit_both_are_named(
    tmp_path: Path, make: Any, both: list[str], pattern: str, name: str, split: str
) -> None:
    make(tmp_path)
    with pytest.raises(ConfigError, match="masks='") as caught:
        list_samples(tmp_path, Labels())
    assert all(text in str(caught.value) for text in both)
    listing = list_samples(tmp_path, Labels(masks=pattern))
    assert not listing.problems
    assert np.array_equal(target(listing, name, split), shape(8))
    assert pattern in listing.understood


def test_a_pattern_may_leave_out_what_images_end_in(tmp_path: Path) -> None:
    drive(tmp_path)
    listing = list_samples(tmp_path, Labels(masks="{split}/1st_manual/{name}_manual1.gif"))
    assert not listing.problems
    assert names(listing) == {"test": ["01_test", "02_test"], "train": ["21_training", "22_training"]}
    assert np.array_equal(target(listing, "22_training", "train"), shape(1))


@pytest.mark.parametrize("pattern", ["gt/{name}_gt.png", "./gt/{name}_gt.png"])
def test_a_pattern_in_folders_that_nobody_knows(tmp_path: Path, pattern: str) -> None:
    for k in range(3):
        picture(tmp_path / "scans" / "a" / f"{k}.jpg")
        black_and_white(k, tmp_path / "gt" / "a" / f"{k}_gt.png")
    picture(tmp_path / "scans" / "b.jpg")
    black_and_white(5, tmp_path / "gt" / "c_gt.png")
    listing = list_samples(tmp_path, Labels(masks=pattern))
    assert names(listing) == {"": ["a/0", "a/1", "a/2"]}
    assert np.array_equal(target(listing, "a/2"), shape(2))
    missing, over = listing.problems
    assert missing.startswith("scans/b.jpg: no mask")
    assert over.startswith("gt/c_gt.png: no image")


@pytest.mark.parametrize("pattern", ["gt/a.png", "gt/{stem}.png", "/gt/{name}.png", "../{name}.png", "", 3, "{name"])
def test_patterns_that_are_none(pattern: Any) -> None:
    with pytest.raises(ConfigError, match=r"masks=.*\{name\}"):
        Labels(masks=pattern)


def test_a_pattern_that_nothing_has(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    with pytest.raises(ConfigError, match=r"masks='x/\{name\}.png': no file.* has such a name.*images/a\.png"):
        list_samples(tmp_path, Labels(masks="x/{name}.png"))
    (tmp_path / "a.csv").write_text("image,mask\na,b\n")
    with pytest.raises(ConfigError, match=r"masks=.* is for folders"):
        list_samples(tmp_path / "a.csv", Labels(masks="x/{name}.png"))


def test_equal_stems_go_before_other_rules(tmp_path: Path) -> None:
    """An image may itself be called as masks are."""
    for k, stem in enumerate(("a", "a_mask", "b", "b_test")):
        picture(tmp_path / "images" / f"{stem}.png")
        black_and_white(k, tmp_path / "masks" / f"{stem}.png")
    listing = list_samples(tmp_path, Labels())
    assert all(np.array_equal(target(listing, stem), shape(k)) for k, stem in enumerate(("a", "a_mask", "b", "b_test")))


def test_two_masks_an_image_in_a_folder_of_their_own(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    for ending in ("_label", "_gt"):
        black_and_white(1, tmp_path / "masks" / f"a{ending}.png")
    with pytest.raises(ConfigError, match=r"(?s)several rules.*'_label'.*'_gt'|'_gt'.*'_label'"):
        list_samples(tmp_path, Labels())


# Names.


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_are_alike_however_they_are_composed(tmp_path: Path, forms: tuple[str, str]) -> None:
    image, mask = (unicodedata.normalize(form, "Zürich é") for form in forms)
    picture(tmp_path / "images" / f"{image}.png")
    black_and_white(3, tmp_path / "masks" / f"{mask}_mask.png")
    listing = list_samples(tmp_path, Labels())
    assert not listing.problems
    assert np.array_equal(target(listing, image), shape(3))
    chosen = list_samples(tmp_path, Labels(masks="masks/{name}_mask.png"))
    assert not chosen.problems
    assert np.array_equal(target(chosen, image), shape(3))


def test_big_and_small_letters_are_alike_where_none_are_taken_for_others(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "Scan.PNG")
    black_and_white(1, tmp_path / "masks" / "scan_Mask.Png")
    assert np.array_equal(target(list_samples(tmp_path, Labels()), "Scan"), shape(1))
    if (tmp_path / "images" / "scan.PNG").exists():
        pytest.skip("this file system takes them for one")
    picture(tmp_path / "images" / "scan.PNG")
    listing = list_samples(tmp_path, Labels())
    assert names(listing) == {"": ["scan"]}
    assert [problem.partition(":")[0] for problem in listing.problems] == ["images/Scan.PNG"]


# Nothing that fits.


def test_what_was_seen_is_said_where_nothing_fits(tmp_path: Path) -> None:
    for k in range(3):
        picture(tmp_path / "scans" / f"{k}.jpg")
        black_and_white(k, tmp_path / "outlines" / f"{k}.png")
    (tmp_path / "notes.md").touch()
    with pytest.raises(ConfigError) as caught:
        list_samples(tmp_path, Labels())
    said = str(caught.value)
    assert all(
        text in said for text in ("outlines/", "scans/", "3 .jpg", "3 .png", "1 .md", "masks='", "images/", ".csv")
    )


def test_names_that_have_nothing_in_common(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    black_and_white(1, tmp_path / "masks" / "7.png")
    with pytest.raises(ConfigError, match=r"images such as 'a'; masks such as '7'.*_mask"):
        list_samples(tmp_path, Labels())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    black_and_white(1, tmp_path / "masks" / "a.png")
    (tmp_path / "masks" / "more").mkdir(mode=0)
    with pytest.raises(ConfigError, match="more cannot be read"):
        list_samples(tmp_path, Labels())


def test_an_error_of_the_system_is_one_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "images" / "a.png")
    scandir = os.scandir

    def refused(path: Any) -> Any:
        if str(path).endswith("images"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(ConfigError, match="images cannot be read: Permission denied"):
        list_samples(tmp_path, Labels())


def test_folders_that_lead_back_and_links(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "a.png")
    black_and_white(1, tmp_path / "set" / "masks" / "a.png")
    (tmp_path / "set" / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "masks" / "round").symlink_to(tmp_path / "set")
    listing = list_samples(tmp_path / "set", Labels())
    assert names(listing) == {"": ["a"]}
    assert not listing.problems


@pytest.mark.parametrize("beside", [False, True])
def test_many_files_are_listed_in_as_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool) -> None:
    """The system is asked once a folder, and never for a file: 30,000 of them are no reason to wait."""
    for k in range(300):
        for path in (
            (tmp_path / f"{k}.png", tmp_path / f"{k}_mask.png")
            if beside
            else (tmp_path / "images" / f"{k}.png", tmp_path / "masks" / f"{k}.png")
        ):
            path.parent.mkdir(exist_ok=True)
            path.touch()
    calls = []
    for module, name in ((os, "scandir"), (os, "stat"), (os, "lstat"), (os, "listdir")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, _real=real, **k: (calls.append(a), _real(*a, **k))[1])
    listing = list_samples(tmp_path, Labels())
    assert len(listing.samples[""]) == 300
    assert not listing.problems
    assert len(calls) < 30


# Layouts that say which class a value is.


def palette(values: np.ndarray, path: Path, colours: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8)).convert("P")
    image.putdata(values.astype(np.uint8).ravel().tolist())
    image.putpalette([number for colour in colours for number in colour])
    image.save(path)
    return path


VOC_COLOURS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), *[(k, 255 - k, k // 2) for k in range(3, 255)], (224, 224, 192)]


def voc(folder: Path) -> dict[str, np.ndarray]:
    """Write Pascal VOC, with a border of 255 around each object, and images that nobody segmented."""
    truth = {}
    for k in range(6):
        values = np.zeros(SIZE, np.uint8)
        values[2:8, 2:8] = 255
        values[3:7, 3:7] = (k * 5 + 1) % 21
        truth[f"2007_{k:06}"] = values
        picture(folder / "JPEGImages" / f"2007_{k:06}.jpg")
        palette(values, folder / "SegmentationClass" / f"2007_{k:06}.png", VOC_COLOURS)
        palette(values, folder / "SegmentationObject" / f"2007_{k:06}.png", VOC_COLOURS)
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"2007_{k:06}.xml").write_text("<annotation/>")
    picture(folder / "JPEGImages" / "2009_000001.jpg")
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    listed = sorted(truth)
    for name, chosen in (("train", listed[:4]), ("val", listed[4:]), ("trainval", listed), ("test", ["2008_000001"])):
        (lists / f"{name}.txt").write_text("".join(f"{one}\n" for one in chosen))
    return truth


def test_pascal_voc(tmp_path: Path) -> None:
    truth = voc(tmp_path / "VOCdevkit" / "VOC2012")
    labels = labels_of(tmp_path)
    assert (labels.task, labels.num_classes, labels.ignore) == ("multiclass", 21, 255)
    assert labels.class_names is not None
    assert (labels.class_names[0], labels.class_names[15], labels.class_names[20]) == (
        "background",
        "person",
        "tvmonitor",
    )
    listing = list_samples(tmp_path, labels)
    assert not listing.problems
    assert {split: len(found) for split, found in listing.samples.items()} == {"train": 4, "val": 2}
    for split, samples in listing.samples.items():
        for sample in samples:
            expected = np.where(truth[sample.name] == 255, -100, truth[sample.name].astype(int))
            assert np.array_equal(target(listing, sample.name, split), expected)


def test_classes_of_pascal_voc_are_picked(tmp_path: Path) -> None:
    truth = voc(tmp_path)["2007_000000"]  # an aeroplane, 1
    picked = labels_of(tmp_path, classes=("person", "aeroplane"))
    assert (picked.task, picked.class_names) == ("multiclass", ("background", "person", "aeroplane"))
    expected = np.where(truth == 255, -100, np.where(truth == 1, 2, 0))
    assert np.array_equal(target(list_samples(tmp_path, picked), "2007_000000", "train"), expected)
    # A network that was trained on them says the same by the names of its classes alone.
    again = labels_of(tmp_path, task="multiclass", num_classes=3, class_names=("background", "person", "aeroplane"))
    assert again.codes == picked.codes
    one = labels_of(tmp_path, classes=("person",))
    assert (one.task, one.num_classes, one.class_names) == ("binary", 1, ("person",))
    assert not (target(list_samples(tmp_path, one), "2007_000000", "train") == 1).any()
    anything = labels_of(tmp_path, task="binary")
    expected = np.where(truth == 255, -100, (truth > 0).astype(int))
    assert np.array_equal(target(list_samples(tmp_path, anything), "2007_000000", "train"), expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": ("persons",)}, r"unknown class 'persons'.*did you mean 'person'"),
        ({"classes": ("background", "person")}, r"unknown class 'background'"),
        ({"num_classes": 20}, r"num_classes=20, but there are 21"),
        ({"task": "multilabel"}, r"task='multiclass'"),
    ],
)
def test_classes_that_pascal_voc_has_not(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    voc(tmp_path)
    with pytest.raises(ConfigError, match=said):
        labels_of(tmp_path, **options)


def test_what_lists_of_pascal_voc_name_must_be_there(tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / "SegmentationClass" / "2007_000001.png").unlink()
    (tmp_path / "JPEGImages" / "2007_000005.jpg").unlink()
    problems = list_samples(tmp_path, labels_of(tmp_path)).problems
    assert [
        ("2007_000001" in problems[0], "mask" in problems[0]),
        ("2007_000005" in problems[1], "image" in problems[1]),
    ]
    assert len(problems) == 2


LABELMAP = """# label:color_rgb:parts:actions
background:0,0,0::
cat:250,50,83::
dog:51,221,255::
ignored:224,224,192::
"""
COLOURS = {0: (0, 0, 0), 1: (250, 50, 83), 2: (51, 221, 255), 255: (224, 224, 192)}


@pytest.mark.parametrize("painted", [True, False])
def test_masks_of_cvat(tmp_path: Path, painted: bool) -> None:
    """Its "segmentation mask": RGB, or a palette; the classes are in labelmap.txt."""
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    values = np.random.default_rng(0).choice([0, 1, 2, 255], SIZE)
    picture(tmp_path / "JPEGImages" / "a.png")
    for folder in ("SegmentationClass", "SegmentationObject"):
        if painted:
            save(np.array([COLOURS[k] for k in values.flat], np.uint8).reshape(*SIZE, 3), tmp_path / folder / "a.png")
        else:
            colours = [COLOURS[k] for k in (0, 1, 2, 255)]
            palette(np.where(values == 255, 3, values), tmp_path / folder / "a.png", colours)
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "default.txt").write_text("a\n")
    labels = labels_of(tmp_path)
    assert labels.class_names == ("background", "cat", "dog")
    expected = np.where(values == 255, -100, values)
    assert np.array_equal(target(list_samples(tmp_path, labels), "a"), expected)
    dogs = labels_of(tmp_path, classes=("dog",))
    expected = np.where(values == 255, -100, (values == 2).astype(int))
    assert np.array_equal(target(list_samples(tmp_path, dogs), "a"), expected)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("label_colors.txt", "64 128 64\tAnimal\n192 0 128\t\tArchway\n0 0 0\tVoid\n"),
        ("class_dict.csv", "name,r,g,b\nAnimal,64,128,64\nArchway,192,0,128\nVoid,0,0,0\n"),
    ],
)
@pytest.mark.parametrize("masks", ["{}annot", "{}_labels"])
def test_camvid(tmp_path: Path, name: str, text: str, masks: str) -> None:
    (tmp_path / name).write_text(text)
    colours = np.array([(64, 128, 64), (192, 0, 128), (0, 0, 0)], np.uint8)
    values = np.random.default_rng(0).integers(0, 3, SIZE)
    for split in ("train", "val", "test"):
        picture(tmp_path / split / "0001TP_006690.png")
        ending = "_L" if masks == "{}_labels" else ""
        save(colours[values], tmp_path / masks.format(split) / f"0001TP_006690{ending}.png")
    labels = labels_of(tmp_path)
    assert (labels.task, labels.class_names) == ("multiclass", ("Animal", "Archway", "Void"))
    listing = list_samples(tmp_path, labels)
    assert {split: len(found) for split, found in listing.samples.items()} == {"train": 1, "val": 1, "test": 1}
    assert np.array_equal(target(listing, "0001TP_006690", "val"), values)


def test_indices_with_a_list_of_names(tmp_path: Path) -> None:
    (tmp_path / "class_names.txt").write_text("_background_\ncell\nrim\n")
    values = np.random.default_rng(0).integers(0, 3, SIZE).astype(np.uint8)
    picture(tmp_path / "images" / "a.png")
    save(values, tmp_path / "masks" / "a.png")
    labels = labels_of(tmp_path)
    assert labels.class_names == ("_background_", "cell", "rim")
    assert np.array_equal(target(list_samples(tmp_path, labels), "a"), values)
    rims = labels_of(tmp_path, classes=("rim",))
    assert np.array_equal(target(list_samples(tmp_path, rims), "a"), values == 2)


@pytest.mark.parametrize("text", ["", "a:1,2,3\nb\n", "a:1,2,300\n", "a:1,2,3\na:1,2,4\n"])
def test_lists_of_classes_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "labelmap.txt").write_text(text)
    picture(tmp_path / "images" / "a.png")
    black_and_white(1, tmp_path / "masks" / "a.png")
    with pytest.raises(ConfigError, match=r"labelmap\.txt.* not a list of classes"):
        labels_of(tmp_path)


OFFICIAL = """unlabeled 0 255, ego vehicle 1 255, rectification border 2 255, out of roi 3 255, static 4 255,
dynamic 5 255, ground 6 255, road 7 0, sidewalk 8 1, parking 9 255, rail track 10 255, building 11 2, wall 12 3,
fence 13 4, guard rail 14 255, bridge 15 255, tunnel 16 255, pole 17 5, polegroup 18 255, traffic light 19 6,
traffic sign 20 7, vegetation 21 8, terrain 22 9, sky 23 10, person 24 11, rider 25 12, car 26 13, truck 27 14,
bus 28 15, caravan 29 255, trailer 30 255, train 31 16, motorcycle 32 17, bicycle 33 18"""
"""Name, id and train id of each label of Cityscapes."""
CITY = [entry.strip().rsplit(" ", 2) for entry in OFFICIAL.replace("\n", " ").split(",")]


def cityscapes(folder: Path, ending: str) -> dict[str, np.ndarray]:
    truth = {}
    for split, city in (("train", "aachen"), ("train", "bochum"), ("val", "frankfurt"), ("test", "berlin")):
        name = f"{city}/{city}_000000_000019"
        ids = np.random.default_rng(len(truth)).integers(0, 34 if split != "test" else 4, SIZE)
        train_ids = np.array([int(CITY[k][2]) for k in ids.flat]).reshape(SIZE)
        truth[name] = np.where(train_ids == 255, -100, train_ids)
        picture(folder / "leftImg8bit" / split / f"{name}_leftImg8bit.png")
        for kind, values in (("labelIds", ids), ("labelTrainIds", train_ids), ("instanceIds", ids * 1000)):
            if kind in ("labelIds", "instanceIds", ending):
                deep = np.uint16 if kind == "instanceIds" else np.uint8
                save(values.astype(deep), folder / "gtFine" / split / f"{name}_gtFine_{kind}.png")
        (folder / "gtFine" / split / f"{name}_gtFine_polygons.json").write_text("{}")
    return truth


@pytest.mark.parametrize("ending", ["labelIds", "labelTrainIds"])
def test_cityscapes(tmp_path: Path, ending: str) -> None:
    truth = cityscapes(tmp_path, ending)
    labels = labels_of(tmp_path)
    assert labels.class_names == tuple(name for name, _, train in CITY if train != "255")
    listing = list_samples(tmp_path, labels)
    assert not listing.problems
    assert [*listing.samples] == ["train", "val"]
    assert ending in listing.understood
    assert "test" in listing.understood
    for split, samples in listing.samples.items():
        for sample in samples:
            assert np.array_equal(target(listing, sample.name, split), truth[sample.name])
    picked = labels_of(tmp_path, classes=("road", "car"))
    name = "aachen/aachen_000000_000019"
    expected = np.select([truth[name] == 0, truth[name] == 13, truth[name] == -100], [1, 2, -100], 0)
    assert np.array_equal(target(list_samples(tmp_path, picked), name, "train"), expected)
    with pytest.raises(ConfigError, match="classes="):
        labels_of(tmp_path, task="binary")
    next((tmp_path / "gtFine" / "val").rglob(f"*{ending}.png")).unlink()
    (problem,) = list_samples(tmp_path, labels).problems
    assert "frankfurt" in problem


def dsb(folder: Path, images: int = 6) -> dict[str, np.ndarray]:
    truth = {}
    for k in range(images):
        name = f"{k:064x}"
        picture(folder / "stage1_train" / name / "images" / f"{name}.png")
        truth[name] = np.zeros(SIZE, bool)
        (folder / "stage1_train" / name / "masks").mkdir()
        for j in range(k):
            mask = np.zeros(SIZE, np.uint8)
            mask[j : j + 2, 2 * j % 8 : 2 * j % 8 + 3] = 255
            truth[name] |= mask > 0
            save(mask, folder / "stage1_train" / name / "masks" / f"{j:064x}.png")
    picture(folder / "stage1_test" / "x" / "images" / "x.png")
    return truth


@pytest.mark.parametrize("inside", ["", "stage1_train"])
def test_a_folder_for_each_image(tmp_path: Path, inside: str) -> None:
    truth = dsb(tmp_path)
    labels = labels_of(tmp_path / inside)
    assert labels.task == "binary"
    listing = list_samples(tmp_path / inside, labels)
    assert not listing.problems
    assert names(listing) == {"": sorted(truth)}
    assert all(np.array_equal(target(listing, name), found) for name, found in truth.items())
    assert ("stage1_test" in listing.understood) == (inside == "")
    drawing = listing.samples[""][3].mask
    assert len(drawing.annotations) == 3  # objects keep what they are
    convert(tmp_path / inside, tmp_path / "plain", labels)
    plain = list_samples(tmp_path / "plain", Labels())
    assert all(np.array_equal(target(plain, name), found) for name, found in truth.items())


def test_a_folder_for_each_image_without_masks(tmp_path: Path) -> None:
    dsb(tmp_path)
    picture(tmp_path / "stage1_train" / "other" / "images" / "other.png")
    (problem,) = list_samples(tmp_path, Labels()).problems
    assert problem.startswith("stage1_train/other: no masks/")


def nnunet(folder: Path, labels: Any, channels: int = 1, **more: Any) -> dict[str, np.ndarray]:
    truth = {}
    for k in range(5):
        truth[f"case_{k:03}"] = values = np.random.default_rng(k).integers(0, 4, SIZE).astype(np.uint8)
        for channel in range(channels):
            picture(folder / "imagesTr" / f"case_{k:03}_{channel:04}.png")
        save(values, folder / "labelsTr" / f"case_{k:03}.png")
    picture(folder / "imagesTs" / "case_900_0000.png")
    told = {"channel_names": {str(k): "any" for k in range(channels)}, "labels": labels, "numTraining": 5}
    (folder / "dataset.json").write_text(json.dumps(told | {"file_ending": ".png"} | more))
    return truth


def test_nnunet(tmp_path: Path) -> None:
    truth = nnunet(tmp_path, {"background": 0, "edema": 1, "core": 2, "ignore": 3})
    labels = labels_of(tmp_path)
    assert (labels.class_names, labels.ignore) == (("background", "edema", "core"), 3)
    listing = list_samples(tmp_path, labels)
    assert not listing.problems
    assert names(listing) == {"": sorted(truth)}
    assert "imagesTs" in listing.understood
    for name, values in truth.items():
        assert np.array_equal(target(listing, name), np.where(values == 3, -100, values.astype(int)))


@pytest.mark.parametrize(
    ("labels", "more", "said"),
    [
        ({"background": 0, "whole": [1, 2, 3], "core": [2, 3]}, {}, "whole, core are regions"),
        ({"background": 0, "a": 2}, {}, "whole numbers from 0 on"),
        ({"background": 0, "a": "1"}, {}, "whole numbers from 0 on"),
        ({"background": 0, "a": 1}, {"file_ending": ".nrrd"}, "file_ending '.nrrd'"),
        ([], {}, "channel_names and labels are needed"),
    ],
)
def test_what_is_no_nnunet_that_is_read(tmp_path: Path, labels: Any, more: dict[str, Any], said: str) -> None:
    nnunet(tmp_path, labels, **more)
    with pytest.raises(ConfigError, match=said):
        labels_of(tmp_path)


# Values that are one more than the classes.


def test_where_0_is_what_nobody_labelled(tmp_path: Path) -> None:
    """As in ADE20K: 150 classes from 1 on."""
    values = np.random.default_rng(0).integers(0, 151, (*SIZE,)).astype(np.uint8)
    values[0, :2] = 0, 150
    picture(tmp_path / "images" / "a.jpg")
    save(values, tmp_path / "annotations" / "a.png")
    labels = labels_of(tmp_path, task="multiclass", num_classes=150, ignore=0)
    found = target(list_samples(tmp_path, labels), "a")
    assert np.array_equal(found, np.where(values == 0, -100, values.astype(int) - 1))
    written = convert(tmp_path, tmp_path / "plain", labels)
    assert np.array_equal(target(list_samples(tmp_path / "plain", written), "a"), found)
    fewer = labels_of(tmp_path, task="multiclass", num_classes=149, ignore=0)
    with pytest.raises(InputError, match=r"150 \(.*classes are 1…149"):
        target(list_samples(tmp_path, fewer), "a")


@pytest.mark.parametrize(
    "options",
    [
        {"task": "multilabel", "num_classes": 2, "codes": (0, 1)},
        {"codes": (0, 2)},
        {"task": "multiclass", "num_classes": 2, "codes": (0, -1)},
        {"task": "multiclass", "num_classes": 2, "codes": "01"},
        {"codes": (0, 1), "colours": ("#000000", "#ffffff", "#ff0000")},
        {"ignore": 0},
    ],
)
def test_codes_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"codes|colours|ignore"):
        Labels(**options)


def test_objects_that_do_not_count_are_written_as_such(tmp_path: Path) -> None:
    """Where no value of masks was told to be ignored, those of a crowd are all the same."""
    voc(tmp_path / "voc")
    labels = labels_of(tmp_path / "voc", classes=("aeroplane",))
    written = convert(tmp_path / "voc", tmp_path / "plain", labels)
    found, expected = (
        target(list_samples(source, given), "2007_000000", "train")
        for source, given in ((tmp_path / "plain", written), (tmp_path / "voc", labels))
    )
    assert np.array_equal(found, expected)
    assert (expected == -100).any()


def test_names_are_needed_to_pick_from(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    black_and_white(1, tmp_path / "masks" / "a.png")
    with pytest.raises(ConfigError, match=r"classes=.*names"):
        labels_of(tmp_path, classes=("cell",))


# Splits.


def test_what_validates_is_parted_from_what_trains_where_a_layout_has_no_place_for_it(tmp_path: Path) -> None:
    for split, first, count in (("train", 0, 12), ("test", 20, 3)):
        for k in range(first, first + count):
            picture(tmp_path / split / "images" / f"p{k}.png")
            black_and_white(k, tmp_path / split / "masks" / f"p{k}.png")
    found = find_samples(tmp_path, Labels(), seed=1)
    assert [sample.name for sample in found["test"]] == ["p20", "p21", "p22"]
    assert found["train"]
    assert found["val"]
    parted = {sample.name for split in ("train", "val") for sample in found[split]}
    assert parted == {f"p{k}" for k in range(12)}
    assert found == find_samples(tmp_path, Labels(), seed=1, ratios=(0.8, 0.1, 0.1))
    report = check(tmp_path, Labels(), seed=1)
    assert report.counts == {split: len(samples) for split, samples in found.items()}
    with pytest.raises(ConfigError, match=r"group '2' is in test and train"):
        find_samples(tmp_path, Labels(), group="p(2)?")


def csv_of(folder: Path, numbers: range, split: str = "") -> Path:
    rows = ["image,mask" + (",split" if split else "")]
    for k in numbers:
        picture(folder / "scans" / f"{k}.png")
        black_and_white(k, folder / "gt" / f"{k}.png")
        rows.append(f"scans/{k}.png,gt/{k}.png" + (f",{split}" if split else ""))
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    return folder / "list.csv"


def test_several_lists_are_one_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [csv_of(tmp_path / "a", range(20)), csv_of(tmp_path / "b", range(10, 30))]
    listing = list_samples(sources, Labels())
    assert not listing.problems
    expected = [f"{folder}/scans/{k}" for folder, first in (("a", 0), ("b", 10)) for k in range(first, first + 20)]
    assert names(listing) == {"": sorted(expected)}
    assert np.array_equal(target(listing, "b/scans/17"), shape(17))
    together = {split: {s.image for s in found} for split, found in find_samples(sources, Labels()).items()}
    # Each image is in the split that it has where its list is alone.
    for source in sources:
        for split, found in find_samples(source, Labels()).items():
            assert {sample.image for sample in found} <= together[split]
    assert main(["data", "check", *map(str, sources)]) == 0
    assert "2 CSV lists" in capsys.readouterr().out
    assert main(["data", "convert", *map(str, sources), str(tmp_path / "plain")]) == 0
    assert len(list_samples(tmp_path / "plain", Labels()).samples[""]) == 40


def test_lists_of_which_some_have_splits(tmp_path: Path) -> None:
    sources = [csv_of(tmp_path / name, range(3), name) for name in ("train", "val")]
    assert names(list_samples(sources, Labels())) == {
        name: [f"{name}/scans/{k}" for k in range(3)] for name in ("train", "val")
    }
    with pytest.raises(ConfigError, match=r"c.list\.csv does not: .* column split"):
        list_samples([*sources, csv_of(tmp_path / "c", range(3))], Labels())
    with pytest.raises(ConfigError, match=r"several .csv files.*: .*train$"):
        list_samples([*sources, tmp_path / "train"], Labels())


# Every door.


@pytest.mark.parametrize("make", [chase, voc, cityscapes, dsb, nnunet])
def test_all_doors_understand_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    given, words = {}, []
    if make is chase:
        given, words = {"masks": "{name}_1stHO.png", "ratios": [0.6, 0.4, 0.0]}, ["--masks", "{name}_1stHO.png"]
    extra = {cityscapes: ["labelIds"], nnunet: [{"background": 0, "edema": 1, "core": 2, "ignore": 3}]}
    make(data, *extra.get(make, []))
    ratios = ["--ratios", "0.6", "0.4", "0"] if make is chase else []
    assert main(["data", "check", str(data), *words, *ratios, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    labels = labels_of(data, masks=given.get("masks"))
    assert told["labels"] == json.loads(json.dumps(dataclasses.asdict(labels)))
    assert told["understood"] == list_samples(data, labels).understood
    if make is not voc:
        return  # one training is enough
    settings = {"model.options.base_channels": 4, "data.workers": 0, "trainer.accelerator": "cpu"}
    fitted = {"epochs": 1, "crop_size": 16, "batch_size": 2, "quiet": True, "settings": settings}
    unetzoo.fit("unet", data=data, out=run, classes=["person", "aeroplane"], **fitted)
    model = unetzoo.load(run)
    assert model.config.class_names == ("background", "person", "aeroplane")
    assert main(["evaluate", str(run), "--data", str(data), "--split", "val", "--json"]) == 0
    scores = capsys.readouterr().out
    assert "aeroplane" in scores
    assert main(["evaluate", "--data", str(data), str(run), "--split", "val", "--json"]) == 0
    assert capsys.readouterr().out == scores
    assert main(["evaluate", "--data", str(data)]) == 2
    assert "a model is needed" in capsys.readouterr().err


@pytest.mark.parametrize("beside", [False, True])
def test_endings_of_volumes_are_behind_the_stem(tmp_path: Path, beside: bool) -> None:
    """Listing opens nothing: .nii.gz is one ending, and what a mask has stands before it."""
    places = ("", "") if beside else ("images/", "masks/")
    for name in (f"{places[0]}a.nii.gz", f"{places[1]}a_seg.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (sample,) = list_samples(tmp_path, Labels()).samples[""]
    assert (sample.image.name, sample.mask.name) == ("a.nii.gz", "a_seg.nii.gz")


def test_nnunet_of_volumes(tmp_path: Path) -> None:
    for name in ("imagesTr/case_001_0000.nii.gz", "labelsTr/case_001.nii.gz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    told = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(told))
    labels = labels_of(tmp_path)
    assert (labels.task, labels.class_names) == ("binary", ("liver",))
    assert names(list_samples(tmp_path, labels)) == {"": ["case_001"]}


CLASSES = {"background": 0, "a": 1, "b": 2, "c": 3}


def in_files(folder: Path, channels: int = 2, kind: type = np.uint8, ending: str = ".png") -> dict[str, np.ndarray]:
    """Write an nnU-Net data set whose channels are files of their own, and return its images (C, H, W)."""
    nnunet(folder, CLASSES, channels=channels)
    truth = {}
    for k in range(5):
        top = np.iinfo(kind).max if np.issubdtype(kind, np.integer) else 1
        truth[f"case_{k:03}"] = (np.random.default_rng(90 + k).random((channels, *SIZE)) * top).astype(kind)
        for channel, values in enumerate(truth[f"case_{k:03}"]):
            (folder / "imagesTr" / f"case_{k:03}_{channel:04}.png").unlink()
            save(values, folder / "imagesTr" / f"case_{k:03}_{channel:04}{ending}")
    return truth


@pytest.mark.parametrize(("kind", "ending"), [(np.uint8, ".png"), (np.uint16, ".png"), (np.float32, ".tif")])
def test_channels_in_files_of_their_own(tmp_path: Path, kind: type, ending: str) -> None:
    truth = in_files(tmp_path / "data", 3, kind, ending)
    labels = labels_of(tmp_path / "data")
    listing = list_samples(tmp_path / "data", labels)
    assert not listing.problems
    assert "_0000 to _0002" in listing.understood
    scale = np.iinfo(kind).max if np.issubdtype(kind, np.integer) else 1
    dataset = SegmentationDataset(listing.samples[""], listing.labels)
    assert dataset.sizes() == [SIZE] * 5
    for item, whole in zip(dataset, dataset.targets(), strict=False):
        assert np.allclose(item["image"].numpy(), truth[item["name"]] / np.float32(scale), atol=1e-7)
        assert np.array_equal(item["target"], target(listing, item["name"]))
        assert np.array_equal(item["target"], whole)
    report = check(tmp_path / "data", labels)
    assert (report.problems, report.channels, report.dtypes) == ((), {3: 5}, {np.dtype(kind).name: 5})
    train = np.stack([truth[s.name] / scale for s in find_samples(tmp_path / "data", labels)["train"]])
    assert report.mean == pytest.approx(train.mean((0, 2, 3)), rel=1e-6)
    assert report.std == pytest.approx(train.std((0, 2, 3)), rel=1e-6)
    written = convert(tmp_path / "data", tmp_path / "plain", labels)
    plain = list_samples(tmp_path / "plain", written)
    for sample in plain.samples[""]:
        assert np.array_equal(tifffile.imread(sample.image), truth[sample.name])
        assert np.array_equal(images.read_image(sample.image).numpy(), truth[sample.name])
        assert np.array_equal(target(plain, sample.name), target(listing, sample.name))


def test_nodata_of_channels_stays(tmp_path: Path) -> None:
    """Of unsigned integers it is nodata where all channels have it, and a value where one has."""
    truth = in_files(tmp_path / "data")
    for name, values in truth.items():
        values[0] = values[0].clip(1)
        values[:, 2:5, 3:6] = 0
        for channel in range(2):
            path = tmp_path / "data" / "imagesTr" / f"{name}_{channel:04}"
            path.with_suffix(".png").unlink()
            tifffile.imwrite(path.with_suffix(".tif"), values[channel], extratags=[(42113, 2, 0, "0", True)])
    values[1, 8, 8] = 0
    tifffile.imwrite(path.with_suffix(".tif"), values[1], extratags=[(42113, 2, 0, "0", True)])
    written = convert(tmp_path / "data", tmp_path / "plain", labels_of(tmp_path / "data"))
    gaps = np.zeros(SIZE, bool)
    gaps[2:5, 3:6] = True
    both = [list_samples(tmp_path / "data", labels_of(tmp_path / "data")), list_samples(tmp_path / "plain", written)]
    for listing in both:
        dataset = SegmentationDataset(listing.samples[""], listing.labels, in_channels=2)
        for item, whole in zip(dataset, dataset.targets(), strict=False):
            assert np.array_equal(item["target"] == -100, gaps)
            assert np.array_equal(item["target"], whole)
            assert np.allclose(item["image"].numpy(), truth[item["name"]] / np.float32(255))


def test_training_on_channels_in_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    truth = in_files(data)
    settings = {"model.options.base_channels": 4, "data.workers": 0, "trainer.accelerator": "cpu"}
    unetzoo.fit("unet", data=data, out=run, epochs=1, crop_size=16, batch_size=2, quiet=True, settings=settings)
    predictor = unetzoo.Predictor(run)
    assert predictor.config.in_channels == 2
    (sample,) = find_samples(data, labels_of(data))["val"]
    found = predictor(sample.files)
    assert torch.equal(found.probabilities, predictor(truth[sample.name].transpose(1, 2, 0)).probabilities)
    assert torch.equal(predictor([tuple(map(str, sample.files))])[0].mask, found.mask)
    assert main(["evaluate", str(run), "--data", str(data), "--split", "val", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    right = np.mean(found.mask.numpy() == target(list_samples(data, labels_of(data)), sample.name))
    assert scores["accuracy"] == pytest.approx(1 - (1 - right) / 2, abs=1e-6)  # an error is one of 2 classes of 4
    with pytest.raises(InputError, match=r"1 channels: .*run was trained on 2.*predictor\(\('a_0000.png'"):
        predictor(sample.image)
    for wrong in ((), (sample.image, 3)):
        with pytest.raises(InputError, match="a tuple of the paths of its channels"):
            predictor(wrong)
    assert main(["data", "preview", str(data), "--out", str(tmp_path / "sheet.png")]) == 0
    # What has another second channel is another image.
    record = DataRecord.of(find_samples(data, labels_of(data)))
    save(np.full(SIZE, 255, np.uint8), sample.channels[0])
    (change,) = record.changes(DataRecord.of(find_samples(data, labels_of(data))))
    assert change.endswith("another image")
    assert check(data, labels_of(data)).channels == {2: 5}  # what is white everywhere is no opacity here


def test_colours_are_three_channels_in_one_file(tmp_path: Path) -> None:
    nnunet(tmp_path, CLASSES)
    told = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(told | {"channel_names": {"0": "R", "1": "G", "2": "B"}}))
    report = check(tmp_path, labels_of(tmp_path))
    assert (report.problems, report.channels) == ((), {3: 5})


def test_channels_that_do_not_go_together(tmp_path: Path) -> None:
    in_files(tmp_path)
    labels, images_of = labels_of(tmp_path), tmp_path / "imagesTr"
    (images_of / "case_001_0001.png").unlink()
    save(np.zeros((SIZE[0], 9), np.uint8), images_of / "case_002_0001.png")
    save(np.zeros(SIZE, np.uint16), images_of / "case_003_0001.png")
    Image.new("LA", SIZE[::-1], (3, 4)).save(images_of / "case_004_0001.png")
    problems = check(tmp_path, labels, ratios=(0.5, 0.5, 0)).problems
    assert len(problems) == 4
    for k, said in enumerate(("0000, where", "9×18 uint8", "16×18 uint16", "opacity"), 1):
        assert any(f"case_{k:03}" in problem and said in problem for problem in problems), (k, problems)
    with pytest.raises(ConfigError, match="cannot be converted") as caught:
        convert(tmp_path, tmp_path / "plain", labels)
    assert len(caught.value.problems) == 4
    assert not (tmp_path / "plain").exists()


@pytest.mark.parametrize("kept", [1, 2])
def test_another_number_of_channels_than_was_told(tmp_path: Path, kept: int) -> None:
    """All second files are lost; or each file is grey saved as colours."""
    nnunet(tmp_path, CLASSES, channels=2)
    for path in (tmp_path / "imagesTr").iterdir():
        if int(path.stem[-4:]) >= kept:
            path.unlink()
    (problem,) = list_samples(tmp_path, labels_of(tmp_path)).problems
    assert f"{3 * kept} channels in all, where dataset.json has 2" in problem


# Annotations beside images, and exports.


def labelme(path: Path, label: str) -> None:
    corners = [[2, 3], [9, 3], [9, 8], [2, 8]]
    shape = {"label": label, "points": corners, "shape_type": "polygon", "group_id": None, "flags": {}}
    told = {"version": "5.4.1", "flags": {}, "shapes": [shape], "imagePath": f"{path.stem}.jpg", "imageData": None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told | {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}))


@pytest.mark.parametrize("folders", [("", ""), ("img/", "ann/"), ("train/", "train/")])
def test_a_file_of_annotations_for_each_image(tmp_path: Path, folders: tuple[str, str]) -> None:
    for k in range(4):
        picture(tmp_path / folders[0] / f"{k}.jpg")
        labelme(tmp_path / folders[1] / f"{k}.json", "cell" if k else "rim")
    labels = labels_of(tmp_path)
    assert (labels.task, labels.class_names) == ("multiclass", ("background", "cell", "rim"))
    listing = list_samples(tmp_path, labels)
    assert (listing.problems, listing.leftovers) == ((), ())
    found = target(listing, "1")
    assert (found[3:8, 2:9] == 1).all()
    assert (found > 0).sum() == 35
    assert (target(listing, "0")[3:8, 2:9] == 2).all()


def test_images_that_are_annotated_twice(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    labelme(tmp_path / "a.json", "cell")
    black_and_white(1, tmp_path / "a_mask.png")
    with pytest.raises(ConfigError, match=r"(?s)LabelMe.*'_mask'|'_mask'.*LabelMe"):
        list_samples(tmp_path, Labels())
    assert np.array_equal(target(list_samples(tmp_path, Labels(masks="{name}_mask.png")), "a"), shape(1))
    assert (target(list_samples(tmp_path, Labels(masks="{name}.json")), "a") == 1).sum() == 35


def test_exports_of_roboflow_for_yolo(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n")
    for split in ("train", "valid", "test"):
        picture(tmp_path / split / "images" / "a_jpg.rf.0123.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "a_jpg.rf.0123.txt").write_text("1 0 0 0.5 0 0.5 1 0 1\n")
    (tmp_path / "README.roboflow.txt").touch()
    labels = labels_of(tmp_path)
    assert labels.class_names == ("background", "cat", "dog")
    listing = list_samples(tmp_path, labels)
    assert not listing.problems
    assert [*listing.samples] == ["test", "train", "val"]
    found = target(listing, "a_jpg.rf.0123", "val")
    assert (found[:, : SIZE[1] // 2] == 2).all()
    assert (found > 0).sum() == SIZE[0] * SIZE[1] // 2
    dogs = labels_of(tmp_path, classes=("dog",))
    assert target(list_samples(tmp_path, dogs), "a_jpg.rf.0123", "val").sum() == SIZE[0] * SIZE[1] // 2


def test_exports_of_roboflow_in_coco(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        picture(tmp_path / split / "a.jpg")
        told = {
            "images": [{"id": 0, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
            "categories": [
                {"id": 0, "name": "cells", "supercategory": "none"},
                {"id": 1, "name": "cell", "supercategory": "cells"},
            ],
            "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "segmentation": [[2, 3, 9, 3, 9, 8, 2, 8]]}],
        }
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(told))
    labels = labels_of(tmp_path)
    assert (labels.task, labels.class_names) == ("binary", ("cell",))
    listing = list_samples(tmp_path, labels)
    assert names(listing) == {"train": ["train/a"], "val": ["valid/a"]}
    assert target(listing, "valid/a", "val").sum() == 35
