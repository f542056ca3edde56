"""``unetzoo data``, as a user calls it."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unetzoo.cli import data, main


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    assert main(["data", *arguments]) == status
    captured = capsys.readouterr()
    return captured.out, captured.err


def make(folder: Path, count: int = 10) -> Path:
    generator = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for k in range(count):
        Image.fromarray(generator.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / "images" / f"p{k}.png")
        Image.fromarray(generator.random((20, 24)) > 0.5).save(folder / "masks" / f"p{k}.png")
    return folder


@pytest.fixture
def floods(shared_data: Path, tmp_path: Path) -> str:
    folder = shared_data / "floods_multiband"
    (image,), (mask,) = (folder / "images").glob("*S2Hand.tif"), (folder / "masks").iterdir()
    file = tmp_path / "floods.csv"
    file.write_text(
        "image,mask,split\n" + "".join(f"{image},{mask},{split}\n" for split in ("train", "val")), encoding="utf-8"
    )
    return str(file)


@pytest.mark.parametrize(
    ("folder", "options", "channels", "counts"),
    [
        ("vessels", ["--group", r"Image_(\d+)"], 3, [16, 2, 2]),
        pytest.param("polyps", [], 3, [320, 40, 40], marks=pytest.mark.slow),
        ("nuclei_16bit", ["--ratios", "0.5", "0.25", "0.25"], 1, [10, 2, 4]),
    ],
)
def test_check_of_real_folders(
    capsys: pytest.CaptureFixture[str],
    shared_data: Path,
    folder: str,
    options: list[str],
    channels: int,
    counts: list[int],
) -> None:
    out, err = run(capsys, "check", str(shared_data / folder), *options, "--json")
    report = json.loads(out)
    assert err == ""
    assert report["problems"] == []
    assert report["in_channels"] == channels == len(report["mean"])
    assert [split["images"] for split in report["splits"].values()] == counts


def test_check_of_a_part_of_the_polyps(capsys: pytest.CaptureFixture[str], shared_data: Path, tmp_path: Path) -> None:
    """Masks in JPEG."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        for path in sorted((shared_data / "polyps" / part).iterdir())[::10]:
            shutil.copy(path, tmp_path / part)
    out, err = run(capsys, "check", str(tmp_path), "--json")
    report = json.loads(out)
    assert err == ""
    assert report["problems"] == []
    assert report["in_channels"] == 3 == len(report["mean"])
    assert [split["images"] for split in report["splits"].values()] == [34, 1, 5]


def test_check_of_a_part_of_the_nuclei(capsys: pytest.CaptureFixture[str], shared_data: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (shared_data / "nuclei" / "images").iterdir())[::20]
    folder = shared_data / "nuclei"
    # The splits are named: where a list has none, they follow from the paths, and these from where the data lie.
    named = zip(names, ["val", "test", "val"] + ["train"] * (len(names) - 3), strict=True)
    rows = [f"{folder}/images/{name},{folder}/masks/{name},{split}\n" for name, split in named]
    (tmp_path / "nuclei.csv").write_text("image,mask,split\n" + "".join(rows), encoding="utf-8")
    report = json.loads(run(capsys, "check", str(tmp_path / "nuclei.csv"), "--crop-size", "128", "--json")[0])
    assert report["in_channels"] == 3  # RGBA, whose alpha is dead
    assert report["splits"]["train"]["sizes"] > 2
    assert report["problems"] == []
    assert [warning[:16] for warning in report["warnings"]] == ["val has 2 images"]


def test_check_of_multiband_floods(capsys: pytest.CaptureFixture[str], floods: str) -> None:
    out, _ = run(capsys, "check", floods, "--ignore", "-1", "--class-names", "water")
    for words in ("int16 (2)", "in_channels=13", "water", "no problems", "same image"):
        assert words in out
    out, err = run(capsys, "check", floods, status=2)
    assert re.search(r"outside the classes: -1 \(", out)
    assert err.startswith("unetzoo: ")
    assert err.count("\n") == 1


def test_counts_of_problems_are_of_what_is_listed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = make(tmp_path / "in")
    Image.fromarray(np.full((20, 24), 7, np.uint8)).save(source / "masks" / "p0.png")
    pairs = [(k, 0 if k < 2 else k) for k in range(10)]
    rows = "".join(f"in/images/p{image}.png,in/masks/p{mask}.png\n" for image, mask in pairs)
    (tmp_path / "a.csv").write_text(f"image,mask\n{rows}", encoding="utf-8")
    out, err = run(capsys, "check", str(tmp_path / "a.csv"), status=2)  # two images have the one wrong mask
    assert "problems (1):" in out
    assert "problems above, 1 in all" in err
    for k in (3, 4, 5):
        (source / "masks" / f"p{k}.png").unlink()
    out, err = run(capsys, "check", str(source), "--masks", "masks/{name}.png", status=2)
    assert "problems (4, grouped by kind):" in out
    assert "and 2 others" in out
    assert "4 in all" in err
    assert "unpaired images" not in out  # which the problems say


