"""Layouts of data sets: each is built as its documentation shows it, and read by a rule that is printed."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unetzoo.data import Labels, find_samples, list_samples, masks
from unetzoo.data.listing import Listing
from unetzoo.errors import ConfigError

SIZE = (12, 10)


def save(array: np.ndarray, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def picture(path: Path) -> Path:
    generator = np.random.default_rng(len(path.name))
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
    with pytest.raises(ConfigError, match=r"masks='x/\{name\}.png': no file.* called so.*images/a\.png"):
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
