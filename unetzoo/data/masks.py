"""From mask files to targets; everything about their values is decided here.

- Binary. Without colours, a mask is black and white, see :mod:`unetzoo.data.black_and_white`; or, with
  ``labels.foreground="any"``, every whole number above 0 is foreground. If a mask has a palette and all colours in use
  are grey, its values are these greys, as writers may store white first; otherwise they are the indices. Where all
  colours are the same and alpha is not, alpha is the mask.
- Multiclass. Values are class indices; of a palette its indices count, never its colours, grey or not. ``check`` warns
  where black is not class 0, as in black-and-white masks that were written with white first.
- Painted masks, binary or multiclass: the place of a pixel's colour in ``labels.colours`` is its class.
- Multilabel. One file for each class, like a binary mask, or one file with a band for each class.
- Annotations, any task: objects that were drawn, see :mod:`unetzoo.data.drawn`.

Masks of stored pixels turn with their image: :mod:`unetzoo.data.turning`.
Channels that are all equal count as one, and an opaque alpha channel does not count. Pixels of the value
``labels.ignore``, or of the nodata value in the file's own tag, become :data:`~unetzoo.data.labels.IGNORED` before
anything else is decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unetzoo import images
from unetzoo.data import black_and_white, drawn, turning
from unetzoo.data.annotations import Annotation, Drawing, MaskFile
from unetzoo.data.black_and_white import Outside
from unetzoo.data.labels import IGNORED, Labels
from unetzoo.data.listing import Sample
from unetzoo.data.stacks import planes_of_mask
from unetzoo.errors import InputError

Palette = Sequence[tuple[int, int, int]]

_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")
_BLACK, _HEX = (0, 0, 0), "#{:02x}{:02x}{:02x}"
_OUTSIDE = -1
"""Marks values without a class in lookup tables."""


def read_target(sample: Sample, labels: Labels, size: tuple[int, int], dtype: torch.dtype = torch.int64) -> Tensor:
    """Return the target of an image: (H, W), or (classes, H, W) for multilabel.

    Args:
        sample: whose mask it is.
        labels: what the mask means.
        size: height and width of the image.
        dtype: signed integers that hold all classes and IGNORED.

    Raises:
        InputError: a mask cannot be read, has another size, or has values outside the classes.
    """
    found = decode(sample, labels, size)
    if found.outside:
        said = explain(found.outside, labels, sample, [found.outside] * found.areas)
        raise InputError(f"{shown(sample)}: {said}")
    return found.target.to(dtype)


class Decoded(NamedTuple):
    """A target as :func:`read_target` returns it, and what else is known about the mask.

    Attributes:
        target: signed integers, ignored where a value is outside the classes.
        outside: the values outside the classes.
        white: the value of white in a black-and-white mask; None for others, and for one that is all black.
        turn: how the mask of a turned image was taken, one of :mod:`unetzoo.data.turning`; "" for other images.
        ids: if the mask tells objects apart, a number for each: (H, W), or for multilabel (classes, H, W), of any
            type. They are valid where ``target`` has an object.
        nowhere: how many drawn objects cover no pixel of the image.
        areas: whether the values outside the classes are whole numbers that fill areas.
    """

    target: Tensor
    outside: Outside
    white: int | None = None
    turn: str = ""
    ids: Tensor | None = None
    nowhere: int = 0
    areas: bool = False


def decode(sample: Sample, labels: Labels, size: tuple[int, int], *, ids: bool = False) -> Decoded:
    """Return the target, and the values that it cannot hold.

    Args:
        sample, labels, size: as for :func:`read_target`.
        ids: whether to tell apart objects that are drawn, or that ``sample.objects`` numbers; this doubles the memory.

    Raises:
        InputError: a mask cannot be read, or has another size.
    """
    if isinstance(sample.mask, tuple):
        one = Labels(ignore=labels.ignore, foreground=labels.foreground)
        parts = [_decode_file(sample, path, one, size) for path in sample.mask]
        outside: Counter[str] = sum((Counter(part.outside) for part in parts), Counter())
        white = max((part.white for part in parts if part.white is not None), default=None)
        turn = max(part.turn for part in parts)  # the least certain: untold, stored, shown
        joined = torch.cat([part.ids for part in parts if part.ids is not None]) if labels.foreground == "any" else None
        target = torch.cat([part.target for part in parts])
        if labels.task == "instances":
            uncover(target)
        return Decoded(target, dict(outside), white, turn, joined)
    drawing = drawn.drawing_of(sample)
    if drawing is not None:
        turn = "" if images.orientation(sample.image) in (1, None) else turning.SHOWN
        shape = (labels.num_classes, *size) if labels.task == "multilabel" else size
        numbers = torch.zeros(shape, dtype=torch.int64) if ids else None
        nowhere: list[Annotation] = []
        try:
            target = drawn.target_of(drawing, labels, size, None if numbers is None else numbers.numpy(), nowhere)
        except InputError as error:  # the name of a file about many images does not say which image
            raise InputError(f"{sample.name!r}: {error}" if sample.mask is drawing else str(error)) from error
        return Decoded(target, {}, turn=turn, ids=numbers, nowhere=len(nowhere))
    assert isinstance(sample.mask, Path)
    whole = _decode_file(sample, sample.mask, labels, size)
    if labels.pixel_task == "multilabel":
        if labels.task == "instances":
            uncover(whole.target)
        return whole
    of_objects = None if whole.ids is None else whole.ids[0]
    if ids and sample.objects is not None:
        of_objects = sample.objects.read(sample.image, size)
    return whole._replace(target=whole.target[0], ids=of_objects)


def uncover(target: Tensor) -> None:
    """Remove from each class (classes, H, W) the pixels that later classes cover: a pixel belongs to one object."""
    for k in range(1, len(target)):
        target[:k].masked_fill_((target[:k] == 1) & (target[k] == 1), 0)


def files_of(sample: Sample) -> list[Path]:
    """Return the files that the target is read from; for drawings, only the files that are read each time."""
    if isinstance(sample.mask, Drawing):
        regions = [annotation.region for annotation in sample.mask.annotations]
        return [region.path for region in regions if isinstance(region, MaskFile)]
    parts = sample.mask if isinstance(sample.mask, tuple) else (sample.mask,)
    numbered = [] if sample.objects is None else [sample.objects.path]
    return [*(path for path in parts if path is not None), *numbered]


def shown(sample: Sample) -> str:
    """Return where the sample's mask is, for messages."""
    if isinstance(sample.mask, Drawing):
        return f"{str(sample.mask.source)!r}, image {sample.name!r}"
    if isinstance(sample.mask, Path):
        return repr(str(sample.mask))
    found = [path for path in sample.mask if path is not None]
    return f"the masks of {sample.name!r} ({found[0].parent.parent})" if found else f"no mask of {sample.name!r}"


