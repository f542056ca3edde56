"""The trained models of the package: what is in them, that they need no network, and what they find."""

from __future__ import annotations

import csv
import functools
import importlib.util
import itertools
import json
import re
import shutil
import socket
import tempfile
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from PIL import Image
from safetensors import safe_open
from scipy import ndimage

import unetzoo
from unetzoo import ConfigError, images, trained
from unetzoo.cli import main
from unetzoo.data import Labels, find_samples, list_samples
from unetzoo.drawing import draw_nuclei
from unetzoo.evaluation import evaluate, settings_of_run
from unetzoo.files.identity import fingerprint
from unetzoo.prediction.outputs import LEDGER

NAMES = unetzoo.list_models(pretrained=True)
FIGURES = {name: json.loads((ROOT / "docs" / f"{name}.json").read_text(encoding="utf-8")) for name in NAMES}
"""What ``unetzoo evaluate`` printed of the images of each split, as docs/trained.md says."""
PROGRAMS = ROOT / "examples" / "trained"


def test_the_trained_models_are_there() -> None:
    assert NAMES == ["nuclei", "vessels"]


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
    with pytest.raises(ConfigError, match=r"'nuclei' .*package.*folder .*: give '\./nuclei'"):
        unetzoo.from_pretrained("nuclei")
    assert main(["verify", "nuclei"]) == 2
    assert unetzoo.create("nuclei").config.encoder_options.base_channels == 16  # and the log names the folder
    with pytest.raises(ConfigError, match=r"give '\./nuclei' for"):
        unetzoo.push_to_hub("nuclei", "me/cells", token="hf_me")
    assert unetzoo.from_pretrained("./nuclei").config.encoder_options.base_channels == 4


def test_a_trained_model_is_no_network_of_the_zoo() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'nuclei'; unetzoo\.from_pretrained takes saved models"):
        unetzoo.model_info("nuclei")


COMMANDS = {
    "predict {} data/images --out out/masks": "out/masks/**/*",
    "evaluate {} --data data --split test --json": None,
    "calibrate {} --data data --out out/thresholds.json --json": "out/thresholds.json",
    "demo --model {} --out out/demo.png": "out/demo.png",
    "verify {}": None,
    "info {} --json": None,
    "export {} out/it.pt2 --size 64 64 --json": None,
    "train --model {} --data data --out out/run --epochs 1 --crop-size 32 --batch-size 4 --data.repeats 1 "
    "--data.workers 0 --trainer.accelerator cpu --quiet": "out/run/best.safetensors",
}
"""Command, with a model for {} → the files it writes, of which the bytes are to agree."""


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.partition(" ")[0])
def test_each_command_takes_the_name_as_it_takes_the_file(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for k in range(10):
        image, mask = draw_nuclei(64, 64, seed=k)
        images.write_png(image, tmp_path / "data" / "images" / f"{k}.png")
        Image.fromarray(mask.byte().numpy() * 255).save(tmp_path / "data" / "masks" / f"{k}.png")
    file = trained.weights_of("nuclei")
    shutil.copy(file, tmp_path / "copy.safetensors")
    outcomes = []
    for source in ("nuclei", "copy.safetensors"):
        (tmp_path / "out").mkdir()
        assert main(command.format(source).split()) == 0
        # Not how long it took.
        said = re.sub(r'(seconds|_ms)": [\d.]+|in [\d.]+ s', "", capsys.readouterr().out)
        files = [path for path in tmp_path.glob(COMMANDS[command] or "none") if path.is_file()]
        # Two threads write, and either may note its file first.
        written = {
            path.relative_to(tmp_path): sorted(found.splitlines()) if path.name == LEDGER else found
            for path, found in ((path, path.read_bytes()) for path in files)
        }
        outcomes.append((said.replace(str(file), source).replace(source, "it"), written))
        shutil.rmtree(tmp_path / "out")
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][COMMANDS[command] is not None]  # what was printed, or written


def test_settings_of_a_run_that_lies_about_are_not_those_of_a_trained_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("of another program", encoding="utf-8")
    assert settings_of_run("nuclei") == settings_of_run("hf-hub:me/cells") == {}


def test_what_a_trained_model_does_not_take() -> None:
    with pytest.raises(ConfigError, match="revision='main' is for repositories"):
        unetzoo.from_pretrained("nuclei", revision="main")
    with pytest.raises(ConfigError, match=r"'nucleus'; did you mean 'nuclei'"):
        unetzoo.from_pretrained("nucleus")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("kind", ["grey", "one channel", "16 bits", "dim", "inverted"])
