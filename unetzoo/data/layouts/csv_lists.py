"""CSV files that list images and masks, wherever they lie."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from pathlib import Path

from unetzoo.checks import shortened
from unetzoo.data.labels import Labels
from unetzoo.data.layouts._base import Understood
from unetzoo.data.listing import SPLITS, Listing, Sample
from unetzoo.errors import ConfigError


def understood(source: Path) -> Understood:
    """Return what a CSV file is."""
    said = "a CSV list: each row names an image and its mask"
    return Understood(said, lambda labels: _list_csv(source, labels))


def _list_csv(source: Path, labels: Labels) -> Listing:
    rows = _csv_rows(source)
    shared = Path(os.path.commonpath([image.parent for _, _, image, _ in rows])) if rows else source.parent
    parent = source.parent.absolute()
    if shared.is_relative_to(parent):
        shared = parent
    problems: list[str] = []
    samples: dict[str, dict[str, Sample]] = defaultdict(dict)
    for split, kind, image, mask in rows:
        name = image.relative_to(shared).with_suffix("").as_posix()
        sample = Sample(name, image, mask, kind, _from(parent, image))
        problems += [f"{shortened(str(path))}: there is no such file" for path in (image, mask) if not _is_file(path)]
        other = samples[split].setdefault(sample.name, sample)
        if other is not sample:
            problems.append(f"{image}: {other.image} was listed before, and has the same stem; keep one")
    ordered = {split: tuple(found[name] for name in sorted(found)) for split, found in samples.items()}
    return Listing(labels, ordered or {"": ()}, tuple(problems), ())


def _is_file(path: Path) -> bool:
    """Return whether there is a file; there is none of a name that is longer than names can be."""
    try:
        return path.is_file()
    except OSError:
        return False


def _from(folder: Path, image: Path) -> str:
    """Return the path of an image from a folder, without its suffix; as it is, where they are on two drives."""
    try:
        return Path(os.path.relpath(image, folder)).with_suffix("").as_posix()
    except ValueError:
        return image.with_suffix("").as_posix()


def _csv_rows(source: Path) -> list[tuple[str, str, Path, Path]]:
    """Return split, kind, image and mask of each row.

    Raises:
        ConfigError: no such file, no such columns, or cells that are empty or wrong.
    """
    try:
        with source.open(newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream, strict=True)
            columns, records = list(table.fieldnames or ()), list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{str(source)!r} cannot be read as CSV: {error}") from error
    if not {"image", "mask"} <= set(columns) <= {"image", "mask", "split", "kind"}:
        raise ConfigError(
            f"{str(source)!r} has the columns {', '.join(map(repr, columns)) or 'of an empty file'}: image and mask "
            "are needed, split and kind are possible, separated by commas"
        )
    problems, rows = [], []
    for number, record in enumerate(records, 2):
        image, mask, split, kind = (record.get(column) or "" for column in ("image", "mask", "split", "kind"))
        if not image or not mask or None in record:
            problems.append(f"row {number}: one image and one mask are needed")
        elif "split" in columns and split not in SPLITS:
            problems.append(f"row {number}: split {split!r}: train, val or test is needed")
        elif "kind" in columns and not kind:
            problems.append(f"row {number}: kind is empty, where others have one")
        else:
            folder = source.parent.absolute()
            paths = (Path(os.path.normpath(folder / path)) for path in (image, mask))
            rows.append((SPLITS.get(split, ""), kind, *paths))
    if problems:
        raise ConfigError(f"{str(source)!r} cannot be used", problems)
    return rows  # type: ignore[return-value]
