"""Data that cannot be used as they are: what they are, how many alike there are, and what to do, is said once."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from unetzoo import ConfigError
from unetzoo.cli import main
from unetzoo.data import Labels, check, find_samples, remarks
from unetzoo.data.stacks import list_samples
from unetzoo.printing import said_once

pytestmark = pytest.mark.usefixtures("no_curves")

SIDE = 32


def save(path: Path, values: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([*path.stem.encode()]).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(noise if values is None else values).save(path)


def cells(count: int, first: int = 1) -> np.ndarray:
    """Return a label image of so many squares of 3 × 3 pixels."""
    values = np.zeros((SIDE, SIDE), np.uint8)
    for k in range(count):
        top, left = 1 + 5 * (k // 6), 1 + 5 * (k % 6)
        values[top : top + 3, left : left + 3] = first + k
    return values


def coco(path: Path, names: Sequence[str], segmentation: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": k, "file_name": name, "height": SIDE, "width": SIDE} for k, name in enumerate(names)]
    one = {"category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0, "segmentation": segmentation}
    found = {
        "images": images,
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": k, "image_id": k // 2, **one} for k in range(2 * len(names))],
    }
    path.write_text(json.dumps(found))


SQUARE = [[1, 1, 9, 1, 9, 9, 1, 9]]


def test_boxes_of_coco_are_one_problem(tmp_path: Path) -> None:
    names = [f"{k:02}.png" for k in range(12)]
    for name in names:
        save(tmp_path / "images" / name)
    coco(tmp_path / "boxes.json", names, [])
    report = check(tmp_path, Labels(), closely=False)
    (problem,) = report.problems
    for part in ("24 of 24", "detection boxes", "export segmentation", "'00.png'", "'09.png' and 2 more"):
        assert part in problem
    assert report.warnings == ()  # that a class never occurs only follows from it


def test_boxes_of_yolo_are_one_line(tmp_path: Path) -> None:
    for k in range(12):
        save(tmp_path / "images" / f"{k:02}.png")
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{k:02}.txt").write_text("0 0.5 0.5 0.1 0.1\n" * (k % 4 + 1))
    report = check(tmp_path, Labels(), closely=False)
    assert len(report.problems) == 12
    with pytest.raises(ConfigError) as caught:
        report.raise_for_problems()
    assert str(caught.value).count("detection boxes") == 1
    assert "11 others" in str(caught.value)


@pytest.mark.parametrize("ending", ["_cp_masks.png", "_cp_masks.tif", ".png"])
def test_ids_of_objects_are_told_from_classes(tmp_path: Path, ending: str) -> None:
    beside = ending.startswith("_")
    for k in range(12):
        save(tmp_path / ("" if beside else "images") / f"{k:02}.jpg")
        save(tmp_path / ("" if beside else "masks") / f"{k:02}{ending}", cells(4 + k))
    report = check(tmp_path, Labels(), closely=False)
    with pytest.raises(ConfigError) as caught:
        report.raise_for_problems()
    said = str(caught.value)
    assert said.count("instance label image") == 1
    assert f"{sum(range(4, 16))} objects in 12 masks" in said
    assert "foreground='any'" in said
    assert report.warnings == ()
    check(tmp_path, Labels(foreground="any"), closely=False).raise_for_problems()


def test_classes_are_no_ids_and_have_no_white(tmp_path: Path) -> None:
    for k in range(12):
        save(tmp_path / "images" / f"{k:02}.jpg")
        values = np.zeros((SIDE, SIDE), np.uint8)
        values[4:12] = 1
        values[20:28] = 2 if k % 2 else 0
        save(tmp_path / "masks" / f"{k:02}.png", values)
    report = check(tmp_path, Labels(), closely=False)
    assert all("num_classes=3" in problem and "instance" not in problem for problem in report.problems)
    assert len(report.problems) == 6
    assert not any("differ in their values" in warning for warning in report.warnings)


def test_images_without_annotations_are_named_so(tmp_path: Path) -> None:
    for k in range(8):
        save(tmp_path / f"{k}.png")
    coco(tmp_path / "a.json", [f"{k}.png" for k in range(6)], SQUARE)
    (warning,) = (said for said in check(tmp_path, Labels(), closely=False).warnings if "left out" in said)
    assert "images that no annotation names" in warning
    assert warning.endswith("6.png, 7.png")


def test_another_ending_or_case_is_suggested(tmp_path: Path) -> None:
    for k in range(4):
        save(tmp_path / "images" / f"cell_{k}.png")
    coco(tmp_path / "a.json", ["cell_0.jpg", "CELL_1.PNG", "cell_2.png", "other.png"], SQUARE)
    report = check(tmp_path, Labels(), closely=False)
    (near,) = (problem for problem in report.problems if "did you mean" in problem)
    assert "'cell_0.jpg' (did you mean 'images/cell_0.png'?)" in near
    assert "'CELL_1.PNG' (did you mean 'images/cell_1.png'?)" in near
    assert any(problem.startswith("'other.png'") and "no such image" in problem for problem in report.problems)
    (left,) = (said for said in report.warnings if "left out" in said)
    assert left.endswith("left out: images/cell_3.png")


def test_an_empty_folder_is_answered_briefly(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"it is empty.*docs/data\.md") as caught:
        find_samples(tmp_path, Labels())
    assert len(str(caught.value)) < 250 + len(str(tmp_path))


def test_masks_and_annotations_both_are_offered(tmp_path: Path) -> None:
    for k in range(4):
        save(tmp_path / f"{k}.png")
        save(tmp_path / f"{k}_mask.png", cells(1, 255))
        shape = {"label": "cell", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
        found = {"version": "5.5.0", "shapes": [shape], "imagePath": f"{k}.png", "imageHeight": SIDE}
        (tmp_path / f"{k}.json").write_text(json.dumps({**found, "imageWidth": SIDE}))
    with pytest.raises(ConfigError) as caught:
        find_samples(tmp_path, Labels())
    for pattern in ("{name}_mask.png", "{name}.json"):
        assert f"masks={pattern!r}" in str(caught.value)
        assert len(find_samples(tmp_path, Labels(masks=pattern))["train"]) == 2


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("images/a_seg.npy", "", "_cp_masks.png"),
        ("min.json", '[{"image": "a.png", "id": 1, "annotation_id": 2, "label": []}]', "Label Studio's JSON-MIN"),
        ("notes.json", '{"hello": 1}', "an unknown format"),
    ],
)
def test_files_of_tools_beside_masks_are_named_once(tmp_path: Path, name: str, text: str, said: str) -> None:
    for k in range(8):
        save(tmp_path / "images" / f"{k}.png")
        save(tmp_path / "masks" / f"{k}.png", cells(1, 255))
        (tmp_path / name.replace("a_", f"{k}_")).write_text(text)
    report = check(tmp_path, Labels(), closely=False)
    assert report.problems == ()
    assert sum(said in warning for warning in report.warnings) == 1


def pairs(folder: Path, *names: str) -> Path:
    for name in names:
        save(folder / "images" / f"{name}.png")
        save(folder / "masks" / f"{name}.png", 255 * (cells(3) > 0).astype(np.uint8))
    return folder


def of_few(source: Path, **how: object) -> list[str]:
    """Return the warnings that few images validate."""
    report = check(source, Labels(), closely=False, **how)  # type: ignore[arg-type]
    assert not report.problems
    return [one for one in report.warnings if "the best epoch is chosen" in one]


@pytest.mark.parametrize(
    ("count", "said"), [(1, "1 image: .* by it alone"), (2, "2 images: .* by them alone"), (3, "")]
)
def test_few_images_that_validate_are_warned_of_once(tmp_path: Path, count: int, said: str) -> None:
    pairs(tmp_path / "train", *(f"a{k}" for k in range(4)))
    pairs(tmp_path / "val", *(f"b{k}" for k in range(count)))
    found = of_few(tmp_path)
    assert len(found) == bool(said)
    assert not said or re.match(f"val has {said}.* move some of the others there, .* folds=5, ", found[0])


def test_a_split_that_leaves_few_is_warned_of_with_its_fixes(tmp_path: Path) -> None:
    pairs(tmp_path, *(f"{patient}_{k}" for patient in "abc" for k in range(3)))
    (alone,) = of_few(tmp_path, ratios=(0.5, 0.4, 0.1), group="^(.)")
    assert re.match(r"val has 3 images of 1 group: .*give ratios=… .* folds=2, ", alone)  # of the two that do not test
    assert not of_few(tmp_path, ratios=(0.2, 0.8, 0))
    assert not of_few(tmp_path, fold=(1, 3), ratios=(0.8, 0.2, 0))  # all validate in the end


def test_commands_say_the_fixes_of_few_images_as_they_are_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(pairs(tmp_path / "data", *map(str, range(6))))
    words = ["train", "--model", "unet", "--model.options.base_channels", "2", "--crop-size", "16", "--batch-size", "2"]
    words += ["--steps", "1", "--data.workers", "0", "--data", source, "--out", str(tmp_path / "run")]
    for command in (["data", "check", source], words):
        assert main(command) == 0
        said = " ".join("".join(capsys.readouterr()).split())
        assert said.count("val has 1 image: ") == 1
        assert "give --ratios with a larger second number, or train with --folds 5, which" in said


# What is wrong with many files alike


@pytest.mark.parametrize(
    ("sentences", "said"),
    [
        ([], []),
        (["'a.png' is empty"], ["'a.png' is empty"]),
        (["'a.png' is empty", "'b.png' is empty"], ["'a.png' is empty; and 1 other: 'b.png'"]),
        ([f"'{k}' is bad" for k in "abcd"], ["'a' is bad; and 3 others: 'b', 'c', …"]),
        (["a/x.png: no mask", "b.png: no mask"], ["a/x.png: no mask; and 1 other: b.png"]),
        (["'a' is bad", "'a' is bad"], ["'a' is bad"]),  # as of each plane of a file
        (["'a' is bad", "'b' is good", "'c' is bad"], ["'a' is bad; and 1 other: 'c'", "'b' is good"]),
        (["'it\\'s' is bad", '"it\'s" is bad'], ["'it\\'s' is bad; and 1 other: \"it's\""]),
        (
            ["'a' holds 3 (7 pixels), 4 (1 pixels) and 1 other; fix", "'b' holds -5 (9 pixels); fix"],
            ["'a' holds 3 (7 pixels), 4 (1 pixels) and 1 other; fix; and 1 other: 'b'"],
        ),
        (["'a' is 3 wide", "'b' is 4 wide"], ["'a' is 3 wide", "'b' is 4 wide"]),
        (["seed=a: a number", "lr=b: a number"], ["seed=a: a number", "lr=b: a number"]),
        (["no images", "no masks"], ["no images", "no masks"]),
    ],
)
def test_what_is_alike_is_one_sentence(sentences: list[str], said: list[str]) -> None:
    assert said_once(sentences) == said
    assert said_once(said) == said


def refused(folder: Path, count: int = 30) -> Path:
    """Write images, all readable, with masks of ids: as many as their number, and one more."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for k in range(count):
        mask = np.zeros((32, 32), np.uint8)
        for i in range(3):
            mask[8 * i : 8 * i + 4 + k % 3] = 2 * i + 1
        Image.fromarray(mask).save(folder / "masks" / f"{k:02}.png")
        Image.fromarray(np.full((32, 32, 3), k, np.uint8)).save(folder / "images" / f"{k:02}.png")
    return folder