def explain(outside: Outside, labels: Labels, sample: Sample, alike: Sequence[Outside] = ()) -> str:
    """Return the values outside the classes, and what to do; ``alike`` as for ``black_and_white.fix``."""
    ranked = sorted(outside.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{value} ({pixels} pixels)" for value, pixels in ranked[:6])
    more = f" and {len(ranked) - 6} other{'s' * (len(ranked) > 7)}" if len(ranked) > 6 else ""
    if labels.colours is not None:
        fix = "give every colour in colours=…, or one that does not count in ignore_colour=…"
    elif labels.pixel_task == "multiclass" or labels.codes is not None:
        what, (first, last) = "classes" if labels.codes is None else "values", _known(labels)
        fix = f"{what} are {first}…{last}; {black_and_white.left_out(outside)}"
        if isinstance(sample.mask, Path) and sample.mask.suffix.lower() in _LOSSY:
            fix += "; JPEG does not keep class indices: save masks as PNG"
        elif set(outside) == {"255"}:
            fix += "; for masks of 0 and 255 give task='binary', or num_classes=2 with colours=['#000000', '#ffffff']"
    elif labels.foreground == "any":
        fix = f"with foreground='any', ids are whole numbers from 0 up; {black_and_white.left_out(outside)}"
    else:
        fix = black_and_white.fix(outside, alike, named="_cp_masks." in shown(sample))
    return f"values outside the classes: {listed}{more}; {fix}"


def _decode_file(sample: Sample, path: Path | None, labels: Labels, size: tuple[int, int]) -> Decoded:
    """Return the target of one file as (1 or classes, H, W)."""
    if path is None:
        nothing = torch.zeros((1, *size), dtype=torch.int64)
        return Decoded(nothing, {}, ids=nothing)
    planes = planes_of_mask(sample, path, labels)
    values = images.read_image(path, planes) if labels.colours is not None else images.read_values(path, planes)
    values, turn = turning.upright(sample.image, path, values)
    if tuple(values.shape[1:]) != tuple(size):
        height, width = values.shape[1:]
        raise InputError(f"{str(path)!r} is {width}×{height} pixels, but its image is {size[1]}×{size[0]}")
    return of_values(path, values, labels)._replace(turn=turn)


def of_values(path: Path, values: Tensor, labels: Labels) -> Decoded:
    """Decode the values (C, H, W) of a mask, or of some of its rows, to (1 or classes, H, W)."""
    if labels.colours is not None:
        return _by_colour(path, values, labels)
    labels = _with_nodata(path, values, labels)
    if (plain := _plain(path, values, labels)) is not None:
        return plain
    values = values if values.is_floating_point() else values.long()
    if labels.pixel_task == "multiclass" or labels.codes is not None:
        return _indices(_one_channel(path, values, labels), labels)
    values = _greys(path, values)
    if labels.pixel_task != "multilabel" or values.shape[0] != labels.num_classes:
        values = _one_channel(path, values, labels)
    return _binary(path, values, labels)


def _plain(path: Path, values: Tensor, labels: Labels) -> Decoded | None:
    """Decode the most usual masks quickly: one channel of classes, or of black and white; None for all others."""
    if values.shape[0] != 1 or values.is_floating_point():
        return None
    if labels.codes is not None or (labels.pixel_task == "multiclass" and labels.ignore is not None):
        return _by_table(values, labels) if values.dtype == torch.uint8 else None
    if labels.ignore is not None or labels.foreground == "any":
        return None
    if labels.pixel_task == "multiclass":
        array = values.numpy()  # much faster than torch for integers of 8 and 16 bits
        inside = array.min() >= 0 and array.max() < labels.num_classes
        return Decoded(values.long(), {}) if inside else None
    if (labels.pixel_task == "multilabel" and labels.num_classes > 1) or images.palette_of(path) is not None:
        return None
    read = black_and_white.read_pure(values, path.suffix.lower() in _LOSSY)
    return None if read is None else Decoded(read[0].to(torch.int8), {}, read[1])


def _by_table(values: Tensor, labels: Labels) -> Decoded | None:
    """Decode 8-bit values by a lookup table; None if a value is outside the classes."""
    first, last = _known(labels)
    table = np.full(256, _OUTSIDE)
    classes = range(last - first + 1) if labels.codes is None else labels.codes
    for value, known in zip(range(first, min(last, 255) + 1), classes, strict=False):
        table[value] = known
    if labels.ignore is not None and 0 <= labels.ignore < 256:
        table[labels.ignore] = IGNORED
    target = table[values.numpy()]
    return None if (target == _OUTSIDE).any() else Decoded(torch.from_numpy(target), {})


def _greys(path: Path, values: Tensor) -> Tensor:
    """Return the greys of palette indices if all indices in use are grey; else the values unchanged.

    Raises:
        InputError: the colours in use have black, but not first: the meaning of the indices is unknown.
    """
    palette = images.palette_of(path)
    used = [] if palette is None else torch.unique(values).tolist()
    if palette is None or used[-1] >= len(palette):
        return values
    if all(len({*palette[index]}) == 1 for index in used):
        return torch.tensor([red for red, _, _ in palette])[values]
    if _black_is_later(palette, used):
        colours = ",".join(_HEX.format(*palette[index]) for index in used[:6])
        raise InputError(
            f"{str(path)!r} has a palette in which black is not the first of the colours in use ({colours}): the "
            "meaning of its indices is unknown; give colours=…, background first"
        )
    return values


def palette_with_black_later(sample: Sample, labels: Labels, used: Sequence[int]) -> tuple[str, ...]:
    """Return the colours of the classes, "#rrggbb", if a mask has class indices and black is not at 0 in its palette.

    Empty for all other masks. In binary masks such a palette is read by its greys or refused; class indices are kept.

    Args:
        sample: whose mask it is; it was read.
        labels: what the mask means.
        used: the classes that occur in it.
    """
    indices = labels.pixel_task == "multiclass" and labels.colours is None and labels.codes is None
    if not indices or not isinstance(sample.mask, Path) or sample.mask.suffix.lower() not in images.IMAGE_SUFFIXES:
        return ()
    palette = images.palette_of(sample.mask)
    if palette is None or not _black_is_later(palette, (0, *used)):
        return ()
    return tuple(_HEX.format(*colour) for colour in palette[: labels.num_classes])


def _black_is_later(palette: Palette, used: Sequence[int]) -> bool:
    """Return whether index 0 is in use and is not black, and another index in use is black."""
    later = [palette[index] for index in used if 0 < index < len(palette)]
    return 0 in used and palette[0] != _BLACK and _BLACK in later


def _with_nodata(path: Path, values: Tensor, labels: Labels) -> Labels:
    """Return the labels with the nodata value of the mask's own tag as the value that does not count.

    They are unchanged if they have a value for this, or if nodata is a class: GDAL's tools write masks in which nodata
    is the background.
    """
    value = images.nodata(path)
    if labels.ignore is not None or value is None or not value.is_integer() or abs(value) >= 2**32:
        return labels
    by_white = labels.pixel_task != "multiclass" and labels.foreground == "white"
    white = by_white and value in black_and_white.WHITES and not bool((values == 1).any())
    return labels if white or 0 <= value <= _known(labels)[1] else replace(labels, ignore=int(value))


def _one_channel(path: Path, values: Tensor, labels: Labels) -> Tensor:
    if values.shape[0] in (2, 4):
        opaque = torch.unique(values[-1])
        if len(opaque) == 1 and int(opaque) in black_and_white.WHITES:
            values = values[:-1]
        elif labels.pixel_task != "multiclass" and _is_shape(path, values):
            values = values[-1:]
    if labels.pixel_task == "multilabel":
        raise InputError(
            f"{str(path)!r} has {values.shape[0]} channels: multilabel needs one channel for each of the "
            f"{labels.num_classes} classes, or a folder of masks for each"
        )
    if values.shape[0] > 1 and bool((values != values[:1]).any()):
        # JPEG keeps grey exactly, but an image that was painted on may become slightly coloured.
        slight = values.shape[0] == 3 and path.suffix.lower() in _LOSSY and int((values - values[:1]).abs().max()) <= 32
        if labels.pixel_task == "multiclass" or not slight:
            raise InputError(
                f"{str(path)!r} has {values.shape[0]} different channels: for painted masks give colours=…; otherwise "
                "save it with one channel"
            )
    return values[:1]


def _by_colour(path: Path, values: Tensor, labels: Labels) -> Decoded:
    if values.dtype != torch.uint8 or values.shape[0] > 4:
        raise InputError(f"{str(path)!r}: colours need 8-bit RGB, not {values.shape[0]} channels of {values.dtype}")
    if _is_shape(path, values):
        raise InputError(
            f"{str(path)!r} has a single colour, and its shape is in alpha: leave colours=… out, and give task='binary'"
        )
    red, green, blue = images.fit_channels(values, 3).long()
    codes = (red << 16 | green << 8 | blue)[None]
    target = torch.full_like(codes, IGNORED)
    left = torch.ones_like(codes, dtype=torch.bool)
    for k, colour in enumerate(labels.colours or ()):
        same = codes == int(colour[1:], 16)
        target[same] = k
        left &= ~same
    if labels.codes is not None:
        target = torch.where(target == IGNORED, IGNORED, torch.tensor(labels.codes)[target.clamp(min=0)])
    if labels.ignore_colour is not None:
        left &= codes != int(labels.ignore_colour[1:], 16)
    return Decoded(target, {f"#{value:06x}": pixels for value, pixels in _counts(codes[left])})


def _indices(values: Tensor, labels: Labels) -> Decoded:
    ignored = _ignored(values, labels)
    first, last = _known(labels)
    inside = (values >= first) & (values <= last) & (values == values.floor() if values.is_floating_point() else True)
    classes = torch.where(inside, values, first).long() - first
    classes = classes if labels.codes is None else torch.tensor(labels.codes)[classes]
    return Decoded(torch.where(inside & ~ignored, classes, IGNORED), _as_text(values[~inside & ~ignored]))


def _known(labels: Labels) -> tuple[int, int]:
    """Return the first and the last mask value that is a class."""
    first = int(labels.skips_zero)
    return first, first + (labels.values if labels.codes is None else len(labels.codes)) - 1


def _binary(path: Path, values: Tensor, labels: Labels) -> Decoded:
    ignored, lossy = _ignored(values, labels), path.suffix.lower() in _LOSSY
    white = labels.foreground == "white"
    if lossy and not white:
        fix = "give PNG or TIFF; or, for masks in black and white, foreground='white', also for task='instances'"
        raise InputError(f"{str(path)!r}: JPEG does not keep ids of objects, and its noise would add some: {fix}")
    read = black_and_white.read(values, ignored, lossy) if white else black_and_white.read_ids(values, ignored)
    target = torch.where(read.wrong | ignored, IGNORED, read.foreground.long())
    outside, ids = _as_text(values[read.wrong]), values if labels.foreground == "any" else None
    exact = bool(outside) and not lossy and all(map(str.isdecimal, outside))
    areas = exact and black_and_white.are_areas(values, read.wrong)
    return Decoded(target, outside, None if outside else read.white, ids=ids, areas=areas)


def _is_shape(path: Path, values: Tensor) -> bool:
    """Return whether a mask has a single colour, but varying alpha; bands of a TIFF may be anything, and are not."""
    if values.shape[0] not in (2, 4) or path.suffix.lower() in (".tif", ".tiff"):
        return False
    varies = (values != values[:, :1, :1]).flatten(1).any(dim=1)
    return bool(varies[-1]) and not bool(varies[:-1].any())


def _ignored(values: Tensor, labels: Labels) -> Tensor:
    return torch.zeros_like(values, dtype=torch.bool) if labels.ignore is None else values == labels.ignore


def _counts(values: Tensor) -> list[tuple[int, int]]:
    found, pixels = torch.unique(values, return_counts=True)
    return list(zip(found.tolist(), pixels.tolist(), strict=True))


def _as_text(values: Tensor) -> Outside:
    """Return the values with their numbers of pixels; all values that are not finite count as one."""
    nans = ~values.isfinite()
    found = {
        str(int(value)) if value == int(value) else f"{value:g}": pixels for value, pixels in _counts(values[~nans])
    }
    return found | ({"nan or inf": int(nans.sum())} if bool(nans.any()) else {})
