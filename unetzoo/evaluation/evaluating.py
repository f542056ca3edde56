"""Evaluates a model on a folder of images: a table of scores, a row for each image, and the worst images."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unetzoo import images, sheets
from unetzoo.augmentation import IGNORED
from unetzoo.config import ModelConfig
from unetzoo.data import Labels, SegmentationDataset, labels_of
from unetzoo.data.annotations import Drawing
from unetzoo.data.counting import COMPONENTS, TOLD, alone, one_number
from unetzoo.data.listing import Sample, Source, paths_of, title_of
from unetzoo.data.masks import decode
from unetzoo.data.stacks import list_samples
from unetzoo.data.understanding import has_names
from unetzoo.errors import ConfigError
from unetzoo.evaluation import ranking
from unetzoo.evaluation.as_trained import as_trained, monitors_of
from unetzoo.evaluation.held_out import choose, seen_by
from unetzoo.evaluation.slides import Slides, judged, metrics_of
from unetzoo.files.writing import check_place, write_file
from unetzoo.metrics import Scores, SegmentationMetrics
from unetzoo.objects import Instances, ObjectScores, instances, matched
from unetzoo.objects.scores import tables
from unetzoo.objects.separating import check_separable
from unetzoo.objects.table import Columns, check_table, table as measured, table_file
from unetzoo.prediction import Predictor
from unetzoo.prediction.inputs import as_image
from unetzoo.prediction.jobs import suffix_of
from unetzoo.prediction.networks import Model, listed
from unetzoo.prediction.pixel_size import size_of
from unetzoo.prediction.remarks import told_together
from unetzoo.printing import aligned, printable
from unetzoo.progress import shown
from unetzoo.slides import microns_in

WORST = 8
"""Images shown in a report."""


@dataclass(frozen=True)
class Evaluation:
    """The result of :func:`evaluate`. ``str()`` is a table.

    Attributes:
        scores: scores over all images.
        objects: object scores over all images; None if they were not requested.
        how: the true objects are "told apart by the masks", "connected components", or both, in different images;
            None if object scores were not requested.
        kinds: kind of image → its own scores and object scores; empty if the source names no kinds.
        rows: one record per image, the worst ``figure`` first: "name", "kind" if there are kinds, the scores, None if
            not defined, and those of ``ObjectScores.row`` if object scores were requested.
        worst: for the worst images, three tiles (3, H, W) uint8 each: the image, its true mask, its predicted mask.
        config: configuration of the network.
        figure: the score by which images are sorted.
    """

    scores: Scores
    objects: ObjectScores | None
    how: str | None
    kinds: Mapping[str, tuple[Scores, ObjectScores | None]]
    rows: tuple[dict[str, str | float | None], ...]
    worst: tuple[tuple[Tensor, ...], ...]
    config: ModelConfig
    figure: str

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the images as numbers for JSON.

        Returns:
            The items of ``Scores.to_dict``; with objects, those of ``ObjectScores.to_dict`` and "objects_how"; with
            kinds, "kinds": kind → the same items.
        """
        record: dict[str, Any] = _record(self.scores, self.objects)
        record |= {} if self.how is None else {"objects_how": self.how}
        kinds = {kind: _record(*found) for kind, found in self.kinds.items()}
        return record | ({"kinds": kinds} if kinds else {})

    def __str__(self) -> str:
        text = str(self.scores)
        parts = {**self.kinds, "all": (self.scores, self.objects)}
        if self.kinds:
            table = [["", "images", "dice", "iou"]]
            for name, (scores, _) in parts.items():
                table.append([name, str(scores.images), f"{scores.dice.mean:.4f}", f"{scores.iou.mean:.4f}"])
            text += f"\n{aligned(table)}"
        if self.objects is not None:
            text += f"\n{tables({name: objects for name, (_, objects) in parts.items() if objects is not None})}"
            melted = "; those that touch are one" if COMPONENTS in str(self.how) else ""
            text += f"true objects: {self.how}{melted}\n"
        return text

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write ``scores.json``, ``scores.txt``, ``per_image.csv`` and ``worst.png`` to a folder, created if missing.

        Raises:
            WriteError: a file cannot be written.
        """
        folder = Path(folder)
        table = io.StringIO()
        writer = csv.DictWriter(table, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({key: printable(cell) if isinstance(cell, str) else cell for key, cell in row.items()})
        for name, text in (
            ("scores.json", json.dumps(self.to_dict(), indent=2) + "\n"),
            ("scores.txt", str(self)),
            ("per_image.csv", table.getvalue()),
        ):
            write_file(folder / name, text)
        worst = zip(self.rows, self.worst, strict=False)
        shown = [sheets.Row(ranking.title(row, self.figure), tiles) for row, tiles in worst]
        plain = [tiles[0] for tiles in self.worst]
        keys = sheets.class_keys(plain, self.config.pixel_task, self.config.num_classes, self.scores.class_names)
        images.write_png(sheets.titled(shown, keys), folder / "worst.png")


@told_together()
def evaluate(
    model: Predictor | Model | Sequence[Model],
    source: Source,
    *,
    split: str | None = None,
    ratios: Sequence[float] | None = None,
    seed: int | None = None,
    group: str | None = None,
    ignore: int | None = None,
    foreground: str | None = None,
    colours: Sequence[str] | None = None,
    ignore_colour: str | None = None,
    classes: Sequence[str] | None = None,
    planes: str | None = None,
    masks: str | None = None,
    objects: bool = False,
    table: str | os.PathLike[str] | None = None,
    slides: Mapping[str, Any] | None = None,
    monitor: str | None = None,
    progress: bool = False,
) -> Evaluation:
    """Segment images as ``unetzoo.Predictor`` does, and compare the predicted masks with the true ones.

    If a CSV file names the kinds of images, each kind also has its own scores.

    Args:
        model: as ``unetzoo.Predictor`` takes it: a model, which stays on its device, a name or a path, or a list whose
            predictions are averaged; or a predictor, with its tiles, views and thresholds.
        source: a folder, a CSV file, or a list of CSV files, see ``unetzoo.data.list_samples``.
        split: "train", "val", "test", or "all" images. None: "test" if the source has splits of its own, else all. If
            ``model`` is the folder or file of a run, the run's own list, ``data.json``, decides which images are in the
            split, wherever they are now; new images are assigned by their names, which is logged. Except with "train",
            images that a model was trained on, by content or by name, are refused. Models without such a list are
            logged.
        ratios, seed, group: how to split a source without splits of its own, instead of by the run's list. None: as in
            the run; without a run (0.8, 0.1, 0.1), 0 and no group.
        ignore, foreground, colours, ignore_colour, classes, planes, masks: how the files are written and named, see
            ``unetzoo.data.Labels``. None: as in the run, if any; ``masks`` is not taken over for a CSV file.
        objects: also compare the objects of each mask, see ``Prediction.instances``, with the true ones, see
            ``unetzoo.objects.ObjectScores``. True objects come from annotations and masks of ids; without these they
            are connected components, corners included; see ``Evaluation.how``.
        table: a CSV file to write, with a row for each object that is found, see ``unetzoo.objects.table``.
        slides: how to read slides, arguments of ``unetzoo.Slide`` such as ``{"mpp": 0.5}``; with "mpp" or "level", all
            images are read as slides. A CSV file lists them with their masks: a .tif of the size at which the slide is
            read, or a .geojson of polygons in pixels of level 0. They are segmented and compared by rows, without
            ``objects``, ``table`` and the boundary F-score, which is then left out for all images. Of other images
            "mpp_stored" is the size of a pixel for ``table``, if the file does not state it.
        monitor: the score by which images are sorted, worst first, such as "iou", "recall", "dice/rim" or "object_pq".
            None: the score that chose the best epoch of the models' runs, else Dice, or "object_ap_50" with
            ``objects``.
        progress: show a progress bar.

    Raises:
        ConfigError: there is no such split, images have no masks, or a model was trained on images; lists all that is
            wrong; or averaged models come from runs that split or read their data differently. ``objects`` needs SciPy,
            and ``table`` scikit-image.
        InputError: a file cannot be read, or does not fit the model; ``table`` does not end in .csv.
        WriteError: the table cannot be written.
        WeightsError: a model cannot be loaded.
        HubError: a model cannot be downloaded.
    """
    given: dict[str, Any] = {"ratios": ratios, "seed": seed, "group": group, "ignore": ignore, "planes": planes}
    given |= {"foreground": foreground, "colours": colours, "ignore_colour": ignore_colour, "classes": classes}
    given["masks"] = masks
    predictor = predictor_of(model)
    _check_needs(objects, predictor.split, table)
    config = predictor.config
    asked = Slides(slides or {})
    dataset = images_of(predictor, source, split, given, slides=True)
    telling, holes = objects or table is not None, bool(predictor.holes)
    by_rows = asked.check(dataset.samples, dataset.labels, objects=telling, holes=holes)
    if objects:
        _check_numbers(dataset, source)
    figure = ranking.figure_of(monitor, monitors_of(predictor), config, objects=objects, by_rows=by_rows)
    metrics = defaultdict[str, SegmentationMetrics](lambda: metrics_of(config, by_rows))
    tiles: dict[int, tuple[Tensor, ...]] = {}
    matches, how = defaultdict[str, ObjectScores](ObjectScores), set[str]()
    rows: list[dict[str, str | float | None]] = []
    with contextlib.ExitStack() as files:
        keep = None if table is None else files.enter_context(_table_in(table, dataset, config, asked.mpp_stored))
        for i in shown(range(len(dataset)), progress, "image"):
            sample = dataset.samples[i]
            kind, slide = sample.kind, asked.of(sample)
            if slide is not None:
                row, tiles[i] = judged(predictor, slide, sample, dataset.labels, metrics[kind])
            else:
                row, told, met = _judged_image(predictor, dataset, i, metrics[kind], objects, keep, asked.mpp_stored)
                how |= told
                matches[kind] += met
            rows.append({"name": sample.name, **({"kind": kind} if kind else {}), **row})
    order = ranking.worst_first(rows, figure)
    worst = tuple(tiles.get(i) or _tiles(predictor, dataset, i) for i in order[:WORST])
    kinds = {kind: (metrics[kind].compute(), matches[kind] if objects else None) for kind in sorted(metrics) if kind}
    total = metrics_of(config, by_rows)
    for part in metrics.values():
        total.merge(part)
    everything = sum(matches.values(), ObjectScores()) if objects else None
    ordered, told_apart = tuple(rows[i] for i in order), " and ".join(sorted(how)) or None
    return Evaluation(total.compute(), everything, told_apart, kinds, ordered, worst, config, figure)


def _judged_image(
    predictor: Predictor,
    dataset: SegmentationDataset,
    i: int,
    metrics: SegmentationMetrics,
    objects: bool,
    keep: Callable[[str, Columns], None] | None,
    given: float | None,
) -> tuple[dict[str, float | None], set[str], ObjectScores]:
    """Score an image: return its scores, how its true objects are told apart, and its object scores."""
    item, sample = dataset[i], dataset.samples[i]
    image = as_image(sample.files, sample.planes)  # the files, as prediction reads them
    said, names = predictor(image), predictor.config.class_names
    (row,) = metrics.update_masks(said.mask[None].long(), item["target"][None]).rows()
    how, met = set[str](), ObjectScores()
    if objects:
        told, true = true_objects(sample, dataset.labels, item["target"])
        met = matched(said.instances(), true, ignored=item["target"] == IGNORED, class_names=names)
        how.add(told)
        row |= met.row()
    if keep is not None:
        pixels = images.own_channels(image.image, predictor.config.in_channels, image.alpha)
        mpp = size_of(sample.image.name, image.mpp, given)
        keep(_file_name(sample), measured(said.instances(), pixels, class_names=names, mpp=mpp))
    return row, how, met


def _file_name(sample: Sample) -> str:
    """Return the name of an image in tables of objects, as 'unetzoo predict' has it: with the file's ending."""
    number = f"_{sample.name[len(sample.stack) + 1 : -1]}" if isinstance(sample.planes, int) else ""
    return f"{sample.stack}{number}{suffix_of(sample.image)}"


