"""From mask files to targets; all that is decided about their values is decided here.

- Binary. Without colours, a mask is black and white: white is the smallest of 1, 255 and 65535 that no value exceeds,
  and what lies above half of it is foreground. So 0/1, 0/255, 16 bits, soft floats and masks that JPEG has made dirty
  are read alike. In a JPEG white is always 255, as it may turn a black mask into 0 and 1. Values that are nowhere
  foreground, such as instances 1…40, are refused and not taken for black; so is a 255 among nothing but 0 and 1, as
  it may be white or what does not count.
- Multiclass. Values are class indices; of a palette its indices count, not its colours.
- Painted masks, binary or multiclass: the place of a pixel's colour in ``labels.colours`` is its class.
- Multilabel. One black-and-white file a class, or one file with a band for each class.
- Polygons, any task: see :mod:`unetzoo.data.polygons`.

Channels that are all equal count as one, and an opaque alpha channel does not count. Pixels of the value
``labels.ignore`` become :data:`~unetzoo.data.labels.IGNORED` before anything else is decided.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from unetzoo import images
from unetzoo.data import polygons
from unetzoo.data.labels import IGNORED, Labels
from unetzoo.data.listing import POLYGONS, Sample
from unetzoo.errors import InputError

Outside = dict[str, int]
"""Values or colours outside the classes, as text → pixels that have them."""
_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")
_WHITES = (1, 255, 65535)


def read_target(sample: Sample, labels: Labels, size: tuple[int, int]) -> Tensor:
    """Return the target of a picture: int64, (H, W), or (classes, H, W) for multilabel.

    Args:
        sample: whose mask it is.
        labels: what the mask means.
        size: height and width of the picture.

    Raises:
        InputError: a mask that cannot be read, of another size, or with values outside the classes.
    """
    target, outside, _ = decode(sample, labels, size)
    if outside:
        raise InputError(f"{shown(sample)}: {explain(outside, labels, sample)}")
    return target


class Decoded(NamedTuple):
    """A target as :func:`read_target` returns it, and what it does not tell.

    Attributes:
        target: ignored where a value is outside the classes.
        outside: the values that are.
        white: what a black-and-white mask has for white; None of others, and of one that is all black.
    """

    target: Tensor
    outside: Outside
    white: int | None = None


def decode(sample: Sample, labels: Labels, size: tuple[int, int]) -> Decoded:
    """Return the target, and the values that it cannot hold.

    Raises:
        InputError: a mask that cannot be read, or is of another size.
    """
    if isinstance(sample.mask, tuple):
        one = Labels(ignore=labels.ignore)
        parts = [_decode_file(path, one, size) for path in sample.mask]
        outside: Outside = {}
        for _, found, _ in parts:
            outside = {value: outside.get(value, 0) + found.get(value, 0) for value in {**outside, **found}}
        whites = [part.white for part in parts if part.white is not None]
        return Decoded(torch.cat([part.target for part in parts]), outside, max(whites, default=None))
    if sample.mask.suffix.lower() == POLYGONS:
        return Decoded(polygons.read(sample.mask, labels, size), {})
    whole = _decode_file(sample.mask, labels, size)
    return whole if labels.task == "multilabel" else whole._replace(target=whole.target[0])


def shown(sample: Sample) -> str:
    """Return where the sample's mask lies, for messages."""
    if isinstance(sample.mask, Path):
        return repr(str(sample.mask))
    found = [path for path in sample.mask if path is not None]
    return f"the masks of {sample.name!r} ({found[0].parent.parent})" if found else f"no mask of {sample.name!r}"


