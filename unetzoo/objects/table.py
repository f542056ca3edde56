"""A table with a row for each object, measured by scikit-image's ``regionprops_table``, with its names."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unetzoo import extras
from unetzoo.checks import class_name_problems, class_names_of
from unetzoo.errors import ConfigError, InputError
from unetzoo.files.writing import make_folder, replacing
from unetzoo.objects import columns
from unetzoo.objects.columns import MICRONS, SHAPES, properties_of
from unetzoo.objects.finding import Instances
from unetzoo.printing import printable

PROPERTIES = ("label", *properties_of(SHAPES))
"""Properties of shapes, in the order of the columns."""
INTENSITIES = properties_of(columns.INTENSITIES)
"""Properties of each channel of the image, after those of shapes."""
SQUARE = 1e-3
"""Relative difference up to which the sides of a pixel count as equal, because headers round them."""

_CHANNEL = re.compile(r"intensity_\w+-\d+")
Columns = dict[str, NDArray[Any]]
_MICRONS = {column.name: None for column in MICRONS}


def table(
    found: Instances,
    image: Tensor | None = None,
    *,
    class_names: Sequence[str] | None = None,
    mpp: tuple[float, float] | None = None,
    corner: tuple[int, int] = (0, 0),
) -> Columns:
    """Return a column for each measure, with a number for each object, as ``pandas.DataFrame`` takes them.

    Names and numbers are those of ``skimage.measure.regionprops_table``; lengths and areas are in pixels, angles in
    radians. "centroid-0" and "centroid-1" are row and column, and the upper left pixel has its centre at (0, 0); note
    that ``Instances.centroids`` are x and y, and 0.5 larger. "bbox-0" and "bbox-1" are the first row and column,
    "bbox-2" and "bbox-3" the row and column after the last. "orientation" is the counter-clockwise angle from the row
    axis to the major axis.

    Args:
        found: the objects.
        image: (C, H, W) with the values of its file, whose intensities are measured: "intensity_mean-0" is for the
            first channel. None: no intensities.
        class_names: one name per class, background included in a multiclass task, see ``Instances.rows``.
        mpp: µm per pixel, down and across: adds lengths and areas in µm and µm², such as "perimeter_um" and "area_um2".
            If pixels are not square, "perimeter_um" is NaN.
        corner: row and column of the first pixel in a larger image, in which positions are counted.

    Returns:
        "label", the object's number in ``found.labels``; "class", the name of its class; and the measures, see
        ``unetzoo.objects.columns``.

    Raises:
        ConfigError: names are invalid, or not one per class; or scikit-image is missing.
        InputError: the image has another size.
    """
    problems = class_name_problems(class_names, found.num_classes)
    if problems:
        raise ConfigError("cannot name the objects", problems)
    size = tuple(found.labels.shape[-2:])
    if image is not None and (image.ndim != 3 or tuple(image.shape[1:]) != size):
        raise InputError(f"an image of shape {tuple(image.shape)}: (channels, {size[0]}, {size[1]}) is needed")
    measure = _measuring()
    pixels = None if image is None else image.cpu().numpy().transpose(1, 2, 0)
    names = PROPERTIES if image is None else (*PROPERTIES, *INTENSITIES)
    planes = found.labels.numpy().reshape(-1, *size)
    parts = [measure.regionprops_table(plane, pixels, properties=names) for plane in planes]
    measures = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for axis in (0, 1):
        for name in (f"centroid-{axis}", f"bbox-{axis}", f"bbox-{axis + 2}"):
            measures[name] = measures[name] + corner[axis]
    label = measures.pop("label")
    called = np.array(class_names_of(class_names, found.task, found.num_classes), object)
    microns = {} if mpp is None else _in_microns(measures, planes, mpp)
    return {"label": label, "class": called[found.classes.numpy()], **measures, **microns}


def _in_microns(measures: Columns, planes: NDArray[Any], mpp: tuple[float, float]) -> Columns:
    """Return lengths and areas in µm and µm²."""
    side = math.sqrt(mpp[0] * mpp[1])
    areas = [column.name for column in SHAPES if column.unit == columns.AREA]
    found = {f"{name}_um2": measures[name] * (mpp[0] * mpp[1]) for name in areas}
    lengths = [column.name for column in SHAPES if f"{column.name}_um" in _MICRONS]
    found |= {f"{name}_um": measures[name] * side for name in lengths}
    if abs(mpp[0] / mpp[1] - 1) > SQUARE:
        names = [name for name in lengths if not name.startswith(("centroid", "perimeter"))]
        again = [_measuring().regionprops_table(plane, properties=names, spacing=mpp) for plane in planes]
        found |= {f"{name}_um": np.concatenate([part[name] for part in again]) for name in names}
        found["perimeter_um"] = np.full(len(measures["area"]), np.nan)  # scikit-image has it only for square pixels
    found |= {f"centroid-{axis}_um": measures[f"centroid-{axis}"] * mpp[axis] for axis in (0, 1)}
    return {name: found[name] for name in _MICRONS}


@contextlib.contextmanager
def table_file(
    path: str | os.PathLike[str], channels: int, *, microns: bool = False
) -> Iterator[Callable[[str, Columns], None]]:
    """Give a function that writes the objects of an image, from its name and the result of :func:`table`, as CSV.

    The file is put in place when the block ends without an error, completely or not at all; images are not kept in
    memory. There are no columns for intensities of channels that no image has; for channels that only some images have,
    the cells of the others are empty.

    Args:
        path: ends in .csv. Its folder is created if it is missing.
        channels: largest number of channels of the images.
        microns: whether there are columns in µm; for images of unknown pixel size, their cells are empty.

    Raises:
        InputError: ``path`` has another ending.
        ConfigError: scikit-image is missing.
        WriteError: the file cannot be written.
    """
    check_table(path)
    header = [column.name for column in columns.columns_of(channels, microns=microns)]
    make_folder(Path(path).parent)
    may_lack = {*_MICRONS, *(name for name in header if _CHANNEL.fullmatch(name))}
    found: set[str] = set()
    # The channels are known only at the end, but the header comes first.
    with replacing(path) as stream, _body() as body:
        writer = csv.writer(body, lineterminator="\n")

        def write(name: str, measures: Columns) -> None:
            found.update(measures)
            unknown = [""] * len(measures["label"])
            cells = [
                measures[column].tolist() if column in measures or column not in may_lack else unknown
                for column in header
            ]
            cells[1] = [printable(name) for name in cells[1]]
            writer.writerows((printable(name), *row) for row in zip(*cells, strict=True))

        yield write
        body.seek(0)
        lacking = found and {name for name in header if _CHANNEL.fullmatch(name) and name not in found}
        kept = [0, *(k for k, name in enumerate(header, 1) if name not in lacking)]
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="")
        final = csv.writer(text, lineterminator="\n")
        final.writerow(["image", *(name for name in header if name not in lacking)])
        final.writerows([row[k] for k in kept] for row in csv.reader(body))
        text.detach()  # flushes, and leaves the stream open


def _body() -> contextlib.AbstractContextManager[IO[str]]:
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace", newline="")


def check_table(path: str | os.PathLike[str]) -> None:
    """Raise if a table cannot be written there.

    Raises:
        InputError: it does not end in .csv.
        ConfigError: scikit-image is missing.
    """
    if Path(path).suffix.lower() != ".csv":
        raise InputError(f"a table of objects cannot be written to {str(path)!r}: give a name that ends in .csv")
    _measuring()


def _measuring() -> Any:
    return extras.needed("skimage.measure", "a table of objects")
