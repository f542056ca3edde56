"""Predicts the planes of a layer once; masks and objects for any threshold follow without the network."""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetzoo import objects
from unetzoo.checks import class_names_of
from unetzoo.devices import in_memory
from unetzoo.errors import InputError
from unetzoo.napari.layers import Planes, stacked
from unetzoo.prediction import Prediction, Predictor
from unetzoo.prediction.inputs import LoadedImage, as_image
from unetzoo.prediction.ranges import look_at
from unetzoo.prediction.remarks import Remark, ScaleError, kept, said
from unetzoo.prediction.results import mask_of, shows_objects
from unetzoo.prediction.strips import joined

Progress = tuple[int, int]
RANGE_FIX = (
    'set the contrast limits of the layer, which are its black and white, and tick "stretch by the contrast limits"'
)
"""The fix if the values of a layer have another range than those that a model was trained on."""
COLUMNS = ("label", "slice", "class", "area", "y", "x")
"""Columns of the table: y and x are centroids, in pixels from the centre of the first pixel."""


@dataclass(frozen=True)
class Segmented:
    """The predictions for the planes of a layer: another threshold does not need the network.

    Attributes:
        planes: of the layer.
        found: the prediction for each plane, with its probabilities.
        warnings: sentences on the values, such as that the planes are nearly black to the model.
    """

    planes: Planes
    found: tuple[Prediction, ...]
    warnings: tuple[str, ...] = ()

    @property
    def has_threshold(self) -> bool:
        """Whether the mask depends on a threshold; for a multi-class model, the most probable class is used."""
        return self.found[0].config.pixel_task != "multiclass"

    @property
    def tells_objects_apart(self) -> bool:
        """Whether the model separates objects."""
        return shows_objects(self.found[0].config, self.found[0].split)

    def at(self, threshold: float, smallest: int = 0) -> Segmented:
        """Return it with the masks for a threshold, from 0 to 1, without components of fewer pixels than ``smallest``.

        Raises:
            ConfigError: small objects are to be left out, but SciPy is missing.
        """
        config = self.found[0].config
        thresholds = (threshold,) * config.num_classes
        found = []
        for one in self.found:
            mask = mask_of(one.probabilities, config.task, thresholds)
            if smallest > 1:
                mask = objects.cleaned(mask, config.pixel_task, config.num_classes, smallest=smallest)
            found.append(replace(one, mask=mask))
        return replace(self, found=tuple(found))


@dataclass(frozen=True)
class Labelled:
    """The parts of a segmented layer that are shown.

    Attributes:
        labels: suffix of the layer's name → (…, H, W): class indices, or object numbers. There is one, or one per class
            of a multi-label model, whose classes may overlap.
        rows: of the table, see :data:`COLUMNS`; empty if objects are not shown.
        objects: of each plane; numbers in ``labels`` continue from plane to plane, while these start again.
    """

    labels: dict[str, NDArray[Any]]
    rows: tuple[tuple[int, str, str, int, float, float], ...] = ()
    objects: tuple[objects.Instances, ...] = ()


def segment(
    predictor: Predictor, planes: Planes, stop: threading.Event | None = None
) -> Generator[Progress, None, Segmented | None]:
    """Segment planes one after the other, and yield the progress after each row of tiles: done, and of how many.

    Args:
        predictor: of the model; its settings for tiles are used.
        planes: of the layer.
        stop: stops it after the current tile; None is returned then.

    Raises:
        InputError: the layer does not fit the model, or memory is too small. The first plane shows this early.
        WeightsError: the model has weights that are not finite.
    """
    found, remarks, count = [], [], len(planes.indices)
    for k, index in enumerate(planes.indices):
        image = as_image(planes.plane(index))
        image.name = planes.name
        remarks += _looked_at(image, predictor)
        grid, parts = predictor.grid(image), []
        try:
            with in_memory(InputError, "close other layers, or segment one slice at a time"):
                for strip in predictor.strips(image, grid, tick=lambda: _check(stop)):
                    parts.append(strip)
                    share = len(parts) / len(grid.down.starts)
                    yield round(100 * (k + min(share, 1))), 100 * count
                whole = joined(parts, image.height)
                found.append(predictor.result(image, whole.probabilities, whole.missing))
        except StoppedError:
            return None
        yield 100 * (k + 1), 100 * count
    return Segmented(planes, tuple(found), tuple(_said(remarks, planes)))