def explain(outside: Outside, labels: Labels, sample: Sample) -> str:
    """Return what the values outside the classes are, and what to do."""
    ranked = sorted(outside.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{value} ({pixels} pixels)" for value, pixels in ranked[:6])
    more = f" and {len(ranked) - 6} others" if len(ranked) > 6 else ""
    if labels.colours is not None:
        fix = "name every colour in colours, or the one that does not count as ignore_colour"
    elif labels.task == "multiclass":
        fix = f"classes are 0…{labels.num_classes - 1}; give ignore for a value that does not count"
        if isinstance(sample.mask, Path) and sample.mask.suffix.lower() in _LOSSY:
            fix += "; JPEG does not keep class indices: save masks as PNG"
        elif set(outside) == {"255"}:
            fix += "; masks of 0 and 255 are task='binary'"
    else:
        fix = "black and white is needed, 0/1 or 0/255; class indices are task='multiclass', and give ignore for a "
        fix += "value that does not count"
        if len(outside) == 1 and set(outside) <= {"255", "65535"}:
            fix += f": {next(iter(outside))} beside 1 may be that, or white"
    return f"values outside the classes: {listed}{more}; {fix}"


def _decode_file(path: Path | None, labels: Labels, size: tuple[int, int]) -> Decoded:
    """Return the target of one file as (1 or classes, H, W)."""
    if path is None:
        return Decoded(torch.zeros((1, *size), dtype=torch.int64), {})
    values = images.read_image(path) if labels.colours is not None else images.read_values(path)
    if tuple(values.shape[1:]) != tuple(size):
        height, width = values.shape[1:]
        raise InputError(f"{str(path)!r} is {width}×{height} pixels, its picture {size[1]}×{size[0]}")
    if labels.colours is not None:
        return _by_colour(path, values, labels)
    values = values if values.is_floating_point() else values.long()
    if labels.task != "multilabel" or values.shape[0] != labels.num_classes:
        values = _one_channel(path, values, labels)
    if labels.task == "multiclass":
        return _indices(values, labels)
    return _black_and_white(values, labels, lossy=path.suffix.lower() in _LOSSY)


def _one_channel(path: Path, values: Tensor, labels: Labels) -> Tensor:
    if values.shape[0] in (2, 4):
        opaque = torch.unique(values[-1])
        if len(opaque) == 1 and int(opaque) in _WHITES:
            values = values[:-1]
    if labels.task == "multilabel":
        raise InputError(
            f"{str(path)!r} has {values.shape[0]} channels: multilabel needs one for each of the {labels.num_classes} "
            "classes, or a folder of masks for each"
        )
    if values.shape[0] > 1 and bool((values != values[:1]).any()):
        # JPEG keeps grey exactly, but a picture that was painted on may come out slightly coloured.
        slight = values.shape[0] == 3 and path.suffix.lower() in _LOSSY and int((values - values[:1]).abs().max()) <= 32
        if labels.task == "multiclass" or not slight:
            raise InputError(
                f"{str(path)!r} has {values.shape[0]} different channels: for painted masks give colours; otherwise "
                "save it with one channel"
            )
    return values[:1]


def _by_colour(path: Path, values: Tensor, labels: Labels) -> Decoded:
    if values.dtype != torch.uint8 or values.shape[0] > 4:
        raise InputError(f"{str(path)!r}: colours need 8-bit RGB, not {values.shape[0]} channels of {values.dtype}")
    red, green, blue = images.fit_channels(values, 3).long()
    codes = (red << 16 | green << 8 | blue)[None]
    target = torch.full_like(codes, IGNORED)
    left = torch.ones_like(codes, dtype=torch.bool)
    for k, colour in enumerate(labels.colours or ()):
        same = codes == int(colour[1:], 16)
        target[same] = k
        left &= ~same
    if labels.ignore_colour is not None:
        left &= codes != int(labels.ignore_colour[1:], 16)
    return Decoded(target, {f"#{value:06x}": pixels for value, pixels in _counts(codes[left])})


def _indices(values: Tensor, labels: Labels) -> Decoded:
    ignored = _ignored(values, labels)
    inside = (values >= 0) & (values < labels.num_classes) & (values == values.floor() if _is_float(values) else True)
    target = torch.where(inside & ~ignored, values.nan_to_num() if _is_float(values) else values, IGNORED).long()
    return Decoded(target, _as_text(values[~inside & ~ignored]))


def _black_and_white(values: Tensor, labels: Labels, lossy: bool) -> Decoded:
    ignored = _ignored(values, labels)
    inside = (values >= 0) & (values <= _WHITES[-1]) & ~ignored
    top = float(values[inside].max()) if bool(inside.any()) else 0.0
    if not lossy and top in _WHITES[1:] and _holds_ones(values, inside, top):
        inside, top = inside & (values <= 1), 1.0
    white = 255 if lossy else next(white for white in _WHITES if top <= white)
    foreground = inside & (values * 2 > white)
    wrong = ~inside & ~ignored
    if top > 0 and not lossy and not bool(foreground.any()):
        wrong |= inside & (values > 0)
    target = torch.where(inside & ~wrong, foreground.long(), IGNORED)
    return Decoded(target, _as_text(values[wrong]), white if top > 0 else None)


def _holds_ones(values: Tensor, inside: Tensor, top: float) -> bool:
    """Return whether there are ones, and nothing between them and the top."""
    ones = values == 1
    return bool(ones.any()) and bool((ones | (values == 0) | (values == top) | ~inside).all())


def _ignored(values: Tensor, labels: Labels) -> Tensor:
    return torch.zeros_like(values, dtype=torch.bool) if labels.ignore is None else values == labels.ignore


def _is_float(values: Tensor) -> bool:
    return values.is_floating_point()


def _counts(values: Tensor) -> list[tuple[int, int]]:
    found, pixels = torch.unique(values, return_counts=True)
    return list(zip(found.tolist(), pixels.tolist(), strict=True))


def _as_text(values: Tensor) -> Outside:
    """Return the values with their pixels; those that are not finite are counted as one."""
    nans = ~values.isfinite()
    found = {
        str(int(value)) if value == int(value) else f"{value:g}": pixels for value, pixels in _counts(values[~nans])
    }
    return found | ({"nan or inf": int(nans.sum())} if bool(nans.any()) else {})
