"""Binary masks by their values: which are black and white, which only look like it, and how to fix the others.

White is the smallest of 1, 255 and 65535 that no value exceeds, in a JPEG always 255; values above half of it are
foreground. So 0/1, 0/255, 16 bits and soft floats are read alike. Greys between the two ends may only be rims, from
resampling, or noise, from JPEG. They are labels, or a photograph, and are refused, where

- at least half of the grey levels fill areas: half of a level's pixels or more are in squares of 2 × 2 pixels of this
  level. 0 is not a grey level; nor is the brightest level if it is at least ¾ of white, nor, among fractions, the
  darkest up to ¼ of white. This rule does not hold for JPEGs, whose black and white are areas of several levels;
- or at least half of the pixels from ¼ to ¾ of white are in such squares, or touch only black and their own level;
- or the pixels that are between ¼ and ¾ of white with all eight neighbours are more than a quarter as many as the
  pixels from ¾ up.

Measured on masks of nuclei and vessels, after JPEG of quality 1 to 100 or resampling by 0.1 to 16, at most 3 % of the
levels and 7 % of the greys fill areas; for instance labels of the same nuclei, with any numbers, at least 97 %. In JPEG
fewer of these do, but at least 40 % of their greys have only grey neighbours. Two kinds cannot be recognised: labels
below ¼ and above ¾ of white that are all thinner than two pixels, and JPEGs of labels up to ¼, which are read as black.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Outside = dict[str, int]
"""Values or colours outside the classes, as text → number of pixels."""
WHITES = (1, 255, 65535)
_FULL = WHITES[-1]
_FEW = 32
"""The most levels that may be classes; more are ids of objects."""


class Read(NamedTuple):
    """A mask as it was read; tensors have its shape.

    Attributes:
        foreground: bool.
        wrong: bool, where a value is not foreground, background or ignored.
        white: its value of white; None for ids, and where it is all black.
    """

    foreground: Tensor
    wrong: Tensor
    white: int | None


def read(values: Tensor, ignored: Tensor, lossy: bool) -> Read:
    """Read masks that are black and white.

    Args:
        values: (C, H, W), each channel a mask.
        ignored: of the same shape, bool: pixels that do not count.
        lossy: the values are from a JPEG.
    """
    inside = (values >= 0) & (values <= _FULL) & ~ignored
    top = float(values[inside].max()) if bool(inside.any()) else 0.0
    if not lossy and top in WHITES[1:] and _holds_ones(values, inside, top):
        inside, top = inside & (values <= 1), 1.0
    white = 255 if lossy else next(white for white in WHITES if top <= white)
    foreground = inside & (values * 2 > white)
    wrong = ~inside & ~ignored
    nowhere = top > 0 and not lossy and not bool(foreground.any())
    # Most masks have no grey at all, which is quick to check.
    pure = 4 * top >= 3 * white and not bool((inside & (values > 0) & (values < top)).any())
    if nowhere or not (pure or all(_has_two_ends(*mask, white, lossy) for mask in zip(values, inside, strict=True))):
        wrong |= inside & (values > 0)
    return Read(foreground & ~wrong, wrong, white if top > 0 else None)


def read_pure(values: Tensor, lossy: bool) -> tuple[Tensor, int | None] | None:
    """Return foreground and white as :func:`read` does, but fast, for masks of only 0 and one white; else None.

    Args:
        values: (C, H, W), integers, all of which count.
        lossy: the values are from a JPEG.
    """
    array = values.numpy()  # much faster than torch for integers of 8 and 16 bits
    top = int(array.max())
    if not 0 <= top <= _FULL:
        return None
    white = 255 if lossy else next(white for white in WHITES if top <= white)
    if (top and 4 * top < 3 * white) or not bool(((array == 0) | (array == top)).all()):
        return None
    return torch.from_numpy(array != 0), white if top else None


def read_ids(values: Tensor, ignored: Tensor) -> Read:
    """Read masks in which every id, a whole number above 0, is an object; arguments as for :func:`read`."""
    wrong = ~((values >= 0) & values.isfinite()) | (values != values.floor() if values.is_floating_point() else False)
    wrong = wrong & ~ignored
    return Read((values > 0) & ~wrong & ~ignored, wrong, None)


def are_areas(values: Tensor, wrong: Tensor) -> bool:
    """Return whether at least half of the wrong pixels of masks (C, H, W) are in squares of 2 × 2 of their own value.

    Ids of objects and classes are; greys of a photograph are not.
    """
    right, below = values[:, :-1, :-1] == values[:, :-1, 1:], values[:, :-1, :-1] == values[:, 1:, :-1]
    squares = right & below & (values[:, :-1, :-1] == values[:, 1:, 1:])
    areas = torch.zeros_like(wrong)
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            areas[:, rows, columns] |= squares
    return 2 * int((areas & wrong).sum()) >= int(wrong.sum())


def are_ids(masks: Sequence[Outside]) -> bool:
    """Return whether masks whose values fill areas look like instance label images, with an id per object.

    They do if together they have more than 32 values; or if each has 1, 2, 3, … without a gap, at least 5 in one of
    them and not the same number in all, or at least 10 in a single mask.
    """
    if len({value for mask in masks for value in mask}) > _FEW:
        return True
    counts = {len(mask) for mask in masks}
    whole = all({*mask} == {str(k + 1) for k in range(len(mask))} for mask in masks)
    return whole and max(counts, default=0) >= (10 if len(masks) == 1 else 5) and (len(masks) == 1 or len(counts) > 1)


def left_out(outside: Outside) -> str:
    """Return how to say that values do not count; a single whole number is given as it is typed."""
    (value, *others) = outside
    alone = not others and value.removeprefix("-").isdecimal()
    return f"give ignore={value} if it does not count" if alone else "give ignore=… for a value that does not count"


def fix(outside: Outside, alike: Sequence[Outside] = (), named: bool = False) -> str:
    """Return what to do about the values of a mask that is not black and white.

    Args:
        outside: the values.
        alike: the values of all masks of the data set whose values fill areas, including this one; empty if only this
            mask was read, or it has no areas.
        named: whether the mask's name says that it has ids of objects.
    """
    if len(outside) == 1 and set(outside) <= {"255", "65535"}:
        return (
            "the mask must be black and white, 0/1 or 0/255; for class indices give task='multiclass'; "
            f"{left_out(outside)}: next to 1, {next(iter(outside))} may mean that, or white"
        )
    ids = "for ids of objects, or values that are all foreground, give foreground='any'"
    if not all(value.isdecimal() for value in outside):
        return (
            f"the mask must be black and white, 0/1 or 0/255; {left_out(outside)}; {ids}; threshold greys and save the "
            "mask again"
        )
    levels = sorted({int(value) for mask in alike or (outside,) for value in mask})
    if alike and (named or are_ids(alike)):
        objects, masks = sum(map(len, alike)), f"{len(alike)} masks" if len(alike) > 1 else "one mask"
        classes = f"; for class indices give task='multiclass' with num_classes={levels[-1] + 1}" * (levels[-1] < 256)
        return (
            f"this looks like an instance label image, with an id per object, {objects} objects in {masks}: give "
            "foreground='any' for one class of all objects, or task='instances' to keep objects apart" + classes
        )
    if len(levels) > _FEW:
        classes = "for class indices give task='multiclass'; threshold greys and save the mask again"
    else:
        classes = _classes(levels)
    return f"the mask must be black and white, 0/1 or 0/255; {ids}; {classes}; {left_out(outside)}"


def _classes(levels: list[int]) -> str:
    """Return how to have the levels read if each is a class."""
    void = levels[-1] in WHITES[1:] and len(levels) > 1
    highest = levels[-2] if void else levels[-1]
    if highest > 255 or highest < 3 * len(levels) + 20:
        more = f" and ignore={levels[-1]}" if void else ""
        return f"for class indices give task='multiclass' with num_classes={highest + 1}{more}"
    painted = tuple(f"#{level * 0x010101:06x}" for level in (0, *levels))
    return f"for greys that stand for classes give task='multiclass' with colours={painted!r}"


def _has_two_ends(values: Tensor, inside: Tensor, white: int, lossy: bool) -> bool:
    """Return whether the values of a mask (H, W) cluster at black and white; see the top of this file."""
    if not bool(inside.any()):
        return True
    # 16 bits hold all levels that files have, apart from fractions, and can be counted without sorting pixels.
    levels = torch.where(inside, (values.float() * (_FULL / white)).round().int(), -1)
    counts = torch.bincount(levels[inside], minlength=_FULL + 1)
    present = counts.nonzero()[:, 0]
    grey = present[_between(present, values.is_floating_point() and bool((values[inside] % 1 != 0).any()))]
    if not len(grey):
        return True
    right, below = levels[:-1, :-1] == levels[:-1, 1:], levels[:-1, :-1] == levels[1:, :-1]
    squares = right & below & (levels[:-1, :-1] == levels[1:, 1:])
    areas = torch.zeros_like(inside)
    for corner in (areas[:-1, :-1], areas[:-1, 1:], areas[1:, :-1], areas[1:, 1:]):
        corner |= squares
    filled = torch.bincount(levels[inside & areas], minlength=_FULL + 1)[grey]
    if not lossy and 2 * int((2 * filled >= counts[grey]).sum()) >= len(grey):
        return False
    middle = (4 * levels > _FULL) & (4 * levels < 3 * _FULL)
    if bool(middle.any()) and 2 * int((areas[middle] | _alone(levels, middle)).sum()) >= int(middle.sum()):
        return False
    beside = middle[:, :-2] & middle[:, 1:-1] & middle[:, 2:]
    surrounded = beside[:-2] & beside[1:-1] & beside[2:]
    return 4 * int(surrounded.sum()) <= int((4 * levels >= 3 * _FULL).sum())


def _alone(levels: Tensor, chosen: Tensor) -> Tensor:
    """Return which of the chosen pixels have only their own level and black among their neighbours."""
    padded = F.pad(levels, (1, 1, 1, 1), value=-1)
    rows, columns = chosen.nonzero(as_tuple=True)
    own, alone = levels[chosen], torch.ones(len(rows), dtype=torch.bool)
    for down in range(3):
        for right in range(3):
            beside = padded[rows + down, columns + right]
            alone &= (beside <= 0) | (beside == own)
    return alone


def _between(present: Tensor, fractions: bool) -> Tensor:
    """Return which of the sorted levels are neither black nor white."""
    darkest, brightest = int(present[0]), int(present[-1])
    between = present != 0
    if 4 * brightest >= 3 * _FULL:
        between &= present != brightest
    if fractions and 4 * darkest <= _FULL:
        between &= present != darkest
    return between


def _holds_ones(values: Tensor, inside: Tensor, top: float) -> bool:
    """Return whether there are ones, and no values other than 0, 1 and the top."""
    ones = values == 1
    return bool(ones.any()) and bool((ones | (values == 0) | (values == top) | ~inside).all())
