"""``unetzoo evaluate``: the figures of a trained network on a folder, and the images that show them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import unetzoo
from unetzoo import sheets
from unetzoo.cli import main
from unetzoo.data import Labels, find_samples
from unetzoo.errors import ConfigError, WriteError
from unetzoo.evaluation import evaluate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return four images with masks of more and more foreground, one of them with none."""
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(4):
        Image.fromarray(rng.integers(0, 255, (40, 30 + k, 3), dtype=np.uint8)).save(tmp_path / f"data/images/{k}.png")
        mask = np.zeros((40, 30 + k), dtype=np.uint8)
        mask[: 10 * k] = 255
        Image.fromarray(mask).save(tmp_path / f"data/masks/{k}.png")
    return tmp_path / "data"


def constant(value: float) -> unetzoo.SegmentationModel:
    """Return a network whose logits are ``value`` everywhere."""
    model = unetzoo.create("unet", base_channels=4)
    with torch.no_grad():
        model.head.conv.weight.zero_()
        model.head.conv.bias.fill_(value)
    return model.eval()


def test_figures_are_those_of_the_masks(folder: Path, tmp_path: Path) -> None:
    found = evaluate(constant(3.0), folder)  # all is foreground
    shares = [0, 0.25, 0.5, 0.75]
    expected = {str(k): 2 * share / (1 + share) for k, share in enumerate(shares)}
    assert {row["name"]: row["dice"] for row in found.rows} == pytest.approx(expected)
    assert [row["name"] for row in found.rows] == ["0", "1", "2", "3"]  # the worst first
    truth = sum(share * 40 * (30 + k) for k, share in enumerate(shares))
    pixels = sum(40 * (30 + k) for k in range(4))
    assert found.scores.to_dict()["dice"] == pytest.approx(2 * truth / (pixels + truth))
    assert found.scores.to_dict()["precision"] == pytest.approx(truth / pixels)


