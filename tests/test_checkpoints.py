"""Checkpoints of other programs: the usual wrappings are understood, and no code in them runs."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import flags, light
from safetensors.torch import save_file
from torch import Tensor, nn

import unetzoo
from unetzoo import ConfigError, WeightsError, cli
from unetzoo.cli import _options

State = dict[str, Tensor]


def state_of(name: str = "unet", **options: object) -> State:
    return unetzoo.create(name, **{"base_channels": 2, **options}).state_dict()


def assert_equal(found: State, expected: State) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype, name


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "ordered": lambda state: collections.OrderedDict(state),
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "args": {"lr": 0.1}},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer": {"state": {}, "param_groups": []}},
    "model": lambda state: {"model": state, "ema": None},
    "data parallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "compiled": lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "compiled in parallel": lambda state: {"model": {f"module._orig_mod.{n}": tensor for n, tensor in state.items()}},
    "Lightning, net": lambda state: {"state_dict": {f"net.{n}": tensor for n, tensor in state.items()}},
    "Lightning": lambda state: {"state_dict": {f"model.{n}": tensor for n, tensor in state.items()}, "callbacks": {}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("zipped", [True, False])
def test_usual_wrappings(wrapping: str, zipped: bool, tmp_path: Path) -> None:
    state = state_of()
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "it.pth", _use_new_zipfile_serialization=zipped)
    assert_equal(unetzoo.load_state_dict_file(tmp_path / "it.pth"), state)


def test_safetensors_of_others(tmp_path: Path) -> None:
    state = state_of()
    save_file({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "it.safetensors")
    assert_equal(unetzoo.load_state_dict_file(tmp_path / "it.safetensors"), state)


def test_a_prefix_is_taken_off_only_where_all_have_it(tmp_path: Path) -> None:
    state = {"model.a": torch.zeros(1), "b": torch.ones(1)}
    torch.save(state, tmp_path / "it.pth")
    assert_equal(unetzoo.load_state_dict_file(tmp_path / "it.pth"), state)


@pytest.mark.parametrize("form", ["default", "flags"])
@pytest.mark.parametrize(
    "name", ["unet", "unet_valid", "resunet18", "unetpp", "unet3p_resnet18", "unet3p_lite_resnet18"]
)
def test_convert_reads_off_what_it_can(name: str, form: str, tmp_path: Path) -> None:
    """A checkpoint without a record, in half precision, of an old program that did not count batches."""
    seen = {"num_classes": 4, "in_channels": 2}
    told = light(name)
    if form == "flags":
        extra = {**flags(name), "num_classes": 4}
        told |= {key: value for key, value in extra.items() if key in ("conv_bias", "dropout", "stem_stride", "output")}
        seen |= {key: value for key, value in extra.items() if key not in told}
    model = unetzoo.create(name, **told, **seen).eval()
    state = {key: tensor for key, tensor in model.half().state_dict().items() if not key.endswith("batches_tracked")}
    torch.save({"model": {f"module.{key}": tensor for key, tensor in state.items()}}, tmp_path / "old.pth")
    saved = unetzoo.convert(tmp_path / "old.pth", tmp_path / "new.safetensors", name, **told)
    assert saved.dtypes == ("float16",)
    loaded = unetzoo.load(tmp_path / "new.safetensors")
    assert loaded.config == model.config
    assert_equal(loaded.state_dict(), model.state_dict())


def test_convert_finds_the_model_among_other_things(tmp_path: Path) -> None:
    """A Lightning module that holds a loss with weights beside the model; all that is surplus is named."""
    state = {f"learner.unet.{name}": tensor for name, tensor in state_of().items()}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    unetzoo.convert(tmp_path / "a.ckpt", tmp_path / "new.safetensors", "unet", base_channels=2)
    assert_equal(unetzoo.load(tmp_path / "new.safetensors").state_dict(), {n[13:]: t for n, t in state.items()})
    torch.save({"state_dict": {**state, "loss.weight": torch.ones(1)}}, tmp_path / "b.ckpt")
    with pytest.raises(WeightsError) as caught:
        unetzoo.convert(tmp_path / "b.ckpt", tmp_path / "new.safetensors", "unet", base_channels=2)
    assert [line for line in str(caught.value).splitlines() if line.startswith("  - ")] == [
        "  - unexpected: loss.weight"
    ]


def test_convert_says_what_it_cannot_know(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(state_of("unetpp", deep_supervision=True), tmp_path / "old.pth")
    unetzoo.convert(tmp_path / "old.pth", tmp_path / "new.safetensors", "unetpp", base_channels=2, task="binary")
    for words in ("norm='batch'", "output='last'", "dropout=0.0", "upsampling=None", "mean=None"):
        assert words in caplog.text
    for words in ("base_channels", "num_classes", "deep_supervision", "task", "pretrained"):
        assert f"{words}=" not in caplog.text


def test_convert_says_what_does_not_fit(tmp_path: Path) -> None:
    torch.save(state_of("unetpp"), tmp_path / "old.pth")
    with pytest.raises(WeightsError) as caught:
        unetzoo.convert(tmp_path / "old.pth", tmp_path / "new.safetensors", "unet", base_channels=2)
    expected = state_of()
    for name in expected:
        if name.startswith("decoder.") and not name.endswith("num_batches_tracked"):
            assert f"\n  - missing: {name}" in str(caught.value)
    assert "unexpected: decoder.nodes.x_0_1" in str(caught.value)
    with pytest.raises(WeightsError, match=r"old\.pth .* unetpp:(?s:.*) tensors .*give the options"):
        unetzoo.convert(tmp_path / "old.pth", tmp_path / "new.safetensors", "unetpp")
    torch.save(nn.Conv2d(3, 3, 3).state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth .* unet:(?s:.*)names .*create\(\.\.\., pretrained=path\)"):
        unetzoo.convert(tmp_path / "other.pth", tmp_path / "new.safetensors", "unet")
    assert not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("old.pth", "new.pth", "unet"), {}, r"must end in \.safetensors"),
        (("old.pth", "new.safetensors", "unett"), {}, "did you mean 'unet'"),
        (("old.pth", "new.safetensors", "unet"), {"pretrained": True}, "pretrained .*convert.*weights.*file"),
        (("old.pth", "new.safetensors", "unet"), {"base_chanels": 2}, "'base_chanels'; did you mean 'base_channels'"),
    ],
)
def test_convert_refuses_before_any_work(
    arguments: tuple[str, str, str], options: dict[str, object], words: str, tmp_path: Path
) -> None:
    source, target, name = arguments
    torch.save(state_of(), tmp_path / "old.pth")
    with pytest.raises(ConfigError, match=words):
        unetzoo.convert(tmp_path / source, tmp_path / target, name, **options)
    assert not (tmp_path / target).exists()


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "old.pth", r"old\.pth cannot be read: .*No such file"),
        (tmp_path, rf"{tmp_path.name} cannot be read: .*folder"),
    ):
        with pytest.raises(WeightsError, match=words):
            unetzoo.convert(path, tmp_path / "new.safetensors", "unet")


def test_a_file_of_ours_needs_no_conversion(tmp_path: Path) -> None:
    unetzoo.save(unetzoo.create("unet", base_channels=2), tmp_path / "it.safetensors")
    with pytest.raises(WeightsError, match=r"it\.safetensors .*already.*unetzoo\.load\b"):
        unetzoo.convert(tmp_path / "it.safetensors", tmp_path / "new.safetensors", "unet")
    torch.save(state_of(), tmp_path / "old.pth")
    with pytest.raises(WeightsError, match=r"unetzoo convert old\.pth old\.safetensors --model NAME"):
        unetzoo.load(tmp_path / "old.pth")
    save_file(state_of(), tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match=r"bare\.safetensors .*which model.*'unetzoo convert'.*--model"):
        unetzoo.load(tmp_path / "bare.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"model": {"a": torch.zeros(1)}, "state_dict": {"a": torch.ones(1)}},
            "several state dicts, 'state_dict', 'model'",
        ),
        ({"teacher": {"a": torch.zeros(1)}}, "no state dict .*teacher;"),
        ({"a": torch.zeros(1), "epoch": 3}, "no state dict .*a, epoch;"),
        ([torch.zeros(1)], "no state dict .*list;"),
        ({}, "no state dict .*nothing;"),
        ({1: torch.zeros(1)}, "no state dict .* 1;"),
        ({"a": torch.zeros(3).to_sparse()}, "no state dict"),
        ({"a": torch.zeros(1).expand(1 << 40)}, r"it\.pth .*: a .*more values .*file"),
    ],
)
def test_what_is_no_state_dict(content: object, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "it.pth")
    with pytest.raises(WeightsError, match=words):
        unetzoo.load_state_dict_file(tmp_path / "it.pth")


class Payload:
    """Unpickled, it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_pickles_with_code_are_not_opened(tmp_path: Path) -> None:
    """The mark shows that the payloads are live, and that none of our ways in sets them off."""
    mark = tmp_path / "executed"
    torch.save({"state_dict": state_of(), "hook": Payload(mark)}, tmp_path / "a.pth")
    torch.save(Payload(mark), tmp_path / "b.ckpt", _use_new_zipfile_serialization=False)
    (tmp_path / "c.bin").write_bytes(pickle.dumps({"a": Payload(mark)}))
    (tmp_path / "d.safetensors").write_bytes(pickle.dumps({"a": Payload(mark)}))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((tmp_path / "a.pth").read_bytes())
    (folder / "pytorch_model.bin").write_bytes((tmp_path / "c.bin").read_bytes())
    ways: list[Callable[[Path], object]] = [
        unetzoo.load_state_dict_file,
        unetzoo.load,
        unetzoo.verify,
        unetzoo.from_pretrained,
        lambda path: unetzoo.load(path, verify=True),
        lambda path: unetzoo.convert(path, tmp_path / "new.safetensors", "unet", base_channels=2),
        lambda path: unetzoo.push_to_hub(path, "me/it", token="hf_me"),
        lambda path: unetzoo.create("resunet18", pretrained=path),
    ]
    for path in (*sorted(tmp_path.glob("[abcd].*")), folder):
        for way in ways:
            with pytest.raises((WeightsError, ConfigError)):
                way(path)
    assert not mark.exists()
    with pytest.raises(WeightsError, match=r"a\.pth is not opened.*needs posix\.mkdir.*torch\.save\(model\.state_dict"):
        unetzoo.load_state_dict_file(tmp_path / "a.pth")
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert mark.exists()


