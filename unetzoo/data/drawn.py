"""From the objects drawn on an image to its target.

A pixel belongs to the object that contains its centre; if several do, to the one that is drawn last. Objects whose
pixels do not count are drawn before all others, so their pixels are ignored only where nothing else is drawn.

- Binary: all objects are foreground; with ``labels.classes`` only those of these classes.
- Multiclass: ``labels.classes`` are the classes from 1 on; without it ``labels.class_names`` after the first, which
  is the background. Where a format has only numbers, class k becomes k + 1.
- Multilabel: the same from 0 on; classes may overlap, each in a map of its own.

An object without a class is refused where others have one, unless ``labels.classes`` says which count.
Objects of other classes are left out, whether they count or not. A region that does not count and has no class is
ignored in all classes, and one of the background cuts a hole into everything that was drawn before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetzoo.data.annotations import BACKGROUND, Annotation, Drawing, read as read_annotations
from unetzoo.data.labels import IGNORED, Labels
from unetzoo.data.listing import Sample
from unetzoo.errors import InputError
from unetzoo.images import IMAGE_SUFFIXES
from unetzoo.printing import counted, some_of


def drawing_of(sample: Sample) -> Drawing | None:
    """Return the objects drawn on an image; None if its mask is an image file.

    Raises:
        InputError: the file cannot be read, or has wrong annotations, which are listed.
    """
    if isinstance(sample.mask, Drawing):
        return sample.mask
    if not isinstance(sample.mask, Path) or sample.mask.suffix.lower() in IMAGE_SUFFIXES:
        return None
    document = read_annotations(sample.mask)
    if document.problems:
        first, more = document.problems[:5], len(document.problems) - 5
        rest = f"; and {more} more" if more > 0 else ""
        raise InputError(f"{str(sample.mask)!r} has wrong annotations: {'; '.join(first)}{rest}")
    if len(document.drawings) != 1:
        raise InputError(f"{str(sample.mask)!r} describes {len(document.drawings)} images: it must describe one")
    return next(iter(document.drawings.values()))


def target_of(
    drawing: Drawing,
    labels: Labels,
    size: tuple[int, int],
    ids: NDArray[np.int64] | None = None,
    nowhere: list[Annotation] | None = None,
) -> Tensor:
    """Return the target of a drawing: int64, (H, W), or (classes, H, W) for multilabel.

    Instances of several classes also give (classes, H, W), but a pixel belongs only to the object that is drawn last.

    Args:
        drawing: of one image.
        labels: the classes.
        size: height and width of the image.
        ids: zeros, (H, W) or of the target's shape, to write to: k where the k-th object that counts is, and no later
            one covers it.
        nowhere: list that receives objects that count but cover no pixel: outside the image, or between pixel centres.

    Raises:
        InputError: the drawing is of an image of another size, or has an unknown class; or see :func:`check_classes`.
    """
    if drawing.size is not None and tuple(drawing.size) != tuple(size):
        height, width = drawing.size
        raise InputError(
            f"{str(drawing.source)!r} is for {width}×{height} pixels, but its image is {size[1]}×{size[0]}"
        )
    check_classes(drawing, labels)
    multilabel = labels.pixel_task == "multilabel"
    target = torch.zeros((labels.num_classes, *size) if multilabel else size, dtype=torch.int64)
    pixels, number = target.numpy(), 0
    for k, annotation in sorted(enumerate(drawing.annotations, 1), key=lambda pair: not pair[1].ignored):
        everywhere = annotation.kind == BACKGROUND[0] or (annotation.ignored and annotation.kind == "")
        plane = slice(None) if everywhere else _class_of(annotation.kind, labels, drawing)
        if plane is None:
            continue
        try:
            part = annotation.region.pixels(size)
        except InputError as error:
            raise InputError(f"{str(drawing.source)!r}, annotation {k}: {error}") from error
        counts = not annotation.ignored and not everywhere
        if nowhere is not None and counts and not part.inside.any():
            nowhere.append(annotation)
        value = IGNORED if annotation.ignored else _value(plane, labels)
        if labels.task == "instances" and multilabel and counts:  # it hides what is below
            pixels[(slice(None), *part.slices)][..., part.inside] = 0
        where = (plane, *part.slices) if multilabel else part.slices
        pixels[where][..., part.inside] = value
        if ids is not None and not annotation.ignored:
            number += 1
            numbered = ids[where] if ids.ndim == pixels.ndim else ids[part.slices]
            numbered[..., part.inside] = 0 if everywhere else number
    return target


def check_classes(drawing: Drawing, labels: Labels) -> None:
    """Raise if objects have no class where others have one, unless ``labels.classes`` says which count.

    Such an object may be the outline of a tissue, which would hide all objects in it.

    Raises:
        InputError: some have none; the message has the number of them.
    """
    if labels.classes is not None:
        return
    kinds = [one.kind for one in drawing.annotations if not one.ignored and one.kind != BACKGROUND[0]]
    drawn = sorted({kind for kind in kinds if isinstance(kind, str) and kind})
    names = drawn if labels.pixel_task == "binary" else list(_names(labels) or ())
    if "" in kinds and names:
        raise InputError(f"{str(drawing.source)!r}: {counted(kinds.count(''), 'object')} {without_class(names)}")


def without_class(names: Sequence[str]) -> str:
    """Return what follows "3 objects" in the error that they have no class, while others have these."""
    return (
        f"without a class next to {some_of(names)}: give classes={tuple(names)!r}, or only some of them, which "
        "leaves out objects without a class; or give each a class"
    )


def _value(plane: int | slice, labels: Labels) -> int:
    if isinstance(plane, slice):
        return 0
    return plane if labels.pixel_task == "multiclass" else 1


def _class_of(kind: str | int, labels: Labels, drawing: Drawing) -> int | None:
    """Return the class of an object, from 0 for multilabel, else from 1; None if its class is not wanted.

    Raises:
        InputError: its number has no class.
    """
    first = 0 if labels.pixel_task == "multilabel" else 1
    names = _names(labels)
    if isinstance(kind, str):
        if names is None:
            return first
        return names.index(kind) + first if kind in names else None
    if labels.pixel_task == "binary":
        return first
    highest = labels.num_classes - 1 - first
    if kind > highest:
        fix = ", as background is one of the classes" if first else ""
        raise InputError(
            f"{str(drawing.source)!r} has an object of class {kind}, but num_classes={labels.num_classes} allows "
            f"0…{highest}{fix}"
        )
    return kind + first


def _names(labels: Labels) -> Sequence[str] | None:
    """Return the classes that objects may have; None for all."""
    if labels.classes is not None or labels.pixel_task == "binary":
        return labels.classes
    names = labels.class_names or ()
    return names[1:] if labels.pixel_task == "multiclass" else names