def _table_in(
    path: str | os.PathLike[str], dataset: SegmentationDataset, config: ModelConfig, given: float | None
) -> contextlib.AbstractContextManager[Callable[[str, Columns], None]]:
    """Begin a table, with columns in µm if the size of pixels was given, or the file of an image states it."""
    sized = given is not None or any(microns_in(sample.files[0]) for sample in dataset.samples)
    return table_file(path, config.in_channels, microns=sized)


def _check_needs(objects: bool, split: float, table: str | os.PathLike[str] | None) -> None:
    """Raise if a package that objects need is missing, or the name of a table does not end in .csv."""
    if objects:
        check_separable(split)
    if table is not None:
        check_table(table)
        check_place(table)


def predictor_of(model: Predictor | Model | Sequence[Model]) -> Predictor:
    """Return a predictor for the ``model`` of :func:`evaluate`; networks stay on their device."""
    if isinstance(model, Predictor):
        return model
    devices = [next(item.parameters()).device for item in listed(model) if isinstance(item, torch.nn.Module)]
    return Predictor(model, device=devices[0] if devices else "auto")


def images_of(
    predictor: Predictor,
    source: Source,
    split: str | None,
    given: Mapping[str, Any],
    *,
    slides: bool = False,
    calibrating: bool = False,
) -> SegmentationDataset:
    """Return the images of a split, not normalised, because a predictor normalises them.

    Args:
        predictor: of the models.
        source, split: see :func:`evaluate`.
        given: "ratios", "seed", "group", "ignore", "foreground", "colours", "ignore_colour", "classes", "planes",
            "masks" → value, or None if not given.
        slides: whether slides may be among them.
        calibrating: whether ``split`` is that of ``unetzoo.calibrate``.

    Raises:
        ConfigError: there is no such split, images have no masks, or the models were trained on images; lists all that
            is wrong; or the models' runs differ in settings that were not given.
    """
    config, reading = predictor.config, as_trained(predictor, given)
    written = ("ignore", "foreground", "colours", "ignore_colour", "classes", "planes", "masks")
    if given["masks"] is None and not any(path.is_dir() for path in paths_of(source)):
        reading["masks"] = None  # a CSV file names its masks
    if given["classes"] is None and reading["classes"] and not has_names(source, reading["masks"], config.task):
        reading["classes"] = None  # masks without names hold only the class indices
    known = labels_of(
        source,
        task=config.task,
        num_classes=config.num_classes,
        class_names=config.class_names,
        **{name: tuple(value) if isinstance(value := reading[name], list) else value for name in written},
    )
    listing = list_samples(source, known, slides=slides)
    if listing.problems:
        raise ConfigError(f"cannot evaluate on {title_of(source)!r}", listing.problems)
    anew = any(given[name] is not None for name in ("ratios", "seed", "group"))
    samples = choose(source, listing, split, reading, seen_by(predictor), anew=anew, calibrating=calibrating)
    return SegmentationDataset(samples, known, in_channels=config.in_channels, room=0)  # each is read once


