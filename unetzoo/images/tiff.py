"""Reading TIFF files: plain ones by Pillow, all others by tifffile, and none in two ways.

Which one reads a page follows from its tags alone, and not from what is installed: Pillow decodes some of them into
wrong numbers without a word (integers of 16 and 32 bits that are big-endian and compressed, one band in planar layout)
and turns white into black where a file says that 0 is white. Values come as they are stored, as tifffile, GDAL and
scikit-image return them. ``docs/what_is_read.md`` has the table.
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
palette, CMYK, YCbCr. No other is read: what CIELab or a camera's sensor has for numbers are no colours yet."""
_CMYK, _YCBCR, _PALETTE, _WHITE_IS_ZERO = 5, 6, 3, 0
_PLAIN = {1, 5, 8, 32773, 32946}
"""Compressions that Pillow decodes: none, LZW, deflate, PackBits, deflate of old."""
_NONE, _JPEG = 1, 7
_DENSEST = 1100
"""Bytes that a byte of a compressed file unfolds to, at most: deflate's limit is 1032 (zlib's documentation)."""
_SIGNED = {(2, 16), (1, 32), (2, 32), (3, 32)}
"""Sample format (1 unsigned, 2 signed, 3 floating point) and bits of what Pillow reads with conditions."""
_KINDS = {(1, 64), (2, 8), (2, 16), (2, 32), (2, 64), (3, 16), (3, 24), (3, 32), (3, 64)}
"""All that are read, but for unsigned ones of up to 32 bits, which may have any number."""
_TAGS = (
    *WANTED,
    *(ifd.COMPRESSION, ifd.PHOTOMETRIC, ifd.FILL_ORDER, ifd.OFFSETS, ifd.ORIENTATION, ifd.COUNTS, ifd.PREDICTOR),
    *(ifd.PALETTE, ifd.TILE_OFFSETS, ifd.TILE_COUNTS, ifd.EXTRA_SAMPLES, ifd.DEPTH),
)


