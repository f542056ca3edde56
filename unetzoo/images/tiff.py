"""TIFF files: their tags, and reading those of them by tifffile that Pillow does not read, or not all of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unetzoo import extras
from unetzoo.errors import InputError
from unetzoo.images.failing import explained

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

BANDS = "CQS"
"""Axes, as tifffile calls them, that are channels of an image: channels, unnamed ones, samples of a pixel."""
WIDTH, HEIGHT, BITS, _COMPRESSION, _DESCRIPTION = 256, 257, 258, 259, 270
ORIENTATION, _SAMPLES, FORMAT, _NODATA = 274, 277, 339, 42113
"""Tags of TIFF; the orientation is EXIF's too, the last is GDAL's."""
LYING = (5, 6, 7, 8)
"""Orientations whose rows are stored as columns."""


def nodata(path: str | os.PathLike[str]) -> float | None:
    """Return the value that a GeoTIFF has where nothing was measured, as GDAL writes it; None where it names none.

    Raises:
        InputError: it cannot be read.
    """
    _, text = tiff_tags(path, (_NODATA,)).get(_NODATA, (0, None))
    try:
        return float(text.strip("\0 ")) if isinstance(text, str) else None
    except ValueError:
        return None


def tiff_tags(path: str | os.PathLike[str], codes: Sequence[int]) -> dict[int, tuple[int, Any]]:
    """Return code → type and value of those tags that the first page of a TIFF has; nothing of other files.

    Raises:
        InputError: it cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    if not is_tiff(path):
        return {}
    with explained(path):
        try:
            with Image.open(path) as file:
                tags: Any = getattr(file, "tag_v2", {})
                return {code: (tags.tagtype[code], tags[code]) for code in codes if code in tags}
        except (UnidentifiedImageError, Image.DecompressionBombError):  # many bands, or pixels: Pillow does not look
            with _tifffile_for(path).TiffFile(path) as whole:
                found = [whole.pages[0].tags.get(code) for code in codes]
                return {tag.code: (int(tag.dtype), tag.value) for tag in found if tag is not None}


def is_tiff(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins as a TIFF does, a BigTIFF too."""
    if not Path(path).is_file():  # a zarr array is a folder
        return False
    with Path(path).open("rb") as stream:
        return stream.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_whole(file: ImageFile) -> bool:
    """Return whether Pillow reads all bands and all bits; of a TIFF it may leave some out without a word."""
    tags = getattr(file, "tag_v2", None)
    if tags is None:
        return True
    if tags.get(ORIENTATION, 1) in LYING and tags.get(_COMPRESSION, 1) == 1:
        return False  # Pillow 13 reads their rows as columns
    described = any(mark in str(tags.get(_DESCRIPTION, "")) for mark in ('"shape"', "ImageJ=", "<OME"))
    if described and getattr(file, "n_frames", 1) > 1:
        return False
    unsigned = set(tags.get(FORMAT) or (1,)) == {1}
    if max(tags.get(BITS) or (1,)) <= 8:
        return unsigned and tags.get(_SAMPLES, 1) == len(file.getbands())
    return bool(tags.get(_SAMPLES, 1) == 1)


def read(path: str | os.PathLike[str]) -> Tensor:
    """Return the first image of a TIFF by tifffile: (C, H, W) as stored, but upright, bits as 0 and 255."""
    with _tifffile_for(path).TiffFile(path) as file:
        series = file.series[0]
        _refuse_bomb(series)
        array, axes, orientation = series.asarray(), series.axes, _orientation(series)
    for axis in range(len(axes) - 1, -1, -1):
        if axes[axis] not in f"{BANDS}YX":
            array, axes = array.take(0, axis), axes[:axis] + axes[axis + 1 :]
    bands = [axis for axis, letter in enumerate(axes) if letter not in "YX"]
    array = array.transpose(*bands, axes.index("Y"), axes.index("X"))
    array = array.reshape(-1, *array.shape[-2:])
    image = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    image = image.byte() * 255 if image.dtype == torch.bool else image
    image = image.float() if image.is_floating_point() else image
    image = image.mT if orientation in LYING else image
    flips = [axis for axis, known in ((1, (3, 4, 7, 8)), (2, (2, 3, 6, 7))) if orientation in known]
    return image.flip(flips).contiguous()


def size_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return height and width of what :func:`read` returns, from the header alone."""
    with _tifffile_for(path).TiffFile(path) as file:
        series = file.series[0]
        size = series.shape[series.axes.index("Y")], series.shape[series.axes.index("X")]
        return size[::-1] if _orientation(series) in LYING else size


def _orientation(series: Any) -> int:
    tag = series.keyframe.tags.get(ORIENTATION)
    return 1 if tag is None else int(tag.value)


def _tifffile_for(path: str | os.PathLike[str]) -> Any:
    return extras.needed("tifffile", f"{str(path)!r}, a TIFF that Pillow does not read whole", error=InputError)


def _refuse_bomb(series: Any) -> None:
    """Keep to Pillow's bound on what a small file may unfold to."""
    from PIL import Image

    pixels = series.shape[series.axes.index("Y")] * series.shape[series.axes.index("X")]
    if Image.MAX_IMAGE_PIXELS is not None and pixels > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(f"{pixels} pixels, over {2 * Image.MAX_IMAGE_PIXELS}")
