"""What is wrong with many files alike is said once, with how many there are; what is refused is not measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from unetzoo import ConfigError
from unetzoo.cli import main
from unetzoo.data import Labels, check, find_samples
from unetzoo.printing import said_once


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
