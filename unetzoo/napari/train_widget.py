"""*Train*: trains a network on an image layer and a Labels layer, or on a folder."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from unetzoo.errors import InputError, UnetzooError
from unetzoo.napari import choosing, parts, training
from unetzoo.napari.layers import planes_of
from unetzoo.napari.segment_widget import which_box

NETWORKS = ("resunet18", "unet", "unetpp_resnet18", "unet3p_lite_resnet50")
"""Networks of the zoo in the list; any other name can be typed."""
STEPS = 300
_CURVES = "curves.png"


class Train(QWidget):
    """The widget.

    Args:
        napari_viewer: the viewer.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.image = parts.LayerChoice(napari_viewer)
        self.labels = parts.labels_choice(napari_viewer)
        self.which = which_box()
        self.which.setCurrentIndex(self.which.findData("all"))
        self.data, self.out = _Folder("or a folder of images and masks"), _Folder("new folder for the run")
        self.out.line.setText(str(_free_folder()))
        self.task = QComboBox()
        for key, title in training.TASKS.items():
            self.task.addItem(title, key)
        self.model = parts.ModelChoice([*choosing.offered(), *NETWORKS])
        self.steps = QSpinBox()
        self.steps.setRange(1, 1_000_000)
        self.steps.setValue(STEPS)
        self.work = parts.Work("Train", self._halt, "Stop")
        self.work.button.clicked.connect(lambda: self.start())
        self.resume, self.use = QPushButton("Resume"), QPushButton("Use it in Segment")
        self.resume.clicked.connect(lambda: self.start(resume=True))
        self.use.clicked.connect(lambda: self.use_it())
        self.use.setEnabled(False)
        self.note, self.curve = QLabel("nothing has been trained yet"), QLabel()
        self.note.setWordWrap(True)
        self.curve.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._training: training.Training | None = None
        self._stopped = False
        begun: list[training.Training] = []
        self._begun_trainings = begun
        self.destroyed.connect(lambda: training.stop_all(begun))
        self._lay_out()

    def showEvent(self, event: Any) -> None:  # noqa: N802  Qt's name
        """Watch the window from now on: training stops when it is closed, and can be resumed."""
        self.window().installEventFilter(self)
        super().showEvent(event)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802  Qt's name
        """Stop training when the window is closed, because napari then waits for it."""
        if event.type() == QEvent.Type.Close and watched is self.window():
            self._halt()
        return False

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.addRow("image", self.image)
        form.addRow("labels", self.labels)
        form.addRow("of a stack", self.which)
        form.addRow("labels are", self.task)
        form.addRow("folder", self.data)
        form.addRow("begin with", self.model)
        form.addRow("steps in all", self.steps)
        form.addRow("run", self.out)
        form.addRow(self.work)
        row = QHBoxLayout()
        row.addWidget(self.resume)
        row.addWidget(self.use)
        column = QVBoxLayout(self)
        column.addLayout(form)
        column.addLayout(row)
        column.addWidget(self.note)
        column.addWidget(self.curve, 1)

    def start(self, resume: bool = False) -> None:
        """Start training, or resume the run in the folder."""
        out, steps = self.out.text, self.steps.value()
        try:
            write = None if resume or self.data.text else self._writer(out)
        except InputError as error:
            parts.say(error)
            return
        model, folder = self.model.text, self.data.text or f"{out}-data"
        task = None if self.data.text else str(self.task.currentData())
        self._stopped, begun = False, self._begun_trainings

        def work() -> Generator[Any, None, bool]:
            classes = None if write is None else write(Path(folder))
            plan = training.Plan(model, folder, out, steps, task, classes, resume)
            if self._stopped:
                return False
            self._training = training.Training(plan)
            begun.append(self._training)
            try:
                return (yield from self._training.epochs())
            finally:
                if write is not None:
                    training.clear(Path(folder), Path(out))

        self.note.setText("starting: the data are checked; loading Lightning takes a few seconds…")
        self._begun = time.monotonic()
        self.work.run(work, self._done, self._epoch)

    def _writer(self, out: str) -> Any:
        """Return a function that writes the chosen layers.

        Raises:
            InputError: none are chosen, or the folder of the run is not given.
        """
        if self.image.layer is None or self.labels.layer is None:
            raise InputError("choose an image layer and a Labels layer, or a folder of images and masks")
        if not out:
            raise InputError("choose a folder for the run")
        which, image = self.which.currentData(), self.image.layer
        planes = planes_of(image, "channels" if which == "channels" else "all")
        labels, task = self.labels.layer.data, str(self.task.currentData())
        labels = labels[0] if self.labels.layer.multiscale else labels
        return lambda folder: training.write_layers(planes, labels, task, folder)

    def _epoch(self, record: dict[str, Any]) -> None:
        said = [f"{name} {record[name]:.4f}" for name in ("loss", "val_loss", "dice") if record.get(name) is not None]
        self.note.setText(f"epoch {record['epoch']}: {', '.join(said)}; {time.monotonic() - self._begun:.0f} s")
        self._draw()

    def _done(self, whole: bool) -> None:
        rows = training.rows_of(self.out.text)
        judged = [float(row["dice"]) for row in rows if row.get("dice") is not None]
        best = f", best validation Dice {max(judged):.3f}" if judged else ""
        self.note.setText(f"{'finished' if whole else 'stopped; press Resume to continue'}: {len(rows)} epochs{best}")
        self.use.setEnabled((Path(self.out.text) / "best.safetensors").is_file())
        if self.out.text not in parts.RUNS:
            parts.RUNS.append(self.out.text)
        self._draw()

    def _draw(self) -> None:
        """Show the curves of the run, which it redraws after each epoch."""
        image = QPixmap(str(Path(self.out.text) / _CURVES))
        if not image.isNull():
            smooth = Qt.TransformationMode.SmoothTransformation
            self.curve.setPixmap(image.scaledToWidth(max(self.width() - 24, 200), smooth))

    def _halt(self) -> None:
        self._stopped = True
        if self._training is not None:
            self._training.stop()
        if self.work.is_running:
            self.note.setText("stopping after this step…")

    def use_it(self) -> Any:
        """Open Segment with the trained model, and return that widget."""
        try:
            _, widget = self.viewer.window.add_plugin_dock_widget("unetzoo", "Segment")
        except UnetzooError as error:
            parts.say(error)
            return None
        widget.model.choose(self.out.text)
        return widget


class _Folder(QWidget):
    """A field for a folder, which can be typed or browsed for."""

    def __init__(self, hint: str) -> None:
        super().__init__()
        self.line, button = QLineEdit(), QToolButton()
        self.line.setPlaceholderText(hint)
        button.setText("…")
        button.clicked.connect(lambda: self._browse())
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.line, 1)
        row.addWidget(button)

    @property
    def text(self) -> str:
        return str(self.line.text()).strip()

    def _browse(self) -> None:
        path = QFileDialog.getExistingDirectory(self, self.line.placeholderText())
        if path:
            self.line.setText(path)


def _free_folder() -> Path:
    """Return a folder for a run that does not exist yet."""
    home, k = Path.home() / "unetzoo-runs", 1
    while (home / f"run-{k}").exists() or (home / f"run-{k}-data").exists():
        k += 1
    return home / f"run-{k}"
