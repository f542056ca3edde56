"""Checkpoints of other programs: the usual wrappings are understood, and no code in them runs."""

from __future__ import annotations

import argparse
import collections
import contextlib
import pickle
import random
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import flags, light
from hostile import Payload
from safetensors.torch import save_file
from torch import Tensor, nn

import unetzoo
from unetzoo import ConfigError, WeightsError, cli
from unetzoo.cli import _options
from unetzoo.files import pickles
from unetzoo.train.keeping import WholeFiles

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


def test_convert_finds_the_model_among_other_things(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A Lightning module that holds a loss with weights beside the model; what is left is named."""
    state = {f"learner.unet.{name}": tensor for name, tensor in state_of().items()}
    for beside in ({}, {"loss.weight": torch.ones(1)}):
        torch.save({"state_dict": {**state, **beside}}, tmp_path / "a.ckpt")
        unetzoo.convert(tmp_path / "a.ckpt", tmp_path / "new.safetensors", "unet", base_channels=2)
        assert_equal(unetzoo.load(tmp_path / "new.safetensors").state_dict(), {n[13:]: t for n, t in state.items()})
        assert ("left: state_dict.loss" in caplog.text) == bool(beside)


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
    lines = str(caught.value).splitlines()
    missing = [name for name in state_of() if name not in state_of("unetpp") and "num_batches" not in name]
    assert f"  - missing: {missing[0]}" in lines
    assert "unexpected: decoder.nodes.x_0_1" in str(caught.value)
    assert len(lines) < 15
    assert re.search(r"and \d+ more", lines[-2])
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
    with pytest.raises(WeightsError, match=r"unetzoo convert .*old\.pth old\.safetensors --model NAME"):
        unetzoo.load(tmp_path / "old.pth")
    save_file(state_of(), tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match=r"bare\.safetensors .*which model.*'unetzoo convert .*--model"):
        unetzoo.load(tmp_path / "bare.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"model": {"a": torch.zeros(1)}, "state_dict": {"a": torch.ones(1)}},
            "several state dicts, 'state_dict', 'model'",
        ),
        ({"teacher": {"a": 1}}, "no state dict .*teacher;"),
        ({"a": 1, "epoch": 3}, "no state dict .*a, epoch;"),
        ([torch.zeros(1)], "no state dict .*list;"),
        ({}, "no state dict.*is empty;"),
        ({1: torch.zeros(1)}, "no state dict .* 1;"),
        ({"a": torch.zeros(3).to_sparse()}, "no state dict"),
        ({"a": torch.zeros(1).expand(1 << 40)}, r"it\.pth .*: a .*more values .*file"),
    ],
)
def test_what_is_no_state_dict(content: object, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "it.pth")
    with pytest.raises(WeightsError, match=words):
        unetzoo.load_state_dict_file(tmp_path / "it.pth")


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


def kept_by_programs(zipped: bool = True) -> dict[str, Any]:
    """Return what checkpoints hold beside a state dict, of every kind that torch reads in such a file."""
    network = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2))
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.8, 0.9))
    network(torch.ones(1, 2, 5, 5)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=5)
    shared = {"lr": (0.1, [0.2, None, True])}
    return {
        "epoch": 3,
        "seed": 1 << 62,
        "huge": 10**500,
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [schedule.state_dict()],
        "callbacks": {"EarlyStopping{'monitor': 'val/dice'}": {"best": torch.tensor(0.5), "wait": -1}},
        "hyper_parameters": {"args": shared, "again": shared, "name": "schräg", "raw": b"\xff", "c": 1j},
        "history": [{"epoch": k, "loss": k / 7} for k in range(3000)],
        "parameter": nn.Parameter(torch.ones(2)),
        "dtypes": [torch.float16, torch.float32, torch.uint8],
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "counted": collections.Counter("abca"),
        "set": {"a", 1},
        "rng": torch.get_rng_state(),
        "bfloat16": torch.ones(2, dtype=torch.bfloat16),
        **({f"{dtype}": torch.ones(2).to(dtype) for dtype in (torch.uint16, torch.float8_e4m3fn)} if zipped else {}),
        "sparse": torch.eye(2).to_sparse(),
        "deep": {"a": {"b": [{"c": (1, 2, [3])}]}},
        2: {3: 4},
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_what_checkpoints_hold_beside_a_state_dict_is_read(zipped: bool, tmp_path: Path) -> None:
    state = state_of()
    for name, kept in kept_by_programs(zipped).items():
        torch.save({"state_dict": state, name: kept}, tmp_path / "it.pth", _use_new_zipfile_serialization=zipped)
        assert_equal(unetzoo.load_state_dict_file(tmp_path / "it.pth"), state)
    everything = {"state_dict": state, **kept_by_programs(zipped)}
    torch.save(everything, tmp_path / "it.pth", _use_new_zipfile_serialization=zipped)
    assert_equal(unetzoo.load_state_dict_file(tmp_path / "it.pth"), state)


def test_ordered_dictionaries_of_python_2_are_read(tmp_path: Path) -> None:
    """They are made of a list of pairs."""
    script = b"\x80\x02ccollections\nOrderedDict\n]](X\x01\0\0\0aK\x01ea\x85R."
    assert pickle.loads(script) == collections.OrderedDict(a=1)
    assert pickles.Pickle(script).check() is not None


NESTED = b"K\x01\x85" + b"".join(b"q%ch%c\x86" % (k, k) for k in range(60))
"""A tuple of itself and itself, sixty times over: 180 bytes, and 2⁶⁰ steps to hash."""
HANGING = {
    "a key of a dictionary": b"}" + NESTED + b"K\x01s",
    "a key among others": b"}(X\x01\0\0\0aK\x01" + NESTED + b"K\x01u",
    "a key of an ordered dictionary": b"ccollections\nOrderedDict\n)R" + NESTED + b"K\x01s",
    "a key among pairs": b"ccollections\nOrderedDict\n]](" + NESTED + b"K\x01ea\x85R",
    "an element of a set": b"cbuiltins\nset\n]" + NESTED + b"a\x85R",
    "what is counted": b"ccollections\nCounter\n]" + NESTED + b"a\x85R",
    "a value": b"}X\x01\0\0\0a" + NESTED + b"s",
    "a size": b"ctorch\nSize\n" + NESTED + b"\x85R",
    "lists in each other": b"]" + b"".join(b"q%c]h%cah%ca" % (k, k, k) for k in range(60)),
    "a list in itself": b"]q\0h\0a",
    "a list in what is in it": b"]q\0]q\1h\0aa",
    "a dictionary in itself": b"}q\0X\x01\0\0\0ah\0s",
    "containers too deep": b"]" * 5000 + b"a" * 4999,
    "keys of one hash": b"}(" + b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"K\x01"
                                       for k in range(1, 9)) + b"u",
    "memory, as bytes": b"cbuiltins\nbytearray\nJ\0\0\0\x50\x85R",
    "memory, as numbers": b"ctorch\nFloatStorage\nJ\0\0\0\x50\x85R",
    "memory, as a tensor": b"ctorch\nFloatTensor\nJ\0\0\0\x50\x85R",
    "an encoding": b"c_codecs\nencode\nX\x01\0\0\0aX\x04\0\0\0idna\x86R",
    "methods hidden by attributes": b"ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsK\x01sb",
    "text longer than the file": b"X\xff\xff\xff\x7fa",
    "a number longer than the file": b"\x8b\xff\xff\xff\x7fa",
    "nothing on the stack": b"\x87",
    "no such memory": b"h\x05",
    "no mark": b"u",
    "half a pair": b"}(K\x01u",
    "a class of torch's": b"ctorch.nn.modules.linear\nLinear\n)\x81",
}  # fmt: skip


def saved_as(script: bytes, zipped: bool, path: Path) -> Path:
    """Write a file of torch's with such a pickle."""
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (("data.pkl", script), ("byteorder", b"little"), ("version", b"3\n")):
                archive.writestr(f"archive/{name}", content)
    else:
        head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
        path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in head) + script + pickle.dumps([], 2))
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("title", HANGING)
def test_a_pickle_that_would_hang_or_fill_the_memory_is_refused_before_it_is_built(
    title: str, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved_as(b"\x80\x02" + HANGING[title] + b".", zipped, tmp_path / "it.pth")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it is built"))
    for way in (
        unetzoo.load_state_dict_file,
        lambda path: unetzoo.convert(path, tmp_path / "new.safetensors", "unet"),
        lambda path: unetzoo.create("resunet18", pretrained=path),
        lambda path: WholeFiles().load_checkpoint(path),
    ):
        with pytest.raises(WeightsError, match=re.escape(str(path))) as caught:
            way(path)
        assert len(str(caught.value)) < 1000
    honest = saved_as(b"\x80\x02}.", zipped, path)
    monkeypatch.undo()
    with pytest.raises(WeightsError, match="holds no state dict"):
        unetzoo.load_state_dict_file(honest)


def test_every_pickle_in_an_archive_is_looked_at(tmp_path: Path) -> None:
    """Torch's reader finds its pickle whatever the capitals of its name, and Python's the last of two of one name."""
    bad = b"\x80\x02" + HANGING["a key of a dictionary"] + b"."
    for names in (("data.pkl", "data.pkl"), ("DATA.PKL", "data.pkl"), ("data.PKL",), ("x/data.pkl", "data.pkl")):
        path = saved_as(b"\x80\x02}.", zipped=True, path=tmp_path / "it.pth")
        with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a name is there twice
            for k, name in enumerate(names):
                archive.writestr(f"archive/{name}", bad if k == 0 else b"\x80\x02}.")
        with pytest.raises(WeightsError, match=r"it\.pth is not opened: it holds the same"):
            unetzoo.load_state_dict_file(path)


@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_a_pickle_cut_or_changed_anywhere_is_an_error_of_ours(count: int, tmp_path: Path) -> None:
    torch.save({"state_dict": state_of(), **kept_by_programs()}, tmp_path / "it.pth")
    with zipfile.ZipFile(tmp_path / "it.pth") as archive:
        script = archive.read("it/data.pkl")
    draw = random.Random(0)
    for _ in range(count):
        changed = bytearray(script[: draw.randrange(len(script))] if draw.random() < 0.1 else script[:4000])
        for _ in range(draw.randrange(1, 4)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        with contextlib.suppress(pickles.Refused):
            pickles.Pickle(bytes(changed)).check()


def test_whole_modules_and_foreign_objects_are_named(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(1, 1, 1), tmp_path / "module.pt")
    with pytest.raises(WeightsError, match=r"needs torch\.nn\.modules\.conv\.Conv2d"):
        unetzoo.load_state_dict_file(tmp_path / "module.pt")
    torch.save({"model": nn.Conv2d(1, 1, 1), "args": argparse.Namespace(lr=1)}, tmp_path / "it.pt")
    with pytest.raises(WeightsError, match=r"no state dict .*torch\.nn\.modules\.conv\.Conv2d"):
        unetzoo.load_state_dict_file(tmp_path / "it.pt")


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