def test_whole_modules_and_foreign_objects_are_named(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(1, 1, 1), tmp_path / "module.pt")
    with pytest.raises(WeightsError, match=r"needs torch\.nn\.modules\.conv\.Conv2d"):
        unetzoo.load_state_dict_file(tmp_path / "module.pt")
    torch.save({"state_dict": state_of(), "hyper_parameters": argparse.Namespace(lr=1)}, tmp_path / "lightning.ckpt")
    with pytest.raises(WeightsError, match=r"needs argparse\.Namespace"):
        unetzoo.load_state_dict_file(tmp_path / "lightning.ckpt")


def test_the_command_convert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(state_of(norm="group", num_classes=2, base_channels=8), "old.pth")
    told = ["--option", "norm=group", "--option", "base_channels=8", "--option", "class_names=cell,rim"]
    assert cli.main(["convert", "old.pth", "new.safetensors", "--model", "unet", *told]) == 0
    assert "new.safetensors: unet, 3 channels → 2 classes" in capsys.readouterr().out
    config = unetzoo.load("new.safetensors").config
    assert (config.norm, config.class_names) == ("group", ("cell", "rim"))
    for text, value in (
        ("none", None),
        ("True", True),
        ("[1, 2]", [1, 2]),
        ("1,2", (1, 2)),
        ("a", "a"),
        ("1e-3", 1e-3),
    ):
        assert _options.option(f"x={text}") == ("x", value)
    assert _options.option("class_names=cell") == ("class_names", ("cell",))
    assert _options.option("mean=0.5") == ("mean", (0.5,))
    assert cli.main(["convert", "old.pth", "new.safetensors", "--model", "unet"]) == 2
    assert re.search(r"old\.pth .* unet:(?s:.*) tensors .*give the options", capsys.readouterr().err)
    with pytest.raises(SystemExit):
        cli.main(["convert", "old.pth", "new.safetensors", "--model", "unet", "--option", "norm"])
    assert "NAME=VALUE is needed" in capsys.readouterr().err
