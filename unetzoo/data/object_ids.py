"""Files that number the objects of an image, next to a mask that has their classes.

Pascal VOC has them in ``SegmentationObject/``: an index for each object, or a colour, as CVAT writes them. Cityscapes
has ``_instanceIds.png``: 1000 times the class plus a number, or only the class where objects were not told apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unetzoo import images
from unetzoo.data import turning
from unetzoo.errors import InputError

VOID = 0xE0E0C0
"""Colour of Pascal VOC's border, which painted files have instead of 255."""


@dataclass(frozen=True)
class ObjectIds:
    """A file that numbers objects.

    Attributes:
        path: of the file, which has the size of the image.
        first: the lowest value of an object. Lower values are not objects.
        void: a higher value that is not an object either.
    """

    path: Path
    first: int = 1
    void: int | None = None

    def read(self, image: Path, size: tuple[int, int]) -> Tensor:
        """Return a number for each object, (H, W) int64, and 0 where there is none.

        Args:
            image: the image's file, which may have an EXIF orientation.
            size: height and width of the upright image.

        Raises:
            InputError: the file cannot be read, or has another size.
        """
        values, _ = turning.upright(image, self.path, images.read_values(self.path))
        height, width = values.shape[1:]
        if (height, width) != tuple(size):
            raise InputError(f"{str(self.path)!r} is {width}×{height} pixels, but its image is {size[1]}×{size[0]}")
        if values.shape[0] >= 3:
            red, green, blue = values[:3].long()
            packed = red << 16 | green << 8 | blue
            return torch.where(packed == VOID, 0, packed)
        ids = values[0].long()
        return torch.where((ids < self.first) | (ids == self.void if self.void is not None else False), 0, ids)
