"""A table with a row for each image: how many objects it has, and how much of it they cover."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from unetzoo.checks import class_name_problems
from unetzoo.errors import ConfigError, InputError
from unetzoo.files.writing import make_folder, replacing
from unetzoo.objects.finding import Instances
from unetzoo.objects.writing import object_classes
from unetzoo.printing import printable

Numbers = Mapping[int, tuple[int, int]]
"""Class → the number of its objects and of their pixels."""
Counts = dict[str, int | float]


def counts(
    found: Instances,
    *,
    class_names: Sequence[str] | None = None,
    mpp: tuple[float, float] | None = None,
    measured: int | None = None,
) -> Counts:
    """Return how many objects an image has, and how much of it they cover, also if it has none.

    Args:
        found: the objects.
        class_names: one name per class, background included in a multiclass task, see ``Instances.rows``.
        mpp: µm per pixel, down and across: adds "area_um2" and "objects_per_mm2".
        measured: number of pixels without those where nothing was measured; None: all.

    Returns:
        "width" and "height"; "objects"; their "area" in pixels and their "share" of the image, both in total for one
        class, and for several as "area/NAME" and "share/NAME", with "objects/NAME". With ``mpp`` also "area_um2" and
        "objects_per_mm2".

    Raises:
        ConfigError: names are invalid, or not one per class.
    """
    problems = class_name_problems(class_names, found.num_classes)
    if problems:
        raise ConfigError("cannot name the objects", problems)
    names = object_classes(found.task, found.num_classes, class_names)
    height, width = found.labels.shape[-2:]
    return counts_of(numbers_of(found), names, (height, width), mpp, measured)


def numbers_of(found: Instances) -> dict[int, tuple[int, int]]:
    """Return, for each class with objects, how many there are and how many pixels they have."""
    kinds = set(found.classes.tolist())
    return {kind: (int((found.classes == kind).sum()), int(found.areas[found.classes == kind].sum())) for kind in kinds}


def counts_of(
    numbers: Numbers,
    names: Mapping[int, str],
    size: tuple[int, int],
    mpp: tuple[float, float] | None = None,
    measured: int | None = None,
) -> Counts:
    """Return the result of :func:`counts` from numbers of objects and pixels.

    Args:
        numbers: of each class; a class without objects may be missing.
        names: class → its name, for all classes that objects can have.
        size: height and width of the image.
        mpp, measured: see :func:`counts`.
    """
    pixels = size[0] * size[1] if measured is None else measured
    row: Counts = {"width": size[1], "height": size[0], "objects": sum(count for count, _ in numbers.values())}
    if len(names) > 1 and mpp is not None:
        row["objects_per_mm2"] = _density(int(row["objects"]), pixels, mpp)
    for kind, name in names.items():
        count, area = numbers.get(kind, (0, 0))
        of_class: Counts = {"objects": count, "area": area, "share": area / max(pixels, 1)}
        if mpp is not None:
            of_class |= {"area_um2": area * mpp[0] * mpp[1], "objects_per_mm2": _density(count, pixels, mpp)}
        row |= of_class if len(names) == 1 else {f"{column}/{name}": value for column, value in of_class.items()}
    return row


def _density(count: int, pixels: int, mpp: tuple[float, float]) -> float:
    """Return how many objects there are per mm² of the measured pixels; NaN if there are none of these."""
    area = pixels * mpp[0] * mpp[1] / 1e6
    return count / area if area else float("nan")


@contextlib.contextmanager
def counts_file(
    path: str | os.PathLike[str], names: Mapping[int, str], *, microns: bool = False
) -> Iterator[Callable[[str, Counts], None]]:
    """Give a function that writes the row of an image, from its name and the result of :func:`counts_of`, as CSV.

    The file is put in place when the block ends without an error, completely or not at all.

    Args:
        path: ends in .csv. Its folder is created if it is missing.
        names: class → its name, for all classes that objects can have.
        microns: whether there are columns in µm²; for images of unknown pixel size, their cells are empty.

    Raises:
        InputError: ``path`` has another ending.
        WriteError: the file cannot be written.
    """
    check_counts(path)
    header = list(counts_of({}, names, (1, 1), (1.0, 1.0) if microns else None))
    make_folder(Path(path).parent)
    with replacing(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", *map(printable, header)])

        def write(name: str, row: Counts) -> None:
            writer.writerow([printable(name), *(row.get(column, "") for column in header)])

        yield write
        text.detach()  # flushes, and leaves the stream open


def check_counts(path: str | os.PathLike[str]) -> None:
    """Raise if a table of counts cannot be written there.

    Raises:
        InputError: it does not end in .csv.
    """
    if Path(path).suffix.lower() != ".csv":
        raise InputError(f"a table of counts cannot be written to {str(path)!r}: give a name that ends in .csv")
