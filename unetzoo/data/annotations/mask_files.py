"""An object whose pixels are a separate file, as in data sets with one mask per object (DSB 2018)."""

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
    """The pixels that are not black in a file of one object; it is read when they are needed.

    In a JPEG, where noise is not black either, these are the pixels above half of the brightest one.

    Attributes:
        path: of the file, which has the size of the image.
    """

    path: Path

    def pixels(self, size: Size) -> Part:
        """Return the pixels that are not black, see ``Region``.

        Raises:
            InputError: the file cannot be read, or has another size.
        """
        values = images.read_values(self.path) if images.palette_of(self.path) is None else images.read_image(self.path)
        height, width = values.shape[1:]
        if (height, width) != tuple(size):
            raise InputError(f"{str(self.path)!r} is {width}×{height} pixels, but its image is {size[1]}×{size[0]}")
        if values.shape[0] in (2, 4):
            colours, alpha = values[:-1], values[-1:]
            # If all colours are the same, the shape may be in alpha.
            values = alpha if bool((colours == colours[:, :1, :1]).all()) and not bool(alpha.all()) else colours
        greys = values.to(torch.float64).amax(dim=0)
        least = float(greys.max()) / 2 if self.path.suffix.lower() in _LOSSY else 0.0
        return Part(0, 0, (greys > least).numpy())

    @property
    def fingerprint(self) -> str:
        """See ``Region``."""
        return fingerprint(self.path)
