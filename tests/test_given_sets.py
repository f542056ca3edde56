"""Data sets of one's own: what of them is written, to the bit, and that a run is as on a folder of the same images."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import unetzoo
from unetzoo import ConfigError, drawing, images
from unetzoo.train.given_sets import is_given, write_given

pytestmark = pytest.mark.usefixtures("no_curves")

HOW: dict[str, Any] = {"task": None, "ignore": None, "class_names": None}


class Pairs(torch.utils.data.Dataset):
    """Items that were given."""

    def __init__(self, items: list) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


def nuclei(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    drawn = [drawing.draw_nuclei(32, 32, seed=k) for k in range(count)]
    return [(image.permute(1, 2, 0).numpy(), (mask > 0).numpy()) for image, mask in drawn]


def test_a_run_is_that_on_a_folder_of_the_same_images(tmp_path: Path) -> None:
    items = nuclei(12)
    for k, (image, mask) in enumerate(items):
        for part, values in (("images", image), ("masks", mask.astype(np.uint8) * 255)):
            (tmp_path / "folder" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(tmp_path / "folder" / part / f"{k:06}.png")
    how: dict[str, Any] = {
        "epochs": 1, "crop_size": 16, "quiet": True, "settings": {"data.workers": 0, "model.options.base_channels": 4},
    }  # fmt: skip
    theirs = unetzoo.fit("unet", data=tmp_path / "folder", out=tmp_path / "b", **how)
    mine = unetzoo.fit("unet", data=Pairs(items), out=tmp_path / "a", **how)
    assert (mine.folder / "metrics.csv").read_bytes() == (theirs.folder / "metrics.csv").read_bytes()
    weights = [run.load().state_dict() for run in (mine, theirs)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    again = unetzoo.fit(resume=tmp_path / "a", epochs=2, quiet=True)
    assert len(again.history) == 2


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        (np.arange(24, dtype=np.uint8).reshape(2, 4, 3), "png"),
        (np.arange(8, dtype=np.uint8).reshape(2, 4), "png"),
        (torch.arange(24, dtype=torch.uint8).reshape(3, 2, 4), "png"),
        (torch.arange(40).reshape(5, 2, 4).float() / 7 - 2, "tif"),
        (np.arange(8, dtype=np.uint16).reshape(2, 4) * 900, "tif"),
        (np.arange(8, dtype=np.float32).reshape(2, 4) / 7, "tif"),
    ],
)
def test_images_are_written_to_the_bit(image: Any, suffix: str, tmp_path: Path) -> None:
    write_given(Pairs([{"image": image, "mask": np.eye(2, 4, dtype=int)}]), tmp_path / "d", **HOW)
    found = images.read_image(tmp_path / "d" / "images" / f"000000.{suffix}")
    expected = image if isinstance(image, torch.Tensor) else torch.from_numpy(np.atleast_3d(image)).permute(2, 0, 1)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    mask = np.asarray(Image.open(tmp_path / "d" / "masks" / "000000.png"))
    assert mask.tolist() == [[255, 0, 0, 0], [0, 255, 0, 0]]


@pytest.mark.parametrize(
    ("how", "mask", "stored"),
    [
        ({"task": "multiclass"}, [[0, 2], [1, 3]], {"": [[0, 2], [1, 3]]}),
        ({"task": "multiclass", "ignore": 255}, [[0, -100], [1, 3]], {"": [[0, 255], [1, 3]]}),
        ({"task": "binary", "ignore": 127}, [[0, -100], [1, 1]], {"": [[0, 127], [255, 255]]}),
        ({"task": "instances"}, [[0, 700], [1, 1]], {"": [[0, 700], [1, 1]]}),
        (
            {"task": "multilabel", "class_names": ("a", "b")},
            [[[0, 1], [1, 1]], [[0, 0], [1, 0]]],
            {"a": [[0, 255], [255, 255]], "b": [[0, 0], [255, 0]]},
        ),
    ],
)
def test_masks_are_written_as_files_have_them(how: dict, mask: list, stored: dict, tmp_path: Path) -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    write_given((Pairs([(image, torch.tensor(mask))]), Pairs([(image, np.array(mask))])), tmp_path / "d", **HOW | how)
    for split in ("train", "val"):
        for title, values in stored.items():
            found = np.asarray(Image.open(tmp_path / "d" / split / "masks" / title / "000000.png"))
            assert found.tolist() == values


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ((np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), int)), r"shape \(4, 5\) for an image of \(3, 4, 4\)"),
        ((np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4))), "float64: integers"),
        ((np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 2)), "the value 2, but 0 and 1"),
        ((np.zeros((4, 4, 3), np.uint8), np.full((4, 4), -100)), "such as ignore=255"),
        ({"image": np.zeros((4, 4, 3), np.uint8)}, "one of mask, target, label"),
        (np.zeros((4, 4, 3), np.uint8), r"a ndarray: \(image, mask\)"),
        (("nothing.png", np.zeros((4, 4), int)), "no such file"),
    ],
)
def test_items_that_are_none_are_refused_and_nothing_is_left(item: Any, said: str, tmp_path: Path) -> None:
    good = (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), int))
    with pytest.raises(ConfigError, match=rf"data: item 1: .*{said}"):
        unetzoo.fit("unet", data=Pairs([good, item]), out=tmp_path / "run", quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_it_says_where_it_would_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give out=…"):
        unetzoo.fit("unet", data=Pairs(nuclei(1)))
    (tmp_path / "run-data").mkdir()
    with pytest.raises(ConfigError, match=r"run-data, where .*exists already: .*pass that folder as data=…"):
        write_given(Pairs(nuclei(1)), tmp_path / "run-data", **HOW)


TINY: dict[str, Any] = {
    "steps": 1, "crop_size": 16, "quiet": True, "settings": {"data.workers": 0, "model.options.base_channels": 2},
}  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"loss": "dyce"}, "dyce"),  # refused before it is written
        ({"epochs": 2}, "steps.*epochs"),  # refused by the command, after it was
        ({"class_names": ["a", "b"]}, "class_names"),  # by what the data are
        ({"settings": {"model.emma": 1}}, "model.ema"),
        ({"resume": "nothing"}, "leave it out"),
    ],
)
def test_a_refused_call_leaves_nothing_and_the_corrected_one_works(wrong: dict, said: str, tmp_path: Path) -> None:
    items = nuclei(6)
    with pytest.raises(ConfigError, match=rf"(?s){said}"):
        unetzoo.fit("unet", data=Pairs(items), out=tmp_path / "run", **TINY | wrong)
    assert list(tmp_path.iterdir()) == []
    if "loss" in wrong:
        assert len(unetzoo.fit("unet", data=Pairs(items), out=tmp_path / "run", **TINY).history) == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run-data"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([1, 2, 3], r"data=\[1, 2, 3\]: give a folder, .* a data set of images and masks"),
        ((Pairs([]), "cells"), "give a folder, .* a data set of images and masks"),
        (5, "data=5: give a folder, .* a data set of images and masks"),
        ({"image": 1}, "give a folder, .* a data set of images and masks"),
        (b"cells", "give a folder, .* a data set of images and masks"),
        (iter([]), "give a folder, .* a data set of images and masks"),
        (Pairs([]), "the data set is empty"),
        ((Pairs(nuclei(1)), Pairs([])), "the data set is empty"),
    ],
)
def test_what_is_no_data_set_is_told_before_anything_is_written(data: Any, said: str, tmp_path: Path) -> None:
    """And with all else that is wrong."""
    with pytest.raises(ConfigError, match=said) as caught:
        unetzoo.fit("unet", data=data, out=tmp_path / "run", dat=1, settings={"model.lr": print})
    assert len(caught.value.problems) == 3
    assert list(tmp_path.iterdir()) == []


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_writes_over_nothing(tmp_path: Path) -> None:
    """The data that are there may be the user's own, or other runs'."""
    items = nuclei(6)
    run, data = tmp_path / "run", tmp_path / "run-data"
    unetzoo.fit("unet", data=Pairs(items), out=run, **TINY)
    before = content(tmp_path)
    with pytest.raises(ConfigError, match="run: the folder is not empty; resume=… continues its run"):
        unetzoo.fit("unet", data=Pairs(items), out=run, **TINY)
    assert content(tmp_path) == before
    shutil.rmtree(run)
    before = content(data)

    def trained_on() -> str:
        unetzoo.fit("unet", data=Pairs(items), out=run, **TINY)
        found = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"]["folder"]
        shutil.rmtree(run)
        assert content(data) == before
        return str(found)

    assert trained_on() == str(data)  # the same images
    items = nuclei(7)[1:]
    with pytest.raises(ConfigError, match="class_names"):
        unetzoo.fit("unet", data=Pairs(items), out=run, **TINY | {"class_names": ["a", "b"]})
    assert [path.name for path in tmp_path.iterdir()] == ["run-data"]
    assert trained_on() == f"{data}-2"  # others
    assert trained_on() == f"{data}-2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-data", "run-data-2"]


def test_folds_one_by_one_are_of_the_same_pixels(tmp_path: Path) -> None:
    items = nuclei(8)
    how = TINY | {"out": tmp_path / "run", "folds": 2}
    unetzoo.fit("unet", data=Pairs(items), fold=1, **how)
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=r"run-data, where .*exists already: .*pass that folder as data=…"):
        unetzoo.fit("unet", data=Pairs(items[::-1]), fold=2, **how)
    assert content(tmp_path) == before
    unetzoo.fit("unet", data=Pairs(items), fold=2, **how)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run-data"]


def test_paths_are_no_data_sets() -> None:
    assert not any(map(is_given, ("cells", Path("cells"), ["a.csv", "b.csv"], ("a.csv", "b.csv"), None)))
    assert is_given(Pairs([]))
    assert is_given((Pairs([]), Pairs([])))


def test_masks_of_pil_and_with_an_axis_of_channels(tmp_path: Path) -> None:
    """Painted ones, mode "P" as VOC has them, are their indices."""
    values, image = np.array([[0, 2], [1, 3]], np.uint8), np.zeros((2, 2, 3), np.uint8)
    painted = Image.fromarray(values, "L").convert("P")
    painted.putdata(values.ravel().tolist())
    masks = [painted, Image.fromarray(values), values[None], torch.from_numpy(values)[None], values[:, ::-1][:, ::-1]]
    write_given(Pairs([(image, mask) for mask in masks]), tmp_path / "d", **HOW | {"task": "multiclass"})
    for path in sorted((tmp_path / "d" / "masks").iterdir()):
        assert np.asarray(Image.open(path)).tolist() == values.tolist()
    write_given(Pairs([(image, values[None] == 1)]), tmp_path / "m", **HOW | {"task": "multilabel"})
    assert np.asarray(Image.open(tmp_path / "m" / "masks" / "class_0" / "000000.png")).tolist() == [[0, 0], [255, 0]]
