"""``last.ckpt`` of a run as a model: it says itself what it holds, and is that which the run judges."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import last, train

import unetzoo
from unetzoo import ConfigError, ModelConfig, WeightsError
from unetzoo.cli import main
from unetzoo.evaluation import evaluate
from unetzoo.saving.conversion import convert

pytestmark = pytest.mark.usefixtures("no_curves")

SETTINGS = {
    "plain": (),
    "averaged": ("--model.ema", "0.5"),
    "double": ("--trainer.precision", "64-true"),
    "heads": ("--model.options.deep_supervision", "true", "--model.class_weights", "auto"),
}


@pytest.fixture(scope="module", params=SETTINGS)
def run(request: pytest.FixtureRequest, nuclei: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("runs") / "a"
    settings = SETTINGS[request.param]
    # Grey images of 16 bits would have statistics of their own; names stand for all else that no tensor shows.
    train(nuclei, out, "--epochs", "1", "--class-names", "nucleus", *settings)
    return out


def test_the_checkpoint_is_the_network_that_the_run_judges(run: Path, nuclei: Path, tmp_path: Path) -> None:
    found = last(run)
    prefix = "average.model." if any(name.startswith("average.") for name in found["state_dict"]) else "network."
    kept = {k.removeprefix(prefix): v for k, v in found["state_dict"].items() if k.startswith(prefix)}
    settled = ModelConfig.from_json(found["unetzoo_config"])
    own = unetzoo.create("unet", base_channels=4, deep_supervision=settled.deep_supervision)
    own.to(next(iter(kept.values())).dtype).load_state_dict(kept)
    model = unetzoo.load(run / "last.ckpt")
    images = torch.rand(2, 3, 48, 40, dtype=next(model.parameters()).dtype)
    assert torch.equal(model(images), own.eval()(images))
    assert model.config.class_names == ("nucleus",)
    assert model.config.normalisation == "image"
    assert model.config == unetzoo.load(run / "best.safetensors").config

    (row,) = csv.DictReader((run / "metrics.csv").read_text(encoding="utf-8").splitlines())
    assert main(["convert", str(run / "last.ckpt"), str(tmp_path / "a.safetensors")]) == 0
    for path in (run / "last.ckpt", tmp_path / "a.safetensors"):
        scores = evaluate(unetzoo.Predictor(path), nuclei, split="val").scores.to_dict()
        assert scores["dice"] == pytest.approx(float(row["dice"]), abs=1e-6)


def test_a_checkpoint_is_another_network_for_nobody(run: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"last\.ckpt holds unet, not unetpp"):
        convert(run / "last.ckpt", tmp_path / "a.safetensors", "unetpp")
    with pytest.raises(ConfigError, match="leave out norm"):
        convert(run / "last.ckpt", tmp_path / "a.safetensors", norm="group")
    with pytest.raises(WeightsError, match=r"without digests.*unetzoo convert .*/last\.ckpt last\.safetensors"):
        unetzoo.verify(run / "last.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_without_its_config_says_what_to_do(run: Path, tmp_path: Path) -> None:
    old = {name: value for name, value in last(run).items() if not name.startswith("unetzoo_")}
    torch.save(old, tmp_path / "last.ckpt")
    for act in (unetzoo.load, lambda path: convert(path, tmp_path / "a.safetensors", "unet")):
        with pytest.raises(WeightsError, match=r"earlier unetzoo.*best\.safetensors"):
            act(tmp_path / "last.ckpt")


def test_a_changed_config_does_not_fit(run: Path, tmp_path: Path) -> None:
    found = last(run)
    for config, said in (
        (re.sub(r'"base_channels": ?4', '"base_channels":8', found["unetzoo_config"]), "does not hold"),
        ("{", "JSON"),
    ):
        assert config != found["unetzoo_config"]
        torch.save({**found, "unetzoo_config": config}, tmp_path / "last.ckpt")
        with pytest.raises(WeightsError, match=said):
            unetzoo.load(tmp_path / "last.ckpt")


@pytest.mark.parametrize(("name", "fix"), [("nuclei", "from_pretrained"), ("resunet18", "create")])
def test_a_name_that_is_no_file_is_told_whose_it_is(
    name: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=rf"unetzoo\.{fix}\('{name}'\)"):
        unetzoo.load(name)


@pytest.mark.parametrize("ending", [".pth", ".bin", ".weights", ""])
def test_a_checkpoint_is_a_run_s_whatever_it_is_called(
    ending: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two networks in it, at every door, that which it says it keeps; read once, and nothing is to be looked at."""
    model, average = (unetzoo.create("resunet18", num_classes=2, mean=(0.5,) * 3, std=(0.2,) * 3) for _ in range(2))
    state = {f"network.{name}": tensor for name, tensor in model.state_dict().items()}
    state |= {f"average.model.{name}": tensor for name, tensor in average.state_dict().items()}
    content = {"unetzoo_config": model.config.to_json(), "unetzoo_prefix": "average.model.", "unetzoo_version": "0"}
    path = tmp_path / f"mine{ending}"
    torch.save({"state_dict": state, "epoch": 3, **content}, path)
    images = torch.rand(1, 3, 32, 32)
    expected = average.eval()(images)

    for doors in (unetzoo.load, unetzoo.from_pretrained, unetzoo.create):
        assert torch.equal(doors(path)(images), expected)
    assert main(["convert", str(path), str(tmp_path / "a.safetensors")]) == 0
    assert torch.equal(unetzoo.load(tmp_path / "a.safetensors")(images), expected)
    with pytest.raises(WeightsError, match="holds resunet18, not unetpp"):
        convert(path, tmp_path / "b.safetensors", "unetpp")
    assert not caplog.records

    encoder = unetzoo.create("unetpp_resnet18", pretrained=path)
    assert encoder.config.mean == (0.5,) * 3
    for name, tensor in average.encoder.state_dict().items():
        assert torch.equal(encoder.encoder.state_dict()[name], tensor)


