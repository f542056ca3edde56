"""The trained models of the package: what is in them, that they need no network, and that they find nuclei."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors import safe_open
from scipy import ndimage

import unetzoo
from unetzoo import ConfigError, WeightsError, images, trained
from unetzoo.cli import main
from unetzoo.data import Labels, find_samples
from unetzoo.drawing import draw_nuclei
from unetzoo.evaluation import evaluate, settings_of_run

NAMES = unetzoo.list_models(pretrained=True)
FIGURES = json.loads((ROOT / "docs" / "nuclei.json").read_text(encoding="utf-8"))
"""What ``unetzoo evaluate`` printed of the pictures of each split, as docs/nuclei.md says."""


def test_nuclei_is_there() -> None:
    assert NAMES == ["nuclei"]


@pytest.mark.parametrize("name", NAMES)
def test_files_are_small_whole_and_half_precise(name: str) -> None:
    path = trained.weights_of(name)
    assert path.stat().st_size <= 8_000_000
    unetzoo.verify(path)
    with safe_open(path, "pt") as file:
        kinds = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118
    assert kinds <= {torch.float16, torch.int64}


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_model_loads_without_a_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was touched"))
    model = unetzoo.from_pretrained(name)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    stored = unetzoo.load(trained.weights_of(name))
    for key, tensor in stored.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor.to(model.state_dict()[key].dtype)), key
    assert {p.dtype for p in unetzoo.from_pretrained(name, dtype=torch.float16).parameters()} == {torch.float16}
    same = unetzoo.create(name)
    image = torch.rand(1, 3, 40, 50)
    assert torch.equal(same.eval()(image), model(image))


def test_a_trained_model_is_a_start_for_other_classes() -> None:
    model = unetzoo.from_pretrained("nuclei", num_classes=4, in_channels=1)
    assert model(torch.rand(1, 1, 30, 20)).shape == (1, 4, 30, 20)
    encoder = unetzoo.from_pretrained("nuclei").encoder.state_dict()
    unchanged = [key for key, tensor in model.encoder.state_dict().items() if torch.equal(tensor, encoder[key])]
    assert len(unchanged) == len(encoder) - 1  # all but the first convolution


def test_a_folder_of_the_same_name_is_never_mixed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nuclei" / "images").mkdir(parents=True)  # data, not a model
    assert unetzoo.from_pretrained("nuclei").config.name == "unet"
    unetzoo.save_pretrained(unetzoo.create("unet", base_channels=4), tmp_path / "nuclei")
    with pytest.raises(ConfigError, match=r"'nuclei' is a model of the package, and a folder .*: say '\./nuclei'"):
        unetzoo.from_pretrained("nuclei")
    assert unetzoo.from_pretrained("./nuclei").config.encoder_options.base_channels == 4


def test_a_trained_model_is_no_network_of_the_zoo() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'nuclei'; unetzoo\.from_pretrained takes saved models"):
        unetzoo.model_info("nuclei")


def test_settings_of_a_run_that_lies_about_are_not_those_of_a_trained_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("of another program")
    assert settings_of_run("nuclei") == settings_of_run("hf-hub:me/cells") == {}


def test_what_a_trained_model_does_not_take() -> None:
    with pytest.raises(ConfigError, match="revision='main' is for repositories"):
        unetzoo.from_pretrained("nuclei", revision="main")
    with pytest.raises(WeightsError, match=r"no trained model of the package \(nuclei\)"):
        unetzoo.from_pretrained("nucleus")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["grey", "one channel", "16 bits", "dim", "inverted"])
def test_drawn_nuclei_are_found_and_counted(seed: int, kind: str) -> None:
    picture, true = draw_nuclei(320, 320, seed=seed)
    given = {
        "grey": picture,
        "one channel": picture[:1],
        "16 bits": (picture[:1].int() * 257).to(torch.uint16),
        "dim": picture // 4,
        "inverted": 255 - picture,
    }[kind]
    mask = unetzoo.Predictor("nuclei")(given).mask.bool()
    dice = 2 * (mask & true).sum() / (mask.sum() + true.sum())
    assert dice > 0.9
    found, there = (ndimage.label(x.numpy(), np.ones((3, 3)))[1] for x in (mask, true))
    assert abs(found - there) <= 0.05 * there + 1


def script(name: str) -> ModuleType:
    """Return a program of ``examples/nuclei/`` as a module."""
    spec = importlib.util.spec_from_file_location("program", ROOT / "examples" / "nuclei" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listed(shared_data: Path, folder: Path) -> Path:
    """Return the list of pictures with kinds that the model was trained by, made as its card says."""
    script("list_nuclei.py").main(shared_data / "nuclei", folder / "nuclei.csv")
    return folder / "nuclei.csv"


def test_the_recipe_runs_and_makes_what_the_package_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The committed programs and settings, on a dozen drawn pictures and with a network that is trained for a step."""
    monkeypatch.chdir(tmp_path)
    for part in ("data/images", "data/masks", "docs/_static", "package"):
        (tmp_path / part).mkdir(parents=True)
    for k in range(12):
        picture, mask = draw_nuclei(64, 64, seed=k)
        if k % 3:
            picture = 255 - picture
        if k % 3 == 2:
            picture[1] //= 2
        images.write_png(picture, tmp_path / "data" / "images" / f"{k}.png")
        images.write_png(mask.expand(3, -1, -1).byte() * 255, tmp_path / "data" / "masks" / f"{k}.png")
    script("list_nuclei.py").main(tmp_path / "data", tmp_path / "nuclei.csv")
    kinds = [line.rpartition(",")[2] for line in (tmp_path / "nuclei.csv").read_text(encoding="utf-8").splitlines()[1:]]
    assert Counter(kinds) == {"fluorescence": 4, "bright field": 4, "histology": 4}

    assert main(["train", "--config", str(ROOT / "examples" / "nuclei" / "nuclei.yaml"), "--out", "run", "--quiet",
                 "--model.options.base_channels", "4", "--crop-size", "32", "--epochs", "1", "--data.workers", "0",
                 "--trainer.limit_train_batches", "1", "--trainer.accelerator", "cpu"]) == 0  # fmt: skip
    keep = script("keep.py")
    monkeypatch.setattr(keep, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(trained, "FOLDER", tmp_path / "package")
    keep.main(tmp_path / "run")
    run = unetzoo.load(tmp_path / "run" / "best.safetensors").state_dict()
    for name, tensor in unetzoo.load(tmp_path / "package" / "nuclei.safetensors").state_dict().items():
        assert torch.equal(tensor, run[name].half() if run[name].is_floating_point() else run[name]), name
    figures = json.loads((tmp_path / "docs" / "nuclei.json").read_text(encoding="utf-8"))
    assert figures["pictures"] == {"train": 6, "val": 3, "test": 3}
    expected = evaluate(
        unetzoo.from_pretrained("nuclei"), tmp_path / "nuclei.csv", split="test", ratios=(0.7, 0.15, 0.15)
    )
    assert figures["test"]["all"]["dice"] == expected.to_dict()["dice"]
    card = (tmp_path / "package" / "nuclei.md").read_text(encoding="utf-8")
    assert f"| test | all | 3 | {figures['test']['all']['dice']:.3f} |" in card
    assert (ROOT / "examples" / "nuclei" / "nuclei.yaml").read_text(encoding="utf-8") in card
    assert (tmp_path / "docs" / "_static" / "nuclei.csv").read_bytes() == (tmp_path / "run/metrics.csv").read_bytes()


def test_a_few_real_pictures_of_each_kind(shared_data: Path, tmp_path: Path) -> None:
    splits = find_samples(listed(shared_data, tmp_path), Labels(), ratios=(0.7, 0.15, 0.15))
    assert {split: len(found) for split, found in splits.items()} == FIGURES["pictures"]
    by_kind: dict[str, list] = {}
    for sample in splits["test"]:
        by_kind.setdefault(sample.kind, []).append(sample)
    predictor = unetzoo.Predictor("nuclei")
    for kind, least in (("fluorescence", 0.85), ("histology", 0.75), ("bright field", 0.6)):
        both = total = 0
        for sample in by_kind[kind][:3]:
            found = predictor(sample.image).mask.bool()
            true = images.read_image(sample.mask)[0] > 0
            both, total = both + 2 * int((found & true).sum()), total + int(found.sum() + true.sum())
        assert both / total > least, kind


@pytest.mark.slow
@pytest.mark.parametrize("split", ["val", "test"])
def test_figures_of_the_card_are_measured(split: str, shared_data: Path, tmp_path: Path) -> None:
    source = listed(shared_data, tmp_path)
    found = evaluate(unetzoo.from_pretrained("nuclei"), source, split=split, ratios=(0.7, 0.15, 0.15), objects=True)
    for kind, expected in {"all": FIGURES[split]["all"], **FIGURES[split]["all"]["kinds"]}.items():
        figures = found.to_dict() if kind == "all" else found.to_dict()["kinds"][kind]
        for name in ("dice", "iou", "object_ap"):
            assert figures[name] == pytest.approx(expected[name], abs=2e-3), (kind, name)


def test_the_card_tells_the_figures() -> None:
    card = (trained.FOLDER / "nuclei.md").read_text(encoding="utf-8")
    for split in ("val", "test"):
        for kind, figures in {"all": FIGURES[split]["all"], **FIGURES[split]["all"]["kinds"]}.items():
            row = re.search(rf"^\| {split} \| {kind} \| (.*) \|$", card, re.MULTILINE)
            cells = [f"{figures[name]:.3f}" for name in ("dice", "iou", "object_ap")]
            assert row is not None, (split, kind)
            assert row[1].split(" | ")[1:4] == cells, (split, kind)
    assert FIGURES["val"]["all"]["dice"] >= 0.90
    assert FIGURES["val"]["all"]["iou"] >= 0.83
