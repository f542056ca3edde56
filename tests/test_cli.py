"""The command line, as a user calls it."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NAMES
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage

import unetzoo
from unetzoo import trained
from unetzoo.cli import _overview, demo, main, parser
from unetzoo.drawing import draw_nuclei
from unetzoo.images import COLOURS


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "list").split() == NAMES
    assert run(capsys, "list", "unet3p*", "--exclude", "*_*").split() == ["unet3p"]
    assert run(capsys, "list", "--pretrained") == "nuclei\nvessels\n"


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


def test_demo_finds_the_nuclei_that_were_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "overlay.png"
    assert main(["demo", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    drawn, true = draw_nuclei(512, 512)
    for words in ("unet", "a drawn image, 512 × 512 pixels", f"overlay: {out}"):
        assert words in captured.out
    counted = int(re.search(r"nucleus: (\d+) objects", captured.out)[1])
    assert counted == pytest.approx(ndimage.label(true.numpy(), np.ones((3, 3)))[1], rel=0.03)
    coloured = (pixels(out) != drawn.permute(1, 2, 0).numpy()).any(axis=2)
    assert (coloured & true.numpy()).sum() / (coloured | true.numpy()).sum() > 0.85
    commands = re.findall(r"^  unetzoo (.*?) *#", captured.err, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        parser().parse_args(shlex.split(command))  # ends the program where a command is none


def test_demo_on_real_images(capsys: pytest.CaptureFixture[str], tmp_path: Path, shared_data: Path) -> None:
    unetzoo.save(unetzoo.create("unet", base_channels=4, num_classes=3), tmp_path / "m.safetensors")
    for folder in ("nuclei", "vessels", "polyps"):
        image = min((shared_data / folder / "images").iterdir())
        out = tmp_path / f"{folder}.png"
        text = run(capsys, "demo", "--image", str(image), "--out", str(out), "--model", str(tmp_path / "m.safetensors"))
        height, width, _ = pixels(out).shape
        assert pixels(image).shape[:2] == (height, width)
        assert f"{width} × {height}" in text
        assert len(re.findall(r"^class_[12]: \d+ objects, [\d.]+% of the image$", text, re.MULTILINE)) == 2


@settings(max_examples=50, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_the_demo_numbers_objects_as_scipy_does(mask: np.ndarray) -> None:
    expected, count = ndimage.label(mask, np.ones((3, 3)))
    found = demo.numbered(torch.from_numpy(mask)).numpy()
    assert ((found > 0) == mask).all()
    assert len(set(zip(found[mask], expected[mask], strict=True))) == found.max() == count


def test_without_the_extra_objects_the_demo_colours_what_is_connected(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = unetzoo.Predictor("nuclei")(draw_nuclei(512, 512)[0]).mask.numpy()
    expected, count = ndimage.label(mask, np.ones((3, 3)))
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    assert f"nucleus: {count} objects" in run(capsys, "demo", "--out", str(tmp_path / "overlay.png"))
    shown = pixels(tmp_path / "overlay.png")
    palette = np.array([[*bytes.fromhex(name[1:])] for name in COLOURS])
    is_rim = (shown[:, :, None] == palette).all(axis=3)
    colours = [np.flatnonzero(is_rim[expected == k].any(axis=0)).tolist() for k in range(1, count + 1)]
    assert {len(found) for found in colours} == {1}
    assert len(np.unique(colours)) > 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["info", "resnut50"], "did you mean 'resunet50'"),
        (["list", "zzz"], "no name matches 'zzz'"),
        (["list", "nuclei"], "no name matches 'nuclei'; 'unetzoo list --pretrained' lists it"),
        (["list", "unet", "--pretrained"], "--pretrained leaves none"),
        (["compare", "unet", "--plot", f"{__file__}/a.png"], "cannot be made"),
        (["compare", "resnut50"], "did you mean 'resunet50'"),
        (["compare", "unet", "--plot", "table.xyz"], "'table.xyz'"),
        (["compare", "unet", "--size", "0"], "--size 0"),
        (["compare", "unet,nothing"], "no file .*'nothing'"),
        (["demo", "--image", "missing.png"], "no such file"),
        (["demo", "--model", "unet9"], r"unknown model 'unet9'; did you mean 'unet'.*'unetzoo list'"),
        (["demo", "--model", "x_y"], r"no file .*'x_y'\. .*trained model .*\(nuclei, vessels\)"),
        (["demo", "--model", "unet"], "'unet' .*network .*weights .*random"),
        (["demo", "--out", "a.jpg"], r"overlay .*'a\.jpg'.*\.png"),
    ],
)
def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert re.search(said, captured.err)
    assert captured.err.startswith("unetzoo: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "nuclei", "a.png", "--smalest", "20"], "unknown: --smalest 20; did you mean '--smallest'"),
        (["evaluate", "nuclei", "--data", "a", "--obiects"], "unknown: --obiects; did you mean '--objects'"),
        (["compare", "unet", "--zzzzzz"], "unknown: --zzzzzz; 'unetzoo compare --help'"),
        (["predict", "m", "--over", "a.png"], "unknown: --over; did you mean '--overlay', '--overlap', '--overwrite'?"),
        (["predict", "m", "a.png", "--prob"], "unknown: --prob; did you mean '--probabilities'?; 'unetzoo predict --"),
        (["predict", "m", "a.png", "--outlines"], "unknown: --outlines; did you mean '--overlay outline'?"),
        (["predict", "m", "a.png", "--output", "b"], "unknown: --output b; did you mean '--out'?"),
        (["export", "nuclei", "a.onnx", "--image-size", "64"], "unknown: --image-size 64; did you mean '--size'?"),
        (
            ["compare", "--encoder", "resnet34"],
            "unknown: --encoder; the encoder is part of a model's name",
        ),
        (["--vers"], "required: COMMAND; unknown: --vers; did you mean '--version'?"),
        (["predict", "nuclei", "a.png", "--smallest", "twenty"], "twenty: a whole number of pixels is needed"),
        (["predikt"], "unknown command 'predikt'; did you mean 'predict'"),
        (["convrt", "a.pth", "b.safetensors"], "unknown command 'convrt'; did you mean 'convert'"),
        (["--import", "json", "trian"], "unknown command 'trian'; did you mean 'train'"),
        (["data", "chek", "a"], "unknown command 'chek'; did you mean 'check'"),
        (["zzzzzz"], "unknown command 'zzzzzz' (known: list, "),
        (
            ["evaluate", "nuclei", "--data", "a", "--split", "tset"],
            "--split tset: one of train, val, test, all is needed; did you mean 'test'",
        ),
        (
            ["evaluate", "nuclei", "--data", "a", "--split", "validation"],
            "--split validation: one of train, val, test, all is needed; did you mean 'val'",
        ),
        (["export", "nuclei", "a.pt2", "--size", "64", "64", "64"], "unknown: 64"),
    ],
)
def test_wrong_options_are_said_in_a_line(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("unetzoo: ")
    assert error.count("\n") == 1


def commands(of: argparse.ArgumentParser, *words: str) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Give each command that is none of others, and its parser."""
    inner = [action.choices for action in of._actions if isinstance(action, argparse._SubParsersAction)]
    yield from [] if inner else [(words, of)]
    for name, command in (item for choices in inner for item in choices.items()):
        yield from commands(command, *words, name)


