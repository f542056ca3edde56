"""The formats that are read, and the only door to Pillow's decoders."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unetzoo.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "JPEG2000", "AVIF", "PPM", "TGA", "QOI")
"""Plain rasters, as Pillow calls them. Others are not opened, whatever a file's name says: PostScript, above all, which
Pillow hands to Ghostscript, and Ghostscript does what the file tells it to."""

IMAGE_SUFFIXES = frozenset(
    f".{ending}"
    for line in (
        "png apng jpg jpeg jpe jfif tif tiff bmp dib webp gif jp2 j2k avif ppm pgm pbm pnm pfm tga qoi",
        "nii gz dcm dicom",
    )
    for ending in line.split()
)
"""Endings of images, in small letters; ".gz" is that of ".nii.gz"."""

_SHOWN = ("PNG", "JPEG", "JPEG 2000", "TIFF", "BMP", "WebP", "GIF", "AVIF", "PGM", "PPM", "PBM", "TGA or QOI")


def is_image(name: str) -> bool:
    """Return whether a file ends as images do."""
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122 (of hundreds of thousands of names)
    return ending in IMAGE_SUFFIXES and (ending != ".gz" or name.lower().endswith(".nii.gz"))


def open_raster(path: str | os.PathLike[str]) -> ImageFile:
    """Open an image by Pillow; nothing is decoded yet.

    Raises:
        InputError: it is of no format that is read.
        PIL.Image.DecompressionBombError: it has more pixels than Pillow lets be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        with Path(path).open("rb") as stream:
            postscript = b"%!PS" in stream.read(64)
        why = "PostScript is a program, and is not run" if postscript else f"it is no {', '.join(_SHOWN)}, or damaged"
        raise InputError(f"{str(path)!r} cannot be read as an image: {why}") from error


def open_png(data: bytes) -> ImageFile:
    """Open a PNG that other data hold; nothing is decoded yet.

    Raises:
        InputError: it is none, or has more pixels than Pillow lets be read.
    """
    from PIL import Image

    try:
        return Image.open(io.BytesIO(data), formats=["PNG"])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"it is no PNG: {error}") from error


def pixels_of(image: Image) -> Tensor:
    """Return a copy of the pixels of a Pillow image as (C, H, W), of the type that its mode has.

    As torchvision's ``pil_to_tensor``, which takes longer to import than a small image to segment.
    """
    import numpy as np

    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


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


def bmp_of_greys(path: str | os.PathLike[str]) -> tuple[Tensor, int] | None:
    """Return the indices (H, W) of a BMP of 4 or 8 bits whose palette is greys from black on, and how many these are.

    None of other files. Pillow takes the bytes of such a file for its pixels: of two colours eight to a byte, of 4 bits
    one. BITMAPINFOHEADER as in Microsoft's Win32 reference.

    Raises:
        InputError: its rows are run-length encoded, or cut off.
    """
    import numpy as np

    content = Path(path).read_bytes()
    if len(content) < 54 or struct.unpack_from("<I", content, 14)[0] < 40:
        return None
    start, width, height = struct.unpack_from("<I4xii", content, 10)
    bits, packed = struct.unpack_from("<HI", content, 28)
    colours = struct.unpack_from("<I", content, 46)[0] or 2**bits
    if bits not in (4, 8) or (bits == 8 and colours != 2):
        return None
    rows, across = abs(height), -(-width * bits // 32) * 4
    if packed or width < 1 or start + rows * across > len(content):
        raise InputError(f"{str(path)!r} is a BMP of greys in runs, or cut off: save it as PNG")
    body = np.frombuffer(content, np.uint8, rows * across, start).reshape(rows, across)
    indices = body if bits == 8 else np.stack([body >> 4, body & 15], axis=-1).reshape(rows, -1)
    upright = indices[:: -1 if height > 0 else 1, :width]
    return torch.from_numpy(upright.copy()), colours
