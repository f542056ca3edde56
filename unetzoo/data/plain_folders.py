"""Conversion of any readable data set to plain folders."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from unetzoo import extras, images
from unetzoo.data import edges, masks, turning
from unetzoo.data.labels import IGNORED, Labels
from unetzoo.data.layouts import class_tables
from unetzoo.data.listing import Listing, Sample, Source, title_of
from unetzoo.data.stacks import list_samples
from unetzoo.errors import ConfigError, InputError
from unetzoo.files.names import place_key
from unetzoo.files.writing import make_folder, replacing, write_file
from unetzoo.progress import shown

_IGNORE = 255
"""Written value of pixels that do not count; the next one is for objects, and for more classes than this."""
_DEEP_IGNORE = 65535


def convert(source: Source, target: str | os.PathLike[str], labels: Labels, *, progress: bool = False) -> Labels:
    """Write a data set as a folder with ``images/`` and ``masks/``, or ``train/``, ``val/``, … if it has splits.

    For instances the masks are label images, in ``instances/``.

    Images are copied byte for byte, except those whose channels are separate files: they become an upright TIFF with
    these bands, which needs the extra ``tiff``. Masks become PNG: class indices for multiclass (8 bits, 16 for more
    than 255 classes), 0 and 255 for binary, and for multilabel a folder of binary masks for each class. If some pixels
    do not count, they become 255, or 65535 in 16 bits, and the foreground of binary and multilabel masks becomes 1.
    Class names of multiclass go into ``class_names.txt``, which is read with the folder. Objects that touch merge in
    masks. Label images have 16 bits, with a number for each object of an image, 0 between objects,
    and 65535 where pixels do not count; several classes have a folder each.
    Masks of turned images are written for the stored pixels. All masks are read before anything is written.

    Args:
        source, labels: as in :func:`~unetzoo.data.find_samples`.
        target: a folder that is empty or does not exist yet.
        progress: show a progress bar.

    Returns:
        The labels that read the written masks.

    Raises:
        ConfigError: lists what cannot be read, or used as a file name; or ``target`` is not empty.
        WriteError: the disk is full, or cannot be written.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{str(target)!r} already exists and is not an empty folder: choose another")
    listing = list_samples(source, labels)
    written = _written_labels(listing.labels)
    found = [(split, sample) for split, samples in listing.samples.items() for sample in samples]
    problems = [*listing.problems, *_name_problems(written), *_place_problems(found)]
    ignores = written.ignore is not None
    if any(sample.channels for _, sample in found):
        extras.needed("tifffile", "a TIFF of several bands")  # before all images are read
    for _, sample in shown(found, progress, " checked"):
        try:
            if sample.channels:
                images.stored(sample.files, sample.planes)  # raises if they do not fit together
            target_of = _target(sample, listing.labels)
            ignores |= bool((target_of == IGNORED).any())
        except InputError as error:
            problems.append(str(error))
    if not found:
        problems.append("there are no images")
    if problems:
        raise ConfigError(f"{title_of(source)!r} cannot be converted", problems)
    written = dataclasses.replace(written, ignore=_ignored(written) if ignores else None)
    for split, sample in shown(found, progress, " written"):
        _write(target / split, sample, listing, written)
    named = class_tables.text_of(written.class_names or ()) if written.pixel_task == "multiclass" else None
    if named:
        write_file(target / "class_names.txt", named)
    return written


def _written_labels(labels: Labels) -> Labels:
    ignores = labels.ignore is not None or labels.ignore_colour is not None
    if labels.num_classes > _DEEP_IGNORE:
        raise ConfigError(f"num_classes={labels.num_classes}: 16-bit masks hold at most {_DEEP_IGNORE} classes")
    names = labels.counted if labels.pixel_task == "multilabel" else labels.class_names
    return dataclasses.replace(
        labels,
        ignore=_ignored(labels) if ignores else None,
        foreground="any" if labels.task == "instances" else "white",
        planes=None,
        codes=None,
        classes=None,
        masks=None,
        colours=None,
        ignore_colour=None,
        class_names=names,
    )


