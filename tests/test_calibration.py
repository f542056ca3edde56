"""Thresholds against a plain loop over all of them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unetzoo
from unetzoo import ConfigError, Predictor, WriteError, calibrate, trained
from unetzoo.cli import main
from unetzoo.data.record import DataRecord
from unetzoo.evaluation import evaluate
from unetzoo.saving.records import read_saved


def network(classes: int = 1, task: str = "binary", **options: object) -> unetzoo.SegmentationModel:
    """Return a network whose probabilities are spread over 0 to 1."""
    torch.manual_seed(0)
    model = unetzoo.create("unet", base_channels=4, num_classes=classes, task=task, **options).eval()
    with torch.no_grad():
        noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        logits = model(noise)
        scale = 1.5 / logits.std(dim=(0, 2, 3))
        model.head.conv.weight.mul_(scale[:, None, None, None])
        model.head.conv.bias.copy_(-logits.mean(dim=(0, 2, 3)) * scale)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return ten noisy images whose masks are where a network that is not asked again is surest, and some more."""
    predictor, rng = Predictor(network()), np.random.default_rng(0)
    for part in ("images", "masks", "masks2/a", "masks2/b"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for k in range(10):
        noise = rng.integers(0, 256, (32, 48, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"data/images/{k}.png")
        said = predictor(noise).probabilities[0].numpy()
        mask = (said > 0.8) ^ (rng.random(said.shape) < 0.05)
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"data/masks/{k}.png")
    return tmp_path / "data"


def dice_of(folder: Path, model: unetzoo.SegmentationModel, thresholds: list[float]) -> list[float]:
    """Return Dice over all pixels of all images, threshold by threshold."""
    predictor, paths = Predictor(model), sorted((folder / "images").iterdir())
    said = np.concatenate([predictor(path).probabilities.numpy().ravel() for path in paths])
    true = np.concatenate([np.asarray(Image.open(folder / "masks" / path.name)).ravel() > 0 for path in paths])
    return [
        2 * int(((said > np.float32(value)) & true).sum()) / (int((said > np.float32(value)).sum()) + int(true.sum()))
        for value in thresholds
    ]


def test_the_threshold_is_the_best_of_all(folder: Path) -> None:
    model = network()
    found = calibrate(model, folder, split=None)
    every = dice_of(folder, model, [step / 1000 for step in range(1000)])
    assert found.images == 10
    assert 0.7 < found.thresholds[0] < 0.9
    assert found.dice[0] == pytest.approx(max(every))
    assert found.dice[0] > every[500] + 0.01
    assert every[round(1000 * found.thresholds[0])] == pytest.approx(max(every))
    assert found.dice_at_half[0] == pytest.approx(every[500])


def test_the_figure_is_that_of_the_evaluation(folder: Path) -> None:
    model = network()
    found = calibrate(model, folder, split="val")
    judged = evaluate(Predictor(model, threshold=found.thresholds), folder, split="val")
    assert judged.scores.to_dict()["dice"] == pytest.approx(found.dice[0])
    assert found.images == judged.scores.to_dict()["images"] == 1


def test_every_class_has_its_own_and_one_that_never_occurs_keeps_a_half(folder: Path) -> None:
    model, single = network(2, "multilabel", class_names=("a", "b")), folder / "masks"
    (folder / "masks").rename(folder / "single")
    predictor = Predictor(model)
    for path in sorted((folder / "single").iterdir()):
        said = predictor(folder / "images" / path.name).probabilities[0].numpy()
        (single / "a").mkdir(parents=True, exist_ok=True)
        (single / "b").mkdir(parents=True, exist_ok=True)
        Image.fromarray((said > 0.2).astype(np.uint8) * 255).save(single / "a" / path.name)
        Image.fromarray(np.zeros(said.shape, np.uint8)).save(single / "b" / path.name)
    found = calibrate(model, folder, split=None)
    assert found.classes == ("a", "b")
    assert found.thresholds == (0.2, 0.5)
    assert found.dice[0] == pytest.approx(1)
    assert found.to_dict()["dice"][1] is None


def test_pixels_that_do_not_count_are_not_counted(folder: Path) -> None:
    model = network()
    before = calibrate(model, folder, split=None)
    for path in (folder / "masks").iterdir():
        mask = np.asarray(Image.open(path)).copy()
        mask[:8] = 77
        Image.fromarray(mask).save(path)
    found = calibrate(model, folder, split=None, ignore=77)
    assert found.dice != before.dice
    assert 0.7 < found.thresholds[0] < 0.9


def test_the_command_writes_what_predict_and_evaluate_take(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    unetzoo.save(network(), tmp_path / "m.safetensors")
    out, masks = tmp_path / "t.json", tmp_path / "masks"
    command = ["calibrate", str(tmp_path / "m.safetensors"), "--data", str(folder), "--out", str(out)]
    assert main([*command, "--split", "train", "--json"]) == 0
    record = json.loads(out.read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == record
    predict = ["predict", str(tmp_path / "m.safetensors"), str(folder / "images"), "--out", str(masks)]
    assert main([*predict, "--threshold", str(out)]) == 0
    expected = Predictor(tmp_path / "m.safetensors", threshold=record["thresholds"])(folder / "images" / "3.png")
    assert (np.asarray(Image.open(masks / "3.png")) == expected.mask.numpy() * 255).all()
    assert main(["evaluate", str(tmp_path / "m.safetensors"), "--data", str(folder), "--threshold", str(out)]) == 0
    for path in (out, str(out)):
        assert Predictor(tmp_path / "m.safetensors", threshold=path).thresholds == tuple(record["thresholds"])
    out.write_text("{}", encoding="utf-8")
    assert main([*predict, "--threshold", str(out)]) == 2
    assert "not a file that 'unetzoo calibrate' writes" in capsys.readouterr().err
    assert main([*predict, "--threshold", "nowhere.json"]) == 2
    assert re.search("--threshold nowhere.json: .*no such file.*'unetzoo calibrate'", capsys.readouterr().err)


def test_an_average_is_calibrated(folder: Path, tmp_path: Path) -> None:
    models = [network(), unetzoo.create("unet", base_channels=2)]
    unetzoo.save(models[1], tmp_path / "second.safetensors")
    expected = calibrate(Predictor(models), folder, split=None)
    assert calibrate([models[0], tmp_path / "second.safetensors"], folder, split=None) == expected
    assert expected != calibrate(models[0], folder, split=None)
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        expected.write(tmp_path / "file" / "thresholds.json")


def test_a_multi_class_model_has_no_threshold_to_find(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"multi-class .*likeliest class.*threshold"):
        calibrate(network(2, "multiclass"), folder)


def of_nuclei(shared_data: Path, folder: Path, split: str, count: int) -> Path:
    """Copy images, and masks, of a split of the trained model's own list to a folder of their own."""
    record = DataRecord.read(trained.data_of("nuclei"))
    for name in sorted(record.splits[split])[:count]:
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True, exist_ok=True)
            shutil.copy(next((shared_data / "nuclei" / part).glob(f"{name}.*")), folder / part)
    return folder


def test_images_that_a_model_has_not_seen_are_all_used(folder: Path, tmp_path: Path) -> None:
    """In a fresh split, the validation images are a tenth of them."""
    unetzoo.save(network(), tmp_path / "m.safetensors")
    found = calibrate(tmp_path / "m.safetensors", folder)
    assert found.images == 10
    assert str(found).endswith("from 10 images\n")
    assert calibrate(tmp_path / "m.safetensors", folder, split="all") == found
    assert calibrate(tmp_path / "m.safetensors", folder, seed=0).images == 1  # a split was asked for


def test_of_splits_of_the_data_val_is_used_or_all_but_test(folder: Path, tmp_path: Path) -> None:
    for k in range(10):
        split = "test" if k < 3 else "val" if k < 5 else "train"
        for part in ("images", "masks"):
            (tmp_path / "own" / split / part).mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / part / f"{k}.png", tmp_path / "own" / split / part)
    assert calibrate(network(), tmp_path / "own").images == 2
    assert calibrate(network(), tmp_path / "own", split="all").images == 10
    shutil.rmtree(tmp_path / "own/val")
    assert calibrate(network(), tmp_path / "own").images == 5


def test_few_images_are_said(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calibrate(network(), folder)
    assert "little about others" not in caplog.text
    calibrate(network(), folder, split="val")
    assert "only 1 image of val of" in caplog.text
    assert "split='all' for all 10" in caplog.text
    caplog.clear()
    for k in range(2, 10):
        (folder / f"images/{k}.png").unlink()
        (folder / f"masks/{k}.png").unlink()
    calibrate(network(), folder)
    assert "only 2 images of" in caplog.text
    assert "split='all'" not in caplog.text


def test_what_a_model_held_out_is_new_and_what_it_learned_from_is_not(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    new = of_nuclei(shared_data, tmp_path / "new", "test", 4)
    total = len(DataRecord.read(trained.data_of("nuclei")).splits["test"])
    out = tmp_path / "t.json"
    assert main(["calibrate", "nuclei", "--data", str(new), "--out", str(out)]) == 0
    assert "from 4 images" in capsys.readouterr().out
    caplog.clear()
    evaluate("nuclei", new, split="test")
    assert f"{total - 4} of the {total} test images of nuclei are not in" in caplog.text
    both = of_nuclei(shared_data, new, "train", 4)
    of_nuclei(shared_data, new, "val", 3)
    assert main(["calibrate", "nuclei", "--data", str(both), "--out", str(out)]) == 0
    assert "from 3 images" in capsys.readouterr().out


def test_a_file_of_other_classes_is_refused_and_of_other_weights_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in ("own", "other", "named")]
    unetzoo.save(network(), paths[0])
    unetzoo.save(unetzoo.create("unet", base_channels=4), paths[1])
    unetzoo.save(unetzoo.create("unet", base_channels=4, class_names=("cell",)), paths[2])
    out = tmp_path / "t.json"
    assert main(["calibrate", str(paths[0]), "--data", str(folder), "--out", str(out)]) == 0
    digest = read_saved(paths[0]).sha256
    assert json.loads(out.read_text(encoding="utf-8"))["weights"] == [digest]

    def asked(path: Path) -> list[str]:
        return [
            "predict",
            str(path),
            str(folder / "images"),
            "--out",
            str(tmp_path / path.stem),
            "--threshold",
            str(out),
        ]

    capsys.readouterr()
    assert main(asked(paths[2])) == 2
    assert re.search(
        "--threshold .*classes 'foreground', but this model has 'cell'.*calibrate", capsys.readouterr().err
    )
    assert not (tmp_path / "named").exists()
    assert main(["evaluate", str(paths[2]), "--data", str(folder), "--threshold", str(out)]) == 2
    caplog.clear()
    assert main(asked(paths[0])) == 0
    assert "other weights" not in caplog.text
    assert main(asked(paths[1])) == 0
    assert caplog.text.count("other weights of the same classes") == 1
    caplog.clear()
    record = json.loads(out.read_text(encoding="utf-8"))
    del record["weights"], record["classes"]  # as older files
    out.write_text(json.dumps(record), encoding="utf-8")
    assert Predictor(paths[2], threshold=out).thresholds == tuple(record["thresholds"])
    assert not caplog.text


def test_a_line_says_all_settings_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unetzoo.save(network(2, "multilabel", class_names=("a", "b")), tmp_path / "m.safetensors")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "i.png")
    out = tmp_path / "t.json"
    objects = {"split": 1.25, "smallest": 7}
    out.write_text(json.dumps({"thresholds": [0.2, 0.5], "objects": objects}), encoding="utf-8")
    command = ["predict", str(tmp_path / "m.safetensors"), str(tmp_path / "i.png"), "--out", str(tmp_path / "masks")]
    assert main([*command, "--threshold", str(out)]) == 0
    assert f"settings from {out}: threshold a 0.2, b 0.5; split 1.25; smallest 7; tta none" in capsys.readouterr().err
    assert main([*command, "--threshold", str(out), "--smallest", "3", "--tta", "flips", "--overwrite"]) == 0
    assert f"settings from {out}: threshold a 0.2, b 0.5; split 1.25\n" in capsys.readouterr().err