def test_a_run_is_judged_by_its_split(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In Python as on the command line: what a run was trained on is not what it is tested on."""
    for run, seed in (("a", 0), ("b", 1)):
        (tmp_path / run).mkdir()
        unetzoo.save(constant(3.0), tmp_path / run / "best.safetensors")
        data = {"ratios": [0.5, 0.25, 0.25], "group": None, "ignore": None, "colours": None, "ignore_colour": None}
        (tmp_path / run / "config.yaml").write_text(yaml.safe_dump({"data": data, "seed_everything": seed}))
    by_seed = {
        seed: {sample.name for sample in find_samples(folder, Labels(), ratios=(0.5, 0.25, 0.25), seed=seed)["test"]}
        for seed in (0, 1)
    }
    assert by_seed[0] != by_seed[1]
    for run, seed in (("a", 0), ("b", 1)):
        for model in (tmp_path / run, tmp_path / run / "best.safetensors", [tmp_path / run]):
            assert {row["name"] for row in evaluate(model, folder, split="test").rows} == by_seed[seed]
        found = unetzoo.calibrate(tmp_path / run, folder, split="test")
        assert main(["evaluate", str(tmp_path / run), "--data", str(folder), "--split", "test", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == evaluate(tmp_path / run, folder, split="test").to_dict()
        assert found.images == len(by_seed[seed])
    assert {row["name"] for row in evaluate(tmp_path / "b", folder, split="test", seed=0).rows} == by_seed[0]
    with pytest.raises(ConfigError, match="seed is 0, 1: give seed"):
        evaluate([tmp_path / "a", tmp_path / "b"], folder, split="test")


def test_each_kind_of_image_has_figures_of_its_own(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        f"data/images/{k}.png,data/masks/{k}.png,{kind}" for k, kind in enumerate(("dark", "dark", "light", "light"))
    ]
    (tmp_path / "list.csv").write_text("\n".join(["image,mask,kind", *rows]), encoding="utf-8")
    found = evaluate(constant(3.0), tmp_path / "list.csv", objects=True)
    truth = [10 * k * (30 + k) for k in range(4)]
    pixels = [40 * (30 + k) for k in range(4)]
    for kind, part in (("dark", slice(2)), ("light", slice(2, 4))):
        scores, objects = found.kinds[kind]
        assert scores.to_dict()["dice"] == pytest.approx(2 * sum(truth[part]) / sum(truth[part] + pixels[part]))
        assert scores.images == 2
        # All is one object: it meets the true one where that is more than half of the image.
        assert objects == (unetzoo.objects.Matches(0, 2, 1) if kind == "dark" else unetzoo.objects.Matches(1, 1, 1))
    assert found.scores.to_dict() == evaluate(constant(3.0), folder).scores.to_dict()
    assert found.objects == unetzoo.objects.Matches(1, 3, 2)
    by_name = {str(row["name"])[-1]: row for row in found.rows}
    assert [by_name[str(k)]["object_ap"] for k in range(4)] == [0, 0, 0, 1]
    assert [by_name[str(k)]["kind"] for k in range(4)] == ["dark", "dark", "light", "light"]
    assert str(found).splitlines()[-1].split() == ["all", "4", "0.5559", "0.3849", "0.1667", "3", "4"]

    unetzoo.save(constant(3.0), tmp_path / "m.safetensors")
    command = ["evaluate", str(tmp_path / "m.safetensors"), "--data", str(tmp_path / "list.csv")]
    assert main([*command, "--objects", "--json", "--report", str(tmp_path / "report")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["objects_true"], printed["objects_found"], printed["object_ap"]) == (3, 4, pytest.approx(1 / 6))
    assert printed["kinds"]["light"]["object_ap"] == pytest.approx(1 / 3)
    with (tmp_path / "report" / "per_image.csv").open() as stream:
        assert [row["objects_found"] for row in csv.DictReader(stream)] == ["1"] * 4


def test_ignored_pixels_belong_to_no_object(tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    mask = np.full((8, 20), 255, np.uint8)
    mask[:, :8] = 1
    Image.fromarray(np.zeros((8, 20, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    found = evaluate(constant(3.0), tmp_path, ignore=255, objects=True)
    assert found.objects == unetzoo.objects.Matches(1, 0, 0)


def test_whatever_a_predictor_takes_is_evaluated(folder: Path, tmp_path: Path) -> None:
    """Two networks sure of the opposite, of which the surer one wins the average."""
    models = [constant(-1.0), constant(3.0)]
    for k, model in enumerate(models):
        unetzoo.save(model, tmp_path / f"{k}.safetensors")
    expected = evaluate(models[1], folder).to_dict()
    for given in (
        models,
        [str(tmp_path / "0.safetensors"), tmp_path / "1.safetensors"],
        unetzoo.Predictor(models),
        unetzoo.optimize(models[1]),
        tmp_path / "1.safetensors",
    ):
        assert evaluate(given, folder).to_dict() == expected
    assert evaluate(models[0], folder).to_dict() != expected


def test_runs_that_are_averaged_saw_the_same_data(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for seed in (1, 2):
        paths.append(tmp_path / f"run{seed}")
        unetzoo.save_pretrained(constant(3.0), paths[-1])
        data = {"ratios": [0.5, 0.25, 0.25], "group": None, "ignore": None, "colours": None, "ignore_colour": None}
        record = {"data": data, "seed_everything": seed}
        (paths[-1] / "config.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    command = ["evaluate", ",".join(map(str, paths)), "--data", str(folder), "--split", "val"]
    assert main(command) == 2
    assert "seed is 1, 2: give seed" in capsys.readouterr().err
    assert main([*command, "--seed", "1", "--json"]) == 0
    averaged = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(paths[0]), "--data", str(folder), "--split", "val", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == averaged


def test_a_report_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        evaluate(constant(3.0), folder).write(tmp_path / "file" / "report")


def test_images_where_nothing_is_to_be_found_come_last(folder: Path) -> None:
    found = evaluate(constant(-3.0), folder)  # nothing is foreground
    assert [row["dice"] for row in found.rows] == [0, 0, 0, None]
    assert found.rows[-1]["name"] == "0"


def test_a_report_holds_the_figures_and_the_worst_images(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unetzoo.save(constant(3.0), tmp_path / "m.safetensors")
    report = tmp_path / "a" / "report"
    assert (
        main(["evaluate", str(tmp_path / "m.safetensors"), "--data", str(folder), "--report", str(report), "--json"])
        == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((report / "scores.json").read_text(encoding="utf-8"))
    with (report / "per_image.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["0", "1", "2", "3"]
    assert printed["dice_per_image"] == pytest.approx(np.mean([float(row["dice"]) for row in rows]))
    with Image.open(report / "worst.png") as image:
        sheet = np.asarray(image)
    # Four rows of three tiles, each in a frame of four white pixels; the second row's middle tile is the true mask:
    # its upper quarter is red, the rest is not.
    assert sheet.shape == (4 * 44 + 4, 3 * 37 + 4, 3)
    plain, true, predicted = (sheet[44 + 4 : 44 + 44, 4 + 37 * n : 4 + 37 * n + 31] for n in range(3))
    changed = (plain != true).any(axis=2)
    assert changed[:10].all()
    assert not changed[10:].any()
    assert (plain != predicted).any(axis=2).all()


def test_a_split_of_the_training_is_found_again(folder: Path) -> None:
    names = {row["name"] for row in evaluate(constant(0.0), folder, split="val").rows}
    assert len(names) == 1
    others = {row["name"] for row in evaluate(constant(0.0), folder, split="train").rows}
    assert not names & others


def test_a_layout_with_splits_is_judged_on_its_test_images(folder: Path, tmp_path: Path) -> None:
    lines = [f"{folder}/images/{k}.png,{folder}/masks/{k}.png,{('train', 'val', 'test', 'test')[k]}" for k in range(4)]
    (tmp_path / "l.csv").write_text("\n".join(["image,mask,split", *lines]), encoding="utf-8")
    assert {row["name"].rpartition("/")[2] for row in evaluate(constant(0.0), tmp_path / "l.csv").rows} == {"2", "3"}
    (tmp_path / "l.csv").write_text("\n".join(["image,mask,split", *lines[:2]]), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"l\.csv' .*no test images.*split='val'"):
        evaluate(constant(0.0), tmp_path / "l.csv")


def test_what_does_not_fit_is_one_error(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unetzoo.save(unetzoo.create("unet", base_channels=4, in_channels=13), tmp_path / "m.safetensors")
    assert main(["evaluate", str(tmp_path / "m.safetensors"), "--data", str(folder)]) == 2
    assert re.search("image of 3 channels .*in_channels=13", capsys.readouterr().err)
    (folder / "masks" / "0.png").unlink()
    unetzoo.save(constant(0.0), tmp_path / "m.safetensors")
    assert main(["evaluate", str(tmp_path / "m.safetensors"), "--data", str(folder)]) == 2
    assert "0.png" in capsys.readouterr().err


def test_the_mode_of_the_model_stays(folder: Path) -> None:
    model = constant(0.0).train()
    evaluate(model, folder)
    assert model.training


def test_stretched_images_fill_the_range_and_masks_leave_the_background_out() -> None:
    image = torch.tensor([[[-3.0, 1.0]], [[5.0, 9.0]]])
    assert sheets.stretched(image).tolist() == [[[0, 255]], [[0, 255]]]
    assert sheets.class_masks(torch.tensor([[0, 2, -100]]), "multiclass", 3).tolist() == [
        [[False, False, False]],
        [[False, True, False]],
    ]
    probabilities = torch.tensor([[[0.2, 0.6]], [[0.5, 0.9]]])
    assert sheets.predicted(probabilities, "multiclass").tolist() == [[1, 1]]
    assert sheets.predicted(probabilities, "multilabel").tolist() == [[[False, True]], [[False, True]]]


def test_a_run_s_own_split_and_labels_are_those_of_its_settings(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unetzoo.save(constant(3.0), tmp_path / "best.safetensors")
    kept = {"ratios": [0.5, 0.25, 0.25], "group": None, "ignore": None, "colours": None, "ignore_colour": None}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"seed_everything": 5, "data": kept}), encoding="utf-8")
    for model in (tmp_path, tmp_path / "best.safetensors"):
        arguments = ["evaluate", str(model), "--data", str(folder), "--split", "train"]
        assert main([*arguments, "--report", str(tmp_path / "r")]) == 0
        rows = (tmp_path / "r" / "per_image.csv").read_text(encoding="utf-8").splitlines()[1:]
        expected = {sample.name for sample in find_samples(folder, Labels(), ratios=kept["ratios"], seed=5)["train"]}
        assert {row.split(",")[0] for row in rows} == expected
        assert len(expected) == 2
        assert main([*arguments, "--ratios", "0.25", "0.5", "0.25", "--report", str(tmp_path / "r")]) == 0
        assert len((tmp_path / "r" / "per_image.csv").read_text(encoding="utf-8").splitlines()) == 2
    capsys.readouterr()
    (tmp_path / "config.yaml").write_text("data: 3", encoding="utf-8")
    assert main(["evaluate", str(tmp_path), "--data", str(folder)]) == 2
    assert re.search(r"config\.yaml .*not .*settings .*move it away", capsys.readouterr().err)