def test_no_command_takes_an_abbreviated_option(capsys: pytest.CaptureFixture[str]) -> None:
    tried = 0
    for words, command in commands(parser()):
        options = [option for option in command._option_string_actions if len(option) > 4]
        for option in (option for option in options if option[:-1] not in options and words != ("train",)):
            with pytest.raises(SystemExit):  # before any work, whatever else is missing
                main([*words, option[:-1], "1"])
            said = capsys.readouterr().err
            assert re.search(f"unknown: {option[:-1]}\\b.*; did you mean .*'{option}'", said), said
            tried += 1
    assert tried > 150


def test_a_trained_model_tells_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "info", "nuclei")
    assert "1,942,354 parameters in float16" in said
    assert said.endswith(trained.card_of("nuclei").read_text(encoding="utf-8"))
    record = json.loads(run(capsys, "info", "nuclei", "--json"))
    assert record["config"]["class_names"] == ["nucleus"]
    assert record["bytes"] == trained.weights_of("nuclei").stat().st_size
    assert "intact, sha256" in run(capsys, "verify", "nuclei")


def test_a_saved_model_tells_what_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = unetzoo.create("unet", base_channels=2, class_names=["cell"])
    unetzoo.save_pretrained(model, tmp_path / "cells", card=unetzoo.ModelCard(training_data="Forty dishes."))
    said = run(capsys, "info", str(tmp_path / "cells"))
    assert "unet" in said.splitlines()[0]
    assert said.endswith((tmp_path / "cells" / "README.md").read_text(encoding="utf-8"))
    alone = run(capsys, "info", str(tmp_path / "cells" / "model.safetensors"))
    assert alone == said.splitlines()[0] + "\n"
    record = json.loads(run(capsys, "info", str(tmp_path / "cells"), "--json"))
    assert record["parameters"] == sum(p.numel() for p in model.parameters())
    assert main(["info", str(tmp_path)]) == 2
    assert "holds no model.safetensors" in capsys.readouterr().err


