"""How far two models agree on an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unetzoo import objects
from unetzoo.checks import class_names_of
from unetzoo.errors import InputError
from unetzoo.napari.segmenting import Segmented
from unetzoo.prediction import Prediction


@dataclass(frozen=True)
class Row:
    """How far two models agree on a class, over all planes.

    Attributes:
        name: of the class.
        dice: of the two masks, from 0 to 1; 1 if both are empty.
        first, second: how many objects each finds.
        matched: pairs of objects with an IoU above 0.5.
    """

    name: str
    dice: float
    first: int
    second: int
    matched: int


def agreement(one: Segmented, other: Segmented) -> list[Row]:
    """Return a row for each class, or only "foreground" if the models' classes are not the same.

    Raises:
        InputError: they are of different planes.
        ConfigError: a package to find objects is not installed.
    """
    if one.planes.indices != other.planes.indices or one.planes.shape != other.planes.shape:
        raise InputError("the two results are of different slices: segment the same slices with both models")
    kinds = [(one.found[0].config, _names(one.found[0])), (other.found[0].config, _names(other.found[0]))]
    alike = kinds[0][0].pixel_task == kinds[1][0].pixel_task and kinds[0][1] == kinds[1][1]
    names = kinds[0][1] if alike else ["foreground"]
    totals = [[0] * 6 for _ in names]
    for a, b in zip(one.found, other.found, strict=True):
        for total, mine, theirs in zip(totals, _masks(a, alike), _masks(b, alike), strict=True):
            for k, value in enumerate(_counts(mine, theirs)):
                total[k] += value
    rows = []
    for name, (common, first, second, *counts) in zip(names, totals, strict=True):
        rows.append(Row(name, 2 * common / (first + second) if first + second else 1.0, *counts))
    return rows


def _names(found: Prediction) -> list[str]:
    """Return the classes that have objects: all except the background."""
    config = found.config
    names = class_names_of(config.class_names, config.task, config.num_classes)
    return [*names[1:]] if config.pixel_task == "multiclass" else [*names]


def _masks(found: Prediction, apart: bool) -> list[tuple[Tensor, objects.Instances]]:
    """Return mask and objects for each class, or for all classes together."""
    config, mask = found.config, found.mask
    if not apart:
        whole = mask.amax(dim=0) if mask.ndim == 3 else mask
        whole = (whole > 0).byte()
        single = mask.ndim == 2 and config.pixel_task != "multiclass"
        return [(whole, found.instances() if single else objects.instances(whole, "binary", 1))]
    kinds = [0] if config.pixel_task == "binary" else [*range(config.num_classes)]
    if config.pixel_task == "multiclass":
        kinds = kinds[1:]
    planes = [mask[k] if config.pixel_task == "multilabel" else mask == max(k, 1) for k in kinds]
    each = found.instances()
    return [(plane.byte(), each.of_class(k)) for plane, k in zip(planes, kinds, strict=True)]


def _counts(one: tuple[Tensor, objects.Instances], other: tuple[Tensor, objects.Instances]) -> list[int]:
    (mine, my_objects), (theirs, their_objects) = one, other
    common = int((mine.bool() & theirs.bool()).sum())
    pixels = [int(torch.count_nonzero(mask)) for mask in (mine, theirs)]
    met = objects.matched(my_objects, their_objects).met
    return [common, *pixels, len(my_objects), len(their_objects), met]
