"""Finds the best thresholds of probabilities on images with masks, and the best ``split`` for objects."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unetzoo.checks import class_names_of
from unetzoo.data import SegmentationDataset
from unetzoo.data.listing import Sample, Source
from unetzoo.data.masks import decode
from unetzoo.errors import ConfigError
from unetzoo.evaluation.evaluating import images_of, predictor_of
from unetzoo.evaluation.object_trials import Separation, Trials
from unetzoo.files.writing import write_file
from unetzoo.images import image_size
from unetzoo.objects.separating import check_separable
from unetzoo.prediction import Predictor
from unetzoo.prediction.networks import Model
from unetzoo.prediction.remarks import told_together
from unetzoo.prediction.results import Prediction, mask_of
from unetzoo.printing import aligned, counted
from unetzoo.progress import shown
from unetzoo.saving.records import weights_of

STEPS = 1000
"""Number of thresholds that are tried, from 0 to below 1."""


@dataclass(frozen=True)
class Calibration:
    """The result of :func:`calibrate`. ``str()`` is a table.

    Attributes:
        classes: names of the classes.
        thresholds: threshold of each class: pixels with a higher probability belong to it. Empty, like ``dice`` and
            ``dice_at_half``, for a multi-class model, whose mask is the likeliest class.
        dice: Dice of each class with its threshold, over all pixels together; nan if the class never occurs.
        dice_at_half: Dice with a threshold of 0.5.
        images: number of images.
        separation: the best ``split`` and ``smallest`` for objects, with these thresholds; None if the masks do not
            separate objects.
        weights: digests of the models' weights, as their files record them; empty if a model has none.
    """

    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    dice: tuple[float, ...]
    dice_at_half: tuple[float, ...]
    images: int
    separation: Separation | None = None
    weights: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = ""
        if self.thresholds:
            rows = zip(self.classes, self.thresholds, self.dice, self.dice_at_half, strict=True)
            table = [[name, f"{threshold:.3f}", f"{dice:.4f}", f"{half:.4f}"] for name, threshold, dice, half in rows]
            said = aligned([["class", "threshold", "Dice", "Dice at 0.5"], *table])
        if self.separation is not None:
            split, smallest, precision, plain = self.separation
            said += (
                f"objects: split {split:g}, smallest {smallest}: AP {precision:.4f} at an IoU of 0.5, and {plain:.4f} "
                "with split 0, smallest 0\n"
            )
        return f"{said}from {counted(self.images, 'image')}\n"

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON; Dice is None if the class never occurs."""
        return {
            "classes": list(self.classes),
            "thresholds": list(self.thresholds),
            "dice": [None if value != value else value for value in self.dice],
            "dice_at_half": [None if value != value else value for value in self.dice_at_half],
            "images": self.images,
            "weights": list(self.weights),
            "objects": None if self.separation is None else self.separation._asdict(),
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, for ``unetzoo predict --threshold``.

        Raises:
            WriteError: the file cannot be written.
        """
        write_file(path, json.dumps(self.to_dict(), indent=2) + "\n")


@told_together()
def calibrate(
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
    progress: bool = False,
) -> Calibration:
    """Return the threshold of each class that gives the best Dice over all pixels of the images.

    If the masks separate objects (label images with ``foreground="any"``, annotations, label images next to the masks),
    also return the predictor's ``split`` and ``smallest`` with the best average precision at an IoU of 0.5 with these
    thresholds, over all objects of all images, averaged over the classes. This needs scikit-image, and segments the
    images once more. For a multi-class model, ``split`` and ``smallest`` are the only result.

    Among equally good thresholds, the one nearest to 0.5 is taken; a class that never occurs has 0.5. Find thresholds
    on validation images, and score them on others.

    Args:
        model: as ``unetzoo.evaluation.evaluate`` takes it; give a predictor to calibrate with its tiles and views.
        split: "train", "val", "test", or "all" images. None: "val" if the source has such a split of its own, or a
            model was trained on images of it; otherwise all images but those in "test" of its own splits. Fewer than 3
            images give a warning.
        source, ratios, seed, group, ignore, foreground, colours, ignore_colour, classes, planes, masks: see
            ``unetzoo.evaluation.evaluate``.
        progress: show a progress bar.

    Raises:
        ConfigError: the model is multi-class and an image does not separate its objects, or no image has two objects of
            a class; there is no such split, or images have no masks; or ``evaluate`` would refuse the runs or images.
        InputError: a file cannot be read, or does not fit the model.
        WeightsError: a model cannot be loaded.
        HubError: a model cannot be downloaded.
    """
    given: dict[str, Any] = {"ratios": ratios, "seed": seed, "group": group, "ignore": ignore, "planes": planes}
    given |= {"foreground": foreground, "colours": colours, "ignore_colour": ignore_colour, "classes": classes}
    given |= {"masks": masks}
    predictor = predictor_of(model)
    multiclass = predictor.config.pixel_task == "multiclass"
    pairs = [Judged(predictor, images_of(predictor, source, split, given, calibrating=True))]
    lacking = lacking_objects(pairs)
    if lacking is None:
        check_separable()  # raises an error before any work is done
    elif multiclass:
        raise ConfigError(_NOTHING.format(lacking))
    found = [] if multiclass else best_thresholds(pairs, progress)
    thresholds = tuple(threshold for threshold, _, _ in found)
    separation = None
    if lacking is None:
        trials = Trials(predictor.config.pixel_task)
        for seen in segmented(pairs, thresholds, progress):
            add_objects(trials, seen)
        separation = trials.best()
    if separation is None and not found:  # there are two of a class, but they are in nodata
        raise ConfigError(_NOTHING.format(_NO_TWO))
    return calibration(pairs, found, separation)


class Judged(NamedTuple):
    """A predictor, and images with ground truth for the model's own classes."""

    predictor: Predictor
    dataset: SegmentationDataset


class Seen(NamedTuple):
    """An image that was segmented.

    Attributes:
        pair: index of its pair of predictor and data set.
        sample: the sample of the image.
        dataset: the data set of the image.
        said: the prediction.
        mask: the mask from the thresholds only.
        target: the true mask.
    """

    pair: int
    sample: Sample
    dataset: SegmentationDataset
    said: Prediction
    mask: Tensor
    target: Tensor


def calibration(
    pairs: Sequence[Judged], found: Sequence[tuple[float, float, float]], separation: Separation | None
) -> Calibration:
    """Return the result: the threshold, Dice and Dice at 0.5 of each class, and how objects are separated."""
    config = pairs[0].predictor.config
    return Calibration(
        class_names_of(config.class_names, config.task, config.num_classes),
        tuple(threshold for threshold, _, _ in found),
        tuple(dice for _, dice, _ in found),
        tuple(half for _, _, half in found),
        sum(len(dataset) for _, dataset in pairs),
        separation,
        _weights([path for predictor, _ in pairs for path in predictor.origins]),
    )


def _weights(models: Sequence[Path | None]) -> tuple[str, ...]:
    """Return the digests of models' weights; empty if one is not known."""
    known = [None if path is None else weights_of(path) for path in dict.fromkeys(models)]
    return tuple(sorted({digest for digest in known if digest is not None})) if None not in known else ()


_NOTHING = (
    "a multi-class model takes the likeliest class of each pixel: there is no threshold to find, only how objects are "
    "split, and for that {}: give label images, or annotations"
)
_NO_TWO = "no image has two objects of a class"


def lacking_objects(pairs: Sequence[Judged]) -> str | None:
    """Return why the masks do not show how to separate objects; None if they do."""
    two = False
    for _, dataset in pairs:
        for sample in dataset.samples:
            mask = decode(sample, dataset.labels, image_size(sample.image), ids=True)
            if mask.ids is None:
                return "every image must separate its objects"
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


def best_thresholds(pairs: Sequence[Judged], progress: bool) -> list[tuple[float, float, float]]:
    """Return the best threshold of each class over the images of all pairs together, and Dice there and at 0.5."""
    classes = pairs[0].predictor.config.num_classes
    counts = torch.zeros(classes, 2, STEPS + 1, dtype=torch.float64)
    for _, (predictor, dataset), i in _images(pairs, progress):
        sample = dataset.samples[i]
        probabilities = predictor(sample.files, planes=sample.planes).probabilities
        _count(counts, probabilities, dataset[i]["target"].reshape(classes, -1))
    return [_best(background, foreground) for background, foreground in counts]


def segmented(pairs: Sequence[Judged], thresholds: tuple[float, ...], progress: bool) -> Iterator[Seen]:
    """Give each image of each pair, segmented with these thresholds; for multi-class models there are none."""
    for pair, (predictor, dataset), i in _images(pairs, progress):
        sample = dataset.samples[i]
        said = predictor(sample.files, planes=sample.planes)
        mask = mask_of(said.probabilities, predictor.config.task, thresholds)
        yield Seen(pair, sample, dataset, said, mask, dataset[i]["target"])


def add_objects(trials: Trials, seen: Seen) -> None:
    """Count the objects of an image whose mask separates them."""
    ids = decode(seen.sample, seen.dataset.labels, image_size(seen.sample.image), ids=True).ids
    assert ids is not None
    trials.add(seen.mask, seen.target, ids, seen.said.probabilities, seen.said.edges)


def _images(pairs: Sequence[Judged], progress: bool) -> Iterator[tuple[int, Judged, int]]:
    """Give each image: the index of its pair, the pair, and the index of the image in it."""
    every = [(pair, i) for pair, (_, dataset) in enumerate(pairs) for i in range(len(dataset))]
    for pair, i in shown(every, progress, "image"):
        yield pair, pairs[pair], i


def _count(counts: Tensor, probabilities: Tensor, target: Tensor) -> None:
    """Count the pixels by the number of thresholds that their probability is above, background and foreground apart."""
    thresholds = torch.arange(STEPS) / STEPS
    for k, (said, true) in enumerate(zip(probabilities.flatten(1), target, strict=True)):
        above = torch.bucketize(said, thresholds)
        for label in (0, 1):
            counts[k, label] += torch.bincount(above[true == label], minlength=STEPS + 1)


def _best(background: Tensor, foreground: Tensor) -> tuple[float, float, float]:
    """Return the best threshold, and Dice there and at 0.5, from counts by how many thresholds a pixel is above."""
    false, true = (counts.flip(0).cumsum(0).flip(0)[1:] for counts in (background, foreground))
    everything = foreground.sum()
    dice = 2 * true / (true + false + everything)
    if everything == 0:
        return 0.5, float("nan"), float("nan")
    best = (dice == dice.max()).nonzero()[:, 0]
    step = int(best[(best - STEPS // 2).abs().argmin()])
    return step / STEPS, float(dice[step]), float(dice[STEPS // 2])
