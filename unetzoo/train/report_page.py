"""``report.html`` of a run: how it was trained, on which data, how good it is, and where it fails, in one file."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
import yaml
from torch import Tensor

from unetzoo.checks import class_names_of
from unetzoo.data import IGNORED
from unetzoo.data.listing import paths_of
from unetzoo.data.splitting import group_keys
from unetzoo.files.writing import write_file
from unetzoo.markup import document, embedded, escaped, legend, picture, section, table
from unetzoo.metrics import SegmentationMetrics
from unetzoo.metrics.intervals import DRAWS, Interval, object_intervals, pixel_intervals
from unetzoo.model import SegmentationModel
from unetzoo.objects import ObjectScores, instances, matched
from unetzoo.objects.scores import AP
from unetzoo.printing import counted, span
from unetzoo.saving import weights
from unetzoo.saving.records import BEST_FILE
from unetzoo.train.building import logits_of
from unetzoo.train.data import FolderData
from unetzoo.train.judging import figure_of_images
from unetzoo.train.keeping import KeepBest
from unetzoo.train.object_metrics import found_objects
from unetzoo.train.own_metrics import names_of, value_of
from unetzoo.train.pictures import Shown, keys, shown
from unetzoo.train.recipe import Recipe
from unetzoo.train.runs import CONFIG, CURVES, REPORT
from unetzoo.train.settings_table import settings_rows
from unetzoo.train.validating import predicted_mask, probabilities

FILE = REPORT
SHOWN = 3
"""How many of the best images and of the worst images are shown."""
SIDE = 512
"""Largest side, in pixels, of the part shown from the middle of such an image."""
LEFT_OUT = ("images", *(f"object_{name}" for name in AP[1:]))
"""Scores that are left out here because similar ones are shown; ``metrics.csv`` has them."""
_SECONDS = "seconds of all calls:"
PACKAGES = ("unetzoo", "torch", "torchvision", "pytorch-lightning", "numpy", "pillow", "scipy", "scikit-image")


@dataclass(frozen=True)
class Judged:
    """The results of the kept network on each of the validation images.

    Attributes:
        places: positions of the images in the validation set.
        figure: name of the score by which images are compared, see ``judging.figure_of_images``.
        values: this score of each image; None where it is not defined.
        groups: the number of groups of images that stay together in a split, as large as that of images without them.
        intervals: name of a score of all images together → its 95 % interval; empty for a single image or group.
    """

    places: tuple[int, ...]
    figure: str
    values: tuple[float | None, ...]
    groups: int
    intervals: Mapping[str, Interval]

    def value(self, place: int) -> float | None:
        """Return the score of an image."""
        return self.values[self.places.index(place)]

    def ranked(self) -> list[int]:
        """Return the images for which the score is defined, the worst first."""
        known = [(value, place) for place, value in zip(self.places, self.values, strict=True) if value is not None]
        return [place for _, place in sorted(known)]


def write_report(
    folder: Path,
    trainer: lightning.Trainer,
    best: KeepBest,
    data: FolderData,
    defaults: Mapping[str, Any],
    ended: str,
    seconds: float,
) -> None:
    """Write the page; for this, the network of the best epoch predicts the validation images once more.

    The same run makes the same page, except for the time, the hardware and the versions.

    Args:
        folder: of the run, with its other files.
        trainer: its fit has ended.
        best: keeps the best network.
        data: the training and validation data.
        defaults: of all settings, as ``config.yaml`` nests them.
        ended: what ended the run, in one line.
        seconds: duration of this call; the durations of earlier calls are added if the page before has them.

    Raises:
        WriteError: the file cannot be written.
    """
    parts = [f"<p>{escaped(line)}</p>" for line in _summary(best, data, ended)]
    if best.epoch is not None:
        network = weights.load(folder / BEST_FILE).to(trainer.strategy.root_device)
        judged = _judged(network, data, trainer)
        parts += _scores(best, judged) + _curves(folder) + _images(network, data, judged)
    parts += ["<h2>Data</h2>", f"<p>{escaped(data.report.understood)}</p>", *map(table, data.report.tables())]
    parts += section("Facts", data.report.facts()) + section("Warnings", data.report.warnings)
    parts += _settings((folder / CONFIG).read_text(encoding="utf-8"), defaults, logits_of(data.labels.task))
    parts += ["<h2>Time and place</h2>", table([["", ""], *_surroundings(trainer, seconds, _earlier(folder))])]
    parts.append(f"<!-- {_SECONDS} {_earlier(folder) + seconds:.1f} -->")
    write_file(folder / FILE, document(_title(folder, trainer, data), parts))


def _title(folder: Path, trainer: lightning.Trainer, data: FolderData) -> str:
    recipe = trainer.lightning_module
    assert isinstance(recipe, Recipe)
    names = " and ".join(path.name for path in paths_of(data.folder))
    return f"{recipe.network.config.name} trained on {names}: {folder.resolve().name}"


def _settings(text: str, defaults: Mapping[str, Any], task: str) -> list[str]:
    """Return the settings that matter as a table, and the complete file, collapsed."""
    rows = settings_rows(yaml.safe_load(text), defaults, task)
    whole = f"<details><summary>All settings: {CONFIG}</summary><pre>{escaped_lines(text)}</pre></details>"
    return ["<h2>Settings</h2>", table(rows), whole]


def escaped_lines(text: str) -> str:
    """Return text of several lines as HTML shows it."""
    return "\n".join(escaped(line) for line in text.splitlines())


def _summary(best: KeepBest, data: FolderData, ended: str) -> list[str]:
    names = " and ".join(path.name for path in paths_of(data.folder))
    counts = data.report.counts
    said = [
        f"{names}: {data.labels.told}; {counts['train']} training and {counted(counts['val'], 'validation image')}",
        ended.partition(";")[0],
    ]
    return said if best.epoch is None else [*said, f"kept: the network of epoch {best.epoch + 1}, {BEST_FILE}"]


def _judged(network: SegmentationModel, data: FolderData, trainer: lightning.Trainer) -> Judged:
    """Score each validation image on its own, and find the intervals of the scores of all together."""
    dataset, labels = data.validation_set(), data.labels
    settings = _settings_of(trainer)
    figure = figure_of_images(settings.monitor, objects=labels.task == "instances")
    names = class_names_of(labels.class_names, labels.task, labels.num_classes)
    metrics = SegmentationMetrics(labels.pixel_task, labels.num_classes, class_names=names)
    places = _validated(data, trainer)
    pixels, objects, values = [], [], []
    for i in places:
        item = dataset[i]
        said = probabilities(network, item["image"])
        scores = metrics.update_masks(predicted_mask(said, network.config)[None].long(), item["target"][None])
        row = scores.rows()[0]
        if labels.task == "instances":
            true = instances((item["target"] == 1).byte(), labels.pixel_task, labels.num_classes, ids=item["ids"])
            met = matched(found_objects(said, labels), true, ignored=item["target"] == IGNORED, class_names=names)
            objects.append(_counted(met))
            row |= met.row()
        pixels.append(scores.counts[0])
        if figure in names_of(settings.metrics):
            row[figure] = value_of(figure, settings.metrics, said, item["target"], labels)
        values.append(row[figure])
    keys = group_keys([dataset.samples[i] for i in places], data.group)
    intervals: dict[str, Interval] = {}
    if len({*keys}) > 1:
        intervals |= pixel_intervals(_grouped(pixels, keys), names)
        intervals |= object_intervals(_grouped(objects, keys), names) if objects else {}
    return Judged(tuple(places), figure, tuple(values), len({*keys}), intervals)


def _grouped(counts: Sequence[Tensor], keys: Sequence[str]) -> Tensor:
    """Return the sums of the counts of images over each group: images of a group are not independent of each other."""
    found: dict[str, Tensor] = {}
    for key, one in zip(keys, counts, strict=True):
        found[key] = found[key] + one if key in found else one
    return torch.stack([*found.values()])


def _settings_of(trainer: lightning.Trainer) -> Any:
    recipe = trainer.lightning_module
    assert isinstance(recipe, Recipe)
    return recipe.settings


def _validated(data: FolderData, trainer: lightning.Trainer) -> list[int]:
    """Return which images a validation uses: all of them, or, in one process, those of the first batches."""
    if trainer.world_size > 1:
        return list(range(len(data.validation_set())))
    batches = data.val_dataloader().batch_sampler.batches  # type: ignore[union-attr]
    limit = trainer.limit_val_batches
    count = limit if isinstance(limit, int) else int(limit * len(batches))
    return sorted(i for batch in batches[:count] for i in batch)


def _counted(met: ObjectScores) -> Tensor:
    """Return the counts from which intervals of objects are computed, (4, classes) float64."""
    return torch.tensor([[one.true, one.found, one.met[0], one.iou] for one in met.classes], dtype=torch.float64).T


def _scores(best: KeepBest, judged: Judged) -> list[str]:
    """Return the table of the best epoch's scores."""
    rows = [["score", "value", "95 % interval"]]
    for name, value in best.metrics.items():
        plain = name.partition("/")[0]
        if value is None or plain.endswith("_per_image") or plain in LEFT_OUT:
            continue
        between = judged.intervals.get(name)
        said = "" if between is None else f"{between[0]:.3f} – {between[1]:.3f}"
        rows.append([name, f"{value:.4f}" if isinstance(value, float) else str(value), said])
    images = f"{len(judged.places)} validation images"
    drawn, what = f"The {images}", "images"
    if judged.groups < len(judged.places):
        drawn, what = f"The {judged.groups} groups of the {images}, each with all of its images,", "groups"
    how = (
        f"{drawn} were resampled {DRAWS:,} times with replacement. The intervals show how much the scores depend on "
        f"the choice of {what}. Training with other random seeds, and images from other sources, may differ by more."
    )
    return ["<h2>Scores of the validation images</h2>", table(rows), *([f"<p>{how}</p>"] if judged.intervals else [])]


