"""Images whose channels are separate files, as nnU-Net and microscopes store them: read together, written as one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from unetzoo import extras
from unetzoo.errors import InputError
from unetzoo.files.writing import write_file
from unetzoo.images.ifd import NODATA
from unetzoo.images.raster import Raster

_ASCII = 2
"""TIFF's type of text."""


def stacked(parts: Sequence[tuple[Path, Raster, float | None]]) -> tuple[Raster, float | None]:
    """Return the channels of several files as one image, in their order, and the files' nodata value.

    Args:
        parts: path, image and nodata of each.

    Raises:
        InputError: they differ in size, type or nodata; or one of several has an opacity channel.
    """
    if not parts:
        raise InputError("an image without files: give its path, or the paths of its channels")
    path, first, nodata = parts[0]
    if len(parts) == 1:
        return first, nodata
    for other, raster, its_nodata in parts[1:]:
        said = [_said(one.pixels, gap) for one, gap in ((first, nodata), (raster, its_nodata))]
        if said[0] != said[1]:
            raise InputError(
                f"{str(other)!r} has {said[1]}, but {str(path)!r}, of the same image, {said[0]}: channels of one image "
                "must have the same size, type and nodata"
            )
    veiled = [str(one) for one, raster, _ in parts if raster.alpha]
    if veiled:
        raise InputError(
            f"{veiled[0]!r} has an opacity channel, but is one of {len(parts)} files of an image: save it without one"
        )
    return Raster(torch.cat([raster.pixels for _, raster, _ in parts])), nodata


def write_bands(image: Tensor, path: Path, nodata: float | None) -> None:
    """Write an image as a TIFF of its bands, with unchanged values, and make its folder if it is missing.

    Args:
        image: (C, H, W), of any type that :func:`~unetzoo.images.read_image` returns.
        path: of the file.
        nodata: value that the file marks as nodata; None for none.

    Raises:
        ConfigError: tifffile is not installed: the extra ``tiff``.
        WriteError: the file cannot be written.
    """
    tifffile = extras.needed("tifffile", "a TIFF of several bands")
    tags = [] if nodata is None else [(NODATA, _ASCII, 0, repr(nodata), True)]
    file = io.BytesIO()  # tifffile writes only to named files or to memory
    one = len(image) == 1
    tifffile.imwrite(
        file,
        (image[0] if one else image).numpy(),
        photometric="minisblack",
        planarconfig=None if one else "separate",
        metadata=None,
        extratags=tags,
    )
    write_file(path, file.getvalue())


def _said(pixels: Tensor, nodata: float | None) -> str:
    height, width = pixels.shape[1:]
    kind = str(pixels.dtype).removeprefix("torch.")
    return f"{width}×{height} {kind} pixels{'' if nodata is None else f', nodata {nodata!r}'}"