class TiffImage:
    """A TIFF file whose tags have been read.

    Attributes:
        stack: its planes.
        height, width: of what is read, upright.
        orientation: from 1 to 8, as EXIF counts; 1 where the file does not say.
        says_orientation: whether it does.
        rows, columns, samples, bits, photometric: as it is stored.
        alpha: whether the last sample of a pixel is opacity, by ExtraSamples.
        is_planar: whether each sample has an image of its own.

    Raises:
        InputError: it cannot be an image; says why.
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
        """Return whether Pillow reads the first page, all bands and all bits of it."""
        compression, bits = self.first.number(ifd.COMPRESSION, _NONE), self.bits
        if self.orientation in LYING and compression == _NONE:
            return False  # Pillow 13 reads their rows as columns
        if self.is_planar or self.first.number(ifd.FILL_ORDER, 1) != 1:
            return False
        if self.photometric == _WHITE_IS_ZERO:
            return False
        if self.kind in _SIGNED:  # compressed and big-endian, Pillow takes their bytes the wrong way round
            native = self.first.is_little or (compression == _NONE and self.kind != (1, 32))
            return self.samples == 1 and native and self.photometric != _PALETTE
        if self.kind[0] != 1:
            return False
        if compression == _JPEG and bits[0] == 8:  # libtiff makes RGB of YCbCr
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
            pages: where its channels are.
            as_stored: whether what a palette, CMYK, or fewer than 8 bits mean is left as it is stored.

        Raises:
            InputError: what is cut off, or too large, or of a kind that is not read.
        """
        with self.opened(_tifffile_for(self.path)) as file:
            image = torch.cat([self._page(file, number) for number in pages])
        return upright(image if as_stored else self._shown(image), self.orientation)

    def palette(self) -> Tensor | None:
        """Return the colours of its indices, (3, colours), 8 bits of the 16 that are stored; None without a palette."""
        if self.photometric != _PALETTE:
            return None
        stored = self.first.numbers(ifd.PALETTE)
        if len(stored) != 3 * 2 ** self.bits[0]:
            raise InputError(f"{str(self.path)!r} cannot be read as an image: its palette has {len(stored)} numbers")
        return torch.tensor(stored).reshape(3, -1) >> 8

    def opened(self, tifffile: Any) -> Any:
        """Return the file as tifffile opens it, which opens no other and believes no count."""
        return tifffile.TiffFile(self.path, _multifile=False, **_flags(tifffile))

    def page_of(self, file: Any, number: int) -> Any:
        """Return a page of a file that is :meth:`opened`."""
        return self.page_at(file, self.pages[number].offset, number)

    def page_at(self, file: Any, offset: int, number: int = 0) -> Any:
        """Return the page of a file that is :meth:`opened` whose tags begin at ``offset``."""
        file.filehandle.seek(offset)
        return _tifffile_for(self.path).TiffPage(file, index=number)

    def array_of(self, file: Any, number: int) -> Any:
        """Return an array over the bytes of an image that lies behind the only page; None of a page."""
        if number < len(self.pages):
            return None
        import numpy as np

        page = self.page_of(file, 0)
        start = self.first.numbers(ifd.OFFSETS)[0] + number * self._bytes()
        kind = np.dtype(page.dtype).newbyteorder(file.byteorder)
        return np.memmap(self.path, kind, "r", start, page.shape)

    def check_direct(self) -> None:
        """Raise if what is stored are not the pixels.

        Raises:
            InputError: a palette, CMYK, or fewer than 8 bits.
        """
        if self.photometric in (_PALETTE, _CMYK) or self.bits[0] < 8:
            raise InputError(f"{str(self.path)!r} holds a palette, CMYK or single bits: save it as grey or RGB")

    def check_size(self, number: int) -> None:
        """Raise if a page needs more bytes than the file can hold, or Pillow's bound on pixels allows.

        Raises:
            InputError: with both.
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
            raise InputError(f"{str(self.path)!r} cannot be read as an image: it is cut off, of {there:,} bytes")
        densest = 1 if page.number(ifd.COMPRESSION, _NONE) == _NONE else _DENSEST
        # Tiles that hold nothing may be left out, and other methods than deflate are denser on flat images.
        if needed > there * densest and (densest == 1 or needed > 16 * pixels):
            raise InputError(
                f"{str(self.path)!r} cannot be read as an image: its pixels need {needed:,} bytes, and it has {there:,}"
            )

    def _check(self) -> None:
        said = f"{str(self.path)!r} is a TIFF "
        formats = self.first.numbers(ifd.FORMAT, (1,))
        self.kind = (formats[0], self.bits[0])
        if self.rows < 1 or self.columns < 1 or self.samples < 1:
            raise InputError(f"{said}without pixels, or cut off")
        if self.photometric not in _COLOURS or self.samples < _COLOURS[self.photometric]:
            raise InputError(f"{said}of photometric interpretation {self.photometric}: save it as grey or RGB")
        if len({*self.bits}) > 1 or len({*formats}) > 1 or self.first.number(ifd.DEPTH, 1) != 1:
            raise InputError(f"{said}whose samples differ in type, or with depths of its own: save it as grey or RGB")
        integer = formats[0] in (1, 4) and 1 <= self.bits[0] <= 32  # 4: not said, which is taken as it is by default
        if not integer and self.kind not in _KINDS:
            kind = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}.get(formats[0], "")
            raise InputError(f"{said}of {self.bits[0]}-bit {kind} numbers: 8, 16 or 32 bits are needed")
        if self.photometric == _YCBCR and self.first.number(ifd.COMPRESSION, _NONE) != _JPEG:
            raise InputError(f"{said}of YCbCr that is not JPEG: save it as RGB")

    def _bytes(self) -> int:
        """Return the bytes of a page's pixels, uncompressed as the file has them."""
        return self.rows * math.ceil(self.columns * self.samples * self.bits[0] / 8)

    def _behind(self) -> int:
        """Return how many uncompressed images of the first page's size lie from its first one on to the end."""
        offsets, size = self.first.numbers(ifd.OFFSETS), self._bytes()
        counts = self.first.numbers(ifd.COUNTS)
        apart = any(a + c != b for a, c, b in zip(offsets, counts, offsets[1:], strict=False))
        if self.first.number(ifd.COMPRESSION, _NONE) != _NONE or not offsets or apart or self.bits[0] % 8:
            return 1
        return max(1, (self.path.stat().st_size - offsets[0]) // size)

    def _page(self, file: Any, number: int) -> Tensor:
        """Return a page, or an image that lies behind the only one, as (C, H, W), as it is stored."""
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
        """Return stored values as an image: palettes and CMYK as RGB, fewer than 8 bits spread over all 8."""
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
    """Return an image (…, H, W) that is stored as EXIF's ``orientation`` says, from 1 to 8, as it is looked at."""
    image = image.mT if orientation in LYING else image
    flips = [axis for axis, known in ((-2, (3, 4, 7, 8)), (-1, (2, 3, 6, 7))) if orientation in known]
    return image.flip(flips).contiguous()


def nodata(path: str | os.PathLike[str]) -> float | None:
    """Return the value that a GeoTIFF has where nothing was measured, as GDAL writes it; None where it names none.

    Raises:
        InputError: it cannot be read.
    """
    pages = ifd.pages_of(path, (ifd.NODATA,), most=1)
    try:
        return float(pages[0].text(ifd.NODATA).strip("\0 ")) if pages else None
    except ValueError:
        return None


@functools.cache
def _flags(tifffile: Any) -> dict[str, bool]:
    """Return what keeps tifffile from following what a file says of itself: to other files, or to endless counts."""
    return {f"is_{name}": False for name in tifffile.TIFF.FILE_FLAGS}


def _tifffile_for(path: str | os.PathLike[str]) -> Any:
    return extras.needed("tifffile", f"{str(path)!r}, a TIFF that Pillow does not read whole", error=InputError)