def _curves(folder: Path) -> list[str]:
    path = folder / CURVES
    if not path.is_file():
        return []
    return ["<h2>Curves</h2>", f'<div class="whole">{embedded(path.read_bytes(), "png", 990)}</div>']


def _images(network: SegmentationModel, data: FolderData, judged: Judged) -> list[str]:
    """Return the images with the worst and the best scores."""
    order, dataset = judged.ranked(), data.validation_set()
    worst = order[:SHOWN]
    groups = {"Worst images": worst, "Best images": [i for i in order[::-1][:SHOWN] if i not in worst]}
    parts = []
    for title, places in groups.items():
        rows = [shown(network, dataset, i, SIDE) for i in places]
        if judged.figure != "dice":
            rows = [replace(row, judge=(judged.figure, judged.value(i))) for row, i in zip(rows, places, strict=True)]
        if rows:
            parts += [
                f"<h2>{title}</h2>",
                f"<p>By {judged.figure}. Each row: the image, the true mask, and the predicted mask</p>",
            ]
            parts += [legend(keys(rows, network)), *map(_figure, rows)]
    return parts


def _figure(row: Shown) -> str:
    tiles = "".join(picture(tile, min(256, tile.shape[2])) for tile in row.tiles)
    return f'<p>{escaped(row.title)}</p><div class="row">{tiles}</div>'


def _earlier(folder: Path) -> float:
    """Return the total seconds of all calls from the page before; 0 if there is none."""
    path = folder / FILE
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = re.findall(rf"<!-- {_SECONDS} (\d+\.\d) -->", text)
    return float(found[-1]) if found else 0.0


def _surroundings(trainer: lightning.Trainer, seconds: float, earlier: float) -> Sequence[Sequence[str]]:
    """Return when, on which hardware, and with which packages the run was trained."""
    device: Any = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    several = f", {trainer.world_size} processes" if trainer.world_size > 1 else ""
    found = [
        ["written", time.strftime("%Y-%m-%d %H:%M %Z")],
        ["this call took", span(seconds)],
        *([["all calls took", span(earlier + seconds)]] if earlier else []),
        ["device", f"{device.type}: {name}{several}"],
        ["processors", f"{os.cpu_count()}, {torch.get_num_threads()} threads"],
        ["system", platform.platform()],
        ["Python", platform.python_version()],
    ]
    for package in PACKAGES:
        try:
            found.append([package, metadata.version(package)])
        except metadata.PackageNotFoundError:
            continue
    return found
