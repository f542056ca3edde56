"""Refuses files that are too large or of another kind. Nothing is decoded."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from unetzoo import images
from unetzoo.errors import ConfigError, InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".gif", ".bmp")
"""Endings of images that a browser offers to upload; the content of the file decides."""
FILES = 20
"""Largest number of images of one visitor."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Strangers send these files: Pillow knows more kinds, and would run Ghostscript for one of them.
_KINDS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", *_TIFF, b"RIFF", b"GIF8", b"BM")


@dataclass(frozen=True)
class Limits:
    """The largest files and images that are accepted.

    Attributes:
        megabytes: of a file, of 2²⁰ bytes, as the page counts them.
        megapixels: of an image, of 10⁶ pixels. An image may have four numbers per pixel, or one more than the model's
            channels if that is more.

    Raises:
        ConfigError: lists what is not a number above 0.
    """

    megabytes: float = 50
    megapixels: float = 25

    def __post_init__(self) -> None:
        problems = [
            f"{name}={value!r}: a number above 0 is needed"
            for name, value in (("megabytes", self.megabytes), ("megapixels", self.megapixels))
            if type(value) not in (int, float) or not 0 < value < math.inf
        ]
        if problems:
            raise ConfigError("these limits are not valid", problems)

    @property
    def max_bytes(self) -> int:
        """``megabytes`` in bytes."""
        return int(self.megabytes * 2**20)

    def check(
        self, path: str | os.PathLike[str], in_channels: int = 3, *, pixels: int = 0, size_beside: int = 0
    ) -> None:
        """Raise if a file is not an image that is accepted; nothing is decoded.

        Args:
            path: of the file.
            in_channels: of the model.
            pixels: of the visitor's other images; the limits hold for all of them together.
            size_beside: bytes of their files.

        Raises:
            InputError: it is too large, of another kind, damaged, or too large together with the others.
        """
        path = Path(path)
        size = path.stat().st_size
        if size > self.max_bytes:
            raise InputError(f"{path.name} has {size / 2**20:.4g} MB: files of up to {self.megabytes:g} MB are taken")
        with path.open("rb") as stream:
            head = stream.read(8)
        if not head.startswith(_KINDS):
            raise InputError(f"{path.name} is not a PNG, JPEG, TIFF, WebP, GIF or BMP file")
        height, width = images.image_size(path)
        if height * width > self.megapixels * 1e6:
            raise InputError(
                f"{path.name} has {width} × {height} = {height * width / 1e6:.4g} megapixels: up to "
                f"{self.megapixels:g} are taken; cut a part out, or make it smaller"
            )
        if height * width + pixels > self.megapixels * 1e6 or size + size_beside > self.max_bytes:
            raise InputError(
                f"{path.name}: too large together with the others, which may have up to {self.megapixels:g} megapixels "
                f"and {self.megabytes:g} MB in total; remove some from the list"
            )
        stack = images.planes_of(path)
        if stack.count > 1:
            raise InputError(f"{path.name} contains {stack}: send one of them, as a separate file")
        numbers = height * width * _channels(path) if head.startswith(_TIFF) else 0
        allowed = self.megapixels * 1e6 * max(4, in_channels + 1)
        if numbers > allowed:
            raise InputError(
                f"{path.name} contains {numbers / 1e6:.4g} million numbers in its bands and pages: up to "
                f"{allowed / 1e6:g} million are accepted; leave some bands or pages out"
            )


def _channels(path: Path) -> int:
    """Return how many numbers per pixel a TIFF has: a thousand pages may all refer to the same few bytes."""
    image = images.TiffImage(path)
    return image.samples * len(image.stack.pages[0])
