"""*Segment*: applies a model to an image layer, with a slider for the threshold and a table of objects."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QLabel,
    QPushButton,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from unetzoo.errors import InputError
from unetzoo.napari import choosing, segmenting
from unetzoo.napari.layers import WHICH, Planes, placed, planes_of, shown_step
from unetzoo.napari.parts import LayerChoice, ModelChoice, Table, Work, bare, folder_name, say, tell, warn

_PAUSE = 40
"""Milliseconds between the last move of a slider and the update."""


class Segment(QWidget):
    """The widget.

    Args:
        napari_viewer: the viewer.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.model, self.image, self.which = ModelChoice(), LayerChoice(napari_viewer), which_box()
        self.stretch = QCheckBox("stretch by the contrast limits")
        self.stretch.setToolTip("for dim images, 12-bit data in 16-bit files, and values outside 0…1")
        self.work = Work("Segment", self._cancel)
        self.work.button.clicked.connect(lambda: self.start())
        self.threshold, self.value = QSlider(Qt.Orientation.Horizontal), QLabel("0.50")
        self.threshold.setRange(1, 99)
        self.threshold.setValue(50)
        self.smallest, self.apart = QSpinBox(), QCheckBox("objects, each with a number")
        self.smallest.setRange(0, 1_000_000)
        self.smallest.setSuffix(" pixels")
        self.note, self.table = QLabel("no image has been segmented yet"), Table(segmenting.COLUMNS)
        self.note.setWordWrap(True)
        self.save = QPushButton("Save the table (CSV)…")
        self.save.clicked.connect(lambda: self._save())
        self.table.picked.connect(self._show)
        self._stop = threading.Event()
        self._seen: segmenting.Segmented | None = None
        self._shown: tuple[segmenting.Segmented, segmenting.Labelled] | None = None
        self._layers: dict[str, Any] = {}
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._follow)
        self.threshold.valueChanged.connect(self._moved)
        self.smallest.valueChanged.connect(self._moved)
        self.apart.toggled.connect(self._moved)
        self._lay_out()

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.addRow("model", self.model)
        form.addRow("image", self.image)
        form.addRow("of a stack", self.which)
        form.addRow("", self.stretch)
        form.addRow(self.work)
        form.addRow("threshold", self.threshold)
        form.addRow("", self.value)
        form.addRow("leave out below", self.smallest)
        form.addRow("show", self.apart)
        column = QVBoxLayout(self)
        column.addLayout(form)
        column.addWidget(self.note)
        column.addWidget(self.table, 1)
        column.addWidget(self.save)

    def start(self) -> None:
        """Segment the chosen layer."""
        try:
            planes, where = chosen_planes(self.viewer, self.image, self.which, self.stretch.isChecked())
        except InputError as error:
            say(error)
            return
        model, self._stop = self.model.text, threading.Event()

        def steps() -> Generator[Any, None, Any]:
            found = yield from segmenting.segment(choosing.predictor_of(model), planes, self._stop)
            return found

        def done(seen: segmenting.Segmented | None) -> None:
            if seen is None:
                self.note.setText("cancelled")
                return
            self._seen, self._layers, self._where = seen, {}, where
            self._name = f"{planes.name} {folder_name(model)}"
            self.apart.blockSignals(True)
            self.apart.setChecked(seen.tells_objects_apart)
            self.apart.blockSignals(False)
            self.threshold.setEnabled(seen.has_threshold)
            self._follow()
            for warning in seen.warnings:
                warn(warning)

        self.note.setText(f"{model} on {planes.name}…")
        self.work.run(steps, done)

    def _cancel(self) -> None:
        self._stop.set()
        self.note.setText("stopping after this tile…")

    def _moved(self) -> None:
        self.value.setText(f"{self.threshold.value() / 100:.2f}")
        self._timer.start(_PAUSE)

    def _follow(self) -> None:
        """Show the masks that the threshold makes from the probabilities."""
        if self._seen is None:
            return
        try:
            seen = self._seen.at(self.threshold.value() / 100, self.smallest.value())
            shown = segmenting.labelled(seen, apart=self.apart.isChecked())
        except (ValueError, OSError) as error:
            say(error)
            return
        self._shown = seen, shown
        for name, labels in shown.labels.items():
            layer = self._layers.get(name)
            if layer is not None and any(bare(one) is layer for one in self.viewer.layers):
                layer.data = labels
            else:
                title = f"{self._name} {name}".strip()
                self._layers[name] = bare(self.viewer.add_labels(labels, name=title, **self._where))
        self.table.fill(shown.rows)
        # A notification disappears; warnings about the result stay visible here.
        self.note.setText("\n".join([_said(seen, shown), *seen.warnings]))

    def _show(self, row: int) -> None:
        """Go to the object of a row."""
        if self._shown is None:
            return
        label, where, kind, _, y, x = self._shown[1].rows[row]
        layer = self._layers.get(kind) or next(iter(self._layers.values()))
        index = [int(k) for k in where.split(",")] if where else []
        at = [0] * (layer.ndim - 2) if not self._shown[0].planes.is_whole else index
        layer.selected_label = label
        world = layer.data_to_world((*at, y, x))
        self.viewer.dims.set_point(range(len(world) - 2), world[:-2])
        self.viewer.scene.camera.center = tuple(world)[-2:]

    def _save(self) -> None:
        if self._shown is None:
            say(InputError("no image has been segmented yet"))
            return
        path, _ = QFileDialog.getSaveFileName(self, "Save the table of objects", "objects.csv", "CSV (*.csv)")
        if path:
            self.save_to(path if path.lower().endswith(".csv") else f"{path}.csv")

    def save_to(self, path: str) -> None:
        """Write the table of objects as CSV, and show a notification."""
        if self._shown is None:
            return
        try:
            count = segmenting.write_table(*self._shown, path)
        except (ValueError, OSError) as error:
            say(error)
            return
        tell(f"{count} objects saved to {path}")


def which_box() -> QComboBox:
    """Return a choice of which planes of a stack are segmented."""
    box = QComboBox()
    for key, title in WHICH.items():
        box.addItem(title, key)
    return box


def chosen_planes(viewer: Any, choice: LayerChoice, which: QComboBox, stretch: bool) -> tuple[Planes, dict[str, Any]]:
    """Return the planes of the chosen layer, and the placement of a layer of their labels.

    Raises:
        InputError: there is no image, or it has no such planes.
    """
    if choice.layer is None:
        raise InputError("no image layer is chosen: open an image first")
    step = shown_step(choice.layer, viewer.dims.point)
    planes = planes_of(choice.layer, which.currentData(), step, stretch=stretch)
    return planes, placed(planes, choice.layer)


def _said(seen: segmenting.Segmented, shown: segmenting.Labelled) -> str:
    count = len(seen.found)
    slices = "" if count == 1 else f" in {count} slices"
    if shown.objects:
        return f"{len(shown.rows):,} objects{slices}"
    shares = seen.found[0].shares() if count == 1 else {}
    return ", ".join(f"{name} {share:.1%}" for name, share in shares.items()) or f"classes{slices}"
