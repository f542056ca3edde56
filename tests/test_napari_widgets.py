"""The plugin in napari itself: its widgets are clicked as a person would, on layers of many kinds.

Needs ``unetzoo[napari]`` and a window system: ``xvfb-run pytest -n 0 tests/test_napari_widgets.py``.
"""

from __future__ import annotations

import contextlib
import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unetzoo
from unetzoo import drawing

pytest.importorskip("napari", reason="the plugin's extra, which is no part of dev")
if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    pytest.skip("napari draws in windows: xvfb-run pytest …", allow_module_level=True)
# napari and Qt warn of each other, and of what other plugins do.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def viewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import napari
    from npe2 import PluginManager, PluginManifest

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NAPARI_CONFIG", str(tmp_path / "settings.yaml"))
    plugins = PluginManager.instance()
    plugins.discover()
    if "unetzoo" not in [one.name for one in plugins.iter_manifests()]:  # it is run where it is not installed
        plugins.register(PluginManifest.from_file(Path(unetzoo.__file__).parent / "napari" / "napari.yaml"))
    found = napari.Viewer(show=True)
    found.window.resize(1280, 840)
    yield found
    with contextlib.suppress(RuntimeError):  # a test may have closed it
        found.close()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what notifications say."""
    from unetzoo.napari import parts

    heard: list[str] = []
    monkeypatch.setattr(parts, "show_error", heard.append)
    return heard


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what warnings in notifications say."""
    from unetzoo.napari import parts

    heard: list[str] = []
    monkeypatch.setattr(parts, "show_warning", heard.append)
    return heard


def opened(viewer: Any, name: str) -> Any:
    return viewer.window.add_plugin_dock_widget("unetzoo", name)[1]


def wait(until: Callable[[], bool], seconds: float = 60) -> None:
    from qtpy.QtTest import QTest

    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        QTest.qWait(20)


