"""Files that number the objects of an image, beside a mask that has their classes.

Pascal VOC has them in ``SegmentationObject/``: an index for each object, or a colour, as CVAT writes them. Cityscapes
has ``_instanceIds.png``: 1000 times the class and a number, or the class alone where nobody told objects apart.
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
"""Colour of Pascal VOC's border, which painted files have for 255."""


@dataclass(frozen=True)
class ObjectIds:
    """A file that numbers objects.

    Attributes:
        path: of the file, of the size of the image.
        first: its lowest value of an object. Those below belong to none.
        void: a higher value that belongs to none either.
    """

    path: Path
    first: int = 1
    void: int | None = None

    def read(self, image: Path, size: tuple[int, int]) -> Tensor:
        """Return a number for each object, (H, W) int64, and 0 where there is none.

        Args:
            image: the image's file, which may say that it is turned.
            size: height and width of the upright image.

        Raises:
            InputError: it cannot be read, or is of another size.
        """
        values, _ = turning.upright(image, self.path, images.read_values(self.path))
        height, width = values.shape[1:]
        if (height, width) != tuple(size):
            raise InputError(f"{str(self.path)!r} is {width}×{height} pixels, its image {size[1]}×{size[0]}")
        if values.shape[0] >= 3:
            red, green, blue = values[:3].long()
            packed = red << 16 | green << 8 | blue
            return torch.where(packed == VOID, 0, packed)
        ids = values[0].long()
        return torch.where((ids < self.first) | (ids == self.void if self.void is not None else False), 0, ids)
