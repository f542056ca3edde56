"""Masks of images that their files turn, by EXIF's or TIFF's orientation.

Images are read upright. Their masks may be of the upright image, as labelling tools and browsers show it, or of the
pixels as they are stored, as ImageJ and much of Python read them. One rule for all of them:

- A mask that says its orientation, upright too, is turned by that alone; the masks of ``predict`` do.
- A mask of the size that the image is stored in is of the stored pixels, and turned with the image. So is one whose
  size does not tell: of an image that is square, mirrored, or upside down.
- A mask of the upright image's size stays as it is.
- So do polygons, which have no size: labelme, CVAT, Label Studio and YOLO show and write upright images.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from unetzoo import images

STORED, SHOWN, UNTOLD = "stored", "shown", "untold"
"""What the mask of a turned image is of: its stored pixels, the upright image, or one of them, taken as the first."""
_LYING = range(5, 9)


def upright(image: Path, mask: Path, values: Tensor) -> tuple[Tensor, str]:
    """Return a mask as the upright image has it, and what it was of; "" where the image is not turned.

    Args:
        image: its file.
        mask: likewise.
        values: (C, H, W), the mask as ``images.read_values`` returns it.

    Raises:
        InputError: one of them cannot be read.
    """
    turn = images.orientation(image) or 1
    if turn == 1:
        return values, ""
    height, width = images.image_size(image)
    stored = (width, height) if turn in _LYING else (height, width)
    if images.orientation(mask) is not None or tuple(values.shape[1:]) != stored:
        return values, SHOWN
    return images.upright(values, turn), UNTOLD if stored == (height, width) else STORED


def as_stored(values: Tensor, orientation: int) -> Tensor:
    """Return what ``images.upright`` makes ``values`` (…, H, W) of."""
    back = {6: 8, 8: 6}.get(orientation, orientation)  # a quarter turn; all others undo themselves
    return images.upright(values, back)
