"""Reading images of every kind: by Pillow if it reads them completely, otherwise by tifffile and imagecodecs.

Pillow is installed with torchvision, which needs it; torchvision's own decoders are deprecated.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unetzoo import extras
from unetzoo.errors import InputError
from unetzoo.files.absent import absent
from unetzoo.images import ifd, tiff
from unetzoo.images.bands import stacked
from unetzoo.images.failing import explained
from unetzoo.images.formats import bmp_of_greys, largest_of_netpbm, open_raster, pixels_of, png_header
from unetzoo.images.medical import is_medical, volume_of
from unetzoo.images.missing import without_gaps
from unetzoo.images.planes import Stack
from unetzoo.images.raster import Raster
from unetzoo.images.tiff import TiffImage

if TYPE_CHECKING:
    from PIL.Image import Exif, Image
    from PIL.ImageFile import ImageFile

_CONVERSIONS = {"P": "RGB", "PA": "RGBA", "1": "L", "CMYK": "RGB", "YCbCr": "RGB"}
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_KINDS = {"I": torch.int32, "I;16": torch.uint16, "I;16B": torch.uint16}


def read(path: str | os.PathLike[str] | tuple[Path, ...], planes: str | int | None = None) -> Raster:
    """Return an image with its opacity and its missing values, see :func:`read_image`.

    Args:
        path: of the file; or of several files, with the channels of one image in this order.
        planes: see :func:`read_image`; the same for each file.

    Raises:
        InputError: as for :func:`read_image`, except numbers that are not finite; or files that do not fit together.
    """
    return without_gaps(*stored(path, planes))


def stored(path: str | os.PathLike[str] | tuple[Path, ...], planes: str | int | None) -> tuple[Raster, float | None]:
    """Return an image as it is stored, and the nodata value of its file or files, see :func:`read`.

    Raises:
        InputError: as for :func:`read`.
    """
    files = path if isinstance(path, tuple) else (Path(path),)
    return stacked([(file, _checked(file, planes), tiff.nodata(file)) for file in files])


def read_image(path: str | os.PathLike[str], planes: str | int | None = None) -> Tensor:
    """Return an image as (C, H, W), turned as its EXIF says.

    uint8, uint16 and float32 are returned as they are stored, and from TIFFs also int8, int16, int32 and uint32; other
    floating point becomes float32. Reads PNG, JPEG, JPEG 2000, WebP, GIF, BMP, TIFF, AVIF, netpbm, TGA and QOI, for any
    file name, and nothing else. Palettes become RGB or RGBA, one bit becomes 0 and 255, CMYK becomes RGB.
    Grey TIFFs in which 0 is white are not inverted, as in tifffile and GDAL.

    TIFFs that Pillow does not read, or not completely, need ``tifffile``; colour PNGs of 16 bits and JPEG 2000 need
    ``imagecodecs``: both are in the extra ``tiff``. The bands of a TIFF are the samples of a pixel, planar or
    interleaved, and the pages that ImageJ, OME or tifffile call channels. All other pages are planes, and so are the
    frames of an animation.

    NIfTI and DICOM, recognised by their names (``.nii``, ``.nii.gz``, ``.dcm``), need the extra ``medical``: each slice
    or frame is a plane, with the file's scaling applied to its values, for example to Hounsfield units.

    Nodata values of the file's tag are returned as they are stored; :func:`read` says where they are.

    Args:
        path: of the file.
        planes: how to read a file with several planes: "first", "max" (the largest value of each pixel), "channels"
            (each plane is one or more channels), or the number of one from 0 on.

    Raises:
        InputError: the file is missing, not an image or damaged; it has 64-bit integers or numbers that are not finite;
            or it has several planes, and ``planes`` does not say which.
    """
    image = _checked(path, planes).pixels
    if image.is_floating_point() and not bool(image.isfinite().all()):
        wrong = int((~image.isfinite()).sum())
        raise InputError(f"{str(path)!r} has {wrong} values that are NaN or infinite: unetzoo.images.read says where")
    return image


def _checked(path: str | os.PathLike[str], planes: str | int | None) -> Raster:
    raster = _read(path, planes, as_stored=False)
    if raster.pixels.dtype in (torch.int64, torch.uint64):
        raise InputError(f"{str(path)!r} holds {raster.pixels.dtype} pixels: integers of 8, 16 or 32 bits are needed")
    return raster


def read_values(path: str | os.PathLike[str], planes: str | int | None = None) -> Tensor:
    """Return the values of a label file as (C, H, W): like :func:`read_image`, but palette indices stay indices.

    Fewer than 8 bits are not scaled, one bit is 0 and 1, and integers may have 64 bits.

    Raises:
        InputError: the file is missing, not an image or damaged; or it has several planes, see :func:`read_image`.
    """
    return _read(path, planes, as_stored=True).pixels


def from_pil(image: Image) -> Raster:
    """Return a PIL image as :func:`read` returns that of a file.

    Raises:
        InputError: its pixels cannot be read.
    """
    try:
        return _decoded(image, as_stored=False)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"a PIL image cannot be read ({type(error).__name__}: {error})") from error


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return height and width of the image that :func:`read_image` returns, from the file's header only.

    Raises:
        InputError: the file is missing, or not an image.
    """
    with explained(path):
        if _is_tiff(path):
            image = TiffImage(path)
            return image.height, image.width
        if is_medical(path):
            volume = volume_of(path)
            return volume.height, volume.width
        with open_raster(path) as file:
            width, height = file.size
            return (width, height) if _orientation(path, file) in tiff.LYING else (height, width)


