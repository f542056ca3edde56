"""Reading TIFF files: plain ones by Pillow, all others by tifffile, each always by the same one.

Which one reads a page depends only on its tags, and not on what is installed: Pillow silently decodes some pages into
wrong numbers (integers of 16 and 32 bits that are big-endian and compressed, one band in planar layout), and inverts
files in which 0 is white. Values are returned as they are stored, as by tifffile, GDAL and scikit-image.
``docs/what_is_read.md`` has the table.
"""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unetzoo import extras
from unetzoo.errors import InputError
from unetzoo.images import ifd
from unetzoo.images.formats import pixels_of
from unetzoo.images.tiff_stacks import WANTED, stack_of

LYING = (5, 6, 7, 8)
"""Orientations whose rows are stored as columns."""
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
"""Photometric interpretation → samples of a pixel that are its colour: grey (0 or the largest value being white), RGB,
palette, CMYK, YCbCr. No other is read: the numbers of CIELab or of a camera's sensor are not colours yet."""
_CMYK, _YCBCR, _PALETTE, _WHITE_IS_ZERO = 5, 6, 3, 0
_PLAIN = {1, 5, 8, 32773, 32946}
"""Compressions that Pillow decodes: none, LZW, deflate, PackBits, old deflate."""
_NONE, _JPEG = 1, 7
_DENSEST = 1100
"""The most bytes to which a byte of a compressed file expands: deflate's limit is 1032 (zlib's documentation)."""
_SIGNED = {(2, 16), (1, 32), (2, 32), (3, 32)}
"""Sample format (1 unsigned, 2 signed, 3 floating point) and bits that Pillow reads only on some conditions."""
_KINDS = {(1, 64), (2, 8), (2, 16), (2, 32), (2, 64), (3, 16), (3, 24), (3, 32), (3, 64)}
"""All that are read, apart from unsigned integers, which may have any number of bits up to 32."""
_TAGS = (
    *WANTED,
    *(ifd.COMPRESSION, ifd.PHOTOMETRIC, ifd.FILL_ORDER, ifd.OFFSETS, ifd.ORIENTATION, ifd.COUNTS, ifd.PREDICTOR),
    *(ifd.PALETTE, ifd.TILE_OFFSETS, ifd.TILE_COUNTS, ifd.EXTRA_SAMPLES, ifd.DEPTH),
)


