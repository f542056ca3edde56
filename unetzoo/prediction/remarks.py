"""Remarks about an image: it looks nearly black to a network, has another type, is uniform, or states another size."""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unetzoo.errors import InputError

DEPTHS = (8, 10, 12, 14, 16, 24, 32, 48, 64)
"""Bits per pixel that cameras deliver."""

_logger = logging.getLogger("unetzoo")


@dataclass(frozen=True)
class Dark:
    """An image of integers that is nearly black to a network.

    Attributes:
        name: name of the image's file, or None.
        largest: the image's largest value among those that were examined.
        limit: the largest value of the image's type.
        trained: the mean of the values that the network was trained on, in 0…1.
        white: the largest value of the type that the network was trained on, if that is another type whose range
            includes the image's values; else 0.
        pixels: the type that the network was trained on; None: unknown.
    """

    name: str | None
    largest: int
    limit: int
    trained: float
    white: int = 0
    pixels: str | None = None


@dataclass(frozen=True)
class Unlike:
    """An image of integers whose type differs from that of the training, so the same number means something else.

    Attributes:
        name: name of the image's file, or None.
        dtype: type of the image's pixels.
        trained: type of the training images' pixels.
        white: the largest value of ``trained``; 0 if that is floating point.
    """

    name: str | None
    dtype: str
    trained: str
    white: int


@dataclass(frozen=True)
class Flat:
    """An image whose pixels are all alike, so that there is nothing to segment.

    Attributes:
        name: name of the image's file, or None.
        mapped: the stored values differ; they are alike only after the given black and white values are applied.
    """

    name: str | None
    mapped: bool = False


@dataclass(frozen=True)
class OtherSize:
    """An image whose file states another size of its pixels than the one that was given.

    Attributes:
        name: name of the image's file, or None.
        stated: µm per pixel in the file, down and across.
        given: µm per pixel that were given, for files that state none.
    """

    name: str | None
    stated: tuple[float, float]
    given: float


Remark = Dark | Unlike | Flat | OtherSize


class ScaleError(InputError):
    """A floating-point image on a different scale from the images that a network was trained on.

    Attributes:
        problem: what is wrong, without the fix: Python, the command line and napari each offer another one.
    """

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}; {fix}")
        self.problem = problem


_found: contextvars.ContextVar[list[Remark] | None] = contextvars.ContextVar("remarks", default=None)


@contextlib.contextmanager
def kept() -> Iterator[list[Remark]]:
    """Collect the remarks on images inside the block in a list that grows, instead of logging them."""
    found: list[Remark] = []
    token = _found.set(found)
    try:
        yield found
    finally:
        _found.reset(token)


@contextlib.contextmanager
def told_together() -> Iterator[None]:
    """Collect remarks inside the block and warn once per kind at its end; in nested blocks, at the outermost end."""
    if _found.get() is not None:
        yield
        return
    found: list[Remark] = []
    try:
        with kept() as found:
            yield
    finally:
        _log(found)


def tell(remark: Remark) -> None:
    """Warn about an image, or keep the remark for :func:`told_together` and :func:`kept`."""
    found = _found.get()
    if found is None:
        _log([remark])
    elif remark.name is None or remark not in found:  # an image may be segmented twice, to be shown
        found.append(remark)


def said(
    found: Sequence[Remark], *, one: str = "an image", many: str = "images", range_fix: str | None = None
) -> list[str]:
    """Return a sentence for each kind of remark.

    Args:
        found: remarks on any number of images.
        one, many: what to call one image without a name, and several images.
        range_fix: the fix for values that differ from those of the training; None: the fix for Python.
    """
    dark = [remark for remark in found if isinstance(remark, Dark)]
    sentences = []
    if dark:
        first, largest = dark[0], max(remark.largest for remark in dark)
        depth = next(depth for depth in DEPTHS if largest < 2**depth)
        fix = f"give the values of black and white, such as intensity_range=(0, {first.white or 2**depth - 1})"
        sentences.append(
            f"{_who(dark, one, many)} nearly black to this model, with values up to {largest:,} of {first.limit:,}: "
            f"in its training images, the mean was about {first.trained:.2g} of the largest value of their type, so "
            f"the model may miss objects; {range_fix or fix}"
        )
    unlike = [remark for remark in found if isinstance(remark, Unlike)]
    if unlike:
        it = unlike[0]
        why = "each type is divided by its own largest value, so the same number means something else to the model"
        fix = f"give {it.trained}, as in training; or, if the numbers are the same, intensity_range=(0, {it.white})"
        if not it.white:
            why = "integers are divided by the largest value of their type, and floating point is taken as it is"
            fix = (
                f"give {it.trained}, as in training; or give the values that are 0 and 1 there, such as "
                "intensity_range=(0, 10000)"
            )
        sentences.append(
            f"{_who(unlike, one, many)} {it.dtype}, and this model was trained on {it.trained}: {why}; "
            f"{range_fix or fix}"
        )
    flat = [remark for remark in found if isinstance(remark, Flat)]
    plain, mapped = ([remark for remark in flat if remark.mapped is kind] for kind in (False, True))
    if plain:
        sentences.append(
            f"{_who(plain, one, many)} of one value everywhere (black, white or grey): there is nothing to segment, "
            "and the mask is meaningless; check how the file was written"
        )
    if mapped:
        fix = "choose intensity_range=… so that it covers the values of the image"
        sentences.append(
            f"{_who(mapped, one, many)} all black or all white with the given range of values: there is nothing to "
            f"segment, and the mask is meaningless; {range_fix or fix}"
        )
    return sentences + _sizes_said([remark for remark in found if isinstance(remark, OtherSize)], one, many)


def _sizes_said(found: Sequence[OtherSize], one: str, many: str) -> list[str]:
    if not found:
        return []
    down, across = found[0].stated
    size = f"{across:g}" if down == across else f"{across:g} × {down:g}"
    said = f"{_who(found, one, many)} stored with pixels of {size} µm, not of mpp_stored={found[0].given:g}"
    return [f"{said}: what the file says is used; the given size is for files that state none"]


def _who(found: Sequence[Remark], one: str, many: str) -> str:
    name = found[0].name
    if len(found) == 1:
        return f"{one if name is None else name} is"
    return f"{len(found)} {many}" + ("" if name is None else f", such as {name},") + " are"


def _log(found: Sequence[Remark]) -> None:
    for sentence in said(found):
        _logger.warning("%s", sentence)