def orientation(path: str | os.PathLike[str]) -> int | None:
    """Return the orientation of a stored image, from 1 to 8 as in EXIF; 1 is upright, None if the file does not say.

    :func:`read_image` turns it upright.

    Raises:
        InputError: the file is missing, or not an image.
    """
    with explained(path):
        if _is_tiff(path):
            image = TiffImage(path)
            return image.orientation if image.says_orientation else None
        if is_medical(path):
            return None
        with open_raster(path) as file:
            return _orientation(path, file)


def palette_of(path: str | os.PathLike[str]) -> tuple[tuple[int, int, int], ...] | None:
    """Return the colours, (red, green, blue) of 8 bits each, of the indices that :func:`read_values` returns.

    None if the file has no palette.

    Raises:
        InputError: the file is missing, or not an image.
    """
    with explained(path):
        if _is_tiff(path):
            table = TiffImage(path).palette()
            return None if table is None else tuple(tuple(colour) for colour in table.T.tolist())
        if is_medical(path):
            return None
        with open_raster(path) as file:
            flat = (file.getpalette("RGB") or []) if file.mode == "P" else None
    return None if flat is None else tuple(zip(flat[::3], flat[1::3], flat[2::3], strict=True))


def planes_of(path: str | os.PathLike[str]) -> Stack:
    """Return the planes of a file, from its headers only.

    Raises:
        InputError: the file is missing, or not an image.
    """
    with explained(path):
        if _is_tiff(path):
            return TiffImage(path).stack
        if is_medical(path):
            return volume_of(path).stack
        with open_raster(path) as file:
            return _frames(file)


def _is_tiff(path: str | os.PathLike[str]) -> bool:
    if not Path(path).is_file():
        raise InputError(absent(path))
    return ifd.is_tiff(path)


def _read(path: str | os.PathLike[str], planes: str | int | None, as_stored: bool) -> Raster:
    with explained(path):
        if _is_tiff(path):
            return _of_tiff(TiffImage(path), planes, as_stored)
        if is_medical(path):
            volume = volume_of(path)
            return _one([Raster(volume.read(pages)) for pages in volume.stack.chosen(planes, path)], planes)
        with open_raster(path) as file:
            chosen = _frames(file).chosen(planes, path)
            parts = []
            for (frame,) in chosen:
                if frame:
                    file.seek(frame)
                parts.append(_of_file(path, file, as_stored))
    return _one(parts, planes)


def _of_tiff(image: TiffImage, planes: str | int | None, as_stored: bool) -> Raster:
    parts = []
    for pages in image.stack.chosen(planes, image.path):
        if pages == (0,) and image.is_plain():
            image.check_size(0)
            with open_raster(image.path) as file:
                parts.append(_typed(_decoded(file, as_stored), image.kind))
        else:
            parts.append(Raster(image.read(pages, as_stored), image.alpha))
    return _one(parts, planes)


def _typed(raster: Raster, kind: tuple[int, int]) -> Raster:
    """Return Pillow's int32 in the type of the TIFF, which is given by sample format and bits."""
    image = raster.pixels
    if kind == (2, 16):
        image = image.to(torch.int16)
    elif kind == (1, 32):
        image = image.view(torch.uint32)
    return Raster(image, raster.alpha)


def _one(parts: Sequence[Raster], planes: str | int | None) -> Raster:
    alpha = parts[0].alpha and (len(parts) == 1 or planes != "channels")
    return Raster(joined([part.pixels for part in parts], planes), alpha)


def joined(parts: Sequence[Tensor], planes: str | int | None) -> Tensor:
    """Return planes (C, H, W) as one image: the largest value of each pixel, or one after the other as channels.

    Raises:
        InputError: the planes differ in size or type.
    """
    if len(parts) == 1:
        return parts[0]
    if len({(part.shape, part.dtype) for part in parts}) > 1:
        raise InputError("its planes differ in size or type: save them as separate files")
    if planes == "channels":
        return torch.cat(list(parts))
    # torch.amax does not support uint16 and uint32; numpy does.
    import numpy as np

    return torch.from_numpy(np.maximum.reduce([part.numpy() for part in parts]))


