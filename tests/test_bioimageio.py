"""Packages of BioImage.IO in their own consumer: bioimageio.core tests them, and predicts with them.

It needs ``pip install "unetzoo[bioimageio]"``, which is no part of ``dev``.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_packages import ABOUT, build, rewritten

import unetzoo
from unetzoo import ConfigError, UnetzooError
from unetzoo.exporting import About, comparing, export, package, request, writing

core = pytest.importorskip("bioimageio.core", reason="bioimageio.core is not installed: the extra bioimageio")
pytestmark = pytest.mark.filterwarnings("ignore")  # its own, and those of what it needs


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "TIMED", 65)


def image_of(channels: int, dtype: type, height: int, width: int) -> np.ndarray[Any, Any]:
    """Return an image (H, W, C) that is darker at one end: tiles of it have other means than the whole."""
    values = np.random.default_rng(0).random((height, width, channels)) * np.linspace(0.1, 1, width)[:, None]
    return (values * np.iinfo(dtype).max).astype(dtype)


def predicted(path: Path, image: np.ndarray[Any, Any], **how: Any) -> torch.Tensor:
    tensor = core.Tensor.from_numpy(
        image.astype(np.float32).transpose(2, 0, 1)[None], dims=["batch", "channel", "y", "x"]
    )
    sample = core.predict(model=path, inputs={"image": tensor}, **how)
    (found,) = sample.members.values()
    return torch.from_numpy(np.array(found.data))[0]


def test_a_package_passes_and_its_blocks_are_the_predictors(tmp_path: Path) -> None:
    """Normalised each by itself: blocks by the statistics of the whole image, as a predictor's tiles are."""
    model = build(in_channels=2, normalisation="image", num_classes=3, task="multiclass")
    path = tmp_path / "model.zip"
    report = export(model, path, about=ABOUT, inputs="uint16")
    assert max(check.difference for check in report.checks) < 1e-5
    assert core.test_model(path, devices=["cpu"]).status == "passed"
    halo = core.load_model(path).outputs[0].axes[2].halo
    image = image_of(2, np.uint16, 2 * halo + 150, 2 * halo + 97)
    found = predicted(path, image, blocksize_parameter=3)
    expected = unetzoo.Predictor(model, tile=None)(image).probabilities
    assert found.shape == expected.shape
    # Beyond the image's ends the two differ: core mirrors a halo there, which a predictor leaves to the convolutions.
    inside = (slice(None), slice(halo, -halo), slice(halo, -halo))
    torch.testing.assert_close(found[inside], expected[inside], rtol=0, atol=5e-5)  # core's statistics are float32


@pytest.mark.slow
@pytest.mark.parametrize("outputs", ["probabilities", "mask", "logits"])
def test_the_trained_nuclei(outputs: str, tmp_path: Path) -> None:
    path = tmp_path / "nuclei.zip"
    if outputs == "mask":
        with pytest.raises(unetzoo.ConfigError, match="no place for the edges"):
            export("nuclei", path, about=ABOUT, outputs=outputs)
        return
    export("nuclei", path, about=ABOUT, outputs=outputs)
    image = unetzoo.drawing.draw_nuclei(320, 340)[0].permute(1, 2, 0).expand(-1, -1, 3).numpy()
    found = predicted(path, image, blocksize_parameter=2)
    found = found.sigmoid() if outputs == "logits" else found
    expected = unetzoo.Predictor(path, tile=None)(image)
    inside = (slice(96, -96), slice(96, -96))
    torch.testing.assert_close(found[0][inside], expected.probabilities[0][inside], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1][inside], expected.edges[inside], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "unet_valid", "resunet18"])
def test_masks_of_other_networks(name: str, tmp_path: Path) -> None:
    small = {"unet": {"base_channels": 4, "in_channels": 1}, "unet_valid": {"base_channels": 2}, "resunet18": {}}[name]
    torch.manual_seed(2)
    model = unetzoo.create(name, num_classes=2, task="multilabel", **small)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))  # so that each finds something
    export(model, tmp_path / "model.zip", about=ABOUT, outputs="mask")
    image = image_of(model.config.in_channels, np.uint8, 301, 333)
    found = predicted(tmp_path / "model.zip", image)
    expected = torch.as_tensor(unetzoo.Predictor(model, tile=None)(image).mask) > 0
    assert found.shape == expected.shape
    if name != "resunet18":  # which looks farther than its halo
        inside = (slice(None), slice(96, -96), slice(96, -96))
        assert float((found[inside] > 0).eq(expected[inside]).double().mean()) > 0.999


@pytest.mark.slow
def test_a_package_that_fails_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(b"older")
    honest = package.package

    def wrong(*arguments: Any) -> bytes:
        inside = tmp_path / "inside"
        inside.mkdir()
        (inside / "x.zip").write_bytes(honest(*arguments))
        with zipfile.ZipFile(inside / "x.zip") as archive:
            output = np.load(io.BytesIO(archive.read("test_output.npy")))
        changed = io.BytesIO()
        np.save(changed, 1 - output)
        content = rewritten(inside / "x.zip", test_output_npy=changed.getvalue()).read_bytes()
        (inside / "x.zip").unlink()
        inside.rmdir()
        return content

    monkeypatch.setattr(writing, "package", wrong)
    with pytest.raises(UnetzooError, match=r"the package does not pass bioimageio\.core's test"):
        export(build(), path, about=ABOUT)
    assert path.read_bytes() == b"older"
    assert [each.name for each in tmp_path.iterdir()] == ["model.zip"]


def test_it_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(request.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(unetzoo.ConfigError, match=r"unetzoo\[bioimageio\]"):
        export(build(), tmp_path / "model.zip", about=ABOUT)


def test_a_licence_that_a_package_may_not_have_is_told_before_any_work(tmp_path: Path) -> None:
    about = About(authors=["Ada Lovelace"], license="CC-BY-4")
    with pytest.raises(ConfigError, match=r"license='CC-BY-4' is not in SPDX's list.*did you mean 'CC-BY-4\.0'"):
        export(build(), tmp_path / "cells.zip", about=about)
