"""The plugin of napari without napari: layers as images, thresholds, tables, agreement, and the command that trains.

``tests/test_napari_widgets.py`` clicks the widgets, where napari is installed.
"""

from __future__ import annotations

import ast
import csv
import json
import sys
import threading
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT

import unetzoo
from unetzoo import images
from unetzoo.errors import ConfigError, InputError, TrainingError
from unetzoo.napari import agreement, choosing, early, layers, segmenting, training
from unetzoo.prediction import Prediction

HOME = ROOT / "unetzoo" / "napari"
RNG = np.random.default_rng(0)


class Image(SimpleNamespace):
    """What the plugin reads of napari's layer."""

    def __init__(self, data: Any, **more: Any) -> None:
        array = data[0] if isinstance(data, list) else data
        n = len(array.shape) - bool(more.get("rgb"))
        given = {"name": "cells", "rgb": False, "multiscale": False, "contrast_limits": (0, 1), "scale": np.ones(n)}
        super().__init__(data=data, **{**given, "translate": np.zeros(n), **more})


class Lazy:
    """An array of which what is read is kept account of, as dask's are not read before."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.read = array, array.shape, []

    def __getitem__(self, index: tuple[int, ...]) -> np.ndarray:
        self.read.append(index)
        return self.array[index]


def predictor(task: str = "binary", classes: int = 1, channels: int = 1, **options: Any) -> unetzoo.Predictor:
    torch.manual_seed(0)
    model = unetzoo.create("unet", base_channels=4, in_channels=channels, num_classes=classes, task=task)
    return unetzoo.Predictor(model.eval(), device="cpu", **options)


def ended(steps: Any) -> tuple[list[Any], Any]:
    """Return what a generator gives, and what it returns."""
    given = []
    while True:
        try:
            given.append(next(steps))
        except StopIteration as end:
            return given, end.value


def segmented(data: np.ndarray, which: str = "all", **more: Any) -> segmenting.Segmented:
    found = ended(segmenting.segment(predictor(**more), layers.planes_of(Image(data), which)))[1]
    assert isinstance(found, segmenting.Segmented)
    return found


# The parts


def test_the_manifest_names_widgets_that_are_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["napari.manifest"] == {"unetzoo": "unetzoo.napari:napari.yaml"}
    manifest = yaml.safe_load((HOME / "napari.yaml").read_text(encoding="utf-8"))
    commands = {one["id"]: one["python_name"] for one in manifest["contributions"]["commands"]}
    assert [one["command"] for one in manifest["contributions"]["widgets"]] == [*commands]
    for name in commands.values():
        module, kind = name.split(":")
        tree = ast.parse(ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
        assert kind in [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def test_windows_are_in_the_widgets_alone() -> None:
    for path in HOME.glob("*.py"):
        if path.stem != "parts" and not path.stem.endswith("_widget"):
            text = path.read_text(encoding="utf-8")
            assert "import qtpy" not in text, path
            assert "from napari" not in text, path


def test_a_second_llvm_is_seen(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text("7f r-xp 00 /usr/lib/libGL.so\n", encoding="utf-8")
    assert not early.draws_with_llvm(maps)
    maps.write_text("7f r-xp 00 /usr/lib/x86_64-linux-gnu/libLLVM-15.so.1\n", encoding="utf-8")
    assert early.draws_with_llvm(maps)
    assert not early.draws_with_llvm(tmp_path / "none")


# Layers


def test_planes_are_read_one_at_a_time() -> None:
    data = Lazy(RNG.integers(0, 255, (2, 3, 8, 9), np.uint8))
    planes = layers.planes_of(Image(data), "all")
    assert planes.indices == ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2))
    assert (planes.plane((1, 2)) == data.array[1, 2]).all()
    assert data.read == [(1, 2)]
    one = layers.planes_of(Image(data), "slice", (1, 9))
    assert one.indices == ((1, 2),)  # a viewer may show what is beside a layer
    assert not one.is_whole
    assert layers.stacked(one, [np.ones((8, 9))]).shape == (1, 1, 8, 9)
    numbers = [np.full((8, 9), k) for k in range(6)]
    assert layers.stacked(planes, numbers)[1, 0, 0, 0] == 3


def test_colours_channels_and_levels_are_no_planes() -> None:
    rgb = RNG.integers(0, 255, (4, 8, 9, 3), np.uint8)
    planes = layers.planes_of(Image(rgb, rgb=True), "all")
    assert (planes.shape, len(planes.indices)) == ((4, 8, 9), 4)
    assert (planes.plane((2,)) == rgb[2]).all()
    channels = RNG.random((5, 2, 8, 9), np.float32)
    planes = layers.planes_of(Image(channels), "channels")
    assert (planes.shape, len(planes.indices)) == ((5, 8, 9), 5)
    assert (planes.plane((3,))[..., 1] == channels[3, 1]).all()
    pyramid = [np.zeros((16, 18)), np.zeros((8, 9))]
    assert layers.planes_of(Image(pyramid, multiscale=True)).shape == (16, 18)
    wide = np.array([[100, 300, 500, 900]], np.int64)
    stretched = layers.planes_of(Image(wide, contrast_limits=(100, 500)), stretch=True).plane(())
    assert stretched.tolist() == [[0, 0.5, 1, 1]]
    assert stretched.dtype == np.float32


def test_a_slice_lies_at_its_place() -> None:
    layer = Image(np.zeros((4, 8, 9)), scale=np.array([2.0, 0.5, 0.5]), translate=np.array([10.0, 1.0, 2.0]))
    found = layers.placed(layers.planes_of(layer, "slice", (3,)), layer)
    assert found["scale"].tolist() == [2, 0.5, 0.5]
    assert found["translate"].tolist() == [16, 1, 2]
    assert layers.placed(layers.planes_of(layer, "all"), layer)["translate"].tolist() == [10, 1, 2]
    found = layers.placed(layers.planes_of(layer, "channels"), layer)
    assert (found["scale"].tolist(), found["translate"].tolist()) == ([0.5, 0.5], [1, 2])


@pytest.mark.parametrize(
    ("layer", "which", "said"),
    [
        (SimpleNamespace(name="dots", data=np.zeros((3, 2))), "slice", "an Image layer is needed"),
        (Image(np.zeros((8, 9, 3)), rgb=True), "channels", "already a colour image"),
        (Image(np.zeros((8, 9))), "channels", "no channel axis"),
        (Image(np.zeros((0, 9))), "slice", "rows and columns are needed"),
        (Image(np.zeros((3, 8, 9))), "slice", "choose a slice"),
    ],
)
def test_layers_of_a_wrong_kind_are_refused(layer: Any, which: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        layers.planes_of(layer, which)


def test_images_that_do_not_fit_the_model_are_refused_in_its_words() -> None:
    for data, which, said in (
        (np.zeros((2, 32, 32), np.uint8), "channels", "2 channels"),
        (np.zeros((32, 32), np.int64), "slice", "8, 16 or 32 bits"),
        (np.zeros((32, 32), bool), "slice", "this is a mask and not an image"),
    ):
        with pytest.raises(InputError, match=said):
            ended(segmenting.segment(predictor(channels=3), layers.planes_of(Image(data), which)))


# Segment


def test_each_plane_is_what_the_predictor_says() -> None:
    data = RNG.integers(0, 65535, (2, 40, 48), np.uint16)
    alone = predictor(tile=32)
    given, found = ended(segmenting.segment(predictor(tile=32), layers.planes_of(Image(data), "all")))
    assert given == sorted(given)
    assert given[-1] == (200, 200)
    assert len(given) > 4  # it also tells within a plane
    for one, plane in zip(found.found, data, strict=True):
        assert torch.equal(one.probabilities, alone(plane).probabilities)


def test_what_is_told_of_values_is_of_the_layer(caplog: pytest.LogCaptureFixture) -> None:
    levels = {"mean": (0.5,), "std": (0.25,)}
    asked = unetzoo.Predictor(unetzoo.create("unet", base_channels=2, in_channels=1, **levels), device="cpu")
    dim = RNG.integers(0, 4000, (4, 24, 32), np.uint16)
    dim[2] = 60_000 + dim[2] // 2
    dim[3] = 0

    def warned(data: np.ndarray, **more: Any) -> tuple[str, ...]:
        found = ended(segmenting.segment(asked, layers.planes_of(Image(data, **more), "all", **stretched)))[1]
        assert found.warnings == found.at(0.3).warnings
        return tuple(warning.split(" to this")[0].split(" everywhere")[0] for warning in found.warnings)

    stretched: dict[str, Any] = {}
    assert warned(dim) == ("2 of 4 slices are nearly black", "one of 4 slices is of one value")
    assert warned(dim[0]) == ("cells is nearly black",)
    with pytest.raises(InputError, match=r'floating-point.*; set the contrast limits .*tick "stretch by the contrast'):
        warned(dim[:2].astype(np.float32))
    stretched = {"stretch": True}
    assert warned(dim[:2], contrast_limits=(0, 4000)) == ()
    assert warned(dim[:2].astype(np.float32), contrast_limits=(0, 4000)) == ()
    assert warned(dim[0], contrast_limits=(60_000, 65_000)) == ("cells is of one value",)
    assert not caplog.messages


def test_a_threshold_asks_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = segmented(RNG.random((2, 40, 48), np.float32), task="multilabel", classes=2)
    monkeypatch.setattr(unetzoo.Predictor, "strips", None)
    for threshold in (0.2, 0.45, 0.8):
        shown = segmenting.labelled(seen.at(threshold), apart=False)
        for k, labels in enumerate(shown.labels.values()):
            assert labels.shape == (2, 40, 48)
            for plane, one in zip(labels, seen.found, strict=True):
                assert (plane == (one.probabilities[k].numpy() > threshold)).all()
    assert [*shown.labels] == ["class_0", "class_1"]


def test_of_classes_the_likeliest_stays() -> None:
    seen = segmented(RNG.random((24, 32), np.float32), task="multiclass", classes=3)
    assert not seen.has_threshold
    labels = segmenting.labelled(seen.at(0.9), apart=False).labels[""]
    assert (labels == seen.found[0].probabilities.numpy().argmax(axis=0)).all()


def test_somebody_cancels_between_two_tiles() -> None:
    stop, count = threading.Event(), 0
    steps = segmenting.segment(
        predictor(tile=32), layers.planes_of(Image(np.zeros((3, 64, 64), np.uint8)), "all"), stop
    )
    for _ in range(2):
        next(steps)
        count += 1
    stop.set()
    given, found = ended(steps)
    assert found is None
    assert count + len(given) < 6


def drawn(masks: np.ndarray, name: str = "cell") -> segmenting.Segmented:
    """Return planes as if a model had found these masks."""
    config = predictor().config.replace(class_names=(name,))
    found = []
    for mask in torch.from_numpy(masks.astype(np.uint8)):
        image = torch.full((1, *mask.shape), 7, dtype=torch.uint8)
        found.append(Prediction(mask[None] * 0.9, mask, image, config))
    return segmenting.Segmented(layers.planes_of(Image(masks), "all"), tuple(found))


def test_numbers_run_on_through_a_stack_and_into_the_table(tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="measures objects")
    ndimage = pytest.importorskip("scipy.ndimage", reason="finds objects")
    masks = np.zeros((2, 20, 30), np.uint8)
    masks[0, 2:6, 3:9] = masks[0, 10:12, 20:22] = masks[1, 5:15, 5:6] = 1
    seen = drawn(masks)
    shown = segmenting.labelled(seen, apart=True)
    theirs = [ndimage.label(plane, np.ones((3, 3)))[0] for plane in masks]
    theirs[1] = np.where(theirs[1] > 0, theirs[1] + 2, 0)
    assert (shown.labels[""] == np.stack(theirs)).all()
    assert shown.rows == (
        (1, "0", "cell", 24, 3.5, 5.5), (2, "0", "cell", 4, 10.5, 20.5), (3, "1", "cell", 10, 9.5, 5.0),
    )  # fmt: skip
    assert segmenting.write_table(seen, shown, str(tmp_path / "a.csv")) == 3
    rows = [*csv.DictReader((tmp_path / "a.csv").read_text(encoding="utf-8").splitlines())]
    assert [(row["image"], row["label"], row["area"], row["class"]) for row in rows] == [
        ("cells[0]", "1", "24.0", "cell"), ("cells[0]", "2", "4.0", "cell"), ("cells[1]", "3", "10.0", "cell"),
    ]  # fmt: skip
    assert {row["intensity_mean-0"] for row in rows} == {"7.0"}
    small = segmenting.labelled(seen.at(0.5, 10), apart=True)
    assert [row[3] for row in small.rows] == [24, 10]
    with pytest.raises(InputError, match="show objects first"):
        segmenting.write_table(seen, segmenting.labelled(seen, apart=False), str(tmp_path / "b.csv"))


# Compare


def test_agreement_is_counted_by_hand() -> None:
    pytest.importorskip("scipy", reason="finds objects")
    one, other = np.zeros((2, 2, 20, 20), np.uint8)
    one[0, 2:6, 2:6] = one[0, 10:14, 10:14] = one[1, 2:4, 2:4] = 1
    other[0, 2:6, 2:7] = other[0, 13:17, 13:17] = 1
    (row,) = agreement.agreement(drawn(one), drawn(other))
    assert (row.name, row.first, row.second, row.matched) == ("cell", 3, 2, 1)
    assert row.dice == pytest.approx(2 * (16 + 1) / (36 + 36))
    (row,) = agreement.agreement(drawn(one), drawn(other, "nucleus"))
    assert (row.name, row.matched) == ("foreground", 1)
    assert agreement.agreement(drawn(one * 0), drawn(one * 0))[0].dice == 1
    with pytest.raises(InputError, match="different slices"):
        agreement.agreement(drawn(one), drawn(one[:1]))


def test_agreement_of_classes_is_of_each() -> None:
    pytest.importorskip("scipy", reason="finds objects")
    data = RNG.random((24, 32), np.float32)
    for task, classes in (("multiclass", 3), ("multilabel", 2)):
        seen = segmented(data, task=task, classes=classes)
        rows = agreement.agreement(seen, seen)
        assert [row.name for row in rows] == [f"class_{k}" for k in ((1, 2) if classes == 3 else (0, 1))]
        assert all(row.dice == 1 and row.first == row.second == row.matched for row in rows)
    (row,) = agreement.agreement(segmented(data, task="multiclass", classes=3), segmented(data))
    assert row.name == "foreground"


def test_models_are_kept_until_their_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    unetzoo.save(unetzoo.create("unet", base_channels=4), file)
    first = choosing.predictor_of(str(file))
    assert choosing.predictor_of(f" {file} ") is first
    time.sleep(0.01)
    unetzoo.save(unetzoo.create("unet", base_channels=4, num_classes=2, task="multilabel"), file)
    assert choosing.predictor_of(str(file)).config.num_classes == 2
    with pytest.raises(InputError, match="choose a model"):
        choosing.predictor_of(" ")
    with pytest.raises(ConfigError, match="weights are random"):
        choosing.predictor_of("resunet18")


# Train


def test_of_many_slices_every_fourth_validates_and_empty_ones_are_left_out() -> None:
    image = RNG.integers(0, 255, (10, 16, 16), np.uint8)
    labels = np.zeros((10, 16, 16), np.int32)
    labels[:8, 4:8, 4:8] = np.arange(1, 9)[:, None, None]
    train, val = training.pairs_of(layers.planes_of(Image(image), "all"), labels, "instances")
    assert [int(mask.max()) for _, mask in train] == [1, 2, 3, 5, 6, 7]
    assert [int(mask.max()) for _, mask in val] == [4, 8]
    assert (val[0][0] == image[3]).all()


def test_few_slices_are_cut_and_written(tmp_path: Path) -> None:
    image, labels = RNG.integers(0, 255, (20, 40, 3), np.uint8), np.zeros((20, 40), np.int32)
    labels[4:8, 4:8], labels[4:8, 32:38] = 1, 2
    planes = layers.planes_of(Image(image, rgb=True))
    assert training.write_layers(planes, labels, "multiclass", tmp_path / "data") == 3
    read = {
        kind: [images.read_image(next((tmp_path / "data" / part / kind).iterdir())) for part in ("train", "val")]
        for kind in ("images", "masks")
    }
    assert (torch.cat(read["images"], dim=2).permute(1, 2, 0).numpy() == image).all()
    assert (torch.cat(read["masks"], dim=2)[0].numpy() == labels).all()
    assert read["images"][1].shape == (3, 20, 10)


def test_labels_that_cannot_be_trained_on_are_refused() -> None:
    planes = layers.planes_of(Image(np.zeros((20, 40), np.uint8)))
    one_side = np.zeros((20, 40), np.int32)
    one_side[:, :5] = 1
    for labels, said in (
        (np.zeros((20, 41), np.int32), "they must be the same"),
        (np.zeros((20, 40), np.int32), "nothing is labelled"),
        (one_side, "in only one part of the image"),
    ):
        with pytest.raises(InputError, match=said):
            training.pairs_of(planes, labels, "binary")


class Told(training.Plan):
    """A plan whose command is a few lines of Python."""

    def words(self) -> list[str]:
        return [sys.executable, "-c", self.model]


def test_figures_come_as_epochs_end_and_a_failure_in_its_own_words() -> None:
    code = "import json; print('hello'); [print(json.dumps({'epoch': k, 'loss': 1 / k})) for k in (1, 2)]"
    given, whole = ended(training.Training(Told(code, "", "")).epochs())
    assert (given, whole) == ([{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.5}], True)
    code = "import sys; print('warning: dim', file=sys.stderr); sys.exit('unetzoo: error: no images\\n  in it')"
    with pytest.raises(TrainingError, match=r"^unetzoo: error: no images in it$"):
        ended(training.Training(Told(code, "", "")).epochs())


def test_a_training_is_stopped() -> None:
    code = f"import time; print({json.dumps(json.dumps({'epoch': 1}))}, flush=True); time.sleep(60)"
    run = training.Training(Told(code, "", ""))
    steps = run.epochs()
    assert next(steps) == {"epoch": 1}
    run.stop()
    assert ended(steps) == ([], False)


def test_the_command_is_one_that_unetzoo_has() -> None:
    from unetzoo.train.flags import FLAGS

    plan = training.Plan("nuclei", "cells", "runs/a", 50, "multiclass", 3)
    words = plan.words()[4:]
    known = {flag.option for flag in FLAGS} | {"--json", "--out", "--resume"}
    assert {word for word in words if word.startswith("--")} <= known
    assert "--num-classes 3" in " ".join(words)
    again = training.Plan("nuclei", "cells", "runs/a", 90, resume=True).words()[4:]
    assert again == ["--json", "--steps", "90", "--resume", "runs/a"]