def _frames(file: ImageFile) -> Stack:
    """Return the frames of an animation; the other images in a camera's file (MPO) are previews of the first."""
    count = 1 if file.format == "MPO" else int(getattr(file, "n_frames", 1))
    return Stack((("frames", count),), tuple((k,) for k in range(count))) if count > 1 else Stack()


def _of_file(path: str | os.PathLike[str], file: ImageFile, as_stored: bool) -> Raster:
    """Return an image that is not a TIFF; values that Pillow would cut or spread are read by others, or restored."""
    if file.format == "PNG" and (header := png_header(path)) is not None:
        depth, colour = header
        if depth == 16 and colour != 0:
            return _by_imagecodecs(path, "png_decode", file, alpha=colour in (4, 6))
        if as_stored and colour == 0 and depth in (2, 4):
            return Raster(_decoded(file, as_stored).pixels // (255 // (2**depth - 1)))
    if file.format == "JPEG2000":
        return _by_imagecodecs(path, "jpeg2k_decode", file, alpha=file.mode in _ALPHA)
    if file.format in ("BMP", "DIB") and file.mode in ("1", "L") and (found := bmp_of_greys(path)) is not None:
        indices, colours = found
        return Raster((indices * 255 if colours == 2 and not as_stored else indices)[None])
    raster = _decoded(file, as_stored)
    if file.format == "PPM" and (largest := largest_of_netpbm(path)) is not None:
        return Raster(_of_netpbm(raster.pixels, largest, as_stored))
    return raster


def _by_imagecodecs(path: str | os.PathLike[str], decoder: str, file: ImageFile, alpha: bool) -> Raster:
    """Return an image with more bits than Pillow keeps, turned as its EXIF says."""
    import numpy as np

    imagecodecs = extras.needed(
        "imagecodecs", f"{str(path)!r}, a {file.format} that Pillow does not read completely", error=InputError
    )
    turn = _orientation(path, file) or 1
    array = getattr(imagecodecs, decoder)(Path(path).read_bytes())
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return Raster(tiff.upright(torch.from_numpy(np.ascontiguousarray(array)), turn), alpha)


def _of_netpbm(image: Tensor, largest: int, as_stored: bool) -> Tensor:
    """Return a PGM or PPM: Pillow spreads its values over 8 or 16 bits, which is right for images, not for labels."""
    if largest > 255 and image.shape[0] == 3:
        raise InputError(f"a PPM of values up to {largest}, but Pillow keeps only 8 bits: save it as TIFF")
    spread = 255 if largest <= 255 else 65535
    if as_stored and largest != spread:
        image = (image.double() * largest / spread).round()
    return image.to(torch.uint8 if largest <= 255 else torch.int32).to(torch.uint8 if largest <= 255 else torch.uint16)


def _decoded(file: Image, as_stored: bool) -> Raster:
    """Return the pixels of an image that Pillow reads completely."""
    from PIL import ImageOps

    file.load()  # first: PNG may have EXIF after its pixels
    upright = file.getexif().get(ifd.ORIENTATION, 1) == 1  # most images are, and need no copy
    opened = file if upright else ImageOps.exif_transpose(file)
    stored = opened.mode
    if stored in _CONVERSIONS and not (as_stored and stored in ("1", "P")):
        target = _CONVERSIONS[stored]
        opened = opened.convert("RGBA" if opened.has_transparency_data else target)
    elif stored == "I;16B":  # torch supports only the byte order of its own machine
        opened = opened.convert("I")
    image = pixels_of(opened)
    if image.dtype == torch.bool:  # one bit as it is stored
        image = image.byte()
    return Raster(image.to(_KINDS.get(stored, image.dtype)), opened.mode in _ALPHA)


def _orientation(path: str | os.PathLike[str], file: ImageFile) -> int | None:
    turned = _exif(path, file).get(ifd.ORIENTATION)
    return turned if isinstance(turned, int) and 1 <= turned <= 8 else None


def _exif(path: str | os.PathLike[str], file: ImageFile) -> Exif:
    """Return EXIF without decoding the image; Pillow would decode it, as a PNG may have EXIF after its pixels."""
    from PIL import Image

    return file.getexif() if file.format != "PNG" or _has_late_texts(path) else Image.Image.getexif(file)


def _has_late_texts(path: str | os.PathLike[str]) -> bool:
    """Return whether a PNG has chunks after its pixels that may hold EXIF."""
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
