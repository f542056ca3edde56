"""ONNX files for QGIS's plugin Deepness, read as it reads them, against the model on the same pixels.

The plugin's own code, in QGIS 3.22.16, gave the masks that the class below gives: docs/export.md says how it was run.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image, ImageFilter

import unetzoo
from unetzoo import ConfigError, cli, export

SIDE = 48
MEAN, STD = (0.4, 0.5, 0.3), (0.2, 0.25, 0.3)
PIXELS = {"uint8": (np.uint8, 255), "uint16": (np.uint16, 65535), "float32": (np.float32, 1)}


def build(**options: Any) -> unetzoo.SegmentationModel:
    torch.manual_seed(0)
    return unetzoo.create("unetpp", base_channels=4, levels=1, **options).eval()


def raster(pixels: str, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Return (height, width, 3) pixels with smooth and sharp parts, and channels of different brightness."""
    y, x = np.mgrid[:height, :width] / SIDE
    waves = np.stack([np.sin(7 * x + 3 * y) + (x > 0.5), np.cos(9 * y), np.sin(5 * x * y)], axis=2)
    kind, largest = PIXELS[pixels]
    return ((waves - waves.min()) / (np.ptp(waves)) * [0.5, 0.9, 0.7] * largest).astype(kind)


class Deepness:
    """What the plugin does with a file and a tile (H, W, channels), where its user asks for the file's parameters."""

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.facts = {
            key: json.loads(text)
            for key, text in self.session.get_modelmeta().custom_metadata_map.items()
            if key in KEYS
        }
        (taken,) = self.session.get_inputs()
        assert all(type(side) is int for side in taken.shape)
        self.name, self.shape = taken.name, taken.shape

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        values = np.float32(tile[None, ..., : self.shape[1]] * 1.0 / 255.0)
        mean, std = (np.array(self.facts[f"standardization_{part}"], np.float32) for part in ("mean", "std"))
        (found,) = self.session.run(None, {self.name: ((values - mean) / std).transpose(0, 3, 1, 2)})
        # Fields of the panel keep two decimals; what a file does not say stays as it is there at the start.
        found[found < np.float32(round(self.facts["seg_thresh"], 2))] = 0
        mask = found[0, 0] != 0 if found.shape[1] == 1 else found[0].argmax(axis=0)
        side = self.facts.get("seg_small_segment", 9) // 2 * 2 + 1
        return np.asarray(Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MedianFilter(side))).astype(int)


KEYS = {
    *("model_type", "class_names", "resolution", "tile_size", "tiles_overlap", "seg_thresh", "seg_small_segment"),
    *("standardization_mean", "standardization_std"),
}


