"""Counts and measurements of a segmented image."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unetzoo import images
from unetzoo.checks import class_names_of
from unetzoo.serving.answers import Segmented


@dataclass(frozen=True)
class Row:
    """A class in the legend.

    Attributes:
        name: of the class.
        colour: of the class, such as "#e6194b"; None for the background, and for a single class whose objects have
            their own colours.
        objects: number of objects of the class; None if objects are not separated, and for the background.
        pixels: of the class.
        share: of the image, from 0 to 1.
        palette: the colours of its objects, if neighbouring objects differ in colour.
    """

    name: str
    colour: str | None
    objects: int | None
    pixels: int
    share: float
    palette: tuple[str, ...] = ()


def legend(seen: Segmented) -> list[Row]:
    """Return a row per class, including the background unless classes may overlap; missing pixels do not count."""
    prediction, objects = seen.prediction, seen.objects
    config, mask = prediction.config, prediction.mask
    missing = 0 if prediction.missing is None else int(prediction.missing.sum())
    names = list(class_names_of(config.class_names, config.task, config.num_classes))
    if config.pixel_task == "multiclass":
        counts = torch.bincount(mask.flatten(), minlength=config.num_classes).tolist()
        counts[0] -= missing  # where the mask is 0
    elif config.pixel_task == "binary":
        inside = int(mask.sum(dtype=torch.int64))
        names = ["background", *names]
        counts = [mask.numel() - missing - inside, inside]
    else:
        counts = mask.sum(dim=(1, 2), dtype=torch.int64).tolist()
    pixels = max(mask.shape[-2] * mask.shape[-1] - missing, 1)
    colours: list[str | None] = [*images.colours_on(prediction.image, config.num_classes)]
    numbers: list[int | None] = [None] * config.num_classes
    if objects is not None:
        numbers = torch.bincount(objects.classes, minlength=config.num_classes).tolist()
        colours = [None] if config.pixel_task == "binary" else colours
    if config.pixel_task != "multilabel":
        colours = [None, *colours[: len(names) - 1]]
        numbers = [None, *numbers[1 - len(names) :]]
    shares = [count / pixels for count in counts]
    own = (
        tuple(images.object_palette(prediction.image)) if objects is not None and config.pixel_task == "binary" else ()
    )
    return [
        Row(*row, own if row[2] is not None else ())
        for row in zip(names, colours, numbers, counts, shares, strict=True)
    ]


@dataclass(frozen=True)
class Measured:
    """An object in the table.

    Attributes:
        number: in the label image.
        name: of its class.
        area: in pixels.
        intensities: the mean of each column that :func:`intensity_names` returns.
    """

    number: int
    name: str
    area: int
    intensities: tuple[float, ...]


def intensity_names(seen: Segmented) -> list[str]:
    """Return the titles of the columns of mean intensities: one if all channels are equal, at most four."""
    image = seen.measured
    if bool((image == image[:1]).all()):
        return ["mean intensity"]
    if len(image) == 3:
        return [f"mean intensity, {colour}" for colour in ("red", "green", "blue")]
    return [f"mean intensity, channel {k}" for k in range(1, min(len(image), 4) + 1)]


def measured(seen: Segmented, most: int) -> list[Measured]:
    """Return the objects, or the ``most`` largest of them, in the order of their numbers; empty if there are none.

    Numbers are those of ``unetzoo.objects.table``, which measures more, and slower.
    """
    found = seen.objects
    if found is None:
        return []
    config = seen.prediction.config
    names = class_names_of(config.class_names, config.task, config.num_classes)
    labels = found.labels.reshape(-1, *found.labels.shape[-2:])
    means = []
    for channel in seen.measured[: len(intensity_names(seen))].double():
        sums = torch.zeros(len(found) + 1, dtype=torch.float64)
        for plane in labels:
            sums += torch.bincount(plane.flatten(), weights=channel.flatten(), minlength=len(found) + 1)
        means.append((sums[1:] / found.areas).tolist())
    largest = found.areas.argsort(descending=True, stable=True)[:most].sort().values.tolist()
    kinds, areas = found.classes.tolist(), found.areas.tolist()
    return [Measured(k + 1, names[kinds[k]], areas[k], tuple(mean[k] for mean in means)) for k in largest]