def test_a_file_that_is_no_image(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello", encoding="utf-8")
    assert main(["demo", "--image", str(tmp_path / "text.png")]) == 2
    assert re.search(r"text\.png' cannot be read .*image", capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["compare", "--help"], ["nonsense"], []])
def test_the_parser_needs_no_torch(arguments: list[str]) -> None:
    code = (
        f"import sys\nfrom unetzoo.cli import main\ntry:\n  main({arguments})\n"
        "finally:\n  assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == (2 if arguments == ["nonsense"] else 0)
    assert "AssertionError" not in done.stderr


def test_an_encoding_without_check_marks_is_no_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows writes so to files and pipes."""
    arguments = ["compare", "unet", "--size", "64"]
    text = run(capsys, *arguments)
    assert all(mark in text for mark in "✓²")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
    assert main(arguments) == 0
    sys.stdout.flush()
    assert written.getvalue().decode("cp1252").splitlines() == text.replace("✓", r"\u2713").splitlines()
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_process_whose_encoding_has_no_check_marks(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "unet", "--size", "64"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "unetzoo", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    text = run(capsys, *arguments)
    assert done.stdout.decode("cp1252").splitlines() == text.replace("✓", r"\u2713").splitlines()


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m unetzoo list | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == f"{NAMES[0]}\n"
    assert done.stderr == ""


class Unread(io.StringIO):
    """What standard output is once its reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def unread(*arguments: str) -> int:
    """Run a command whose standard output nobody reads."""
    with contextlib.redirect_stdout(Unread()):
        return main(arguments)


def write_nuclei(folder: Path, count: int) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for k in range(count):
        image, mask = draw_nuclei(40, 48, seed=k)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{k}.png")
        Image.fromarray(mask.numpy()).save(folder / "masks" / f"{k}.png")


def test_all_images_are_segmented_where_nobody_reads_of_it(tmp_path: Path) -> None:
    write_nuclei(tmp_path / "in", 9)
    words = ["predict", "nuclei", str(tmp_path / "in" / "images"), "--out", str(tmp_path / "out")]
    (tmp_path / "in" / "images" / "bad.png").write_bytes(b"no image")
    assert unread(*words, "--json") == 1
    assert len(list((tmp_path / "out").glob("*.png"))) == 9


def test_what_is_wrong_is_the_status_where_nobody_reads_of_it(tmp_path: Path) -> None:
    write_nuclei(tmp_path, 3)
    next((tmp_path / "masks").iterdir()).unlink()
    assert unread("data", "check", str(tmp_path)) == 2


def test_a_report_is_written_where_nobody_reads_the_table(tmp_path: Path) -> None:
    write_nuclei(tmp_path, 2)
    assert unread("evaluate", "nuclei", "--data", str(tmp_path), "--report", str(tmp_path / "report")) == 0
    assert (tmp_path / "report" / "scores.json").is_file()


@pytest.mark.parametrize("typed", ["64x96", "64,96", "64 96", "64×96", "[64, 96]", "(64, 96)"])
def test_height_and_width_are_typed_as_people_do(typed: str) -> None:
    """At every door, in front of what else is said and behind it."""
    words = typed.split() if typed == "64 96" else [typed]
    for line, name in (
        (["export", "nuclei", "a.pt2", "--size", *words, "--json"], "size"),
        (["export", "--size", *words, "nuclei", "a.pt2"], "size"),
        (["data", "check", "--crop-size", *words, "a"], "crop_size"),
        (["data", "preview", "a", "--crop-size", *words], "crop_size"),
        (["train", "--crop-size", *words, "--data", "a"], "crop_size"),
    ):
        assert getattr(parser().parse_args(line), name) == (64, 96), line


def test_one_number_is_both_sides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import unetzoo.exporting

    given: dict[str, Any] = {}
    monkeypatch.setattr(unetzoo.exporting, "export", lambda *_, **arguments: given.update(arguments))
    assert main(["export", "nuclei", str(tmp_path / "a.pt2"), "--size", "64"]) == 0
    assert given["size"] == (64, 64)
    assert parser().parse_args(["data", "check", "a", "--crop-size", "64"]).crop_size == 64


@pytest.mark.parametrize("typed", ["ten", "64x", "64,64,64", "0", "6.5"])
def test_what_is_no_size_is_refused(typed: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["export", "nuclei", str(tmp_path / "a.pt2"), "--size", typed]) == 2
    assert re.search(r"--size .*height and width .*two whole numbers", capsys.readouterr().err)


def test_what_was_taken_from_a_file_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, whatever its level, and printable: names in a file are anybody's."""
    state = {f"net.{name}": tensor for name, tensor in unetzoo.create("unet", base_channels=2).state_dict().items()}
    torch.save({"state_dict": state, "\x1b[31m": 3}, tmp_path / "it.pth")
    words = ["convert", str(tmp_path / "it.pth"), str(tmp_path / "a.safetensors"), "--model", "unet"]
    assert main([*words, "--option", "base_channels=2"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "tensors taken from 'state_dict.net'" in line
    assert "defaults: " in line
    assert "\\x1b[31m" in line
    assert not logging.getLogger("unetzoo").handlers


@pytest.mark.parametrize(
    ("missing", "words", "said"),
    [
        ("gradio", ["serve", "me/it"], r"the page: gradio is needed; pip install 'unetzoo\[demo\]'"),
        ("skimage", ["serve", "me/it", "--split", "1.5"], r"objects that are split: skimage is needed; .*\[objects\]'"),
        ("onnx onnxruntime", ["export", "me/it", "a.onnx"], r"\.onnx: onnx and onnxruntime are needed; .*\[export\]'"),
        ("bioimageio", ["export", "me/it", "a.zip"], r"ends in \.zip: bioimageio is needed; .*\[bioimageio\]'"),
        ("skimage", ["predict", "me/it", "a.png", "--table", "a.csv"], r"a table of objects: skimage is needed"),
        ("skimage", ["predict", "me/it", "a.png", "--split", "1"], r"objects that are split: skimage is needed"),
        ("scipy", ["predict", "me/it", "a.png", "--holes", "all"], r"objects: scipy is needed; .*\[objects\]'"),
        ("skimage", ["evaluate", "me/it", "--data", "d", "--objects"], r"objects that are split: skimage is needed"),
        ("scipy", ["evaluate", "me/it", "--data", "d", "--smallest", "9"], r"objects: scipy is needed"),
    ],
)
def test_what_is_not_installed_is_said_before_a_model_is_looked_for(
    missing: str, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no such model here, which is not reached; nor is it said that it is loaded."""
    for package in (*missing.split(), *(["gradio"] if words[0] == "serve" else [])):
        monkeypatch.setitem(sys.modules, package, None)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert re.search(said, captured.err)
    assert captured.out == ""
    assert not re.search("loading|exporting me|me/it", captured.err)


def test_a_training_tells_what_is_not_installed_with_all_else_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("wandb", "mlflow", "timm"):
        monkeypatch.setitem(sys.modules, package, None)
    words = ["train", "--model", "unet_timm/resnet18", "--data", "nowhere", "--logger", "wandb", "mlflow"]
    assert main(words) == 2
    said = capsys.readouterr().err
    for part in ("--logger wandb: wandb", "--logger mlflow: mlflow", "the encoder 'timm/resnet18': timm"):
        assert f"  - {part} is needed; pip install 'unetzoo[" in said
    assert "'nowhere': there is no such folder" in said


def test_without_a_command_there_is_an_overview_whose_commands_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr()
    assert not said.err
    assert "unetzoo --help" in said.out
    commands = re.findall(r"^  [a-z ]+?  +(unetzoo [^#\n]+)", said.out, re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        options, rest = parser().parse_known_args(shlex.split(command)[1:])
        assert not rest or options.takes_rest, command
    assert all(name in said.out for name in unetzoo.list_models(pretrained=True))


@pytest.mark.parametrize("installed", [True, False])
def test_the_overview_names_an_extra_where_it_is_missing(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_overview, "find_spec", lambda name: object() if installed else None)
    lines = [line for line in _overview.overview().splitlines() if "pip install" in line]
    extras = [re.findall(r"unetzoo\[(\w+)\]", line) for line in lines]
    assert extras == ([] if installed else [["train"], ["demo"], ["export"]])


def test_a_decimal_comma_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "nuclei", "a.png", "--mpp-stored", "0,5"])
    assert "--mpp-stored 0,5: a number is needed, with a decimal point: 0.5" in capsys.readouterr().err
