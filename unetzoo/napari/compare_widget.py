"""*Compare*: applies two models to one image layer and shows the results side by side, with a table of agreement."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

from qtpy.QtWidgets import QCheckBox, QFormLayout, QLabel, QVBoxLayout, QWidget

from unetzoo.errors import InputError
from unetzoo.napari import choosing, segmenting
from unetzoo.napari.agreement import agreement
from unetzoo.napari.parts import LayerChoice, ModelChoice, Table, Work, folder_name, say, warn
from unetzoo.napari.segment_widget import chosen_planes, which_box

COLUMNS = ("class", "Dice", "objects of 1", "objects of 2", "matched")


class Compare(QWidget):
    """The widget.

    Args:
        napari_viewer: the viewer.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.models = ModelChoice(), ModelChoice()
        self.models[1].choose(choosing.offered()[-1])
        self.image, self.which = LayerChoice(napari_viewer), which_box()
        self.stretch = QCheckBox("stretch by the contrast limits")
        self.grid = QCheckBox("side by side")
        self.grid.setChecked(True)
        self.grid.toggled.connect(self._gridded)
        self.work = Work("Compare", lambda: self._stop.set())
        self.work.button.clicked.connect(lambda: self.start())
        self.note, self.table = QLabel("at a threshold of 0.5"), Table(COLUMNS)
        self.note.setWordWrap(True)
        self._stop = threading.Event()
        form = QFormLayout()
        form.addRow("model 1", self.models[0])
        form.addRow("model 2", self.models[1])
        form.addRow("image", self.image)
        form.addRow("of a stack", self.which)
        form.addRow("", self.stretch)
        form.addRow("", self.grid)
        form.addRow(self.work)
        column = QVBoxLayout(self)
        column.addLayout(form)
        column.addWidget(self.note)
        column.addWidget(self.table, 1)

    def start(self) -> None:
        """Segment the chosen layer with both models."""
        try:
            planes, where = chosen_planes(self.viewer, self.image, self.which, self.stretch.isChecked())
        except InputError as error:
            say(error)
            return
        names, self._stop = [model.text for model in self.models], threading.Event()

        def steps() -> Generator[Any, None, Any]:
            both = []
            for k, name in enumerate(names):
                parts = segmenting.segment(choosing.predictor_of(name), planes, self._stop)
                while True:
                    try:
                        done, of = next(parts)
                    except StopIteration as ended:
                        both.append(ended.value)
                        break
                    yield k * of + done, 2 * of
                if both[-1] is None:
                    return None
            return both, [segmenting.labelled(one, apart=True) for one in both], agreement(*both)

        def done(found: Any) -> None:
            if found is None:
                self.note.setText("cancelled")
                return
            for k, (name, shown) in enumerate(zip(names, found[1], strict=True), 1):
                for kind, labels in shown.labels.items():
                    title = f"{k}: {folder_name(name)} {kind}".strip()
                    self.viewer.add_labels(labels, name=title, **where)
            self.table.fill([(row.name, round(row.dice, 4), row.first, row.second, row.matched) for row in found[2]])
            self.note.setText(f'{planes.name}: "matched" counts pairs of objects with an IoU above 0.5')
            for warning in dict.fromkeys(warning for one in found[0] for warning in one.warnings):
                warn(warning)
            self._gridded()

        self.note.setText(f"{names[0]} and {names[1]} on {planes.name}…")
        self.work.run(steps, done)

    def _gridded(self) -> None:
        self.viewer.canvas.grid.enabled = self.grid.isChecked()