def test_problems_are_printed_before_the_status(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = make(tmp_path / "in")
    (source / "masks" / "p3.png").unlink()
    (source / "images" / "p4.png").write_bytes(b"hello")
    out, err = run(capsys, "check", str(source), "--crop-size", "512", status=2)
    for words in ("problems (3):", "images/p3.png: no mask", "p4.png' cannot be read", "--crop-size 512×512"):
        assert words in out
    assert "3 in all" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "missing"], r"'missing': .*no such folder.*\.csv"),
        (["check", "{0}", "--task", "multiclass"], "needs --num-classes, or --class-names"),
        (["check", "{0}", "--task", "multilabel"], "needs --num-classes, or --class-names"),
        (["check", "{0}", "--ignore", "1"], "--ignore 1: .*class"),
        (["check", "{0}", "--ratios", "1", "1", "1"], "add up to 1"),
        (["check", "{0}", "--group", "("], r"--group '\(' .*not a regular expression"),
        (["check", "{0}", "--crop-size", "0"], "--crop-size 0"),
        (["convert", "{0}", "{0}"], "already.*empty folder"),
        (["preview", "{0}", "--count", "0"], "--count 0"),
        (["preview", "{0}", "--augmentation", "storng"], "did you mean 'strong'"),
        (["preview", "{0}", "--out", "{0}/images/p1.png/a.png"], "cannot be made"),
    ],
)
def test_errors_are_said_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], said: str
) -> None:
    source = make(tmp_path / "in")
    before = sorted(tmp_path.rglob("*"))
    _, err = run(capsys, *(text.format(source) for text in arguments), status=2)
    assert re.search(said, err)
    assert err.startswith("unetzoo: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_classes_follow_from_folders_names_and_colours(tmp_path: Path) -> None:
    source = make(tmp_path, 3)
    for name in ("rim", "cell"):
        (source / "masks" / name).mkdir()
    for given, classes in (
        (["--task", "multilabel"], 2),
        (["--task", "multiclass", "--class-names", "ground, cell,rim"], 3),
        (["--task", "multiclass", "--colours", "#000000,#ff0000"], 2),
        ([], 1),
    ):
        top = argparse.ArgumentParser()
        data.add(top.add_subparsers())
        labels = data._labels(top.parse_args(["data", "check", str(source), *given]))
        assert labels.num_classes == classes
    assert labels.class_names is None


def test_convert_and_check_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source, target = make(tmp_path / "in"), tmp_path / "out"
    record = json.loads(run(capsys, "convert", str(source), str(target), "--json")[0])
    assert record["target"] == str(target)
    assert record["labels"]["task"] == "binary"
    first, second = (json.loads(run(capsys, "check", str(f), "--json")[0]) for f in (source, target))
    named = {"source": "", "command": "", "call": ""}
    assert {**first, **named} == {**second, **named}
    assert str(target.parent / "again") in run(capsys, "convert", str(source), str(tmp_path / "again"))[0]


def test_convert_of_floods(capsys: pytest.CaptureFixture[str], floods: str, tmp_path: Path) -> None:
    run(capsys, "convert", floods, str(tmp_path / "out"), "--ignore", "-1")
    with Image.open(tmp_path / "out" / "val" / "masks" / "Spain_7370579_S2Hand.png") as mask:
        assert set(np.unique(mask)) == {0, 1, 255}
    report = json.loads(run(capsys, "check", str(tmp_path / "out"), "--ignore", "255", "--json")[0])
    listed = json.loads(run(capsys, "check", floods, "--ignore", "-1", "--json")[0])
    assert report["problems"] == []
    assert (report["splits"], report["mean"]) == (listed["splits"], listed["mean"])


def test_preview(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source, sheet = make(tmp_path / "in"), tmp_path / "sheet.png"
    options = ["--crop-size", "16", "--count", "6", "--columns", "3", "--out", str(sheet)]
    assert str(sheet) in run(capsys, "preview", str(source), *options)[0]
    first = sheet.read_bytes()
    with Image.open(sheet) as image:
        assert image.size == (3 * 20 + 4, 2 * 20 + 4)
    assert json.loads(run(capsys, "preview", str(source), *options, "--json")[0])["images"] == 6
    assert sheet.read_bytes() == first  # the same seed draws the same
    run(capsys, "preview", str(source), *options, "--seed", "1")
    assert sheet.read_bytes() != first


def test_preview_of_floods(capsys: pytest.CaptureFixture[str], floods: str, tmp_path: Path) -> None:
    run(capsys, "preview", floods, "--ignore", "-1", "--augmentation", "none", "--out", str(tmp_path / "s.png"))
    with Image.open(tmp_path / "s.png") as image:
        assert image.size == (4 * 260 + 4, 4 * 260 + 4)


def test_the_command_trains_on_what_was_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A folder with masks and label images: which are read depends on the task, so the command has to name it."""
    folder = make(tmp_path / "cells")
    (folder / "instances").mkdir()
    for k in range(10):
        labels = np.zeros((20, 24), np.uint16)
        labels[2:8, 2:8], labels[10:18, 8:20] = 1, 2
        Image.fromarray(labels).save(folder / "instances" / f"p{k}.png")
    for options, task in ((["--task", "instances"], "--task instances"), ([], "")):
        out, _ = run(capsys, "check", str(folder), *options)
        (command,) = (line for line in out.splitlines() if line.startswith("unetzoo train"))
        assert command == f"unetzoo train --model resunet18 --data {folder} {task}".strip()
