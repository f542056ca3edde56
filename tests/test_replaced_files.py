"""Files that are there when a command writes: one that is replaced is told, one that is read is never replaced."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unetzoo
from unetzoo.cli import _replacing, main, parser
from unetzoo.errors import ConfigError
from unetzoo.files.writing import write_file

READ = "would be read and then overwritten: give the output another name"


def tensors(path: Path) -> str:
    torch.save(unetzoo.create("unetpp", levels=2, base_channels=2).state_dict(), path)
    return str(path)


WORDS = ("--model", "unetpp", "--option", "levels=2", "--option", "base_channels=2")


def test_a_line_says_what_was_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tensors(tmp_path / "a.pth"), tmp_path / "new" / "a.safetensors"
    assert main(["convert", source, str(target), *WORDS]) == 0
    assert "already existed" not in capsys.readouterr().err
    assert main(["convert", source, str(target), *WORDS]) == 0
    assert f"{target} already existed and was replaced\n" in capsys.readouterr().err


def test_what_fails_replaces_nothing_and_says_so_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine.safetensors"
    target.write_bytes(b"years of work")
    assert main(["convert", tensors(tmp_path / "a.pth"), str(target), "--model", "resunet18"]) == 2
    assert "already existed" not in capsys.readouterr().err
    assert target.read_bytes() == b"years of work"


def test_what_a_command_reads_it_does_not_write_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text("image,mask\na.png,b.png\n")
    other = tmp_path / "other.csv"
    other.symlink_to(listed)
    for words in (
        ["data", "check", str(listed), "--html", str(other)],
        ["evaluate", "nuclei", "--data", str(listed), "--table", str(listed)],
        ["predict", "nuclei", str(listed), "--table", str(other)],
        ["demo", "--image", str(listed), "--out", str(other)],
    ):
        assert main(words) == 2, words
        assert READ in capsys.readouterr().err, words
    assert listed.read_text() == "image,mask\na.png,b.png\n"
    source = Path(tensors(tmp_path / "a.safetensors"))
    source.rename(tmp_path / "a.pth")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "a.pth")
    with pytest.raises(ConfigError, match=READ):
        unetzoo.convert(tmp_path / "a.pth", tmp_path / "link.safetensors", "unetpp", levels=2, base_channels=2)


def test_of_a_folder_the_files_that_were_replaced_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("scores.json", "mine.txt"):
        write_file(tmp_path / name, "before")
    with _replacing.told(argparse.Namespace(writes=("report", "table"), report=str(tmp_path), table=None)):
        write_file(tmp_path / "scores.json", "after")
        write_file(tmp_path / "per_image.csv", "new")
    assert capsys.readouterr().err == f"{tmp_path / 'scores.json'} already existed and was replaced\n"


def test_what_an_overwrite_left_of_earlier_settings_is_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is ended early, or is given a part of the images: the others' masks were taken for those asked for."""
    for k, name in enumerate("ab"):
        noise = np.random.default_rng(k).integers(0, 256, (32, 32, 3), np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / "images" / f"{name}.png")
    torch.manual_seed(0)
    model = tmp_path / "m.safetensors"
    unetzoo.save(unetzoo.create("unetpp", levels=2, base_channels=2), model)
    command = ["predict", str(model), str(tmp_path / "images"), "--threshold"]
    for threshold, out in (("0.000001", "out"), ("0.999999", "wanted")):
        assert main([*command, threshold, "--out", str(tmp_path / out)]) == 0
    one = ["predict", str(model), str(tmp_path / "images" / "a.png"), "--threshold", "0.999999"]
    assert main([*one, "--out", str(tmp_path / "out"), "--overwrite"]) == 0
    capsys.readouterr()
    for said in ("1 segmented, 1 there already", "0 segmented, 2 there already"):
        assert main([*command, "0.999999", "--out", str(tmp_path / "out")]) == 0
        assert said in capsys.readouterr().out
    for name in "ab":
        found, wanted = (np.asarray(Image.open(tmp_path / out / f"{name}.png")) for out in ("out", "wanted"))
        assert (found == wanted).all()
        assert not wanted.any()


def test_every_option_that_names_a_file_to_write_is_known() -> None:
    """Folders of ``predict``, ``train`` and ``data convert`` have rules of their own, see the FAQ."""
    commands = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)).choices
    inner = [action for action in commands["data"]._actions if isinstance(action, argparse._SubParsersAction)]
    written = {"out", "target", "table", "counts", "report", "html", "plot"}
    for name, command in {**commands, **inner[0].choices}.items():
        named = {action.dest for action in command._actions} & written
        own = {"predict": {"out"}, "train": {"out"}}.get(name, set())
        if command.prog.endswith("data convert"):
            own = {"target"}
        assert set(command.get_default("writes") or ()) == named - own, command.prog