def _name_problems(labels: Labels) -> list[str]:
    """Return problems of class names that cannot be folder names on every system."""
    if labels.pixel_task != "multilabel":
        return []
    return [
        f"class {name!r}: a folder cannot have this name on every system"
        for name in labels.counted
        if set(name) & set('/\\:*?"<>|') or name.startswith(".") or not name.isprintable()
    ] + _twice("classes", labels.counted)


def _place_problems(found: Sequence[tuple[str, Sample]]) -> list[str]:
    """Return problems of images that would become the same file."""
    return _twice("images", [f"{split}/{sample.name}" for split, sample in found])


def _twice(what: str, names: Sequence[str]) -> list[str]:
    keys: dict[str, str] = {}
    pairs = [(keys.setdefault(place_key(name), name), name) for name in names]
    return [f"{what} {a!r} and {b!r}: on some systems these names are the same; rename one" for a, b in pairs if a != b]


def _write(folder: Path, sample: Sample, listing: Listing, written: Labels) -> None:
    image = folder / "images" / f"{sample.name}{'.tif' if sample.channels else sample.image.suffix}"
    make_folder(image.parent)
    if sample.channels:
        raster, nodata = images.stored(sample.files, sample.planes)
        images.write_bands(raster.pixels, image, nodata)
    else:
        with sample.image.open("rb") as original, replacing(image) as stream:
            shutil.copyfileobj(original, stream)
    target = _target(sample, listing.labels)
    # The written mask has no orientation: for a turned image it is read as a mask of the stored pixels.
    stored = turning.as_stored(target, images.orientation(image) or 1)
    home = "instances" if written.task == "instances" else "masks"
    for name, values in _files(stored, written).items():
        images.write_png(_values(values, written), folder / home / name / f"{sample.name}.png")


def _target(sample: Sample, labels: Labels) -> Tensor:
    """Return the classes, or the numbers of objects, of an image's mask; (H, W), or (classes, H, W).

    Raises:
        InputError: the mask cannot be read, or a label image cannot hold it.
    """
    size = images.image_size(sample.image)
    if labels.task != "instances":
        return masks.read_target(sample, labels, size)
    classes, ids = edges.read_numbers(sample, labels, size)
    planes = []
    for name, plane, own in zip(labels.counted[-len(classes) :], classes, ids.expand(classes.shape), strict=True):
        inside = plane == 1
        bare = int((inside & (own == 0)).sum())
        if bare:
            raise InputError(
                f"{masks.shown(sample)}: {bare} pixels of {name!r} belong to no object, which label images cannot "
                "express: give them numbers, or convert for another task"
            )
        values, numbers = torch.unique(torch.where(inside, own, 0), return_inverse=True)
        numbers += int(values[0] != 0)
        if int(numbers.max()) >= _DEEP_IGNORE:
            raise InputError(f"{masks.shown(sample)}: {int(numbers.max())} objects, but 16 bits hold at most 65534")
        planes.append(numbers.masked_fill(plane == IGNORED, IGNORED))
    return torch.stack(planes) if labels.pixel_task == "multilabel" else planes[0]


def _files(target: Tensor, written: Labels) -> Mapping[str, Tensor]:
    """Return the targets to write, by sub-folder of the masks."""
    return dict(zip(written.counted, target, strict=True)) if written.pixel_task == "multilabel" else {"": target}


def _values(target: Tensor, written: Labels) -> Tensor:
    """Return the pixels to write for a target, uint8, or uint16 for objects and for many classes."""
    masked = written.task in ("binary", "multilabel") and written.ignore is None
    white = 255 if masked else 1
    ignored = _ignored(written)
    deep = ignored == _DEEP_IGNORE
    return torch.where(target == IGNORED, ignored, target * white).to(torch.uint16 if deep else torch.uint8)


def _ignored(labels: Labels) -> int:
    """Return the written value of pixels that do not count."""
    many = labels.task == "multiclass" and labels.num_classes > _IGNORE
    return _DEEP_IGNORE if many or labels.task == "instances" else _IGNORE
