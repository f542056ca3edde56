"""Models to files and back: bit-equal, whatever the model, and refused where the file is another's."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, NAMES, ONCE, ROOT, flags, light, tried
from drawn import quick
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import unetzoo
from unetzoo import ConfigError, ModelConfig, WeightsError, WriteError, cli, config as config_module, zoo
from unetzoo.decoders import Decoder
from unetzoo.encoders import Encoder, Options
from unetzoo.files.tensors import read_header
from unetzoo.nn.meta import on_meta
from unetzoo.saving import records, weights

OLDEST = ROOT / "tests" / "data" / "format_1.safetensors"
"""Written once by unetzoo 0.1.0, and never again: every later version must read it."""


def disturbed(model: unetzoo.SegmentationModel) -> unetzoo.SegmentationModel:
    """Give batch norms statistics of their own, so that a tensor that is not loaded shows."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(("running_mean", "norm.bias", "bn1.bias")):
                tensor.normal_(std=0.1)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name.endswith("num_batches_tracked"):
                tensor.fill_(7)
    return model.eval()


def image(model: unetzoo.SegmentationModel) -> torch.Tensor:
    side = 188 if model.config.decoder == "unet_valid" else 37
    return torch.rand(1, model.config.in_channels, side, side, dtype=model.head.conv.weight.dtype)


def assert_same(found: unetzoo.SegmentationModel, expected: unetzoo.SegmentationModel) -> None:
    assert found.config == expected.config
    state = found.state_dict()
    assert list(state) == list(expected.state_dict())
    for name, tensor in expected.state_dict().items():
        assert torch.equal(state[name].cpu(), tensor), name
        assert state[name].dtype == tensor.dtype, name
    images = image(expected)
    assert torch.equal(found(images), expected(images))


def test_tensors_are_aligned_as_torch_aligns_its_own(tmp_path: Path) -> None:
    """On maps of one pixel oneDNN's sums depend on where in memory the weights lie."""
    model = quick("unetpp", base_channels=5)
    unetzoo.save(model, tmp_path / "ours.safetensors")
    state = load_file(tmp_path / "ours.safetensors")
    save_file(state, tmp_path / "theirs.safetensors")
    theirs = read_header(tmp_path / "theirs.safetensors").tensors()
    for found in (unetzoo.load(tmp_path / "ours.safetensors").state_dict(), theirs):
        assert len(found) == len(state) > 100
        assert all(tensor.data_ptr() % 64 == 0 for tensor in found.values())
        assert all(torch.equal(tensor, state[key]) for key, tensor in found.items())


def check_round_trip(model: unetzoo.SegmentationModel, path: Path) -> None:
    unetzoo.save(disturbed(model), path)
    assert_same(unetzoo.load(path), model)
    path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_name_comes_back_bit_equal(name: str, tmp_path: Path) -> None:
    check_round_trip(unetzoo.create(name, **light(name)), tmp_path / "it.safetensors")


@pytest.mark.parametrize("name", tried(NAMES, ONCE))
def test_every_decoder_comes_back_bit_equal_with_all_its_heads(name: str, tmp_path: Path) -> None:
    options = {**light(name), **flags(name), "class_names": ["a", "b", "ü"]}
    check_round_trip(quick(name, **options), tmp_path / "it.safetensors")


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    """Read by safetensors' own reader: what docs/format.md promises other programs."""
    model = small(num_classes=2, class_names=["cell", "rim"], mean=[0.1, 0.2, 0.3], std=[1, 2, 3])
    path = tmp_path / "it.safetensors"
    unetzoo.save(model, path)
    with safe_open(path, "pt") as file:
        said = file.metadata()
    assert set(said) == {
        "format",
        "unetzoo_version",
        "unetzoo_config",
        "unetzoo_data_sha256",
        "unetzoo_header_sha256",
    }
    record = json.loads(said["unetzoo_config"])
    assert record["class_names"] == ["cell", "rim"]
    assert (record["task"], record["mean"], record["std"]) == ("multiclass", [0.1, 0.2, 0.3], [1, 2, 3])
    assert record["format_version"] == config_module.FORMAT_VERSION == 6
    assert said["unetzoo_version"] == unetzoo.__version__
    content = path.read_bytes()
    data = content[8 + int.from_bytes(content[:8], "little") :]
    assert said["unetzoo_data_sha256"] == hashlib.sha256(data).hexdigest()
    for name, tensor in load_file(path).items():
        assert torch.equal(tensor, model.state_dict()[name])