def _check_numbers(dataset: SegmentationDataset, source: Source) -> None:
    """Raise if all masks of instances are only black and white: each would be a single object."""
    if dataset.labels.task != "instances":
        return
    problem = one_number(said for sample in dataset.samples for said in _numbers(sample, dataset.labels))
    if problem is not None:
        raise ConfigError(f"cannot evaluate objects on {title_of(source)!r}", [problem])


def _numbers(sample: Sample, labels: Labels) -> Iterator[tuple[int, int] | None]:
    """Yield what ``alone`` says of a mask, unless it is empty; None for annotations, which tell objects apart."""
    if isinstance(sample.mask, Drawing):
        yield None
        return
    _, height, width = images.read(sample.files, sample.planes).pixels.shape
    decoded = decode(sample, labels, (height, width), ids=True)
    if (decoded.target > 0).any():
        yield None if decoded.ids is None else alone(decoded.ids, decoded.target)


def true_objects(sample: Sample, labels: Labels, target: Tensor) -> tuple[str, Instances]:
    """Return the true objects of an image, and how they are told apart: ``TOLD`` or ``COMPONENTS``.

    Args:
        sample: whose mask it is.
        labels: what the mask means.
        target: of the data set's item; pixels that are ignored belong to no object.

    Raises:
        InputError: the mask cannot be read.
        ConfigError: SciPy is missing.
    """
    ids = decode(sample, labels, (target.shape[-2], target.shape[-1]), ids=True).ids
    mask = target.clamp(min=0)
    return COMPONENTS if ids is None else TOLD, instances(mask, labels.pixel_task, labels.num_classes, ids=ids)


def _record(scores: Scores, objects: ObjectScores | None) -> dict[str, float | None]:
    return scores.to_dict() | (objects.to_dict() if objects else {})


def _tiles(predictor: Predictor, dataset: SegmentationDataset, i: int) -> tuple[Tensor, ...]:
    item, sample = dataset[i], dataset.samples[i]
    mask = predictor(sample.files, planes=sample.planes).mask
    tiles = sheets.beside(item["image"], item["target"], mask, dataset.task, dataset.num_classes)
    return tuple(sheets.shrunk(tile, 320) for tile in tiles)