def expected(model: unetzoo.SegmentationModel, values: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Return the mask of normalised values (H, W, channels), straight from the network."""
    with torch.no_grad():
        logits = model(torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None])[0]
    if model.config.task == "multiclass":
        return logits.argmax(dim=0).numpy()
    return (logits[0].sigmoid() >= threshold).int().numpy()


def assert_alike(found: np.ndarray, wanted: np.ndarray) -> None:
    """Rounding moves a pixel whose probability lies at the threshold; the mask is neither empty nor full."""
    assert 0.02 < (wanted != 0).mean() < 0.98
    assert (found != wanted).mean() < 2e-3


@pytest.mark.parametrize(("task", "pixels"), [("binary", "uint8"), ("multiclass", "uint16"), ("binary", "float32")])
def test_the_plugin_s_masks_are_the_model_s(task: str, pixels: str, tmp_path: Path) -> None:
    model = build(task=task, num_classes=1 if task == "binary" else 3, mean=MEAN, std=STD)
    export(model, tmp_path / "x.onnx", consumer="qgis", resolution=10, size=(SIDE, SIDE), inputs=pixels)
    tile, largest = raster(pixels), PIXELS[pixels][1]
    found = Deepness(tmp_path / "x.onnx")(tile)
    assert_alike(found, expected(model, (tile / largest - MEAN) / STD))


def test_words_of_the_command_line_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said, unsaid in (
        ([], "--resolution: give the centimetres that a pixel of the training images covers", "None"),
        (["--resolution", "10", "--precision", "int9"], "only float32", "did you mean"),
        (["--resolution", "10", "--precision", "int8"], "only float32", "--images"),
        (["--resolution", "10m"], "--resolution 10m: a number of centimetres is needed, without a unit", "invalid"),
    ):
        with contextlib.suppress(SystemExit):
            assert cli.main(["export", "vessels", "vessels.onnx", "--for", "qgis", *words]) == 2
        printed = capsys.readouterr().err
        assert said in printed
        assert unsaid not in printed
    assert cli.main(["export", "vessels", "vessels.onnx", "--for", "arcgis"]) == 2
    assert "--for arcgis: 'qgis' is needed; did you mean" in capsys.readouterr().err


def test_a_raster_s_own_mean_and_deviation_are_kept(tmp_path: Path) -> None:
    """Those of all of it, though the plugin shows tiles."""
    model, whole = build(normalisation="image"), raster("uint8", 70, 110)
    Image.fromarray(whole).save(tmp_path / "raster.png")
    place = tmp_path / "x.onnx"
    export(model, place, consumer="qgis", resolution=10, size=(SIDE, SIDE), images=tmp_path / "raster.png")
    mean, std = whole.mean(axis=(0, 1)), whole.std(axis=(0, 1))
    plugin, tile = Deepness(place), whole[20 : 20 + SIDE, 60 : 60 + SIDE]
    np.testing.assert_allclose(plugin.facts["standardization_mean"], mean / 255, rtol=1e-5)
    np.testing.assert_allclose(plugin.facts["standardization_std"], std / 255, rtol=1e-5)
    assert_alike(plugin(tile), expected(model, (tile - mean) / std))


def test_what_the_plugin_reads(tmp_path: Path) -> None:
    """By the command line; half the sides are twice the centimetres, and one class has a background."""
    unetzoo.save(build(class_names=("röad",), resize=0.5), tmp_path / "m.safetensors")
    place = str(tmp_path / "x.onnx")
    cli.main(
        ["export", str(tmp_path / "m.safetensors"), place, "--for", "qgis", "--resolution", "12.5", "--size", "48"]
    )
    facts = Deepness(tmp_path / "x.onnx").facts
    assert facts.pop("standardization_mean") == [0, 0, 0]
    assert facts.pop("standardization_std") == [1, 1, 1]
    assert facts == {
        "model_type": "Segmentor",
        "class_names": {"0": "background", "1": "röad"},
        "resolution": 25,
        "tile_size": 48,
        "tiles_overlap": 25,
        "seg_thresh": 0.5,
        "seg_small_segment": 0,
    }
    file = onnx.load(place)
    assert file.ir_version <= 9  # what onnxruntime 1.17 reads
    assert [(part.domain, part.version) for part in file.opset_import] == [("", 18)]
    assert [side.dim_value for side in file.graph.output[0].type.tensor_type.shape.dim] == [1, 1, 48, 48]


def test_classes_are_numbered_and_the_likeliest_is_meant(tmp_path: Path) -> None:
    export(build(task="multiclass", num_classes=3), tmp_path / "x.onnx", consumer="qgis", resolution=10, size=(48, 48))
    facts = Deepness(tmp_path / "x.onnx").facts
    assert facts["class_names"] == {"0": "class 0", "1": "class 1", "2": "class 2"}
    assert facts["seg_thresh"] == 0


def test_a_predictor_s_threshold_is_the_file_s(tmp_path: Path) -> None:
    model, tile = build(), raster("uint8")
    probabilities = model.predict(torch.from_numpy(tile / 255).float().permute(2, 0, 1)[None])
    threshold = round(float(probabilities.median()), 2)
    predictor = unetzoo.Predictor(model, threshold=threshold + 0.004)
    export(predictor, tmp_path / "x.onnx", consumer="qgis", resolution=10.001, size=(48, 48))
    plugin = Deepness(tmp_path / "x.onnx")
    assert plugin.facts["seg_thresh"] == threshold != 0.5  # of two decimals, as fields of the panel have
    assert plugin.facts["resolution"] == 10
    assert_alike(plugin(tile), expected(model, tile / 255, threshold))


@pytest.mark.parametrize(
    ("options", "given", "cause"),
    [
        ({}, {"resolution": None}, "resolution"),
        ({}, {"resolution": -1}, "resolution"),
        ({}, {"resolution": 0.004}, "two decimals"),
        ({}, {"threshold": 0.004}, "all pixels or none"),
        ({}, {"threshold": 0.996}, "all pixels or none"),
        ({"task": "instances"}, {}, "without edges"),
        ({}, {"size": (48, 64)}, "squares"),
        ({}, {"outputs": "mask"}, "probabilities"),
        ({}, {"precision": "int8"}, "only float32"),
        ({}, {"inputs": "normalised"}, "uint8"),
        ({}, {"path": "x.pt2"}, r"\.onnx"),
        ({"task": "multilabel", "num_classes": 2}, {}, "one class at each pixel"),
        ({"normalisation": "image"}, {}, "one raster"),
        ({"name": "unet_valid"}, {"size": (188, 188)}, "border"),
        ({}, {"consumer": "arcgis"}, "qgis"),
        ({}, {"consumer": None}, "goes with"),
    ],
)
def test_what_it_cannot_take_is_refused(
    options: dict[str, Any], given: dict[str, Any], cause: str, tmp_path: Path
) -> None:
    options = dict(options)
    model = unetzoo.create(options.pop("name", "unet"), base_channels=2, **options)
    given = {"consumer": "qgis", "resolution": 10, "size": (48, 48), **given}
    if "threshold" in given:
        model = unetzoo.Predictor(model, threshold=given.pop("threshold"))
    with pytest.raises(ConfigError, match=cause):
        export(model, tmp_path / given.pop("path", "x.onnx"), **given)
    assert not list(tmp_path.iterdir())