def small(name: str = "unet", **options: object) -> unetzoo.SegmentationModel:
    return disturbed(unetzoo.create(name, **{"base_channels": 2, **options}))


def test_files_of_format_1_are_read_for_ever() -> None:
    model = unetzoo.load(OLDEST, verify=True)
    assert model.config.class_names == ("cell", "rim")
    assert model.config.name == "unet"
    images = torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    expected = json.loads(OLDEST.with_suffix(".json").read_text(encoding="utf-8"))
    torch.testing.assert_close(model(images)[0, :, 5, 5].tolist(), expected)


def test_newer_formats_are_refused_and_older_ones_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    path = tmp_path / "it.safetensors"
    unetzoo.save(model, path)
    now = config_module.FORMAT_VERSION
    monkeypatch.setattr(config_module, "FORMAT_VERSION", now + 1)
    monkeypatch.setitem(config_module.MIGRATIONS, now, lambda values: {**values, "class_names": ["migrated"]})
    assert unetzoo.load(path).config.class_names == ("migrated",)
    unetzoo.save(model, path)
    monkeypatch.undo()
    with pytest.raises(WeightsError, match=r"it\.safetensors: format_version=7 is newer .*upgrade unetzoo"):
        unetzoo.load(path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_types(dtype: torch.dtype, tmp_path: Path) -> None:
    model = small(deep_supervision=True)
    unetzoo.save(model, tmp_path / "single.safetensors")
    cast = unetzoo.load(tmp_path / "single.safetensors", dtype=dtype)
    for name, tensor in copy.deepcopy(model).to(dtype).state_dict().items():
        assert torch.equal(cast.state_dict()[name], tensor), name
    unetzoo.save(cast, tmp_path / "cast.safetensors")
    assert unetzoo.load(tmp_path / "cast.safetensors").head.conv.weight.dtype == dtype
    assert (tmp_path / "cast.safetensors").stat().st_size < 1.1 * dtype.itemsize / 4 * (
        tmp_path / "single.safetensors"
    ).stat().st_size
    back = unetzoo.load(tmp_path / "cast.safetensors", dtype=torch.float32)
    assert back(image(model)).shape == (1, 1, 37, 37)


def test_types_may_be_mixed(tmp_path: Path) -> None:
    model = small()
    model.encoder.bfloat16()
    unetzoo.save(model, tmp_path / "it.safetensors")
    assert records.read_saved(tmp_path / "it.safetensors").dtypes == ("bfloat16", "float32")
    found = unetzoo.load(tmp_path / "it.safetensors").state_dict()
    assert all(found[name].dtype == tensor.dtype for name, tensor in model.state_dict().items())


def test_layouts_and_views_are_saved_as_the_values_they_show(tmp_path: Path) -> None:
    model = small().to(memory_format=torch.channels_last)
    unetzoo.save(model, tmp_path / "it.safetensors")
    loaded = unetzoo.load(tmp_path / "it.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
        assert loaded.state_dict()[name].is_contiguous()


def test_nothing_is_drawn_or_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = disturbed(unetzoo.create("resunet18"))
    unetzoo.save(model, tmp_path / "it.safetensors")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was touched"))
    before = torch.get_rng_state()
    loaded = unetzoo.load(tmp_path / "it.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(tensor.is_meta for tensor in weights._tensors(loaded))
    assert not loaded.training


def test_a_loaded_model_is_as_one_built_the_slow_way(tmp_path: Path) -> None:
    """It trains step for step as the model that was saved; it copies, pickles, compiles and saves again."""
    path = tmp_path / "it.safetensors"
    model = small(deep_supervision=True)
    unetzoo.save(model, path)
    content = path.read_bytes()
    loaded = unetzoo.load(path)
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    images = torch.rand(2, 3, 32, 32)
    for each in (model.train(), loaded.train()):
        optimiser = torch.optim.AdamW(each.parameters(), 1e-2)
        for _ in range(3):
            outputs = each.training_outputs(images)
            optimiser.zero_grad()
            sum(logits.square().mean() for logits in (outputs.logits, *outputs.deep)).backward()
            optimiser.step()
    assert_same(loaded.eval(), model.eval())
    assert path.read_bytes() == content
    assert_same(copy.deepcopy(loaded), model)
    buffer = io.BytesIO()
    torch.save(loaded.head.state_dict(), buffer)
    assert buffer.tell() < 5_000  # the head alone: its storages are not the file's
    unetzoo.save(loaded, path)
    assert_same(unetzoo.load(path), model)
    compiled, original = (torch.compile(m, backend="eager", fullgraph=True) for m in (unetzoo.load(path), model))
    assert torch.equal(compiled(images), original(images))
    torch.testing.assert_close(compiled(images), model(images))  # a compiler is given plainer operators
    unetzoo.save(compiled, tmp_path / "compiled.safetensors")
    unetzoo.save(nn.DataParallel(model), tmp_path / "parallel.safetensors")
    assert (tmp_path / "compiled.safetensors").read_bytes() == (tmp_path / "parallel.safetensors").read_bytes()


def test_saving_over_the_file_a_model_was_loaded_from(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    first, second = small(), small()
    unetzoo.save(first, path)
    loaded = unetzoo.load(path)
    unetzoo.save(second, path)
    assert_same(loaded, first)
    assert_same(unetzoo.load(path), second)


def test_pruned_models(tmp_path: Path) -> None:
    pruned = small("unetpp", deep_supervision=True).prune(2)
    unetzoo.save(pruned, tmp_path / "it.safetensors")
    assert_same(unetzoo.load(tmp_path / "it.safetensors"), pruned)


def test_tensors_outside_the_state_dict_are_made_too(registries: None, tmp_path: Path) -> None:
    @unetzoo.register_encoder("waves", title="waves", paper="none", options=Options)
    class Waves(Encoder):
        channels, strides = (4,), (1,)

        def __init__(self, in_channels: int, style: object, options: object, depth: int) -> None:
            super().__init__()
            self.in_channels, self.channels, self.strides = in_channels, (4,) * depth, tuple(2**k for k in range(depth))
            self.conv = nn.Conv2d(in_channels, 4, 1)
            self.register_buffer("wave", torch.linspace(0, 1, 4)[:, None, None], persistent=False)

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            first = self.conv(images) * self.wave
            return [nn.functional.interpolate(first, scale_factor=1 / stride) for stride in self.strides]

        def stages(self) -> list[list[nn.Module]]:
            return [[self.conv]] + [[] for _ in self.channels[1:]]

    model = unetzoo.create("unet_waves").eval()
    unetzoo.save(model, tmp_path / "it.safetensors")
    images = torch.rand(1, 3, 32, 32)
    for options in ({}, {"dtype": torch.float64}):
        loaded = unetzoo.load(tmp_path / "it.safetensors", **options)
        dtype = options.get("dtype", torch.float32)
        torch.testing.assert_close(loaded(images.to(dtype)).float(), model(images))


def test_parts_that_are_not_registered_here(registries: None, tmp_path: Path) -> None:
    model = small()
    unetzoo.save(model, tmp_path / "it.safetensors")
    tensors = load_file(tmp_path / "it.safetensors")
    record = model.config.to_json().replace('"decoder": "unet"', '"decoder": "my_own"')
    save_file(tensors, tmp_path / "other.safetensors", {"unetzoo_config": record})
    with pytest.raises(WeightsError, match=r"unknown decoder 'my_own'.*import .*registers"):
        unetzoo.load(tmp_path / "other.safetensors")


def test_another_number_of_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"deep_supervision": True, "classification_guided": True}
    model = small("unet3p", num_classes=2, class_names=["a", "b"], **options)
    unetzoo.save(model, tmp_path / "it.safetensors")
    with caplog.at_level(logging.WARNING, "unetzoo"):
        loaded = unetzoo.load(tmp_path / "it.safetensors", num_classes=5)
    assert (loaded.config.num_classes, loaded.config.class_names, loaded.config.task) == (5, None, "multiclass")
    state, before = loaded.state_dict(), model.state_dict()
    heads = [name for name in before if name.startswith(("head.", "deep_heads.", "guide."))]
    assert len(heads) == 2 * 6
    for name, tensor in before.items():
        if name in heads:
            assert state[name].shape[0] == 5
            assert name in caplog.text
        else:
            assert torch.equal(state[name], tensor), name
            assert f" {name}" not in caplog.text
    fresh = unetzoo.create("unet3p", base_channels=2, num_classes=5, **options).head.conv.weight
    assert 0.5 < loaded.head.conv.weight.std() / fresh.std() < 2
    assert loaded.head.conv.bias.abs().max() == 0
    assert loaded(image(model)).isfinite().all()
    named = unetzoo.load(tmp_path / "it.safetensors", num_classes=3, class_names=["x", "y", "z"], task="multilabel")
    assert (named.config.class_names, named.config.task) == (("x", "y", "z"), "multilabel")
    assert unetzoo.load(tmp_path / "it.safetensors", num_classes=1).config.task == "binary"
    half = unetzoo.load(tmp_path / "it.safetensors", num_classes=3, dtype=torch.float16)
    assert {tensor.dtype for tensor in half.parameters()} == {torch.float16}
    caplog.clear()
    assert_same(unetzoo.load(tmp_path / "it.safetensors", num_classes=2), model)
    assert not caplog.text


CHANNELS = [
    (name, known, wanted, policy)
    for name in ("unet", "resunet18", "unet3p_resnet18")
    for known, wanted in ((3, 1), (3, 5), (2, 3), (4, 2))
    for policy in (None, "mean", "sum", "keep_rgb")
]


@pytest.mark.parametrize(
    ("name", "known", "wanted", "policy"),
    [
        case if case[0] == "unet" or case[:3] == ("resunet18", 3, 5) else pytest.param(*case, marks=pytest.mark.slow)
        for case in CHANNELS
    ],
)
def test_another_number_of_channels(
    name: str, known: int, wanted: int, policy: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    narrow = {"base_channels": 2} if name == "unet" else light(name)
    model = disturbed(quick(name, **narrow, in_channels=known, mean=[0.5] * known, std=[1] * known))
    unetzoo.save(model, tmp_path / "it.safetensors")
    loaded = unetzoo.load(tmp_path / "it.safetensors", in_channels=wanted, input_policy=policy)
    first = "encoder.conv1.weight" if "res" in name else "encoder.levels.0.0.conv.weight"
    assert f"{first}" in caplog.text
    assert loaded.config.mean is None
    before, after = model.state_dict(), loaded.state_dict()
    for key in before:
        if key != first:
            assert torch.equal(after[key], before[key]), key
    old, new = before[first], after[first]
    assert new.shape[1] == wanted
    match policy or ("sum" if wanted == 1 else "repeat"):
        case "repeat":
            expected = torch.stack([old[:, k % known] for k in range(wanted)], 1) * known / wanted
        case "mean":
            expected = old.mean(1, keepdim=True).expand_as(new)
        case "sum":
            expected = old.sum(1, keepdim=True).expand_as(new) / wanted
        case "keep_rgb":
            expected, new = old[:, : min(known, wanted)], new[:, : min(known, wanted)]
    torch.testing.assert_close(new, expected)
    named = unetzoo.load(tmp_path / "it.safetensors", in_channels=wanted, mean=[0.1] * wanted, std=[2] * wanted)
    assert named.config.mean == (0.1,) * wanted


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 0}, ["num_classes=0", "from 1 to"]),
        ({"num_classes": 3, "class_names": ["a"]}, ["1 names for num_classes=3"]),
        ({"num_classes": 3, "class_names": "abc"}, ["class_names='abc'", "list or tuple", "strings"]),
        ({"task": "guess", "mean": [1]}, ["task='guess'", "mean: 1 numbers for in_channels=3", "3 things"]),
        ({"input_policy": "sum"}, ["input_policy", "number of channels", "the file's 3"]),
        ({"in_channels": 4, "input_policy": "some"}, ["input_policy='some'", "'repeat', 'mean', 'sum', 'keep_rgb'"]),
        ({"dtype": torch.int8}, ["dtype=torch.int8", "floating-point"]),
        ({"dtype": "float16"}, ["dtype='float16'"]),
        ({"device": "gpu"}, ["device='gpu' cannot be used"]),
        ({"device": "meta"}, ["no weights"]),
    ],
)
def test_arguments_that_are_refused(options: dict[str, object], words: list[str], tmp_path: Path) -> None:
    unetzoo.save(small(), tmp_path / "it.safetensors")
    with pytest.raises(ConfigError) as caught:
        unetzoo.load(tmp_path / "it.safetensors", **options)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_here(tmp_path: Path) -> None:
    unetzoo.save(small(), tmp_path / "it.safetensors")
    with pytest.raises(ConfigError, match="device='cuda' cannot be used"):
        unetzoo.load(tmp_path / "it.safetensors", device="cuda")


