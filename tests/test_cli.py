"""The command line, as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import NAMES
from PIL import Image

from unetzoo.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "list").split() == NAMES
    assert run(capsys, "list", "unet3p*", "--exclude", "*_*").split() == ["unet3p"]
    assert "unet\n" not in run(capsys, "list", "--pretrained")


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "info", "unet_resnet50")
    for words in ("U-Net on ResNet-50", "40,899,457", "40.90M", "arXiv 1505.04597", "IMAGENET1K_V2", "stem_stride = 4"):
        assert words in text
    assert json.loads(run(capsys, "info", "unetpp", "--json"))["parameters"] == 9_044_993


def test_compare(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plot = tmp_path / "compare.png"
    text = run(capsys, "compare", "resunet*", "unetpp_resnet50", "--size", "64", "--format", "md", "--plot", str(plot))
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == [
        *(f"resunet{size}" for size in (18, 34, 50, 101, 152)),
        "unetpp_resnet50",
    ]
    assert pixels(plot).shape[:2] == (900, 1350)
    assert len(json.loads(run(capsys, "compare", "unet", "--format", "json"))["models"]) == 1


def test_demo_on_a_drawn_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "overlay.png"
    text = run(capsys, "demo", "--out", str(out))
    for words in ("resunet18", "20,777,345", "20.78M ✓", "random", str(out)):
        assert words in text
    picture = pixels(out)
    assert picture.shape == (256, 256, 3)
    coloured = (picture != picture[..., :1]).any(axis=2).mean()
    assert 0.1 < coloured < 0.9


def test_demo_on_real_pictures(capsys: pytest.CaptureFixture[str], tmp_path: Path, shared_data: Path) -> None:
    for folder in ("nuclei", "vessels", "polyps"):
        image = min((shared_data / folder / "images").iterdir())
        out = tmp_path / f"{folder}.png"
        text = run(capsys, "demo", "--image", str(image), "--out", str(out), "--model", "resunet34")
        height, width, _ = pixels(out).shape
        assert pixels(image).shape[:2] == (height, width)
        assert f"{width} × {height}" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["info", "resnut50"], "did you mean 'resunet50'"),
        (["list", "zzz"], "no name fits 'zzz'"),
        (["list", "unet", "--pretrained"], "leaves none"),
        (["compare", "unet", "--plot", "missing/folder/a.png"], "there is no folder"),
        (["compare", "resnut50"], "did you mean 'resunet50'"),
        (["compare", "unet", "--plot", "table.xyz"], "'table.xyz'"),
        (["compare", "unet", "--size", "0"], "size=0"),
        (["demo", "--image", "missing.png"], "no such file"),
        (["demo", "--model", "unet9"], "unknown model 'unet9'"),
        (["demo", "--out", "missing/folder/a.png"], "cannot be written"),
    ],
)
def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.startswith("unetzoo: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err


def test_a_file_that_is_no_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    assert main(["demo", "--image", str(tmp_path / "text.png")]) == 2
    assert "text.png' cannot be read as a picture" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["compare", "--help"], ["nonsense"], []])
def test_the_parser_needs_no_torch(arguments: list[str]) -> None:
    code = (
        f"import sys\nfrom unetzoo.cli import main\ntry:\n  main({arguments})\n"
        "finally:\n  assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == (0 if any("--" in a for a in arguments) else 2)
    assert "AssertionError" not in done.stderr


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m unetzoo list | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == f"{NAMES[0]}\n"
    assert done.stderr == ""
