"""The formats that are read, and the only way to Pillow's decoders."""

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
"""Plain rasters, by Pillow's names. Others are not opened, whatever the file's name is: above all PostScript, which
Pillow passes to Ghostscript, which runs the program in the file."""

IMAGE_SUFFIXES = frozenset(
    f".{ending}"
    for line in (
        "png apng jpg jpeg jpe jfif tif tiff bmp dib webp gif jp2 j2k avif ppm pgm pbm pnm pfm tga qoi",
        "nii gz dcm dicom",
    )
    for ending in line.split()
)
"""Suffixes of images, in lower case; ".gz" is for ".nii.gz"."""

_SHOWN = ("PNG", "JPEG", "JPEG 2000", "TIFF", "BMP", "WebP", "GIF", "AVIF", "PGM", "PPM", "PBM", "TGA or QOI")


def is_image(name: str) -> bool:
    """Return whether a file has the suffix of an image."""
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122 (for hundreds of thousands of names)
    return ending in IMAGE_SUFFIXES and (ending != ".gz" or name.lower().endswith(".nii.gz"))


def open_raster(path: str | os.PathLike[str]) -> ImageFile:
    """Open an image by Pillow; nothing is decoded yet.

    Raises:
        InputError: the file has no format that is read.
        PIL.Image.DecompressionBombError: it has more pixels than Pillow allows.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        with Path(path).open("rb") as stream:
            postscript = b"%!PS" in stream.read(64)
        why = "PostScript is a program, and is not run" if postscript else f"not {', '.join(_SHOWN)}, or damaged"
        raise InputError(f"{str(path)!r} cannot be read as an image: {why}") from error


def open_png(data: bytes) -> ImageFile:
    """Open a PNG inside other data; nothing is decoded yet.

    Raises:
        InputError: it is not a PNG, or has more pixels than Pillow allows.
    """
    from PIL import Image

    try:
        return Image.open(io.BytesIO(data), formats=["PNG"])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"it is not a PNG: {error}") from error


def pixels_of(image: Image) -> Tensor:
    """Return a copy of the pixels of a Pillow image as (C, H, W), with the type of its mode.

    Like torchvision's ``pil_to_tensor``, whose import takes longer than segmenting a small image.
    """
    import numpy as np

    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def png_header(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return a PNG's bits per sample and colour type (0 grey, 2 RGB, 3 palette, 4 grey and 6 RGB with alpha).

    None for other files. PNG specification, third edition, 11.2.1.
    """
    with Path(path).open("rb") as stream:
        head = stream.read(26)
    return (head[24], head[25]) if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 26 else None


def largest_of_netpbm(path: str | os.PathLike[str]) -> int | None:
    """Return the value of white in a PGM or PPM file; None for other files (netpbm's man pages pgm and ppm)."""
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
    """Return the indices (H, W) of a BMP of 4 or 8 bits whose palette is greys from black on, and their number.

    None for other files. Pillow misreads such files: it takes 8-bit indices of two colours as single bits, and a byte
    of two 4-bit indices as one pixel. BITMAPINFOHEADER as in Microsoft's Win32 reference.

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
        raise InputError(f"{str(path)!r} is a run-length encoded BMP of greys, or cut off: save it as PNG")
    body = np.frombuffer(content, np.uint8, rows * across, start).reshape(rows, across)
    indices = body if bits == 8 else np.stack([body >> 4, body & 15], axis=-1).reshape(rows, -1)
    upright = indices[:: -1 if height > 0 else 1, :width]
    return torch.from_numpy(upright.copy()), colours