def click(button: Any) -> None:
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest

    QTest.mouseClick(button, Qt.MouseButton.LeftButton, pos=QPoint(9, button.height() // 2))  # where a box is ticked


def done(widget: Any) -> Any:
    wait(lambda: not widget.work.is_running, 240)
    return widget.viewer.layers[-1]


def cells(seed: int = 0, side: int = 128) -> np.ndarray:
    return drawing.draw_nuclei(side, side, seed)[0][0].numpy()


def shot(viewer: Any, name: str) -> None:
    """Keep a picture of the window where somebody wants to look: ``UNETZOO_SHOTS`` names a folder."""
    if folder := os.environ.get("UNETZOO_SHOTS"):
        from qtpy.QtTest import QTest

        QTest.qWait(400)
        viewer.screenshot(str(Path(folder) / f"{name}.png"), canvas_only=False, flash=False)


def test_the_manifest_is_valid() -> None:
    command = [sys.executable, "-m", "npe2", "validate", str(Path(unetzoo.__file__).parent / "napari" / "napari.yaml")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "valid" in ran.stdout


def test_nuclei_are_found_counted_and_followed(viewer: Any, tmp_path: Path) -> None:
    viewer.add_image(cells(side=256), name="cells", scale=(0.5, 0.25), translate=(3, 4))
    widget = opened(viewer, "Segment")
    click(widget.work.button)
    layer = done(widget)
    true = unetzoo.Predictor("nuclei")(cells(side=256)).instances()
    assert (layer.data == true.labels.numpy()).all()
    assert (layer.name, layer.scale.tolist(), layer.translate.tolist()) == ("cells nuclei", [0.5, 0.25], [3, 4])
    assert widget.table.rowCount() == len(true)
    assert widget.note.text() == f"{len(true)} objects"
    assert [widget.table.item(0, k).data(0) for k in (0, 3)] == [1, int(true.areas[0])]
    widget.table.cellClicked.emit(2, 0)
    assert layer.selected_label == 3
    x, y = true.centroids[2].tolist()
    assert np.allclose(viewer.scene.camera.center[-2:], (0.5 * (y - 0.5) + 3, 0.25 * (x - 0.5) + 4), atol=0.01)
    widget.save_to(str(tmp_path / "a.csv"))
    assert len([*csv.DictReader((tmp_path / "a.csv").read_text(encoding="utf-8").splitlines())]) == len(true)
    viewer.reset_view()
    shot(viewer, "segment")
    before = int((layer.data > 0).sum())
    widget.threshold.setValue(95)
    wait(lambda: int((layer.data > 0).sum()) < before)
    click(widget.apart)
    wait(lambda: int(layer.data.max()) == 1)
    assert (layer.data == (widget._seen.found[0].probabilities[0].numpy() > 0.95)).all()
    assert len(viewer.layers) == 2  # the slider moves the layer that is there


def test_stacks_series_levels_and_channels(viewer: Any, said: list[str], tmp_path: Path) -> None:
    stack = np.stack([cells(k) for k in range(3)])
    viewer.add_image(stack, name="stack", scale=(2, 1, 1), translate=(5, 0, 0))
    widget = opened(viewer, "Segment")
    viewer.dims.set_current_step(0, 2)
    click(widget.work.button)
    layer = done(widget)
    assert layer.data.shape == (1, 128, 128)
    assert layer.translate.tolist() == [9, 0, 0]
    expected = [unetzoo.Predictor("nuclei")(plane).instances() for plane in stack]
    assert (layer.data[0] == expected[2].labels.numpy()).all()
    widget.which.setCurrentIndex(1)
    viewer.layers.selection.active = viewer.layers["stack"]
    click(widget.work.button)
    layer = done(widget)
    assert layer.data.shape == stack.shape
    assert layer.data.max() == sum(map(len, expected)) == widget.table.rowCount()
    widget.table.cellClicked.emit(widget.table.rowCount() - 1, 0)
    assert viewer.dims.current_step[0] == 2

    viewer.layers.clear()
    series = np.stack([stack, stack])[..., None].repeat(3, axis=-1)  # (T, Z, Y, X, RGB)
    viewer.add_image(series, name="series", rgb=True)
    click(widget.work.button)
    assert done(widget).data.shape == (2, 3, 128, 128)
    viewer.layers.clear()
    wide = cells(0, 256).astype(np.float32) * 16
    viewer.add_image([wide, wide[::2, ::2]], name="pyramid", multiscale=True, contrast_limits=(0, 4080))
    click(widget.work.button)
    done(widget)
    assert len(viewer.layers) == 1
    assert "floating-point image" in said.pop()  # numbers that are not in 0…1
    click(widget.stretch)
    click(widget.work.button)
    assert (done(widget).data == unetzoo.Predictor("nuclei")(wide / 4080).instances().labels.numpy()).all()

    viewer.layers.clear()
    torch.manual_seed(0)
    unetzoo.save(unetzoo.create("unet", base_channels=4, in_channels=2), tmp_path / "two.safetensors")
    widget.model.choose(str(tmp_path / "two.safetensors"))
    widget.stretch.setChecked(False)
    channels = np.stack([cells(0), cells(1)]).astype(np.uint16) * 257
    viewer.add_image(channels, name="channels", scale=(1, 3, 3))
    click(widget.work.button)
    done(widget)
    assert "2" in said.pop()  # each slice has one channel, and the model wants two
    widget.which.setCurrentIndex(2)
    click(widget.work.button)
    layer = done(widget)
    assert (layer.data.shape, layer.scale.tolist(), layer.name) == ((128, 128), [3, 3], "channels two")


def test_what_cannot_be_done_is_said_in_one_line(viewer: Any, said: list[str]) -> None:
    widgets = [opened(viewer, name) for name in ("Segment", "Compare", "Train")]
    viewer.add_points(np.zeros((3, 2)), name="dots")
    viewer.add_labels(np.ones((16, 16), int), name="painted")
    for widget in widgets:
        click(widget.work.button)
        done(widget)
    assert [text.split(":")[0] for text in said[:2]] == ["no image layer is chosen"] * 2
    assert "choose an image layer and a Labels layer" in said[2]
    said.clear()
    viewer.add_image(np.zeros((64, 64), np.int64), name="long")
    for text, part in (("nuclei", "8, 16 or 32 bits"), ("resunet18", "weights are random"), ("nowhere.pt", "nowhere")):
        widgets[0].model.choose(text)
        click(widgets[0].work.button)
        done(widgets[0])
        assert part in said[-1]
        assert "\n" not in said[-1]
    assert widgets[0].work.button.isEnabled()


def test_what_a_prediction_warns_of_is_shown(viewer: Any, warned: list[str]) -> None:
    viewer.add_image(cells().astype(np.uint16) * 12, name="dim", contrast_limits=(0, 3060))
    widget = opened(viewer, "Segment")
    click(widget.work.button)
    done(widget)
    (said,) = warned
    assert said.startswith("dim is nearly black to this model")
    assert said in widget.note.text()
    widget.threshold.setValue(60)
    wait(lambda: widget._shown[0] is not widget._seen)
    assert said in widget.note.text()  # it stays
    assert len(warned) == 1  # and is not said again
    compared = opened(viewer, "Compare")
    click(compared.work.button)
    done(compared)
    assert len(warned) >= 2
    warned.clear()
    click(widget.stretch)  # which is what it proposes
    click(widget.work.button)
    done(widget)
    assert not warned
    assert "black" not in widget.note.text()
    assert widget.table.rowCount() == len(unetzoo.Predictor("nuclei", threshold=0.6)(cells()).instances())


def test_cancel_leaves_the_layers_as_they_are(viewer: Any) -> None:
    viewer.add_image(np.zeros((40, 256, 256), np.uint8), name="long")
    widget = opened(viewer, "Segment")
    widget.which.setCurrentIndex(1)
    click(widget.work.button)
    wait(lambda: widget.work.bar.value() >= 100)
    click(widget.work.cancel)
    done(widget)
    assert widget.note.text() == "cancelled"
    assert len(viewer.layers) == 1


def test_two_models_are_compared(viewer: Any) -> None:
    viewer.add_image(cells(side=256), name="cells")
    widget = opened(viewer, "Compare")
    click(widget.work.button)
    done(widget)
    assert [layer.name for layer in viewer.layers] == ["cells", "1: nuclei", "2: vessels"]
    assert viewer.canvas.grid.enabled
    mine, theirs = (unetzoo.Predictor(name)(cells(side=256)).mask.numpy() for name in ("nuclei", "vessels"))
    dice = 2 * (mine & theirs).sum() / (mine.sum() + theirs.sum())
    assert widget.table.item(0, 1).data(0) == pytest.approx(dice, abs=1e-4)
    shot(viewer, "compare")
    click(widget.grid)
    assert not viewer.canvas.grid.enabled


def test_layers_are_trained_on_stopped_gone_on_with_and_used(viewer: Any, said: list[str], tmp_path: Path) -> None:
    image, masks = drawing.draw_nuclei(128, 192)
    viewer.add_image(image[0].numpy(), name="cells")
    viewer.add_labels(np.asarray(unetzoo.objects.instances(masks, "binary", 1).labels), name="mine")
    widget, out = opened(viewer, "Train"), tmp_path / "run"
    assert str(tmp_path) in widget.out.text  # nothing of another run is written over
    widget.out.line.setText(str(out))
    widget.steps.setValue(200)
    click(widget.work.button)
    wait(lambda: widget.note.text().startswith("epoch") or bool(said), 240)
    assert not said
    click(widget.work.cancel)
    done(widget)
    assert widget.note.text().startswith("stopped; press Resume to continue")
    rows = len(unetzoo.Run(out).history)
    widget.steps.setValue(50)
    click(widget.resume)
    done(widget)
    assert not said, said
    assert len(unetzoo.Run(out).history) >= rows
    shot(viewer, "train")
    click(widget.use)
    segment = widget.use_it()
    assert segment.model.text == str(out)
    click(segment.work.button)
    layer = done(segment)
    assert layer.name == "cells run"
    assert (layer.data > 0).any()
    viewer.layers.remove(layer)
    widget.out.line.setText(str(out))
    click(widget.work.button)
    done(widget)
    assert "the folder is not empty" in said[-1] or "exists already" in said[-1]


def test_a_training_ends_with_the_window(viewer: Any, tmp_path: Path) -> None:
    from qtpy.QtTest import QTest

    image, masks = drawing.draw_nuclei(128, 192)
    viewer.add_image(image[0].numpy(), name="cells")
    viewer.add_labels(np.asarray(unetzoo.objects.instances(masks, "binary", 1).labels), name="mine")
    widget = opened(viewer, "Train")
    widget.out.line.setText(str(tmp_path / "run"))
    click(widget.work.button)
    wait(lambda: widget._training is not None)
    process = widget._training._process
    assert process.poll() is None
    viewer.window._qt_window.close()
    assert process.wait(60) != 0
    QTest.qWait(500)  # the thread that has read what it said ends, too
