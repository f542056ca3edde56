"""What a visitor is told of images whose values are not those that the model knows, and what helps."""

from __future__ import annotations

from collections.abc import Sequence

from unetzoo.prediction.remarks import Dark, Flat, Remark, Unlike

STRETCHED = (
    "stretch its contrast and save it with 8 bits, in Fiji by Image › Adjust › Brightness/Contrast and then Image › "
    "Type › 8-bit, and send that; or ask whoever runs this page"
)
"""What helps, with a program that people who have such images have."""


def saved_otherwise(pixels: str | None) -> str:
    """Return what helps where values are not those of the training, of these pixels; None: nobody knows."""
    if pixels is None or pixels.startswith("uint"):
        return STRETCHED
    return f"send the image as {pixels}, as those were that this model was trained on; or ask whoever runs this page"


def warnings(remarks: Sequence[Remark]) -> list[str]:
    """Return a sentence or two for each kind of remark on the images that a visitor has here.

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
            f"{largest:,} of {first.limit:,} that could be. To get more, {saved_otherwise(first.pixels)}."
        )
    if unlike:
        first_unlike = unlike[0]
        found.append(
            f"{_named(unlike)} saved as {first_unlike.dtype}, and this model was trained on {first_unlike.trained}: "
            f"brightness may be taken wrongly. To be sure, {saved_otherwise(first_unlike.trained)}."
        )
    if flat:
        found.append(
            f"{_named(flat)} of one brightness everywhere. There is nothing to find, and whatever is shown as found is "
            "chance. Look at the file in the program that wrote it."
        )
    return found


def _named(remarks: Sequence[Remark]) -> str:
    first = remarks[0].name or "An image"
    others = len(remarks) - 1
    if not others:
        return f"{first} is"
    return f"{first} and {others} other {'image' if others == 1 else 'images'} are"
