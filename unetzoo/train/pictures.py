"""Validation images next to their true masks and the masks that a network in training predicts, with scores."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from unetzoo import images, sheets
from unetzoo.checks import class_names_of
from unetzoo.data import IGNORED, SegmentationDataset
from unetzoo.files.writing import make_folder
from unetzoo.metrics import SegmentationMetrics
from unetzoo.model import SegmentationModel
from unetzoo.objects import instances, matched
from unetzoo.train.judging import figure_of_images
from unetzoo.train.object_metrics import found_objects
from unetzoo.train.recipe import Recipe
from unetzoo.train.validating import predicted_mask, probabilities

FOLDER = "predictions"
COUNT = 6
"""Number of images in a sheet."""
SIDE = 256
"""Largest side, in pixels, of the part shown from the middle of an image of a sheet."""


@dataclass(frozen=True)
class Shown:
    """An image with its true and its predicted mask.

    Attributes:
        name: of the image.
        tiles: (3, H, W) uint8 each: the image, the true mask, the predicted mask.
        dice: of the part shown, the mean over the classes in the true or the predicted mask; None if there are none.
        judge: name and value of another score by which the run is judged; None if there is none.
    """

    name: str
    tiles: tuple[Tensor, ...]
    dice: float | None
    judge: tuple[str, float | None] | None = None

    @property
    def title(self) -> str:
        """The title above it."""
        if self.dice is None:
            return f"{self.name}   both masks are empty"
        scores = {"dice": self.dice} | ({} if self.judge is None else dict([self.judge]))
        return "   ".join([self.name, *(f"{name} {'–' if x is None else f'{x:.3f}'}" for name, x in scores.items())])


def shown(
    network: SegmentationModel, dataset: SegmentationDataset, i: int, side: int, monitor: str | None = None
) -> Shown:
    """Return an image of a validation set with its masks; for instances, neighbouring objects differ in colour.

    Args:
        network: predicts.
        dataset: of validation images, normalised for the network.
        i: the number of the image.
        side: largest side, in pixels, of the part shown from the middle of the image.
        monitor: the figure by which the run is judged, shown next to Dice, except the user's own functions.
    """
    item = dataset[i]
    top, left = (max(0, (length - side) // 2) for length in item["image"].shape[-2:])
    window = (..., slice(top, top + side), slice(left, left + side))
    config, image, target = network.config, item["image"][window], item["target"][window]
    said = probabilities(network, image)
    mask = predicted_mask(said, config)
    figure, labels = figure_of_images(monitor, objects=config.task == "instances"), dataset.labels
    metrics = SegmentationMetrics(
        config.pixel_task,
        config.num_classes,
        class_names=class_names_of(labels.class_names, config.task, config.num_classes),
        boundary_tolerance=2.0 if figure.startswith("boundary_f") else None,
    )
    (row,) = metrics.update_masks(mask[None].long(), target[None]).rows()
    plain = sheets.denormalised(image, *dataset.levels(i))
    if config.task == "instances":
        ids = item["ids"][window]
        true = instances((target == 1).byte(), config.pixel_task, config.num_classes, ids=ids)
        found = found_objects(said, labels)
        row |= matched(found, true, ignored=target == IGNORED, class_names=metrics.class_names).row()
        tiles = sheets.beside_objects(plain, true.labels, found.labels)
    else:
        tiles = sheets.beside(plain, target, mask, config.pixel_task, config.num_classes)
    judge = (figure, row[figure]) if figure in row and figure != "dice" else None
    return Shown(item["name"], tuple(tiles), row["dice"], judge)


def sheet(rows: list[Shown], network: SegmentationModel) -> Tensor:
    """Return one sheet of the images, (3, H, W) uint8, with their names and scores, and a legend."""
    return sheets.titled([sheets.Row(row.title, row.tiles) for row in rows], keys(rows, network))


def keys(rows: list[Shown], network: SegmentationModel) -> list[sheets.Key]:
    """Return the legend of images."""
    config = network.config
    plain = [row.tiles[0] for row in rows]
    task, objects = config.pixel_task, config.task == "instances"
    return sheets.class_keys(plain, task, config.num_classes, config.class_names, objects=objects)


class ImageSheets(Callback):
    """Writes a sheet of validation images, each next to its true and its predicted mask, every few epochs.

    Args:
        folder: of the run; the sheets are ``predictions/epoch_0005.png`` and so on.
        every: epochs between two sheets; the last epoch also has one.

    Attributes:
        latest: the sheet of this epoch, (3, H, W) uint8; None if it has none.
    """

    def __init__(self, folder: str | os.PathLike[str], every: int = 5) -> None:
        self.folder = Path(folder) / FOLDER
        self.every = every
        self.latest: Tensor | None = None

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw a sheet if it is time."""
        epoch = trainer.current_epoch + 1
        self.latest = None
        if epoch % self.every and epoch != trainer.max_epochs:
            return
        assert isinstance(pl_module, Recipe)
        dataset = pl_module.data.validation_set()
        count = min(COUNT, len(dataset))  # spread evenly over the set, the same each time
        places = [k * len(dataset) // count for k in range(count)]
        rows = [shown(pl_module.judged, dataset, i, SIDE, pl_module.settings.monitor) for i in places]
        if trainer.is_global_zero:
            make_folder(self.folder)
            self.latest = sheet(rows, pl_module.judged)
            images.write_png(self.latest, self.folder / f"epoch_{epoch:04}.png")
