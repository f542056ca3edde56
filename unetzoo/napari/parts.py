"""Shared parts of the widgets: choices of a model and of a layer, a table, and work in a thread."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from napari.layers import Image, Labels
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QMenu,
    QProgressBar,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QToolButton,
    QWidget,
)

from unetzoo.errors import UnetzooError
from unetzoo.napari import choosing, early

early.import_torchvision()

RUNS: list[str] = []
"""Folders of the runs trained in this session: each choice of a model offers them."""


def say(error: BaseException) -> None:
    """Show an error in a notification, in one line; unexpected errors are left to napari.

    Raises:
        BaseException: ``error`` itself, if it is a bug in the plugin.
    """
    if not isinstance(error, UnetzooError | OSError):
        raise error
    show_error(" ".join(str(error).split()))


def tell(text: str) -> None:
    """Show a notification."""
    show_info(text)


def warn(text: str) -> None:
    """Show a warning in a notification."""
    show_warning(text)


class ModelChoice(QWidget):
    """A choice of a model: from a list, or a file, a folder or a repository of the Hub, typed or browsed for.

    Args:
        names: the names in the list.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.box = QComboBox()
        self.box.setEditable(True)
        self.box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.box.setMinimumContentsLength(12)
        self.box.addItems([*(names or choosing.offered()), *RUNS])
        self.box.setToolTip("a name, a .safetensors file, the folder of a run, or owner/name on the Hugging Face Hub")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.box, 1)
        button, menu = QToolButton(), QMenu(self)
        button.setText("…")
        menu.addAction("A file…", self._browse_file)
        menu.addAction("A run's folder…", self._browse_folder)
        button.setMenu(menu)
        button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        row.addWidget(button)

    @property
    def text(self) -> str:
        """The chosen model."""
        return str(self.box.currentText()).strip()

    def choose(self, text: str) -> None:
        """Choose a model, and offer it from now on."""
        if self.box.findText(text) < 0:
            self.box.addItem(text)
        self.box.setCurrentText(text)

    def _browse_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "A model", "", "Models (*.safetensors *.pt *.pth *.ckpt)")
        if path:
            self.choose(path)

    def _browse_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "The folder of a run")
        if path:
            self.choose(path)


class LayerChoice(QComboBox):
    """A choice of a layer: its list follows the viewer's, and the layer selected there becomes the choice.

    Args:
        viewer: of napari.
        kind: ``Image`` or ``Labels``.
    """

    def __init__(self, viewer: Any, kind: Any = Image) -> None:
        super().__init__()
        self.viewer, self.kind = viewer, kind
        self._layers: list[Any] = []
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed, viewer.layers.events.reordered):
            event.connect(self._listed)
        viewer.layers.selection.events.active.connect(self._followed)
        self._listed()
        self._followed()

    @property
    def layer(self) -> Any:
        """The chosen layer, or None."""
        return self._layers[self.currentIndex()] if 0 <= self.currentIndex() < len(self._layers) else None

    def choose(self, layer: Any) -> None:
        """Choose a layer."""
        wanted = bare(layer)
        self.setCurrentIndex(next((k for k, one in enumerate(self._layers) if one is wanted), -1))

    def _listed(self, event: Any = None) -> None:
        before = self.layer
        self._layers = [bare(layer) for layer in self.viewer.layers if isinstance(layer, self.kind)]
        self.clear()
        self.addItems([layer.name for layer in self._layers])
        if any(layer is before for layer in self._layers):
            self.choose(before)

    def _followed(self, event: Any = None) -> None:
        active = bare(self.viewer.layers.selection.active)
        if any(layer is active for layer in self._layers):
            self.choose(active)


def bare(layer: Any) -> Any:
    """Return the layer itself, which napari gives to plugins in a new wrapper on each access."""
    return getattr(layer, "__wrapped__", layer)


def labels_choice(viewer: Any) -> LayerChoice:
    """Return a choice of a Labels layer."""
    return LayerChoice(viewer, Labels)


class Table(QTableWidget):
    """A table that sorts numbers as numbers.

    Args:
        columns: their names.
    """

    picked = Signal(int)
    """The index of the clicked row, in the order given to ``fill``."""

    def __init__(self, columns: Sequence[str]) -> None:
        super().__init__(0, len(columns))
        self.setHorizontalHeaderLabels([*columns])
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.verticalHeader().setVisible(False)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.setMinimumHeight(120)
        self.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        self.cellClicked.connect(self._clicked)

    def fill(self, rows: Sequence[Sequence[Any]]) -> None:
        """Show these rows, and no others."""
        self.setSortingEnabled(False)
        self.setRowCount(len(rows))
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                item = QTableWidgetItem()
                item.setData(Qt.ItemDataRole.DisplayRole, value)
                item.setData(Qt.ItemDataRole.UserRole, i)
                self.setItem(i, j, item)
        self.setSortingEnabled(True)

    def _clicked(self, row: int, column: int) -> None:
        self.picked.emit(self.item(row, column).data(Qt.ItemDataRole.UserRole))


class Work(QWidget):
    """A button that starts work in a thread, one that cancels it, and a bar.

    Args:
        title: of the first button.
        cancel: is called when the user cancels.
        stop: title of the second button.
    """

    def __init__(self, title: str, cancel: Callable[[], object], stop: str = "Cancel") -> None:
        super().__init__()
        self.button, self.cancel, self.bar = QPushButton(title), QPushButton(stop), QProgressBar()
        self.cancel.clicked.connect(lambda: cancel())
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        for part in (self.button, self.cancel):
            row.addWidget(part)
        row.addWidget(self.bar, 1)
        self._worker: Any = None
        self._busy(False)

    @property
    def is_running(self) -> bool:
        """Whether work is running."""
        return self._worker is not None

    def run(
        self,
        steps: Callable[[], Generator[Any, None, Any]],
        done: Callable[[Any], object],
        tick: Callable[[Any], object] | None = None,
    ) -> None:
        """Do work in a thread; errors are shown in a notification.

        Args:
            steps: yields progress, (done, of how many) or whatever ``tick`` takes, and returns the result.
            done: takes the result, in the thread of the window.
            tick: takes the progress; None: the bar shows it.
        """
        self._busy(True)
        self._worker = create_worker(steps, _ignore_errors=True)
        self._worker.yielded.connect(tick or self._move)
        self._worker.returned.connect(done)
        self._worker.errored.connect(say)
        self._worker.finished.connect(self._ended)
        self._worker.start()

    def _move(self, progress: tuple[int, int]) -> None:
        self.bar.setRange(0, progress[1])
        self.bar.setValue(progress[0])

    def _ended(self) -> None:
        self._worker = None
        self._busy(False)

    def _busy(self, on: bool) -> None:
        self.button.setEnabled(not on)
        self.cancel.setEnabled(on)
        self.bar.setRange(0, 0 if on else 1)  # moves back and forth until there is something to count
        self.bar.setVisible(on)


def folder_name(path: str) -> str:
    """Return the name of a model for the name of a layer: a file's stem, or the name of a folder or a repository."""
    return Path(path).stem if Path(path).suffix else Path(path).name or path
