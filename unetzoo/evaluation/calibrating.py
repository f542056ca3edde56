"""Thresholds of probabilities, found on images with masks; and how objects are told apart, where these do."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unetzoo.checks import class_names_of
from unetzoo.data import SegmentationDataset
from unetzoo.data.listing import Source
from unetzoo.data.masks import decode
from unetzoo.errors import ConfigError
from unetzoo.evaluation.evaluating import images_of, predictor_of, shown
from unetzoo.evaluation.object_trials import Separation, Trials
from unetzoo.files.writing import write_file
from unetzoo.images import image_size
from unetzoo.objects.separating import check_separable
from unetzoo.prediction import Predictor
from unetzoo.prediction.networks import Model
from unetzoo.prediction.results import mask_of
from unetzoo.printing import aligned

STEPS = 1000
"""Thresholds that are tried, from 0 up to below 1."""


@dataclass(frozen=True)
class Calibration:
    """What :func:`calibrate` found. ``str()`` is a table.

    Attributes:
        classes: their names.
        thresholds: of each class: a pixel belongs to it above. Empty, as ``dice`` and ``dice_at_half`` are, of a
            multi-class model, whose mask is the likeliest class.
        dice: of each class with it, over all pixels together; nan where the class never occurs.
        dice_at_half: with a threshold of 0.5.
        images: number of them.
        separation: by how many pixels objects are split, and from which size on they are kept, with these thresholds;
            None where the images do not tell objects apart.
    """

    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    dice: tuple[float, ...]
    dice_at_half: tuple[float, ...]
    images: int
    separation: Separation | None = None

    def __str__(self) -> str:
        said = ""
        if self.thresholds:
            rows = zip(self.classes, self.thresholds, self.dice, self.dice_at_half, strict=True)
            table = [[name, f"{threshold:.3f}", f"{dice:.4f}", f"{half:.4f}"] for name, threshold, dice, half in rows]
            said = aligned([["class", "threshold", "Dice", "Dice at 0.5"], *table])
        if self.separation is None:
            return said
        split, smallest, precision, plain = self.separation
        return f"{said}objects: split {split:g}, smallest {smallest}: AP at 0.5 {precision:.4f}, without {plain:.4f}\n"

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-able; Dice is None where the class never occurs."""
        return {
            "classes": list(self.classes),
            "thresholds": list(self.thresholds),
            "dice": [None if value != value else value for value in self.dice],
            "dice_at_half": [None if value != value else value for value in self.dice_at_half],
            "images": self.images,
            "objects": None if self.separation is None else self.separation._asdict(),
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, for ``unetzoo predict --threshold``.

        Raises:
            WriteError: the file cannot be written.
        """
        write_file(path, json.dumps(self.to_dict(), indent=2) + "\n")


def calibrate(
    model: Predictor | Model | Sequence[Model],
    source: Source,
    *,
    split: str | None = "val",
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
    progress: bool = False,
) -> Calibration:
    """Return the threshold of each class that gives the best Dice over all pixels of the images.

    Where the images tell objects apart (label images with ``foreground="any"``, annotations, label images beside the
    masks), also ``split`` and ``smallest`` of the predictor that give the best average precision at an IoU of 0.5 with
    these thresholds, all objects of the images together, as a mean of the classes; that needs scikit-image, and
    segments the images once more. Of a multi-class model these are all there is to find.

    Of thresholds that are equally good the one nearest to 0.5 is taken; so it is for a class that never occurs. Find
    them on validation images, and judge them on others.

    Args:
        model: as ``unetzoo.evaluation.evaluate`` takes it; a predictor has the tiles and views
            that thresholds are wanted for.
        source, split, ratios, seed, group, ignore, foreground, colours, ignore_colour, classes, planes, masks: see
            ``unetzoo.evaluation.evaluate``.
        progress: show a bar.

    Raises:
        ConfigError: a multi-class model, and an image that tells no objects apart, or none with two of a class; no such
            split, or images without masks; or runs and images as ``evaluate`` refuses them.
        InputError: a file that cannot be read, or does not fit the model.
        WeightsError: a model cannot be loaded.
        HubError: or not be fetched.
    """
    given: dict[str, Any] = {"ratios": ratios, "seed": seed, "group": group, "ignore": ignore, "planes": planes}
    given |= {"foreground": foreground, "colours": colours, "ignore_colour": ignore_colour, "classes": classes}
    given |= {"masks": masks}
    predictor = predictor_of(model)
    config = predictor.config
    dataset = images_of(predictor, source, split, given)
    lacking = _lacking(dataset)
    if lacking is None:
        check_separable()  # or an error, before any work
    elif config.pixel_task == "multiclass":
        raise ConfigError(_NOTHING.format(lacking))
    found = [] if config.pixel_task == "multiclass" else _thresholds(predictor, dataset, progress)
    thresholds = tuple(threshold for threshold, _, _ in found)
    separation = _separation(predictor, dataset, thresholds, progress) if lacking is None else None
    if separation is None and not found:  # two of a class, but where the image has nodata
        raise ConfigError(_NOTHING.format(_NO_TWO))
    return Calibration(
        class_names_of(config.class_names, config.task, config.num_classes),
        thresholds,
        tuple(dice for _, dice, _ in found),
        tuple(half for _, _, half in found),
        len(dataset),
        separation,
    )


_NOTHING = (
    "a multi-class mask is its likeliest class: there is no threshold to find, only how objects are split, and {}: "
    "give label images, or annotations"
)
_NO_TWO = "no image has two of a class"


def _lacking(dataset: SegmentationDataset) -> str | None:
    """Return why the masks do not say how objects come apart; None where they do."""
    two = False
    for sample in dataset.samples:
        mask = decode(sample, dataset.labels, image_size(sample.image), ids=True)
        if mask.ids is None:
            return "there is an image that tells none apart"
        two = two or _has_two(mask.target, mask.ids)
    return None if two else _NO_TWO


def _has_two(target: Tensor, ids: Tensor) -> bool:
    """Return whether a class has two objects; as :class:`~unetzoo.data.masks.Decoded` has target and ids."""
    planes = [tensor.reshape(-1, *tensor.shape[-2:]).numpy() for tensor in (target, ids.expand(target.shape))]
    return any(
        np.count_nonzero(np.unique(numbers[plane == kind])) > 1
        for plane, numbers in zip(*planes, strict=True)
        for kind in np.unique(plane[plane > 0])
    )


def _thresholds(predictor: Predictor, dataset: SegmentationDataset, progress: bool) -> list[tuple[float, float, float]]:
    """Return the best threshold of each class, and Dice there and at 0.5."""
    classes = predictor.config.num_classes
    counts = torch.zeros(classes, 2, STEPS + 1, dtype=torch.float64)
    for i in shown(range(len(dataset)), progress):
        sample = dataset.samples[i]
        probabilities = predictor(sample.files, planes=sample.planes).probabilities
        _count(counts, probabilities, dataset[i]["target"].reshape(classes, -1))
    return [_best(background, foreground) for background, foreground in counts]


def _separation(
    predictor: Predictor, dataset: SegmentationDataset, thresholds: tuple[float, ...], progress: bool
) -> Separation | None:
    """Return how objects are best told apart; None where no image has two of a class."""
    trials = Trials(predictor.config.pixel_task)
    for i in shown(range(len(dataset)), progress):
        sample, target, ids = dataset.samples[i], dataset[i]["target"], _ids_of(dataset, i)
        assert ids is not None
        said = predictor(sample.files, planes=sample.planes)
        mask = mask_of(said.probabilities, predictor.config.task, thresholds)
        trials.add(mask, target, ids, said.probabilities, said.edges)
    return trials.best()


def _ids_of(dataset: SegmentationDataset, i: int) -> Tensor | None:
    """Return the numbers of the objects of an image, None where its mask tells none apart."""
    sample = dataset.samples[i]
    return decode(sample, dataset.labels, image_size(sample.image), ids=True).ids


def _count(counts: Tensor, probabilities: Tensor, target: Tensor) -> None:
    """Count the pixels by the number of thresholds that their probability is above, background and foreground apart."""
    thresholds = torch.arange(STEPS) / STEPS
    for k, (said, true) in enumerate(zip(probabilities.flatten(1), target, strict=True)):
        above = torch.bucketize(said, thresholds)
        for label in (0, 1):
            counts[k, label] += torch.bincount(above[true == label], minlength=STEPS + 1)


def _best(background: Tensor, foreground: Tensor) -> tuple[float, float, float]:
    """Return the best threshold, and Dice there and at 0.5, of counts by the number of thresholds a pixel is above."""
    false, true = (counts.flip(0).cumsum(0).flip(0)[1:] for counts in (background, foreground))
    everything = foreground.sum()
    dice = 2 * true / (true + false + everything)
    if everything == 0:
        return 0.5, float("nan"), float("nan")
    best = (dice == dice.max()).nonzero()[:, 0]
    step = int(best[(best - STEPS // 2).abs().argmin()])
    return step / STEPS, float(dice[step]), float(dice[STEPS // 2])
