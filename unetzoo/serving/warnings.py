"""Warnings to visitors about images whose values the model does not know, and the fix."""

from __future__ import annotations

from collections.abc import Sequence

from unetzoo.prediction.remarks import Dark, Flat, Remark, Unlike

STRETCHED = (
    "stretch its contrast and save it with 8 bits (in Fiji: Image › Adjust › Brightness/Contrast, then Image › "
    "Type › 8-bit), and send that; or ask the person who runs this page"
)
"""The fix, with a program that people with such images usually have."""


def saved_otherwise(pixels: str | None) -> str:
    """Return the fix for values unlike those of the training images; ``pixels`` is their type, or None if unknown."""
    if pixels is None or pixels.startswith("uint"):
        return STRETCHED
    return f"send the image as {pixels}, like the training images; or ask the person who runs this page"


def warnings(remarks: Sequence[Remark]) -> list[str]:
    """Return one or two sentences for each kind of remark on a visitor's images.

    Args:
        remarks: in the order of the images.
    """
    dark = [remark for remark in remarks if isinstance(remark, Dark)]
    flat = [remark for remark in remarks if isinstance(remark, Flat)]
    unlike = [remark for remark in remarks if isinstance(remark, Unlike)]
    found = []
    if dark:
        first, largest = dark[0], max(remark.largest for remark in dark)
        found.append(
            f"{_named(dark)} nearly black to this model, and objects may be missing: the brightest value is "
            f"{largest:,} of a possible {first.limit:,}. To find more, {saved_otherwise(first.pixels)}."
        )
    if unlike:
        first_unlike = unlike[0]
        found.append(
            f"{_named(unlike)} saved as {first_unlike.dtype}, but this model was trained on {first_unlike.trained}: "
            f"brightness may be misread. To be sure, {saved_otherwise(first_unlike.trained)}."
        )
    if flat:
        found.append(
            f"{_named(flat)} of one brightness everywhere. There is nothing to find, and anything shown as found is "
            "chance. Look at the file in the program that wrote it."
        )
    return found


def _named(remarks: Sequence[Remark]) -> str:
    first = remarks[0].name or "An image"
    others = len(remarks) - 1
    if not others:
        return f"{first} is"
    return f"{first} and {others} other {'image' if others == 1 else 'images'} are"
