"""An object whose pixels are a file of their own, as data sets with one mask an object have them (DSB 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from unetzoo import images
from unetzoo.data.annotations.regions import Part, Size
from unetzoo.errors import InputError
from unetzoo.files.identity import fingerprint

_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")


@dataclass(frozen=True)
class MaskFile:
    """What is not black in a file of one object; it is read when its pixels are asked for.

    In a JPEG, whose noise is not black either, it is what is brighter than half of the brightest pixel.

    Attributes:
        path: of the file, of the size of the image.
    """

    path: Path

    def pixels(self, size: Size) -> Part:
        """Return what is not black, see ``Region``.

        Raises:
            InputError: it cannot be read, or is of another size.
        """
        values = images.read_values(self.path) if images.palette_of(self.path) is None else images.read_image(self.path)
        height, width = values.shape[1:]
        if (height, width) != tuple(size):
            raise InputError(f"{str(self.path)!r} is {width}×{height} pixels, its image {size[1]}×{size[0]}")
        if values.shape[0] in (2, 4):
            colours, alpha = values[:-1], values[-1:]
            # Where all colours are the same, the shape may be in alpha.
            values = alpha if bool((colours == colours[:, :1, :1]).all()) and not bool(alpha.all()) else colours
        greys = values.to(torch.float64).amax(dim=0)
        least = float(greys.max()) / 2 if self.path.suffix.lower() in _LOSSY else 0.0
        return Part(0, 0, (greys > least).numpy())

    @property
    def fingerprint(self) -> str:
        """See ``Region``."""
        return fingerprint(self.path)
