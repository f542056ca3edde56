"""CSV files that list images and masks in any folders."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from unetzoo.checks import shortened
from unetzoo.data.labels import Labels
from unetzoo.data.layouts._base import Meaning, Understood
from unetzoo.data.layouts.class_names import names_in
from unetzoo.data.listing import SPLITS, Listing, Sample
from unetzoo.errors import ConfigError
from unetzoo.files.absent import absent


def understood(sources: Sequence[Path]) -> Understood:
    """Return how to read a CSV file, or several, one after the other."""
    what = "a CSV list" if len(sources) == 1 else f"{len(sources)} CSV lists"
    said = f"{what}: each row names an image and its mask"
    return Understood(said, lambda labels: _list_csv(sources, labels), lambda: _meaning(sources))


def _meaning(sources: Sequence[Path]) -> Meaning:
    return Meaning(names_in(mask for source in sources for *_, mask in _csv_rows(source)))


def _list_csv(sources: Sequence[Path], labels: Labels) -> Listing:
    by_list = {source: _csv_rows(source) for source in sources}
    rows = [(source.parent.absolute(), row) for source, found in by_list.items() for row in found]
    unsaid = [str(source) for source, found in by_list.items() if found and not found[0][0]]
    if unsaid and any(row[0] for _, row in rows):
        raise ConfigError(f"some of these lists name splits, but {', '.join(unsaid)} does not: add the column split")
    shared = _shared([source.parent.absolute() for source in sources], [image for _, (_, _, image, _) in rows])
    problems: list[str] = []
    samples: dict[str, dict[str, Sample]] = defaultdict(dict)
    for parent, (split, kind, image, mask) in rows:
        name = _from(shared, image)
        sample = Sample(name, image, mask, kind, _from(parent, image))
        problems += [f"{shortened(str(path))}: there is no such file" for path in (image, mask) if not _is_file(path)]
        other = samples[split].setdefault(sample.name, sample)
        if other is not sample:
            problems.append(f"{image}: {other.image} is listed before it with the same stem; keep one")
    ordered = {split: tuple(found[name] for name in sorted(found)) for split, found in samples.items()}
    return Listing(labels, ordered or {"": ()}, tuple(problems), ())


def _shared(parents: list[Path], images: list[Path]) -> Path:
    """Return the folder for image names: that of the lists if it has all images, else the common one of all images."""
    try:
        shared = Path(os.path.commonpath([image.parent for image in images] or parents))
        of_lists = Path(os.path.commonpath(parents))
    except ValueError:  # on two drives
        return parents[0]
    return of_lists if shared.is_relative_to(of_lists) else shared


def _is_file(path: Path) -> bool:
    """Return whether there is a file; False also for names that are too long."""
    try:
        return path.is_file()
    except OSError:
        return False


def _from(folder: Path, image: Path) -> str:
    """Return the path of an image from a folder, without its suffix; the full path if they are on two drives."""
    try:
        return Path(os.path.relpath(image, folder)).with_suffix("").as_posix()
    except ValueError:
        return image.with_suffix("").as_posix()


def _csv_rows(source: Path) -> list[tuple[str, str, Path, Path]]:
    """Return split, kind, image and mask of each row.

    Raises:
        ConfigError: there is no such file, columns are missing, or cells are empty or wrong.
    """
    try:
        with source.open(newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream, strict=True)
            columns, records = list(table.fieldnames or ()), list(table)
    except FileNotFoundError as error:
        raise ConfigError(absent(source)) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{str(source)!r} cannot be read as CSV: {error}") from error
    if not {"image", "mask"} <= set(columns) <= {"image", "mask", "split", "kind"}:
        raise ConfigError(
            f"{str(source)!r} has the columns {', '.join(map(repr, columns)) or 'of an empty file'}: image and mask "
            "are needed, split and kind are optional, separated by commas"
        )
    problems, rows = [], []
    for number, record in enumerate(records, 2):
        image, mask, split, kind = (record.get(column) or "" for column in ("image", "mask", "split", "kind"))
        if not image or not mask or None in record:
            problems.append(f"row {number}: one image and one mask are needed")
        elif "split" in columns and split not in SPLITS:
            problems.append(f"row {number}: split {split!r}: train, val or test is needed")
        elif "kind" in columns and not kind:
            problems.append(f"row {number}: kind is empty, but every row needs one")
        else:
            folder = source.parent.absolute()
            paths = (Path(os.path.normpath(folder / path)) for path in (image, mask))
            rows.append((SPLITS.get(split, ""), kind, *paths))
    if problems:
        raise ConfigError(f"{str(source)!r} cannot be used", problems)
    return rows  # type: ignore[return-value]