def test_a_refused_check_says_what_is_wrong_once_and_measures_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = refused(tmp_path / "data")
    (source / "masks" / "07.png").unlink()
    assert main(["data", "check", str(source)]) == 2
    out, err = capsys.readouterr()
    assert "problems (30, grouped by kind):" in out
    assert "30 in all" in err
    (ids,) = (line for line in out.splitlines() if "values outside the classes" in line)
    assert re.search(
        r"masks.00\.png': .*and 28 others: '.*masks.01\.png'.*, …; 'unetzoo data check --json' lists all$",
        ids,
    )
    assert out.count("no mask with that stem") == 1
    assert not re.search("%|median|std", out)
    assert main(["data", "check", str(source), "--json"]) == 2
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 30  # each by its name
    (source / "images" / "07.png").unlink()
    assert main(["data", "check", str(source), "--foreground", "any"]) == 0
    assert re.search(r"foreground .*%", capsys.readouterr().out)


def test_a_refused_call_says_it_once(tmp_path: Path) -> None:
    source = refused(tmp_path / "data", 12)
    with pytest.raises(ConfigError) as caught:
        check(source, Labels()).raise_for_problems()
    assert str(caught.value).count("outside the classes") == 1
    for k in range(1, 6):
        (source / "masks" / f"{k:02}.png").unlink()
    with pytest.raises(ConfigError, match=r"01\.png: no mask .*and 4 others: .*02\.png, .*03\.png, …") as caught:
        find_samples(source, Labels())
    assert len(caught.value.problems) == 5
    assert str(caught.value).count("no mask") == 1


