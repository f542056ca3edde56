"""What is said of an image beside its mask: it is nearly black to a network, of another type, or all the same."""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unetzoo.errors import InputError

DEPTHS = (8, 10, 12, 14, 16, 24, 32, 48, 64)
"""Bits of a pixel that cameras give."""

_logger = logging.getLogger("unetzoo")


@dataclass(frozen=True)
class Dark:
    """An image of integers that is nearly black to a network.

    Attributes:
        name: of its file, or None.
        largest: its largest value, of those that were looked at.
        limit: the largest value of its type.
        trained: the mean of the values that the network was trained on, in 0…1.
        white: the largest value of the type that it was trained on, where that is another and has all of these; or 0.
        pixels: that type; None: nobody knows.
    """

    name: str | None
    largest: int
    limit: int
    trained: float
    white: int = 0
    pixels: str | None = None


@dataclass(frozen=True)
class Unlike:
    """An image of integers whose type is another than that of the training, so that the same numbers mean others.

    Attributes:
        name: of its file, or None.
        dtype: of its pixels.
        trained: that of the training.
        white: the largest value of the latter; 0 of floating point.
    """

    name: str | None
    dtype: str
    trained: str
    white: int


@dataclass(frozen=True)
class Flat:
    """An image all of whose pixels are alike, in which nothing can be told apart.

    Attributes:
        name: of its file, or None.
        mapped: it is so by the values that were said to be black and white; it has others.
    """

    name: str | None
    mapped: bool = False


Remark = Dark | Unlike | Flat


class ScaleError(InputError):
    """An image of floating point of another scale than a network was trained on.

    Attributes:
        problem: what is wrong, without what helps: that differs from door to door.
    """

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}; {fix}")
        self.problem = problem


_found: contextvars.ContextVar[list[Remark] | None] = contextvars.ContextVar("remarks", default=None)


@contextlib.contextmanager
def kept() -> Iterator[list[Remark]]:
    """Give the remarks on the images within, as a list that grows; nothing is logged of them."""
    found: list[Remark] = []
    token = _found.set(found)
    try:
        yield found
    finally:
        _found.reset(token)


@contextlib.contextmanager
def told_together() -> Iterator[None]:
    """Warn once of a kind, at the end, of all images within; within another such block, at its end."""
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
    """Warn of an image, or keep it for :func:`told_together` and :func:`kept`."""
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
        found: of any number of images.
        one, many: what one without a name is called, and several.
        range_fix: what helps where values are not those of the training; None: what does in Python.
    """
    dark = [remark for remark in found if isinstance(remark, Dark)]
    sentences = []
    if dark:
        first, largest = dark[0], max(remark.largest for remark in dark)
        depth = next(depth for depth in DEPTHS if largest < 2**depth)
        fix = f"say which values are black and white, such as intensity_range=(0, {first.white or 2**depth - 1})"
        sentences.append(
            f"{_who(dark, one, many)} nearly black to this model, with values up to {largest:,} of {first.limit:,}: it "
            f"was trained on images of about {first.trained:.2g} of the largest value of their type, and may miss "
            f"objects; {range_fix or fix}"
        )
    unlike = [remark for remark in found if isinstance(remark, Unlike)]
    if unlike:
        it = unlike[0]
        why = "each is divided by the largest value of its type, so that the same numbers are others to it"
        fix = f"give {it.trained}, as in training; or, where the numbers are the same, intensity_range=(0, {it.white})"
        if not it.white:
            why = "integers are divided by the largest value of their type, and floating point is taken as it is"
            fix = f"give {it.trained}, as in training; or which numbers are 0 and 1 there: intensity_range=(0, 10000)"
        sentences.append(
            f"{_who(unlike, one, many)} {it.dtype}, and this model was trained on {it.trained}: {why}; "
            f"{range_fix or fix}"
        )
    flat = [remark for remark in found if isinstance(remark, Flat)]
    plain, mapped = ([remark for remark in flat if remark.mapped is kind] for kind in (False, True))
    if plain:
        sentences.append(
            f"{_who(plain, one, many)} of one value everywhere, black, white or grey: nothing can be told apart there, "
            "and what a mask shows is chance; check how the file was written"
        )
    if mapped:
        fix = "give the values that are black and white, and all of the others lie between: intensity_range=…"
        sentences.append(
            f"{_who(mapped, one, many)} all black or all white by the range of values that was given: nothing can be "
            f"told apart there, and what a mask shows is chance; {range_fix or fix}"
        )
    return sentences


def _who(found: Sequence[Remark], one: str, many: str) -> str:
    name = found[0].name
    if len(found) == 1:
        return f"{one if name is None else name} is"
    return f"{len(found)} {many} are" + ("" if name is None else f", {name} first,")


def _log(found: Sequence[Remark]) -> None:
    for sentence in said(found):
        _logger.warning("%s", sentence)
