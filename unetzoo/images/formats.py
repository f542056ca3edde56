"""The formats that are read, and the only door to Pillow's decoders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "JPEG2000", "AVIF", "PPM", "TGA", "QOI")
"""Plain rasters, as Pillow calls them. Others are not opened, whatever a file's name says: PostScript, above all, which
Pillow hands to Ghostscript, and Ghostscript does what the file tells it to."""


def open_raster(path: str | os.PathLike[str]) -> ImageFile:
    """Open an image by Pillow; nothing is decoded yet.

    Raises:
        PIL.UnidentifiedImageError: it is of no format that is read.
        PIL.Image.DecompressionBombError: it has more pixels than Pillow lets be read.
    """
    from PIL import Image

    return Image.open(path, formats=FORMATS)


def png_header(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return a PNG's bits of a sample and type of colour (0 grey, 2 RGB, 3 palette, 4 grey and 6 RGB with alpha).

    None of other files. PNG specification, third edition, 11.2.1.
    """
    with Path(path).open("rb") as stream:
        head = stream.read(26)
    return (head[24], head[25]) if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 26 else None


def largest_of_netpbm(path: str | os.PathLike[str]) -> int | None:
    """Return the value that is white in a PGM or PPM file; None of other files (netpbm's man pages pgm and ppm)."""
    with Path(path).open("rb") as stream:
        head = stream.read(65536)
    if head[:2] not in (b"P2", b"P3", b"P5", b"P6"):
        return None
    fields: list[bytes] = []
    for line in head[2:].split(b"\n"):
        fields += line.partition(b"#")[0].split()
        if len(fields) >= 3:
            break
    return int(fields[2]) if len(fields) >= 3 and fields[2].isdigit() else None