@pytest.mark.parametrize("act", [unetzoo.load, lambda path: convert(path, path.with_name("new.safetensors"))])
def test_a_file_of_torch_s_is_read_once(act: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import segmentation_models_pytorch as smp

    from unetzoo.files import torch_files

    model = unetzoo.create("unet", base_channels=2)
    state = {f"network.{name}": tensor for name, tensor in model.state_dict().items()}
    record = {"unetzoo_config": model.config.to_json(), "unetzoo_prefix": "network."}
    torch.save({"state_dict": state, **record}, tmp_path / "own.ckpt")
    other = smp.Unet("resnet18", encoder_weights=None, decoder_channels=(8, 4, 4, 4, 4)).state_dict()
    content = {"state_dict": other, "ema": {name: tensor.clone() for name, tensor in other.items()}}
    content["ema"]["segmentation_head.0.bias"] += 1
    torch.save(content, tmp_path / "theirs.ckpt")
    read: list[object] = []
    load = torch.load
    monkeypatch.setattr(torch_files.torch, "load", lambda *args, **how: read.append(args[0]) or load(*args, **how))
    for name in ("own.ckpt", "theirs.ckpt"):
        act(tmp_path / name)
        assert read == [tmp_path / name]
        read.clear()


def test_two_networks_in_a_file_are_one_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import segmentation_models_pytorch as smp

    caplog.set_level("INFO", logger="unetzoo")
    state = smp.Unet("resnet18", encoder_weights=None, decoder_channels=(8, 4, 4, 4, 4)).state_dict()
    average = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"state_dict": state, "ema": average, "epoch": 3}, tmp_path / "x.ckpt")
    for act in (unetzoo.load, unetzoo.load_state_dict_file, unetzoo.load_foreign):
        act(tmp_path / "x.ckpt")
        (record,) = caplog.records
        assert f"{tmp_path / 'x.ckpt'}::state_dict" in record.getMessage()
        assert record.levelname == "WARNING"
        caplog.clear()


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin", "model"])
def test_a_saved_model_is_one_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    model = unetzoo.create("unet", base_channels=2)
    unetzoo.save(model, tmp_path / "it.safetensors")
    (tmp_path / "it.safetensors").rename(tmp_path / name)
    assert unetzoo.load(tmp_path / name, verify=True).config == model.config
    assert unetzoo.load_state_dict_file(tmp_path / name).keys() == model.state_dict().keys()
    with pytest.raises(WeightsError, match="is one already"):
        convert(tmp_path / name, tmp_path / "new.safetensors")


def test_another_program_s_recipe_is_no_run_of_ours(tmp_path: Path) -> None:
    """Programs that prune networks keep theirs under the same name."""
    model = unetzoo.create("unet", base_channels=2)
    torch.save({"state_dict": model.state_dict(), "recipe": {"modifiers": "…", "epoch": 3}}, tmp_path / "it.pt")
    convert(tmp_path / "it.pt", tmp_path / "new.safetensors", "unet", base_channels=2)
    assert torch.equal(unetzoo.load(tmp_path / "new.safetensors").head.conv.weight, model.head.conv.weight)


@pytest.mark.parametrize("name", ["net.onnx", "notes.txt", "cell.png"])
def test_what_is_no_checkpoint_is_not_to_be_converted(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"whatever")
    with pytest.raises(WeightsError, match=r"\.safetensors is needed, or .*\.pth") as caught:
        unetzoo.load(tmp_path / name)
    assert "convert" not in str(caught.value)


def test_an_encoder_alone_is_told_where_it_goes(tmp_path: Path) -> None:
    encoder = unetzoo.create("unet", base_channels=4).encoder
    torch.save(encoder.state_dict(), tmp_path / "encoder.pth")
    with pytest.raises(WeightsError, match=r"encoder alone goes to create\(\.\.\., pretrained=path\)"):
        unetzoo.load(tmp_path / "encoder.pth")


def test_a_checkpoint_of_one_s_own_module_still_needs_the_name(tmp_path: Path) -> None:
    model = unetzoo.create("unet", base_channels=4)
    state = {f"network.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "own.ckpt")
    with pytest.raises(ConfigError, match=r"does not state which network .*: give name=…"):
        convert(tmp_path / "own.ckpt", tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"does not state of which model.*--model NAME"):
        unetzoo.load(tmp_path / "own.ckpt")
    convert(tmp_path / "own.ckpt", tmp_path / "a.safetensors", "unet", base_channels=4)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(unetzoo.load(tmp_path / "a.safetensors")(images), model.eval()(images))