def test_all_that_does_not_fit_is_in_one_error(tmp_path: Path) -> None:
    model = small()
    state = dict(model.state_dict())
    missing = [name for name in state if "running_var" in name]
    for name in missing:
        del state[name]
    state["surplus"] = torch.zeros(2)
    state["head.conv.weight"] = torch.zeros(1, 2, 3, 3)
    state["head.conv.bias"] = torch.zeros(1, dtype=torch.int64)
    save_file(state, tmp_path / "it.safetensors", {"unetzoo_config": model.config.to_json()})
    with pytest.raises(WeightsError) as caught:
        unetzoo.load(tmp_path / "it.safetensors")
    for line in (
        *(f"missing: {name}" for name in missing),
        "unexpected: surplus",
        "head.conv.weight: (1, 2, 3, 3) instead of (1, 2, 1, 1)",
        "head.conv.bias: torch.int64 instead of torch.float32",
    ):
        assert f"\n  - {line}\n" in str(caught.value)


def test_one_architecture_s_file_is_not_loaded_as_another(tmp_path: Path) -> None:
    """Neither by a record put on the wrong tensors, nor by ``create``, nor by ``convert``."""
    tensors, record = small("unetpp").state_dict(), small("unet3p").config.to_json()
    save_file(tensors, tmp_path / "mixed.safetensors", {"unetzoo_config": record})
    with pytest.raises(WeightsError, match=r"mixed\.safetensors .*\bunet3p\b(?s:.*)missing: decoder\.stages"):
        unetzoo.load(tmp_path / "mixed.safetensors")
    unetzoo.save(small("unetpp"), tmp_path / "it.safetensors")
    with pytest.raises(WeightsError, match="holds unetpp, not unet3p"):
        unetzoo.convert(tmp_path / "it.safetensors", tmp_path / "new.safetensors", "unet3p")
    with pytest.raises(WeightsError, match="of a complete model"):
        unetzoo.create("resunet18", pretrained=tmp_path / "it.safetensors")
    with pytest.raises(RuntimeError, match="Missing key"):
        small("unet3p").load_state_dict(unetzoo.load_state_dict_file(tmp_path / "it.safetensors"))