def test_drawn_nuclei_are_found_and_counted(seed: int, kind: str) -> None:
    image, true = draw_nuclei(320, 320, seed=seed)
    given = {
        "grey": image,
        "one channel": image[:1],
        "16 bits": (image[:1].int() * 257).to(torch.uint16),
        "dim": image // 4,
        "inverted": 255 - image,
    }[kind]
    mask = unetzoo.Predictor("nuclei")(given).mask.bool()
    dice = 2 * (mask & true).sum() / (mask.sum() + true.sum())
    assert dice > 0.9
    found, there = (ndimage.label(x.numpy(), np.ones((3, 3)))[1] for x in (mask, true))
    assert abs(found - there) <= 0.05 * there + 1


def script(name: str) -> ModuleType:
    """Return a program of ``examples/trained/`` as a module."""
    spec = importlib.util.spec_from_file_location("program", PROGRAMS / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def data_of(name: str, shared_data: Path, folder: Path) -> Path:
    """Return the images that a model was trained by, which may be listed in a file in ``folder``."""
    if name == "vessels":
        return shared_data / "vessels"
    script("list_nuclei.py").main(shared_data / "nuclei", folder / "nuclei.csv")
    return folder / "nuclei.csv"


@functools.cache  # to look at the bytes of all takes seconds
def splits_of(name: str, shared_data: Path) -> dict[str, list]:
    """Return the images by the split that the list of a model has them in, each known by its bytes."""
    record = json.loads(trained.data_of(name).read_text(encoding="utf-8"))
    found: dict[str, list] = {split: [] for split in ("train", "val", "test")}
    places = {image: split for split in found for image, _ in record[split].values()}
    with tempfile.TemporaryDirectory() as folder:
        listed = list_samples(data_of(name, shared_data, Path(folder)), Labels()).samples
    for sample in itertools.chain(*listed.values()):
        found[places[fingerprint(sample.image)]].append(sample)
    return found


def draw_data(name: str, folder: Path) -> None:
    """Write twelve drawn images as the recipe's data: of three kinds for nuclei, of four children for vessels."""
    some_images = folder / "vessels"  # as the recipe calls them; that of nuclei goes by the list
    for part in ("images", "masks", "instances"):
        (some_images / part).mkdir(parents=True)
    for k in range(12):
        image, mask = draw_nuclei(64, 64, seed=k)
        if k % 3:
            image = 255 - image
        if k % 3 == 2:
            image[1] //= 2
        file = f"Image_{k // 3:02d}{'LRM'[k % 3]}.png"
        images.write_png(image, some_images / "images" / file)
        images.write_png(mask.expand(3, -1, -1).byte() * 255, some_images / "masks" / file)
        Image.fromarray(ndimage.label(mask.numpy())[0].astype(np.uint16)).save(some_images / "instances" / file)
    if name == "nuclei":
        parts = {"train": range(6), "val": range(6, 9), "test": range(9, 12)}
        files = sorted((some_images / "images").iterdir())
        record = {part: {str(k): (fingerprint(files[k]), "") for k in numbers} for part, numbers in parts.items()}
        trained.data_of(name).write_text(json.dumps(record), encoding="utf-8")
        script("list_nuclei.py").main(some_images, folder / "nuclei.csv")
        for path, kinds in (
            ("nuclei.csv", {"fluorescence": 4, "bright field": 4, "histology": 4}),
            ("nuclei_training.csv", {"fluorescence": 4, "stained": 8}),
        ):
            rows = list(csv.DictReader((folder / path).read_text(encoding="utf-8").splitlines()))
            assert Counter(row["kind"] for row in rows) == kinds
            assert [row["split"] for row in rows] == ["train"] * 6 + ["val"] * 3 + ["test"] * 3


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_runs_and_makes_what_the_package_holds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The committed programs and settings, on a dozen drawn images and with a network that is trained for two steps."""
    monkeypatch.chdir(tmp_path)
    for part in ("docs/_static", "package"):
        (tmp_path / part).mkdir(parents=True)
    monkeypatch.setattr(trained, "FOLDER", tmp_path / "package")
    draw_data(name, tmp_path)
    assert main(["train", "--config", str(PROGRAMS / f"{name}.yaml"), "--out", "run", "--quiet",
                 "--model.options.base_channels", "4", "--crop-size", "32", "--epochs", "1", "--data.workers", "0",
                 "--trainer.limit_train_batches", "2", "--trainer.accelerator", "cpu"]) == 0  # fmt: skip
    monkeypatch.syspath_prepend(PROGRAMS)  # where keep.py, started as a program, finds card.py
    keep = script("keep.py")
    monkeypatch.setattr(keep.card, "DOCS", tmp_path / "docs")
    source, split = {
        "nuclei": ("nuclei.csv", {}),
        "vessels": ("vessels", {"ratios": (0.6, 0.2, 0.2), "group": r"Image_(\d+)"}),
    }[name]
    keep.main(name, tmp_path / "run", Path(source))
    run = unetzoo.load(tmp_path / "run" / "best.safetensors").state_dict()
    kept = unetzoo.load(tmp_path / "package" / f"{name}.safetensors")
    for key, tensor in kept.state_dict().items():
        assert torch.equal(tensor, run[key].half() if run[key].is_floating_point() else run[key]), key
    assert kept.config.class_names == {"nuclei": ("nucleus",), "vessels": ("vessel",)}[name]
    figures = json.loads((tmp_path / "docs" / f"{name}.json").read_text(encoding="utf-8"))
    expected = find_samples(source, Labels(), **split)
    assert figures["images"] == {split: len(found) for split, found in expected.items()}
    assert (tmp_path / "package" / f"{name}.json").read_bytes() == (tmp_path / "run" / "data.json").read_bytes()
    expected = evaluate(unetzoo.from_pretrained(name), source, split="test", **split)
    assert figures["test"]["all"]["dice"] == expected.to_dict()["dice"]
    card = (tmp_path / "package" / f"{name}.md").read_text(encoding="utf-8")
    row = "test | all" if name == "nuclei" else "test"
    assert f"| {row} | {figures['images']['test']} | {figures['test']['all']['dice']:.3f} |" in card
    assert (PROGRAMS / f"{name}.yaml").read_text(encoding="utf-8") in card
    assert (tmp_path / "docs" / "_static" / f"{name}.csv").read_bytes() == (tmp_path / "run/metrics.csv").read_bytes()
    (tmp_path / "package" / f"{name}.md").unlink()
    alone = script("card.py")
    monkeypatch.setattr(alone, "DOCS", tmp_path / "docs")
    alone.main(name, tmp_path / "run")
    assert (tmp_path / "package" / f"{name}.md").read_text(encoding="utf-8") == card


def dice_of(predictor: unetzoo.Predictor, samples: list) -> float:
    """Return the Dice of all pixels of the images together."""
    both = total = 0
    for sample in samples:
        found = predictor(sample.image).mask.bool()
        true = images.read_values(sample.mask)[0].long() > 0
        both, total = both + 2 * int((found & true).sum()), total + int(found.sum() + true.sum())
    return both / total


@pytest.mark.parametrize("name", NAMES)
def test_no_image_that_a_trained_model_learned_from_is_held_out(name: str, shared_data: Path, tmp_path: Path) -> None:
    """Whoever splits the same images otherwise is told, whatever they are called there."""
    some_images = splits_of(name, shared_data)
    for part in ("images", "masks"):
        (tmp_path / "mine" / part).mkdir(parents=True)
    for split in ("train", "test"):
        sample = some_images[split][0]
        shutil.copy(sample.image, tmp_path / "mine" / "images" / f"{split}{sample.image.suffix}")
        shutil.copy(sample.mask, tmp_path / "mine" / "masks" / f"{split}{sample.mask.suffix}")
    with pytest.raises(ConfigError, match=rf"1 of 2 images .*trained on by .*{name}.*'train' \(as "):
        evaluate(name, tmp_path / "mine")
    assert [row["name"] for row in evaluate(name, tmp_path / "mine", split="test").rows] == ["test"]


def test_a_few_real_nuclei_of_each_kind(shared_data: Path) -> None:
    splits = splits_of("nuclei", shared_data)
    assert {split: len(found) for split, found in splits.items()} == FIGURES["nuclei"]["images"]
    by_kind: dict[str, list] = {}
    for sample in splits["test"]:
        by_kind.setdefault(sample.kind, []).append(sample)
    assert {kind: FIGURES["nuclei"]["test"]["all"]["kinds"][kind]["images"] for kind in by_kind} == {
        kind: len(found) for kind, found in by_kind.items()
    }
    predictor = unetzoo.Predictor("nuclei")
    for kind, least in (("fluorescence", 0.85), ("histology", 0.75), ("bright field", 0.6)):
        assert dice_of(predictor, by_kind[kind][:3]) > least, kind


def test_a_real_retina_of_a_child_that_was_not_trained_by(shared_data: Path) -> None:
    splits = splits_of("vessels", shared_data)
    assert {split: len(found) for split, found in splits.items()} == FIGURES["vessels"]["images"]
    children = {split: {sample.image.stem[6:8] for sample in found} for split, found in splits.items()}
    assert not children["train"] & (children["val"] | children["test"])
    assert not children["val"] & children["test"]
    assert dice_of(unetzoo.Predictor("vessels"), splits["test"][:1]) > 0.75


@pytest.mark.slow
@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("name", NAMES)
def test_figures_of_the_card_are_measured(name: str, split: str, shared_data: Path, tmp_path: Path) -> None:
    source = data_of(name, shared_data, tmp_path)
    expected = FIGURES[name][split]["all"]
    objects = "object_ap_50" in expected
    found = evaluate(name, source, split=split, objects=objects).to_dict()
    for kind, figures in {"all": expected, **expected.get("kinds", {})}.items():
        measured = found if kind == "all" else found["kinds"][kind]
        for score in ("dice", "iou", "precision", "recall", "specificity", *(["object_ap_50"] if objects else [])):
            assert measured[score] == pytest.approx(figures[score], abs=2e-3), (kind, score)


@pytest.fixture
def retinas(shared_data: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the test images of ``vessels``, (3, H, W), with their masks, (H, W) bool."""
    samples = splits_of("vessels", shared_data)["test"]
    return [(images.read_image(sample.image), images.read_image(sample.mask)[0] > 0) for sample in samples]


@pytest.mark.slow
def test_how_many_vessels_of_a_width_are_found(retinas: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Along the middle: where the distance to the nearest other pixel is the largest around."""
    predictor, met, there = unetzoo.Predictor("vessels"), Counter(), Counter()
    for image, true in retinas:
        found, depth = predictor(image).mask.bool().numpy(), ndimage.distance_transform_edt(true.numpy())
        middle = (depth == ndimage.maximum_filter(depth, 3)) & (depth > 0)
        for width, chosen in ((2, depth <= 1.5), (4, (depth > 1.5) & (depth <= 2.5)), (99, depth > 2.5)):
            met[width] += (found & middle & chosen).sum()
            there[width] += (middle & chosen).sum()
    share = {width: met[width] / there[width] for width in there}
    assert share[2] == pytest.approx(0.39, abs=0.006)
    assert share[4] == pytest.approx(0.79, abs=0.006)
    assert share[99] > 0.93


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "options", "dice"), [(2, {}, 0.71), (3, {}, 0.64), (3, {"scales": [1 / 3]}, 0.80)])
def test_vessels_in_enlarged_images(
    factor: int, options: dict, dice: float, retinas: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    predictor, both, total = unetzoo.Predictor("vessels", **options), 0, 0
    for image, mask in retinas:
        size = [factor * side for side in mask.shape]
        found = predictor(F.interpolate(image[None].float(), size, mode="bilinear")[0].round().byte()).mask.bool()
        true = F.interpolate(mask[None, None].float(), size)[0, 0].bool()
        both, total = both + 2 * int((found & true).sum()), total + int(found.sum() + true.sum())
    assert both / total == pytest.approx(dice, abs=0.006)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_tells_the_figures(name: str) -> None:
    card = trained.card_of(name).read_text(encoding="utf-8")
    for split in ("val", "test"):
        figures = FIGURES[name][split]["all"]
        for kind, told in {"all": figures, **figures.get("kinds", {})}.items():
            place = rf"{split} \| {kind}" if "kinds" in figures else split
            row = re.search(rf"^\| {place} \| (.*) \|$", card, re.MULTILINE)
            scores = ("dice", "iou", "object_ap_50" if "object_ap_50" in told else "precision")
            assert row is not None, (split, kind)
            assert row[1].split(" | ")[1:4] == [f"{told[score]:.3f}" for score in scores], (split, kind)


def test_the_figures_are_worth_shipping() -> None:
    assert FIGURES["nuclei"]["val"]["all"]["dice"] >= 0.90
    assert FIGURES["nuclei"]["val"]["all"]["iou"] >= 0.83
    assert FIGURES["vessels"]["test"]["all"]["dice"] >= 0.78  # of two observers


def test_the_wheel_stays_small() -> None:
    assert sum(path.stat().st_size for path in trained.FOLDER.iterdir() if path.is_file()) < 12_000_000
