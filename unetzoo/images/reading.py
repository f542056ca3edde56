"""Reading images of every kind, by Pillow where it reads them whole.

Pillow comes with torchvision, which needs it; torchvision's own decoders are on their way out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unetzoo.errors import InputError
from unetzoo.images import tiff
from unetzoo.images.failing import explained

if TYPE_CHECKING:
    from PIL.Image import Exif, Image
    from PIL.ImageFile import ImageFile

_CONVERSIONS = {"P": "RGB", "PA": "RGBA", "1": "L", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB"}


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Return an image as (C, H, W), turned as its EXIF says.

    uint8, uint16 and float32 as they are stored, and of TIFFs also int8, int16, int32 and uint32; other floating
    point becomes float32. Reads what Pillow reads: PNG, JPEG, WebP, GIF, BMP, TIFF and more. Palettes become RGB or
    RGBA, one bit becomes 0 and 255, CMYK becomes RGB. Of several frames the first is taken. Colour PNGs of 16 bits
    come as 8: Pillow knows no other.

    TIFFs that Pillow does not read, or not all of, need ``tifffile``. Their bands are the samples of a pixel,
    planar or interleaved, and the pages that ImageJ, OME or tifffile call channels or one array; of time points,
    depths and all other pages the first is taken.

    Raises:
        InputError: no such file, no such image, a damaged one, 64-bit integers, or numbers that are not finite.
    """
    image = _read(path, as_stored=False)
    if image.dtype in (torch.int64, torch.uint64):
        raise InputError(f"{str(path)!r} holds {image.dtype} pixels: integers of 8, 16 or 32 bits are needed")
    if image.is_floating_point() and not bool(image.isfinite().all()):
        wrong = int((~image.isfinite()).sum())
        raise InputError(
            f"{str(path)!r} has {wrong} values that are NaN or infinite: replace them, by the mean of their channel say"
        )
    return image


def read_values(path: str | os.PathLike[str]) -> Tensor:
    """Return what a file of labels stores, as (C, H, W): as :func:`read_image`, but indices of a palette stay indices.

    One bit becomes 0 and 1, and integers may have 64 bits.

    Raises:
        InputError: no such file, no such image, or a damaged one.
    """
    return _read(path, as_stored=True)


def from_pil(image: Image) -> Tensor:
    """Return an image of Pillow as :func:`read_image` returns that of a file.

    Raises:
        InputError: its pixels cannot be read.
    """
    try:
        return _decoded(image, as_stored=False)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"a PIL image cannot be read ({type(error).__name__}: {error})") from error


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return height and width of the image that :func:`read_image` returns, from the file's header alone.

    Raises:
        InputError: no such file, or no such image.
    """
    with _opened(path) as file:
        if file is None:
            return tiff.size_of(path)
        tags = getattr(file, "tag_v2", {})  # some versions of Pillow have turned the size of a TIFF already
        width, height = (tags[tiff.WIDTH], tags[tiff.HEIGHT]) if tags else file.size
        return (width, height) if _exif(path, file).get(tiff.ORIENTATION, 1) in tiff.LYING else (height, width)


def orientation(path: str | os.PathLike[str]) -> int:
    """Return how the pixels of a file are turned: 1 to 8 as TIFF and EXIF number it, 1, upright, where it says nothing.

    Raises:
        InputError: no such file, or no such image.
    """
    with _opened(path) as file:
        if file is None:
            _, turn = tiff.tiff_tags(path, (tiff.ORIENTATION,)).get(tiff.ORIENTATION, (0, 1))
        else:
            turn = _exif(path, file).get(tiff.ORIENTATION, 1)
    return turn if turn in range(1, 9) else 1


def palette_of(path: str | os.PathLike[str]) -> tuple[tuple[int, int, int], ...] | None:
    """Return the colours, (red, green, blue) of 8 bits each, of the indices that :func:`read_values` gives of a file.

    None where its pixels are no indices of a palette.

    Raises:
        InputError: no such file, or no such image.
    """
    with _opened(path) as file:
        if file is None or file.mode != "P":
            return None
        flat = file.getpalette("RGB") or []
    return tuple(zip(flat[::3], flat[1::3], flat[2::3], strict=True))


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[ImageFile | None]:
    """Give the image as Pillow opened it, None for a TIFF that tifffile has to read.

    Raises:
        InputError: no such file, no such image; and for whatever fails inside the block.
    """
    from PIL import Image, UnidentifiedImageError

    if not Path(path).is_file():
        raise InputError(f"{str(path)!r}: there is no such file")
    with explained(path):
        try:
            file = Image.open(path)
        except UnidentifiedImageError:
            if not tiff.is_tiff(path):
                raise
            yield None
            return
        with file:
            yield file if tiff.is_whole(file) else None


def _read(path: str | os.PathLike[str], as_stored: bool) -> Tensor:
    with _opened(path) as file:
        return tiff.read(path) if file is None else _decoded(file, as_stored)


def _decoded(file: Image, as_stored: bool) -> Tensor:
    """Return the pixels of what Pillow reads whole."""
    from PIL import ImageOps
    from torchvision.transforms.functional import pil_to_tensor

    tags = getattr(file, "tag_v2", {})
    depth, signed = (tags.get(tiff.BITS) or (0,))[0], tags.get(tiff.FORMAT) == (2,)
    opened = ImageOps.exif_transpose(file)
    stored = opened.mode
    if stored in _CONVERSIONS and not (as_stored and stored in ("1", "P")):
        target = _CONVERSIONS[stored]
        opened = opened.convert("RGBA" if opened.has_transparency_data else target)
    elif stored == "I;16B":  # torch knows its own machine's order of bytes alone
        opened = opened.convert("I")
    image: Tensor = pil_to_tensor(opened)
    if as_stored and stored == "1":
        return (image > 0).byte()
    if stored == "I" and depth == 32 and not signed:
        return image.view(torch.uint32)
    return image.to({"I;16B": torch.uint16, "I": torch.int16 if depth == 16 else torch.int32}.get(stored, image.dtype))


def _exif(path: str | os.PathLike[str], file: ImageFile) -> Exif:
    """Return EXIF, without decoding the image: Pillow would, as a PNG may have some after its pixels."""
    from PIL import Image

    return file.getexif() if file.format != "PNG" or _has_late_texts(path) else Image.Image.getexif(file)


def _has_late_texts(path: str | os.PathLike[str]) -> bool:
    """Return whether a PNG has chunks after its pixels in which EXIF can be."""
    pixels = False
    with Path(path).open("rb") as stream:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            kind = head[4:]
            pixels |= kind == b"IDAT"
            if pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            stream.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False