def test_a_prediction_says_once_what_stops_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(4):
        tifffile.imwrite(tmp_path / f"{k}.tif", np.zeros((5, 32, 32), np.uint8), metadata={"axes": "ZYX"})
    words = ["predict", "nuclei", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "4 failed" in out
    (line,) = err.strip().splitlines()
    assert re.search(r"0\.tif:? .*--planes split.*and 3 others: .*1\.tif, .*2\.tif, …$", line)
    assert main([*words, "--json"]) == 1
    assert [json.loads(line)["status"] for line in capsys.readouterr().out.splitlines()] == ["failed"] * 4


@pytest.mark.parametrize(
    ("names", "together"),
    [
        (["Image_01L", "Image_01R", "Image_02L", "Image_02R", "Image_03L", "Image_03R"], 3),
        (["1 left", "1 right", "2 left", "2 right", "3 left", "4 right"], None),  # two of four
        (["p1a", "p1b", "p2a", "p2b", "p3a", "p3b", "p3c"], 3),
        (["case_1_01", "case_1_02", "case_2_01", "case_2_02", "case_3_slice1", "case_3_slice2"], 3),
        (["Image_01L", "Image_01R", "Image_02L", "Image_02R", "Image_03L", "Image_03R", "other"], None),
        (["a1", "a2", "a3", "a4", "a5", "a6"], None),
        (["2020_01", "2020_02", "2021_01", "2021_02", "2022_01", "2022_02"], None),
        (["0aL", "1bL", "2cL", "3dL"], None),
    ],
)
def test_names_of_one_patient_suggest_a_group(names: list[str], together: int | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        for name in names:
            pixels = rng.integers(0, 2, (32, 32), np.uint8) * 255
            Image.fromarray(pixels).save(tmp_path / part / f"{name}.png")
    said = [line for line in check(tmp_path, Labels()).warnings if "one patient" in line]
    assert len(said) == (together is not None)
    if together is not None:
        group = ast.literal_eval(re.search(r"group=('.*?')", said[0])[1])
        splits = find_samples(tmp_path, Labels(), group=group, ratios=(0.4, 0.3, 0.3))
        homes: dict[str, set[str]] = {}
        for split, found in splits.items():
            for sample in found:
                homes.setdefault(re.match(r"(.*?\d+)(?=[LRab_]|c$)", sample.name)[1], set()).add(split)
        assert len(homes) == together
        assert all(len(of) == 1 for of in homes.values())
        assert not [line for line in check(tmp_path, Labels(), group=group).warnings if "patient" in line]


def test_real_names_give_no_false_alarm(shared_data: Path) -> None:
    found = {name: remarks.related_names(list_samples(shared_data / name, Labels()), None)
             for name in ("nuclei", "polyps", "vessels", "nuclei_16bit")}  # fmt: skip
    assert [name for name, said in found.items() if said] == ["vessels"]


def test_the_command_suggests_a_group_that_can_be_typed(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "check", str(shared_data / "vessels")])
    assert "give --group '(.*\\d)[ _-]?[LR]$', which" in capsys.readouterr().out


def test_check_and_training_count_the_same_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        for k in range(6):
            size = (30, 32) if part == "masks" and k < 3 else (32, 32)
            Image.fromarray(np.full(size, 255 * (k % 2), np.uint8)).save(tmp_path / part / f"{k}.png")
    (tmp_path / "images/5.png").write_bytes(b"x")
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "problems (4, grouped by kind)" in capsys.readouterr().out
    out = str(tmp_path / "run")
    assert main(["train", "--model", "unet", "--data", str(tmp_path), "--out", out, "--quiet"]) == 2
    assert "4 things are wrong, grouped by kind:" in capsys.readouterr().err
