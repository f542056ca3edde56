"""Masks of images whose files have an orientation, by EXIF or TIFF.

Images are read upright. Their masks may be of the upright image, as labelling tools and browsers show it, or of the
pixels as they are stored, as ImageJ and much of Python read them. The same rules hold for all:

- A mask with an orientation of its own, even upright, is turned by that only; the masks of ``predict`` have one.
- A mask with the size of the stored image is a mask of the stored pixels, and is turned with the image. So is one
  whose size fits both: if the image is square, mirrored, or upside down.
- A mask with the size of the upright image stays unchanged.
- So do polygons, which have no size: labelme, CVAT, Label Studio and YOLO show and write upright images.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from unetzoo import images

STORED, SHOWN, UNTOLD = "stored", "shown", "untold"
"""A turned image's mask is of its stored pixels, of the upright image, or unknown, which is taken as stored."""
_LYING = range(5, 9)


def upright(image: Path, mask: Path, values: Tensor) -> tuple[Tensor, str]:
    """Return a mask for the upright image, and how it was taken; "" if the image is not turned.

    Args:
        image: the file of the image.
        mask: the file of the mask.
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
    """Return the pixels from which ``images.upright`` makes ``values`` (…, H, W)."""
    back = {6: 8, 8: 6}.get(orientation, orientation)  # quarter turns; all others are their own inverse
    return images.upright(values, back)