class TiffImage:
    """A TIFF file whose tags have been read.

    Attributes:
        stack: its planes.
        height, width: of the upright image.
        orientation: from 1 to 8, as in EXIF; 1 if the file does not say.
        says_orientation: whether the file says it.
        rows, columns, samples, bits, photometric: as stored.
        alpha: whether the last sample of a pixel is opacity, by ExtraSamples.
        is_planar: whether each sample is stored as a separate image.

    Raises:
        InputError: the file cannot be read as an image; the message says why.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.pages = ifd.pages_of(path, _TAGS)
        self.first = self.pages[0]
        self.orientation = self.first.number(ifd.ORIENTATION, 1)
        self.says_orientation = ifd.ORIENTATION in self.first.tags
        self.photometric = self.first.number(ifd.PHOTOMETRIC, 1)
        self.bits, self.samples = self.first.numbers(ifd.BITS, (1,)), self.first.number(ifd.SAMPLES, 1)
        self.rows, self.columns = self.first.number(ifd.HEIGHT, 0), self.first.number(ifd.WIDTH, 0)
        self.is_planar = self.first.number(ifd.PLANAR, 1) == 2
        self._check()
        self.alpha = self.samples - _COLOURS[self.photometric] == 1 and (
            self.first.numbers(ifd.EXTRA_SAMPLES) in ((1,), (2,))
        )
        self.stack = stack_of(self.pages, self._behind())
        turned = self.orientation in LYING
        self.height, self.width = (self.columns, self.rows) if turned else (self.rows, self.columns)

    def is_plain(self) -> bool:
        """Return whether Pillow reads the first page correctly, with all bands and all bits."""
        compression, bits = self.first.number(ifd.COMPRESSION, _NONE), self.bits
        if self.orientation in LYING and compression == _NONE:
            return False  # Pillow 13 reads their rows as columns
        if self.is_planar or self.first.number(ifd.FILL_ORDER, 1) != 1:
            return False
        if self.photometric == _WHITE_IS_ZERO:
            return False
        if self.kind in _SIGNED:  # if they are compressed and big-endian, Pillow swaps their bytes
            native = self.first.is_little or (compression == _NONE and self.kind != (1, 32))
            return self.samples == 1 and native and self.photometric != _PALETTE
        if self.kind[0] != 1:
            return False
        if compression == _JPEG and bits[0] == 8:  # libtiff converts YCbCr to RGB
            return (self.photometric, self.samples) in ((1, 1), (2, 3), (_YCBCR, 3))
        if compression not in _PLAIN or self.first.number(ifd.PREDICTOR, 1) not in (1, 2):
            return False
        if self.photometric == _YCBCR:
            return False
        if self.samples == 1:
            return bits[0] == 8 or (bits[0] == 16 and self.photometric != _PALETTE)
        return bits[0] == 8 and self.samples - self.alpha == _COLOURS[self.photometric] and self.photometric != _CMYK

    def read(self, pages: tuple[int, ...], as_stored: bool) -> Tensor:
        """Return the channels of a plane by tifffile, (C, H, W), upright.

        Args:
            pages: of its channels.
            as_stored: whether palettes, CMYK and fewer than 8 bits are not converted.

        Raises:
            InputError: the plane is cut off, too large, or of a kind that is not read.
        """
        with self.opened(_tifffile_for(self.path)) as file:
            image = torch.cat([self._page(file, number) for number in pages])
        return upright(image if as_stored else self._shown(image), self.orientation)

    def palette(self) -> Tensor | None:
        """Return the colours of its indices, (3, colours), the upper 8 of 16 stored bits; None without a palette."""
        if self.photometric != _PALETTE:
            return None
        stored = self.first.numbers(ifd.PALETTE)
        if len(stored) != 3 * 2 ** self.bits[0]:
            raise InputError(f"{str(self.path)!r} cannot be read as an image: its palette has {len(stored)} numbers")
        return torch.tensor(stored).reshape(3, -1) >> 8

    def opened(self, tifffile: Any) -> Any:
        """Return the file, opened by tifffile so that it opens no other files and believes no counts."""
        return _closed(tifffile)(self.path, _multifile=False, **_flags(tifffile))

    def page_of(self, file: Any, number: int) -> Any:
        """Return a page of an :meth:`opened` file."""
        return self.page_at(file, self.pages[number].offset, number)

    def page_at(self, file: Any, offset: int, number: int = 0) -> Any:
        """Return the page of an :meth:`opened` file whose tags begin at ``offset``."""
        file.filehandle.seek(offset)
        return _tifffile_for(self.path).TiffPage(file, index=number)

    def array_of(self, file: Any, number: int) -> Any:
        """Return a memory map of an image that follows the only page; None for a page."""
        if number < len(self.pages):
            return None
        import numpy as np

        page = self.page_of(file, 0)
        start = self.first.numbers(ifd.OFFSETS)[0] + number * self._bytes()
        kind = np.dtype(page.dtype).newbyteorder(file.byteorder)
        return np.memmap(self.path, kind, "r", start, page.shape)

    def check_direct(self) -> None:
        """Check that the stored values are the pixels themselves.

        Raises:
            InputError: the file has a palette, CMYK, or fewer than 8 bits.
        """
        if self.photometric in (_PALETTE, _CMYK) or self.bits[0] < 8:
            raise InputError(f"{str(self.path)!r} has a palette, CMYK or fewer than 8 bits: save it as grey or RGB")

    def check_size(self, number: int) -> None:
        """Check that a page needs no more bytes than the file can hold, and Pillow's limit of pixels allows.

        Raises:
            InputError: it needs more; the message has both numbers.
        """
        from PIL import Image

        pixels = self.rows * self.columns
        if Image.MAX_IMAGE_PIXELS is not None and pixels > 2 * Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(f"{pixels} pixels, over {2 * Image.MAX_IMAGE_PIXELS}")
        page = self.pages[min(number, len(self.pages) - 1)]
        there, needed = self.path.stat().st_size, self._bytes()
        offsets, counts = (
            page.numbers(strips) or page.numbers(tiles)
            for strips, tiles in ((ifd.OFFSETS, ifd.TILE_OFFSETS), (ifd.COUNTS, ifd.TILE_COUNTS))
        )
        if any(offset + count > there for offset, count in zip(offsets, counts, strict=False)):
            raise InputError(f"{str(self.path)!r} cannot be read as an image: it is cut off after {there:,} bytes")
        densest = 1 if page.number(ifd.COMPRESSION, _NONE) == _NONE else _DENSEST
        # Empty tiles may be left out, and other methods than deflate compress flat images more.
        if needed > there * densest and (densest == 1 or needed > 16 * pixels):
            raise InputError(
                f"{str(self.path)!r} cannot be read as an image: its pixels need {needed:,} bytes, but it has {there:,}"
            )

    def _check(self) -> None:
        said = f"{str(self.path)!r} is a TIFF "
        formats = self.first.numbers(ifd.FORMAT, (1,))
        self.kind = (formats[0], self.bits[0])
        if self.rows < 1 or self.columns < 1 or self.samples < 1:
            raise InputError(f"{said}without pixels, or is cut off")
        if self.photometric not in _COLOURS or self.samples < _COLOURS[self.photometric]:
            raise InputError(f"{said}of photometric interpretation {self.photometric}: save it as grey or RGB")
        if len({*self.bits}) > 1 or len({*formats}) > 1 or self.first.number(ifd.DEPTH, 1) != 1:
            raise InputError(f"{said}whose samples differ in type, or which is a volume: save it as grey or RGB")
        integer = formats[0] in (1, 4) and 1 <= self.bits[0] <= 32  # 4: undefined, which is read like the default, 1
        if not integer and self.kind not in _KINDS:
            kind = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}.get(formats[0], "")
            raise InputError(f"{said}of {self.bits[0]}-bit {kind} numbers: 8, 16 or 32 bits are needed")
        if self.photometric == _YCBCR and self.first.number(ifd.COMPRESSION, _NONE) != _JPEG:
            raise InputError(f"{said}of YCbCr that is not JPEG: save it as RGB")

    def _bytes(self) -> int:
        """Return the number of bytes of a page's uncompressed pixels."""
        return self.rows * math.ceil(self.columns * self.samples * self.bits[0] / 8)

    def _behind(self) -> int:
        """Return how many uncompressed images of the first page's size fit from its first pixel to the file's end."""
        offsets, size = self.first.numbers(ifd.OFFSETS), self._bytes()
        counts = self.first.numbers(ifd.COUNTS)
        apart = any(a + c != b for a, c, b in zip(offsets, counts, offsets[1:], strict=False))
        if self.first.number(ifd.COMPRESSION, _NONE) != _NONE or not offsets or apart or self.bits[0] % 8:
            return 1
        return max(1, (self.path.stat().st_size - offsets[0]) // size)

    def _page(self, file: Any, number: int) -> Tensor:
        """Return a page, or an image that follows the only page, as (C, H, W), as it is stored."""
        import numpy as np

        self.check_size(number)
        stored = self.array_of(file, number)
        array = self.page_of(file, number).asarray() if stored is None else stored
        size = (self.rows, self.columns)
        shape = (self.samples, *size) if self.is_planar else (*size, self.samples)
        if array.size != math.prod(shape):
            raise InputError(f"{str(self.path)!r} cannot be read as an image: page {number + 1} is damaged")
        array = array.reshape(shape) if self.is_planar else array.reshape(shape).transpose(2, 0, 1)
        image = torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))
        return image.float() if image.is_floating_point() else image.byte() if image.dtype == torch.bool else image

    def _shown(self, image: Tensor) -> Tensor:
        """Return stored values as an image: palettes and CMYK as RGB, fewer than 8 bits scaled to 8."""
        from PIL import Image

        if (table := self.palette()) is not None:
            shown: Tensor = table[:, image[0].long()].byte()
            return shown
        if self.photometric == _CMYK and image.dtype == torch.uint8 and image.shape[0] == 4:
            image = pixels_of(Image.fromarray(image.permute(1, 2, 0).numpy(), "CMYK").convert("RGB"))
        elif self.photometric == _CMYK:
            raise InputError(f"{str(self.path)!r} is CMYK of {self.samples} samples, {image.dtype}: save it as RGB")
        return image * (255 // (2 ** self.bits[0] - 1)) if self.bits[0] in (1, 2, 4) else image


def upright(image: Tensor, orientation: int) -> Tensor:
    """Return an image (…, H, W) that is stored with EXIF's ``orientation``, from 1 to 8, turned upright."""
    image = image.mT if orientation in LYING else image
    flips = [axis for axis, known in ((-2, (3, 4, 7, 8)), (-1, (2, 3, 6, 7))) if orientation in known]
    return image.flip(flips).contiguous()


def nodata(path: str | os.PathLike[str]) -> float | None:
    """Return the nodata value of a GeoTIFF, as GDAL writes it; None if it has none.

    Raises:
        InputError: the file cannot be read.
    """
    pages = ifd.pages_of(path, (ifd.NODATA,), most=1)
    try:
        return float(pages[0].text(ifd.NODATA).strip("\0 ")) if pages else None
    except ValueError:
        return None


@functools.cache
def _flags(tifffile: Any) -> dict[str, bool]:
    """Return flags that keep tifffile from following a file's claims to other files, or to endless counts."""
    return {f"is_{name}": False for name in tifffile.TIFF.FILE_FLAGS}


@functools.cache
def _closed(tifffile: Any) -> Any:
    """Return tifffile's class of files in which those flags are attributes: some of its releases refuse to set some."""
    return type("TiffFile", (tifffile.TiffFile,), _flags(tifffile))


def _tifffile_for(path: str | os.PathLike[str]) -> Any:
    return extras.needed("tifffile", f"{str(path)!r}, a TIFF that Pillow does not read completely", error=InputError)
