"""The size of an image's pixels: the one in its file, or else the one that was given for files without."""

from __future__ import annotations

from unetzoo.prediction.remarks import OtherSize, tell

_SAME = 1e-3
"""Relative difference up to which two sizes count as equal, because headers round them."""


def size_of(name: str | None, stated: tuple[float, float] | None, given: float | None) -> tuple[float, float] | None:
    """Return µm per pixel of an image, down and across; None if unknown.

    If its file states a size and another one was given, the file is right, and a warning names both.

    Args:
        name: name of the image's file, for the warning.
        stated: the size in the file; None if it has none.
        given: "mpp_stored", for files that state no size; None if it was not given.
    """
    if given is None:
        return stated
    if stated is None:
        return given, given
    if max(abs(side / given - 1) for side in stated) > _SAME:
        tell(OtherSize(name, stated, given))
    return stated
