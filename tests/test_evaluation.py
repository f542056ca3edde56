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
from drawn import white
from PIL import Image
from scipy import ndimage

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


def counts(objects: unetzoo.objects.ObjectScores) -> tuple[int, int, int]:
    """Return how many meet, are false, and are missed."""
    return objects.met, objects.found - objects.met, objects.true - objects.met


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
        assert counts(objects) == ((0, 2, 1) if kind == "dark" else (1, 1, 1))
    assert found.scores.to_dict() == evaluate(constant(3.0), folder).scores.to_dict()
    assert counts(found.objects) == (1, 3, 2)
    by_name = {str(row["name"])[-1]: row for row in found.rows}
    assert [by_name[str(k)]["object_ap_50"] for k in range(4)] == [0, 0, 0, 1]
    assert [by_name[str(k)]["kind"] for k in range(4)] == ["dark", "dark", "light", "light"]
    assert by_name["3"]["object_ap"] == pytest.approx(0.5)  # an IoU of 3/4 is above 0.5 … 0.7
    lines = [line.split() for line in str(found).splitlines()]
    assert [row for row in lines if row[:1] == ["all"] and "pixels" not in row] == [
        ["all", "4", "0.5559", "0.3849"],
        ["all", "3", "4", "0.2857", "0.2500", "0.3333", "0.2143", "0.7500"],
        ["all", *["0.1667"] * 5, *["0.0000"] * 5, "0.0833"],
    ]
    assert " ".join(lines[-1]) == "true objects: connected components; those that touch are one"

    unetzoo.save(constant(3.0), tmp_path / "m.safetensors")
    command = ["evaluate", str(tmp_path / "m.safetensors"), "--data", str(tmp_path / "list.csv")]
    assert main([*command, "--objects", "--json", "--report", str(tmp_path / "report")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["objects_true"], printed["objects_found"], printed["object_ap_50"]) == (3, 4, pytest.approx(1 / 6))
    assert printed["kinds"]["light"]["object_ap_50"] == pytest.approx(1 / 3)
    assert printed["objects_how"] == "connected components"
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
    assert counts(found.objects) == (1, 0, 0)


def test_objects_that_nobody_labelled_are_not_false(tmp_path: Path) -> None:
    """All is found, as one object, most of which lies where nothing counts; it meets none, as none is there."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    mask = np.full((8, 20), 255, np.uint8)
    mask[:, :8] = 0
    Image.fromarray(np.zeros((8, 20, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    assert counts(evaluate(constant(3.0), tmp_path, ignore=255, objects=True).objects) == (0, 0, 0)
    mask[:, :12] = 0
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    assert counts(evaluate(constant(3.0), tmp_path, ignore=255, objects=True).objects) == (0, 1, 0)


@pytest.fixture
def touching(tmp_path: Path) -> Path:
    """Return a label image of two objects that touch and one that does not, and the same ones in other forms."""
    ids = np.zeros((24, 40), np.uint16)
    ids[4:20, 2:12], ids[4:20, 12:22], ids[4:20, 28:38] = 300, 7, 9
    layouts = {"ids": "images/a.png", "apart": "a/images/a.png", "drawn": "images/a.png", "masks": "images/a.png"}
    for name, image in layouts.items():
        (tmp_path / name / image).parent.mkdir(parents=True)
        Image.fromarray(np.uint8(ids > 0) * 255).convert("RGB").save(tmp_path / name / image)
    for name in ("ids", "masks"):
        (tmp_path / name / "masks").mkdir()
        Image.fromarray(ids if name == "ids" else np.uint8(ids > 0) * 255).save(tmp_path / name / "masks" / "a.png")
    (tmp_path / "apart" / "a" / "masks").mkdir()
    boxes = []
    for k in (300, 7, 9):
        Image.fromarray(np.uint8(ids == k) * 255).save(tmp_path / "apart" / "a" / "masks" / f"{k}.png")
        rows, columns = np.nonzero(ids == k)
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
        boxes.append({"label": "cell", "shape_type": "polygon", "points": np.array(corners, float).tolist()})
    record = {"imagePath": "a.png", "imageHeight": 24, "imageWidth": 40, "shapes": boxes}
    (tmp_path / "drawn" / "annotations").mkdir()
    (tmp_path / "drawn" / "annotations" / "a.json").write_text(json.dumps(record), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("form", ["ids", "apart", "drawn", "masks"])
def test_true_objects_are_those_that_the_data_tell_apart(
    form: str, touching: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything white is found, so that the two that touch are found as one: it meets neither."""
    model = white()
    given = {"foreground": "any"} if form == "ids" else {}
    found = evaluate(model, touching / form, objects=True, **given)
    assert found.scores.dice.mean == 1
    if form == "masks":
        assert counts(found.objects) == (2, 0, 0)
        assert found.how == "connected components"
        return
    assert counts(found.objects) == (1, 1, 2)
    assert found.objects.pooled()["ap"] == 0.25
    assert found.rows[0]["objects_error"] == -1
    assert str(found).splitlines()[-1] == "true objects: told apart by the masks"
    assert found.to_dict()["objects_how"] == found.how


def test_true_objects_of_several_classes_lie_over_each_other(touching: Path) -> None:
    """Each class has its own objects, whatever is drawn over them."""
    path = touching / "drawn" / "annotations" / "a.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["shapes"] += [{**record["shapes"][0], "label": "hole"}]
    path.write_text(json.dumps(record), encoding="utf-8")
    model = white(task="multilabel", num_classes=2, class_names=["cell", "hole"])
    objects = evaluate(model, touching / "drawn", objects=True).objects
    assert [(one.true, one.found) for one in objects.classes] == [(3, 2), (1, 2)]


def test_real_nuclei_that_touch_are_several(shared_data: Path, tmp_path: Path) -> None:
    """Held against the ids themselves: as many as there are, of which components would melt some."""
    home = shared_data / "nuclei"
    names = sorted(path.name for path in (home / "instances").iterdir())[:40:8]
    for part in ("images", "instances"):
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / name).symlink_to((home / part / name).resolve())
    (tmp_path / "instances").rename(tmp_path / "masks")
    there = sum(len(np.unique(np.asarray(Image.open(home / "instances" / name)))) - 1 for name in names)
    melted = sum(ndimage.label(np.asarray(Image.open(home / "instances" / name)) > 0, np.ones((3, 3)))[1]
                 for name in names)  # fmt: skip
    found = evaluate(constant(-3.0), tmp_path, foreground="any", objects=True)
    assert (found.objects.true, found.objects.found, found.how) == (there, 0, "told apart by the masks")
    assert melted < there


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
    assert "seed is 1, 2: give --seed;" in capsys.readouterr().err
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
    # Below the legend and the columns' titles, lines of 20 pixels, four rows of a line and of three tiles, with four
    # white pixels below and beside them; the second row's middle tile is the true mask: its upper quarter is red.
    assert sheet.shape == (2 * 20 + 4 * (20 + 44), 3 * 160 + 4, 3)
    top = 40 + 64 + 20
    plain, true, predicted = (sheet[top : top + 40, 4 + 160 * n : 4 + 160 * n + 31] for n in range(3))
    for line in (0, 20, 40, 40 + 64):  # are written in black on white
        dark = (sheet[line : line + 20] < 100).all(2)
        assert 0 < dark.mean() < 0.2
    assert (sheet[:20] == (230, 25, 75)).all(2).sum() > 50  # the first colour, in the legend
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