def _looked_at(image: LoadedImage, predictor: Predictor) -> list[Remark]:
    """Return the remarks on a plane, or raise if it does not fit the model."""
    try:
        with kept() as remarks:
            look_at(image, predictor.networks, predictor.intensity_range)
    except ScaleError as error:
        raise InputError(f"{error.problem}; {RANGE_FIX}") from error
    return remarks


def _said(remarks: list[Remark], planes: Planes) -> list[str]:
    count = len(planes.indices)
    if count == 1:
        return said(remarks, range_fix=RANGE_FIX)
    nameless = [replace(remark, name=None) for remark in remarks]
    return said(nameless, one=f"one of {count} slices", many=f"of {count} slices", range_fix=RANGE_FIX)


class StoppedError(Exception):
    """Ends a prediction that the user cancelled."""


def _check(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise StoppedError


def labelled(seen: Segmented, *, apart: bool) -> Labelled:
    """Return the labels of a segmented layer, and a table of its objects.

    Args:
        seen: with the masks for its threshold.
        apart: return objects, each with its own number, instead of classes.

    Raises:
        ConfigError: objects are requested, but a package to find them is not installed.
    """
    config = seen.found[0].config
    names = class_names_of(config.class_names, config.task, config.num_classes)
    if not apart:
        return Labelled(_by_class(seen, [one.mask.numpy() for one in seen.found], names))
    parts, each, rows, before = [], [], [], 0
    for index, one in zip(seen.planes.indices, seen.found, strict=True):
        instances = one.instances()
        numbers = instances.labels.numpy()
        parts.append(np.where(numbers > 0, numbers + before, 0).astype(np.int32))
        where = ",".join(map(str, index))
        for row in instances.rows(config.class_names):
            at = round(float(row["y"]) - 0.5, 2), round(float(row["x"]) - 0.5, 2)
            rows.append((int(row["id"]) + before, where, str(row["class_name"]), int(row["area"]), *at))
        each.append(instances)
        before += len(instances)
    return Labelled(_by_class(seen, parts, names), tuple(rows), tuple(each))


def _by_class(seen: Segmented, parts: list[NDArray[Any]], names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Return masks or numbers as layers: one, or for a multi-label model one per class."""
    if seen.found[0].config.pixel_task != "multilabel":
        return {"": stacked(seen.planes, parts)}
    return {name: stacked(seen.planes, [part[k] for part in parts]) for k, name in enumerate(names)}


def write_table(seen: Segmented, shown: Labelled, path: str) -> int:
    """Write the table of objects as CSV, as ``unetzoo predict --table`` does, and return the number of objects.

    "label" is the object's number in the layer; "image" is the name of the layer, with the slice of a stack.

    Args:
        seen: the layer.
        shown: with objects.
        path: must end in .csv.

    Raises:
        InputError: the path ends differently, or objects are not shown.
        ConfigError: scikit-image is missing.
        WriteError: the file cannot be written.
    """
    from unetzoo.objects.table import table, table_file

    if not shown.objects:
        raise InputError("only classes are shown: show objects first")
    before = 0
    with table_file(path, seen.found[0].image.shape[0]) as write:
        for index, one, instances in zip(seen.planes.indices, seen.found, shown.objects, strict=True):
            columns = table(instances, one.image, class_names=one.config.class_names)
            columns["label"] = columns["label"] + before
            write(seen.planes.name + (f"[{','.join(map(str, index))}]" if index else ""), columns)
            before += len(instances)
    return before
