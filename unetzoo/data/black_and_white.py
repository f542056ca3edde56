"""Binary masks by their values: what is black and white, what are labels that only look so, and what is the fix.

White is the smallest of 1, 255 and 65535 that no value exceeds, in a JPEG always 255, and what lies above half of it
is foreground. So 0/1, 0/255, 16 bits and soft floats are read alike. Greys between the two ends may only be rims, as
resampling leaves them, or noise, as JPEG does. They are labels, or a photograph, and refused, where

- at least half of the grey levels fill areas: half of a level's pixels or more lie in squares of 2 × 2 pixels that all
  have it. 0 is no grey level, and neither is the brightest one if it is at least ¾ of white; nor the darkest one of
  fractions, up to ¼ of white. Not of JPEGs, whose black and white are areas of several levels.
- or at least half of the pixels from ¼ to ¾ of white lie in such squares, or touch nothing but black and their own
  level;
- or pixels whose eight neighbours lie with them between ¼ and ¾ of white are more than a quarter as many as those from
  ¾ up.

Measured on masks of nuclei and vessels, through JPEG of quality 1 to 100 or resampled to a tenth up to sixteen times,
at most 3 % of the levels and 7 % of the greys are areas'; of instance labels of the same nuclei, whatever their
numbers, at least 97 %. JPEG leaves fewer of these, but four tenths of their greys and more have grey neighbours alone.
What cannot be told: labels below ¼ and above ¾ of white that are all thinner than two pixels, and JPEGs of labels up to
¼, which are black.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Outside = dict[str, int]
"""Values or colours outside the classes, as text → pixels that have them."""
WHITES = (1, 255, 65535)
_FULL = WHITES[-1]
_FEW = 32
"""Levels that may be classes; more are ids of objects."""


class Read(NamedTuple):
    """What a mask was read as, each of its shape.

    Attributes:
        foreground: bool.
        wrong: bool, where a value is neither foreground nor background, nor ignored.
        white: what it has for white; None of ids, and where it is all black.
    """

    foreground: Tensor
    wrong: Tensor
    white: int | None


def read(values: Tensor, ignored: Tensor, lossy: bool) -> Read:
    """Read masks that are black and white.

    Args:
        values: (C, H, W), each channel a mask.
        ignored: of the same shape, bool: pixels that do not count.
        lossy: they come out of a JPEG.
    """
    inside = (values >= 0) & (values <= _FULL) & ~ignored
    top = float(values[inside].max()) if bool(inside.any()) else 0.0
    if not lossy and top in WHITES[1:] and _holds_ones(values, inside, top):
        inside, top = inside & (values <= 1), 1.0
    white = 255 if lossy else next(white for white in WHITES if top <= white)
    foreground = inside & (values * 2 > white)
    wrong = ~inside & ~ignored
    nowhere = top > 0 and not lossy and not bool(foreground.any())
    # Most masks have no grey at all, which is quickly seen.
    pure = 4 * top >= 3 * white and not bool((inside & (values > 0) & (values < top)).any())
    if nowhere or not (pure or all(_has_two_ends(*mask, white, lossy) for mask in zip(values, inside, strict=True))):
        wrong |= inside & (values > 0)
    return Read(foreground & ~wrong, wrong, white if top > 0 else None)


def read_pure(values: Tensor, lossy: bool) -> tuple[Tensor, int | None] | None:
    """Return foreground and white as :func:`read` does, quickly, of masks of nothing but 0 and one white; else None.

    Args:
        values: (C, H, W), integers, all of which count.
        lossy: they come out of a JPEG.
    """
    array = values.numpy()  # much faster than torch at integers of 8 and 16 bits
    top = int(array.max())
    if not 0 <= top <= _FULL:
        return None
    white = 255 if lossy else next(white for white in WHITES if top <= white)
    if (top and 4 * top < 3 * white) or not bool(((array == 0) | (array == top)).all()):
        return None
    return torch.from_numpy(array != 0), white if top else None


def read_ids(values: Tensor, ignored: Tensor) -> Read:
    """Read masks in which every id, a whole number above 0, is an object; arguments as of :func:`read`."""
    wrong = ~((values >= 0) & values.isfinite()) | (values != values.floor() if values.is_floating_point() else False)
    wrong = wrong & ~ignored
    return Read((values > 0) & ~wrong & ~ignored, wrong, None)


def are_areas(values: Tensor, wrong: Tensor) -> bool:
    """Return whether at least half of the wrong pixels of masks (C, H, W) lie in squares of 2 × 2 of their own value.

    Ids of objects and classes do, greys of a photograph do not.
    """
    right, below = values[:, :-1, :-1] == values[:, :-1, 1:], values[:, :-1, :-1] == values[:, 1:, :-1]
    squares = right & below & (values[:, :-1, :-1] == values[:, 1:, 1:])
    areas = torch.zeros_like(wrong)
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            areas[:, rows, columns] |= squares
    return 2 * int((areas & wrong).sum()) >= int(wrong.sum())


def are_ids(masks: Sequence[Outside]) -> bool:
    """Return whether masks whose values are areas look like instance label images, an id an object, and not classes.

    That is so where they have more than 32 values; or where each has 1, 2, 3, … without a gap, and as many as it has
    objects: 5 or more in one and not the same in all, or 10 in a single mask.
    """
    if len({value for mask in masks for value in mask}) > _FEW:
        return True
    counts = {len(mask) for mask in masks}
    whole = all({*mask} == {str(k + 1) for k in range(len(mask))} for mask in masks)
    return whole and max(counts, default=0) >= (10 if len(masks) == 1 else 5) and (len(masks) == 1 or len(counts) > 1)


def left_out(outside: Outside) -> str:
    """Return how values are said not to count: of a whole number that is alone, as it is typed."""
    (value, *others) = outside
    alone = not others and value.removeprefix("-").isdecimal()
    return f"give ignore={value} if it does not count" if alone else "give ignore=… for a value that does not count"


def fix(outside: Outside, alike: Sequence[Outside] = (), named: bool = False) -> str:
    """Return what to do about the values of a mask that is not black and white.

    Args:
        outside: the values.
        alike: those of all masks of the data set whose values are areas, this one's among them; none where it is alone
            or has no areas.
        named: whether its name says that it has ids of objects.
    """
    if len(outside) == 1 and set(outside) <= {"255", "65535"}:
        return (
            "black and white is needed, 0/1 or 0/255; class indices are task='multiclass', and "
            f"{left_out(outside)}: {next(iter(outside))} beside 1 may be that, or white"
        )
    ids = "ids of objects, or any values that all are foreground, are foreground='any'"
    if not all(value.isdecimal() for value in outside):
        return (
            f"black and white is needed, 0/1 or 0/255; {left_out(outside)}; {ids}; threshold greys and save them anew"
        )
    levels = sorted({int(value) for mask in alike or (outside,) for value in mask})
    if alike and (named or are_ids(alike)):
        objects, masks = sum(map(len, alike)), f"{len(alike)} masks" if len(alike) > 1 else "one mask"
        classes = f"; class indices are task='multiclass' with num_classes={levels[-1] + 1}" * (levels[-1] < 256)
        return (
            f"this looks like an instance label image, an id an object, {objects} objects in {masks}: give "
            f"foreground='any', for one class of all objects, or task='instances', which keeps them apart{classes}"
        )
    if len(levels) > _FEW:
        classes = "class indices are task='multiclass'; threshold greys and save them anew"
    else:
        classes = _classes(levels)
    return f"black and white is needed, 0/1 or 0/255; {ids}; {classes}; {left_out(outside)}"


def _classes(levels: list[int]) -> str:
    """Return how the levels are read if each is a class."""
    void = levels[-1] in WHITES[1:] and len(levels) > 1
    highest = levels[-2] if void else levels[-1]
    if highest > 255 or highest < 3 * len(levels) + 20:
        more = f" and ignore={levels[-1]}" if void else ""
        return f"class indices are task='multiclass' with num_classes={highest + 1}{more}"
    painted = tuple(f"#{level * 0x010101:06x}" for level in (0, *levels))
    return f"greys that stand for classes are task='multiclass' with colours={painted!r}"


def _has_two_ends(values: Tensor, inside: Tensor, white: int, lossy: bool) -> bool:
    """Return whether the values of a mask (H, W) cluster at black and white; see the head of this file."""
    if not bool(inside.any()):
        return True
    # Levels of 16 bits are as many as files have, fractions aside, and can be counted without sorting pixels.
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
    """Return which of the chosen pixels have no other level beside them than their own and black."""
    padded = F.pad(levels, (1, 1, 1, 1), value=-1)
    rows, columns = chosen.nonzero(as_tuple=True)
    own, alone = levels[chosen], torch.ones(len(rows), dtype=torch.bool)
    for down in range(3):
        for right in range(3):
            beside = padded[rows + down, columns + right]
            alone &= (beside <= 0) | (beside == own)
    return alone


def _between(present: Tensor, fractions: bool) -> Tensor:
    """Return which of the levels, sorted, are neither black nor white."""
    darkest, brightest = int(present[0]), int(present[-1])
    between = present != 0
    if 4 * brightest >= 3 * _FULL:
        between &= present != brightest
    if fractions and 4 * darkest <= _FULL:
        between &= present != darkest
    return between


def _holds_ones(values: Tensor, inside: Tensor, top: float) -> bool:
    """Return whether there are ones, and nothing between them and the top."""
    ones = values == 1
    return bool(ones.any()) and bool((ones | (values == 0) | (values == top) | ~inside).all())
