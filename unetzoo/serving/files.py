"""The files that a visitor can download, from the package's own writers."""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from unetzoo import images
from unetzoo.checks import class_names_of
from unetzoo.files.names import place_key
from unetzoo.objects import WRITERS, table
from unetzoo.objects.table import table_file
from unetzoo.prediction.outputs import annotation_paths, mask_paths
from unetzoo.prediction.results import annotated
from unetzoo.printing import printable
from unetzoo.serving.answers import Segmented
from unetzoo.serving.counts import legend
from unetzoo.serving.pictures import picture

FORMATS = {"labels": "label image (TIFF)", "geojson": "outlines (GeoJSON)", "coco": "outlines (COCO)"}
"""Formats of objects: name in ``unetzoo.objects.WRITERS`` → name on the page."""
_FORMULA = ("=", "+", "-", "@")


def write_masks(seen: Segmented, folder: Path) -> Path:
    """Write the mask as ``Prediction.save`` does, as PNG; for a multi-label model, a ZIP with one mask per class."""
    prediction, file = seen.prediction, folder / f"{_stem(seen)}_mask.png"
    config = prediction.config
    if config.pixel_task != "multilabel":
        prediction.save(file)
        return file
    # Names of classes come from the model, and may contain paths that lead out of a folder.
    nameless = replace(config, class_names=None)
    replace(prediction, config=nameless).save(file)
    return _by_class(seen, dict(enumerate(mask_paths(file, nameless))), folder / f"{_stem(seen)}_masks.zip")


def write_overlay(seen: Segmented, opacity: float, folder: Path, *, outline: bool = False) -> Path:
    """Write the image with the mask over it, or with only the outlines, as PNG."""
    target = folder / f"{_stem(seen)}_overlay.png"
    images.write_png(picture(seen).overlaid(opacity, outline=outline), target)
    return target


def write_objects(seen: Segmented, kind: str, folder: Path) -> Path:
    """Write the objects as ``Prediction.save_annotations`` does; label images of several classes as a ZIP."""
    assert seen.objects is not None
    prediction, writer = seen.prediction, WRITERS[kind]
    name, file = prediction.name or "image", folder / f"{_stem(seen)}_{kind}{writer.suffix}"
    nameless = replace(prediction.config, class_names=None)
    paths = annotation_paths(file, writer, nameless)
    for k, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(writer.pieces([annotated(prediction, seen.objects, k, name, name)])))
    several = {k: path for k, path in paths.items() if k is not None}
    return _by_class(seen, several, folder / f"{_stem(seen)}_{kind}.zip") if several else file


def write_table(found: Iterable[tuple[str, Segmented]], path: Path) -> Path:
    """Write the objects of named images to one CSV file, see ``unetzoo.objects.table``."""
    found = list(found)
    with table_file(path, max(seen.measured.shape[0] for _, seen in found)) as write:
        for name, seen in found:
            assert seen.objects is not None
            columns = table(seen.objects, seen.measured, class_names=seen.prediction.config.class_names)
            for k, kind in enumerate(columns["class"]):
                columns["class"][k] = harmless(kind)
            write(harmless(name), columns)
    return path


def write_all(
    found: Sequence[tuple[str, Segmented]], opacity: float, folder: Path, *, outline: bool, measures: bool
) -> Path:
    """Write one ZIP with a folder of all files for each image, and tables for all images.

    Args:
        found: name and result of each image.
        opacity, outline: of overlays.
        folder: for the ZIP and, temporarily, its contents.
        measures: whether to measure objects, too; the packages for that are installed.
    """
    inner = folder / "results"
    inner.mkdir()
    for place, (_, seen) in zip(folders([name for name, _ in found]), found, strict=True):
        own = inner / place
        own.mkdir()
        write_masks(seen, own)
        write_overlay(seen, opacity, own, outline=outline)
        if seen.objects is not None:
            for kind in FORMATS:
                write_objects(seen, kind, own)
    _write_counts(found, inner / "counts.csv")
    if measures:
        write_table(found, inner / "objects.csv")
    target = folder / "results.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(path for path in inner.rglob("*") if path.is_file()):
            relative = path.relative_to(inner)
            if len(relative.parts) <= 2:  # files of single classes are in their own ZIP
                archive.write(path, relative.as_posix())
    return target


def folders(names: Iterable[str]) -> list[str]:
    """Return a safe and unique folder name for each image, whatever the name of the image."""
    found: list[str] = []
    taken: set[str] = set()
    for name in names:
        stem = re.sub(r"[^\w ()+,-]+", "_", Path(name.replace("\\", "/")).stem).strip(" _")[:80] or "image"
        if place_key(stem) in _DEVICES:
            stem = f"{stem}_"
        tried, k = stem, 1
        while place_key(tried) in taken:
            k += 1
            tried = f"{stem}_{k}"
        taken.add(place_key(tried))
        found.append(tried)
    return found


_DEVICES = {"con", "prn", "aux", "nul", *(f"{kind}{k}" for kind in ("com", "lpt") for k in range(1, 10))}
"""Names of devices in Windows, which no folder can have."""


def harmless(text: str) -> str:
    """Return text that no spreadsheet takes for a formula: an apostrophe is put before text that looks like one."""
    shown = printable(text)
    return f"'{shown}" if shown.lstrip("\"' ").startswith(_FORMULA) else shown


def _write_counts(found: Sequence[tuple[str, Segmented]], path: Path) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["image", "class", "objects", "pixels", "share"])
        for name, seen in found:
            for row in legend(seen):
                number = "" if row.objects is None else row.objects
                writer.writerow([harmless(name), harmless(row.name), number, row.pixels, f"{row.share:.6f}"])


def _stem(seen: Segmented) -> str:
    return Path(seen.prediction.name or "image").stem


def _by_class(seen: Segmented, paths: Mapping[int, Path], target: Path) -> Path:
    """Put a file of each class into a ZIP, in folders with safe forms of the classes' names."""
    config = seen.prediction.config
    names = class_names_of(config.class_names, config.task, config.num_classes)
    with zipfile.ZipFile(target, "w") as archive:  # the files are compressed already
        for k, path in paths.items():
            label = re.sub(r"[^\w -]+", "_", names[k])
            archive.write(path, f"{k}_{label}/{path.name}")
    return target