BRIGHT = {"1": (0, 40), "2": (0, 5), "3": (15, 40)}
"""Image → the rows that a network finds; its mask are the first 10, 20 or 30."""
WORST_BY = {"recall": ("2", "3", "1"), "precision": ("1", "3", "2")}
FIRST = {"recall": "2   recall 0.250   dice 0.400", "precision": "1   precision 0.250   dice 0.400"}


@pytest.mark.parametrize("figure", ["recall", "precision"])
@pytest.mark.parametrize("by", ["asked for", "of the run", "of the run, per image"])
def test_the_worst_are_so_by_the_figure_that_judges(
    figure: str, by: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, (top, bottom) in BRIGHT.items():
        pixels = np.zeros((40, 30 + int(name), 3), dtype=np.uint8)
        pixels[top:bottom] = 255
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    (tmp_path / "run").mkdir()
    unetzoo.save(white(), tmp_path / "run" / "best.safetensors")
    if by != "asked for":
        data = {"ratios": [0.8, 0.1, 0.1], "group": None, "ignore": None, "colours": None, "ignore_colour": None}
        monitor = f"{figure}_per_image" if by == "of the run, per image" else figure
        record = {"data": data, "seed_everything": 0, "model": {"monitor": monitor}}
        (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    found = evaluate(tmp_path / "run", folder, monitor=figure if by == "asked for" else None)
    assert tuple(row["name"] for row in found.rows if row["name"] != "0") == WORST_BY[figure]
    written: list[sheets.Row] = []
    monkeypatch.setattr(
        sheets, "titled", lambda rows, *_: written.extend(rows) or torch.zeros(3, 8, 8, dtype=torch.uint8)
    )
    found.write(tmp_path / "report")
    assert next(row.title for row in written if not row.title.startswith("0")).startswith(FIRST[figure])


def test_a_figure_that_images_do_not_have_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unetzoo.save(constant(3.0), tmp_path / "m.safetensors")
    for given, said in (("recal", r"did you mean 'recall'"), ("object_pq", r"those of objects need objects=True")):
        with pytest.raises(ConfigError, match=rf"monitor='{given}': give one of dice, iou, .*{said}"):
            evaluate(tmp_path / "m.safetensors", folder, monitor=given)
    words = ["evaluate", str(tmp_path / "m.safetensors"), "--data", str(folder), "--monitor", "object_pq"]
    assert main(words) == 2
    assert "--monitor object_pq: give one of dice, iou" in capsys.readouterr().err
    assert main([*words, "--objects", "--report", str(tmp_path / "r")]) == 0
    with (tmp_path / "r" / "per_image.csv").open() as stream:
        values = [float(row["object_pq"]) for row in csv.DictReader(stream) if row["object_pq"]]
    assert values == sorted(values)
    assert len(values) > 2


@pytest.mark.parametrize("value", [1, 255])
def test_black_and_white_masks_of_numbered_objects_are_refused(
    value: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each would be a single object, and all scores wrong; as components, there are three."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    mask = np.zeros((32, 32), np.uint8)
    mask[2:8, 2:8] = mask[12:20, 12:20] = mask[24:30, 4:10] = value
    for name in ("a", "b"):
        Image.fromarray(mask * (255 // value)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    model = unetzoo.create("unet", base_channels=2, in_channels=1, task="instances", num_classes=1).eval()
    for objects in (False, True):
        if objects:
            with pytest.raises(ConfigError, match=f"all 2 images.*only one number, {value}\\b.*foreground='white'"):
                evaluate(model, tmp_path, objects=objects)
        else:
            evaluate(model, tmp_path, objects=objects)  # which pixels are foreground, the masks do say
    found = evaluate(model, tmp_path, objects=True, foreground="white")
    assert (found.objects.true, found.how) == (6, "connected components")
    labels = mask.copy()
    labels[12:20, 12:20] = 7
    Image.fromarray(labels).save(tmp_path / "masks" / "b.png")
    assert evaluate(model, tmp_path, objects=True).how == "told apart by the masks"
    unetzoo.save(model, tmp_path / "model.safetensors")
    Image.fromarray(mask).save(tmp_path / "masks" / "b.png")
    assert main(["evaluate", str(tmp_path / "model.safetensors"), "--data", str(tmp_path), "--objects"]) == 2
    assert "--foreground white" in capsys.readouterr().err
