"""``last.ckpt`` of a run as a model: it says itself what it holds, and is that which the run judges."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import train

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


def checkpoint(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "last.ckpt", weights_only=True)
    return found


def test_the_checkpoint_is_the_network_that_the_run_judges(run: Path, nuclei: Path, tmp_path: Path) -> None:
    found = checkpoint(run)
    prefix = "average.model." if any(name.startswith("average.") for name in found["state_dict"]) else "network."
    kept = {k.removeprefix(prefix): v for k, v in found["state_dict"].items() if k.startswith(prefix)}
    settled = ModelConfig.from_json(found["unetzoo_config"])
    own = unetzoo.create("unet", base_channels=4, deep_supervision=settled.deep_supervision)
    own.to(next(iter(kept.values())).dtype).load_state_dict(kept)
    model = unetzoo.load(run / "last.ckpt")
    images = torch.rand(2, 3, 48, 40, dtype=next(model.parameters()).dtype)
    assert torch.equal(model(images), own.eval()(images))
    assert model.config.class_names == ("nucleus",)
    assert model.config.mean is not None
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
    with pytest.raises(WeightsError, match=r"no digests.*unetzoo convert .*/last\.ckpt last\.safetensors"):
        unetzoo.verify(run / "last.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_without_its_config_says_what_to_do(run: Path, tmp_path: Path) -> None:
    old = {name: value for name, value in checkpoint(run).items() if not name.startswith("unetzoo_")}
    torch.save(old, tmp_path / "last.ckpt")
    for act in (unetzoo.load, lambda path: convert(path, tmp_path / "a.safetensors", "unet")):
        with pytest.raises(WeightsError, match=r"earlier unetzoo.*best\.safetensors"):
            act(tmp_path / "last.ckpt")


def test_a_changed_config_does_not_fit(run: Path, tmp_path: Path) -> None:
    found = checkpoint(run)
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


@pytest.mark.parametrize("name", ["net.onnx", "notes.txt", "cell.png"])
def test_what_is_no_checkpoint_is_not_to_be_converted(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"whatever")
    with pytest.raises(WeightsError, match=r"\.safetensors is needed, or .*\.pth") as caught:
        unetzoo.load(tmp_path / name)
    assert "convert" not in str(caught.value)


def test_an_encoder_alone_is_told_where_it_goes(tmp_path: Path) -> None:
    encoder = unetzoo.create("unet", base_channels=4).encoder
    torch.save(encoder.state_dict(), tmp_path / "encoder.pth")
    with pytest.raises(WeightsError, match=r"encoder alone goes to .*--pretrained FILE.*pretrained=FILE"):
        unetzoo.load(tmp_path / "encoder.pth")


def test_a_checkpoint_of_one_s_own_module_still_needs_the_name(tmp_path: Path) -> None:
    model = unetzoo.create("unet", base_channels=4)
    state = {f"network.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "own.ckpt")
    with pytest.raises(ConfigError, match="give its name, --model NAME"):
        convert(tmp_path / "own.ckpt", tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"does not say of which model.*--model NAME"):
        unetzoo.load(tmp_path / "own.ckpt")
    convert(tmp_path / "own.ckpt", tmp_path / "a.safetensors", "unet", base_channels=4)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(unetzoo.load(tmp_path / "a.safetensors")(images), model.eval()(images))