def test_what_cannot_be_loaded_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    model = small()
    for name in ("it.pth", "it", "it.safetensors.bak"):
        with pytest.raises(ConfigError, match=r"must end in \.safetensors"):
            unetzoo.save(model, tmp_path / name)
    with pytest.raises(WeightsError, match=r"a SegmentationModel is needed.*not Linear"):
        unetzoo.save(nn.Linear(2, 2), path)
    changed = small()
    changed.head.conv = nn.Conv2d(2, 4, 1)
    with pytest.raises(WeightsError, match=r"cannot save: .*config, (?s:.*)head\.conv\.weight: \(4, 2, 1, 1\)"):
        unetzoo.save(changed, path)
    with torch.device("meta"):
        empty = unetzoo.create("unet", base_channels=2)
    with pytest.raises(WeightsError, match="meta device"):
        unetzoo.save(empty, path)
    for value in (float("nan"), float("inf"), -float("inf")):
        broken = small()
        broken.encoder.state_dict()["levels.1.0.conv.weight"][0, 0, 0, 0] = value
        with pytest.raises(WeightsError, match=r"NaN or infinity .*1 of \d+ tensors.*encoder\.levels\.1\.0"):
            unetzoo.save(broken, path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_as_other_tools_expect_it(tmp_path: Path) -> None:
    model = small(num_classes=2)
    folder = tmp_path / "new" / "it"
    unetzoo.save_pretrained(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert ModelConfig.from_json((folder / "config.json").read_text(encoding="utf-8")) == model.config
    for source in (folder, str(folder), folder / "model.safetensors"):
        assert_same(unetzoo.from_pretrained(source), model)
    assert_same(unetzoo.load(folder), model)
    assert unetzoo.verify(folder).sha256 == unetzoo.verify(folder / "model.safetensors").sha256
    (folder / "config.json").write_text(small().config.to_json(), encoding="utf-8")
    assert_same(unetzoo.load(folder), model)  # what a killed save may leave: the file's own record counts
    with pytest.raises(WeightsError, match=r"config\.json does not agree"):
        unetzoo.verify(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"holds no model\.safetensors"):
        unetzoo.load(folder)
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot be made"):
        unetzoo.save_pretrained(model, tmp_path / "file" / "it")


def test_verify_tells_what_a_file_is(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    unetzoo.save(small(num_classes=2, class_names=["cell", "rim"]).half(), path)
    saved = unetzoo.verify(path)
    parameters = sum(p.numel() for p in small(num_classes=2).parameters())
    assert (saved.parameters, saved.bytes, saved.dtypes) == (parameters, path.stat().st_size, ("float16",))
    assert str(saved) == (
        f"{path}: unet, 3 channels → 2 classes (cell, rim), {parameters:,} parameters in float16, "
        f"{path.stat().st_size / 1e6:.1f} MB, saved by unetzoo {unetzoo.__version__}"
    )


def test_the_command_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        unetzoo.save(small(), tmp_path / f"{name}.safetensors")
    content = bytearray((tmp_path / "b.safetensors").read_bytes())
    content[-5] ^= 16
    (tmp_path / "b.safetensors").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["verify", "b.safetensors", "a.safetensors", "missing.safetensors"]) == 2
    said = capsys.readouterr()
    assert "a.safetensors: unet, 3 channels" in said.out
    assert "; intact, sha256 " in said.out
    assert "b.safetensors is damaged" in said.err
    assert "2 of 3 failed: b.safetensors, missing.safetensors" in said.err


def test_decoders_that_compute_on_meta_are_all() -> None:
    """Every part of the zoo can be built on meta, so that no file is loaded the slow way."""
    for name in FAMILIES:
        with on_meta():
            model = zoo.create(name)
        assert isinstance(model.decoder, Decoder)
        tensors = list(weights._tensors(model))
        assert all(tensor.is_meta for tensor in tensors)
        assert {id(t) for t in tensors} == {id(t) for t in model.state_dict(keep_vars=True).values()}, name


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux alone tells what memory is private")
def test_loading_copies_nothing(tmp_path: Path) -> None:
    """What a fresh process holds for itself, against a file of 83 MB; then with every page touched."""
    path = tmp_path / "it.safetensors"
    unetzoo.save(unetzoo.create("resunet18"), path)
    code = f"""
import pathlib, re, unetzoo
from unetzoo.nn.meta import on_meta

def private():
    text = pathlib.Path("/proc/self/smaps_rollup").read_text()
    return sum(int(kib) * 1024 for kib in re.findall(r"Private_(?:Clean|Dirty):\\s+(\\d+) kB", text))

with on_meta():
    unetzoo.create("resunet18")
before = private()
model = unetzoo.load({str(path)!r})
loaded = private()
sum(float(tensor.sum()) for tensor in model.parameters())
print(loaded - before, private() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, touched = map(int, done.stdout.split())
    size = path.stat().st_size
    assert loaded < 0.1 * size
    assert touched < 1.2 * size
