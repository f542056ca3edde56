"""YOLO's segmentation: ``class x1 y1 x2 y2 …``, one polygon per line, in a text file for each image.

https://docs.ultralytics.com/datasets/segment. Coordinates are shares of width and height. An empty file means that
there are no objects. Classes count from 0, without a background. Their names are in ``data.yaml`` (``names``, a list,
or numbers and names), as Ultralytics and Roboflow write it, or in ``classes.txt``, a name per line, as in labelImg: the
nearest one is read, next to the text files or up to three folders above. Without one, classes have only numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetzoo.data.annotations._base import Annotation, Document, Drawing, register_annotation_format
from unetzoo.data.annotations.regions import NO_BOXES, Polygons
from unetzoo.errors import InputError

_TELLING = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt")
_ABOVE = 3
_LARGEST = 2**20
"""The most bytes of a file of names."""
_SLACK = 0.01
"""How far coordinates may be outside the image, after rounding and augmentation."""


@register_annotation_format("yolo", title="YOLO text", suffixes=(".txt",), recognises=lambda path: True)
def read(path: Path) -> Document:
    """Read a text file of polygons."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} cannot be read as text: {error}") from error
    found, problems, names, boxes = [], [], _names_for(path.parent), 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if _is_box(line):
                boxes += 1
                continue
            number_of, ring = _parsed(line)
            kind = _named(number_of, names)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
        else:
            found.append(Annotation(kind, Polygons(((ring,),), relative=True)))
    if boxes:  # without their number, so that the same problem of many files is reported once
        problems.append(f"lines of a class and 4 numbers are detection boxes: {NO_BOXES}")
    return Document({"": Drawing(path, tuple(found))}, tuple((names or {}).values()), tuple(problems), listed=True)


def _named(number: int, names: Mapping[int, str] | None) -> int | str:
    if names is None:
        return number
    if number not in names:
        raise ValueError(f"class {number} has no name; only {', '.join(map(str, names))} have one")
    return names[number]


def _names_for(folder: Path) -> dict[int, str] | None:
    """Return the class names by number; None if no file has them.

    Raises:
        InputError: the file with the names cannot be read.
    """
    for place in (folder, *folder.absolute().parents[:_ABOVE]):
        for name in _TELLING:
            try:
                status = (place / name).stat()
            except OSError:
                continue
            names = _names_in(place / name, status.st_mtime_ns, status.st_size)
            if names:
                return names
    return None


@functools.lru_cache(maxsize=64)
def _names_in(path: Path, _: int, size: int) -> dict[int, str]:
    if size > _LARGEST:
        raise InputError(f"{str(path)!r} has {size} bytes, too many for a file of class names")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} cannot be read as text: {error}") from error
    if path.suffix == ".txt":
        return dict(enumerate(line.strip() for line in text.splitlines() if line.strip()))
    import yaml

    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read as YAML: {error}") from error
    names = found.get("names") if isinstance(found, dict) else None
    if names is None:
        return {}
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(names, dict) or not all(type(k) is int and type(v) in (str, int) for k, v in names.items()):
        raise InputError(f"{str(path)!r}: names must be a list of texts, or numbers and texts; put them in quotes")
    return {number: str(names[number]) for number in sorted(names)}


def _is_box(line: str) -> bool:
    """Return whether a line is a class, and the centre and size of a box."""
    words = line.split()
    return len(words) == 5 and words[0].isdecimal() and all(map(_is_number, words[1:]))


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _parsed(line: str) -> tuple[int, NDArray[np.float64]]:
    """Return class and corners, (corners, 2).

    Raises:
        ValueError: what is wrong with the line.
    """
    first, *rest = line.split()
    if not first.isdecimal():
        raise ValueError(f"the class must be a whole number from 0 up, not {first!r}")
    try:
        numbers = [float(text) for text in rest]
    except ValueError:
        raise ValueError("coordinates must be numbers") from None
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"{len(numbers)} numbers; x and y of 3 corners or more are needed")
    if not all(-_SLACK <= number <= 1 + _SLACK for number in numbers):
        raise ValueError("coordinates must be shares of width and height, from 0 to 1")
    return int(first), np.array(numbers, np.float64).reshape(-1, 2)
