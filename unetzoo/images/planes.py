"""Files with several planes: depths, times, pages, frames. Which of them make an image is never guessed."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from unetzoo.errors import InputError

CHOICES = ("split", "first", "max", "channels")
"""How an image with several planes can be read."""
_NAMES = {"Z": "depths (Z)", "T": "times (T)"}


@dataclass(frozen=True)
class Stack:
    """The planes of a file.

    Attributes:
        axes: name and length of each axis of the planes, the slowest first: "Z", "T", "pages", "frames"; empty if there
            is one plane.
        pages: for each plane in this order, the pages of the file that are its channels; usually one.
        others: number of pages that are not planes, as they differ in size or type and are not smaller copies.
    """

    axes: tuple[tuple[str, int], ...] = ()
    pages: tuple[tuple[int, ...], ...] = ((0,),)
    others: int = 0

    @property
    def count(self) -> int:
        """Number of planes."""
        return len(self.pages)

    def __str__(self) -> str:
        listed = " × ".join(f"{length} {_NAMES.get(name, name)}" for name, length in self.axes)
        return listed if len(self.axes) == 1 else f"{self.count} planes, {listed}"

    def chosen(self, planes: str | int | None, path: str | os.PathLike[str]) -> list[tuple[int, ...]]:
        """Return the pages of each chosen plane; more than one plane only for "max" and "channels".

        Args:
            planes: "first", "max", "channels", the number of one from 0 on, or None if there is only one.
            path: of the file, for messages.

        Raises:
            InputError: there are several, and ``planes`` does not say which; or there is no such plane.
        """
        if isinstance(planes, int):
            if not 0 <= planes < self.count:
                raise InputError(
                    f"{str(path)!r} has {self.count} planes: plane {planes} is not among 0…{self.count - 1}"
                )
            return [self.pages[planes]]
        if planes == "first" or (self.count == 1 and not self.others):
            return [self.pages[0]]
        if self.others:
            raise InputError(
                f"{str(path)!r} holds {self.count + self.others} pages of different sizes or types: "
                "planes='first' takes the first; or save them as separate files"
            )
        if planes in ("max", "channels"):
            return list(self.pages)
        if planes == "split":
            raise InputError(
                f"{str(path)!r} holds {self}, and planes='split' makes an image of each: to get a single image, give "
                f"the number of one, from 0 to {self.count - 1}, or 'first', 'max' or 'channels'"
            )
        raise InputError(
            f"{str(path)!r} holds {self}: which are meant? planes='split' makes an image of each, planes='first' takes "
            "the first, planes='max' the largest value of each pixel, planes='channels' all as channels; in Python the "
            "number of one can be given, too"
        )


def stack_along(
    axes: Sequence[tuple[str, int]], channels: Sequence[str] = (), order: Sequence[int] | None = None
) -> Stack:
    """Return the planes of pages that are ordered along axes.

    Args:
        axes: name and length of each axis, the slowest one first.
        channels: names of the axes that are channels of a plane.
        order: the page at each place; None: one after the other.
    """
    count = math.prod(length for _, length in axes)
    pages = range(count) if order is None else order
    planes: dict[tuple[int, ...], list[int]] = {}
    for place in range(count):
        rest, index = place, []
        for name, length in reversed(axes):
            if name not in channels:
                index.append(rest % length)
            rest //= length
        planes.setdefault(tuple(reversed(index)), []).append(pages[place])
    kept = tuple((name, length) for name, length in axes if name not in channels and length > 1)
    return Stack(kept, tuple(map(tuple, planes.values())))
