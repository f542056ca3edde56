"""Missing values: the nodata of satellite images, NaN, masked arrays.

A value is missing if its file calls it nodata (GDAL's tag), if it is not a finite number, or if it is at the very end
of float32, like the -3.4e38 of many files without a tag. Each band is checked separately, with one exception: if an
unsigned type has the value in only some bands, it was measured, as 0 may be a dark blue and 65535 a bright red. A
pixel is missing if all its bands are, as in rasterio's ``dataset_mask``.

Missing values are NaN while an image is prepared for a network, until they are replaced by the mean that normalises it.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from torch import Tensor

from unetzoo.images import ifd
from unetzoo.images.preparing import fit_channels, has_dead_alpha, scaled
from unetzoo.images.raster import Raster
from unetzoo.images.tiff import nodata

END = 3.4e38
"""Magnitude from which floating point is not a measurement: float32 ends at 3.4028235e38, ESRI's nodata just before."""
_FLOATING = 3
"""Floating point in TIFF's tag of sample formats."""


def without_gaps(raster: Raster, nodata: float | None = None) -> Raster:
    """Return an image with ``missing`` set, and its missing values darkened."""
    missing = missing_in(raster.pixels, nodata, raster.alpha)
    return raster if missing is None else Raster(darkened(raster.pixels, missing), raster.alpha, missing)


def may_lack(path: str | os.PathLike[str]) -> bool:
    """Return whether an image file can have missing values, from its header only.

    Raises:
        InputError: the file cannot be read.
    """
    pages = ifd.pages_of(path, (ifd.FORMAT,), most=1)
    floating = _FLOATING in pages[0].numbers(ifd.FORMAT) if pages else Path(path).suffix.lower() == ".pfm"
    return floating or nodata(path) is not None


def missing_in(image: Tensor, nodata: float | None = None, alpha: bool = False) -> Tensor | None:
    """Return where values of an image (C, H, W) are missing, bool of its shape; None if none are.

    Args:
        image: as stored.
        nodata: value of nodata in its file. Floating point is compared as in GDAL, to some units in the last place.
        alpha: whether the last channel is opacity, which is not a band.
    """
    if image.is_floating_point():
        if nodata is None and image.numel():
            low, high = image.aminmax()  # NaN if there is one: one pass over all values instead of four
            if bool((low > -END) & (high < END)):
                return None
        found = ~(image.abs() < END)  # True for NaN, too
        if nodata is not None and abs(nodata) < END:
            found |= (image - nodata).abs() <= 4 * torch.finfo(torch.float32).eps * abs(nodata)
    else:
        bounds = torch.iinfo(image.dtype)
        if nodata is None or not bounds.min <= nodata <= bounds.max or nodata != int(nodata):
            return None
        found = image == int(nodata)
        if bounds.min == 0:
            bands = found[:-1] if alpha else found
            found = bands.all(dim=0, keepdim=True).expand_as(image)
    return found if bool(found.any()) else None


def darkened(image: Tensor, missing: Tensor) -> Tensor:
    """Return (C, H, W) in which missing values are replaced by the least value of their band."""
    known = [band[~gaps].double() for band, gaps in zip(image, missing, strict=True)]
    least = torch.tensor([float(values.min()) if values.numel() else 0.0 for values in known], dtype=torch.float64)
    return torch.where(missing, least.to(image.dtype)[:, None, None], image)


def blanked(image: Tensor, missing: Tensor | None) -> Tensor:
    """Return (C, H, W) unchanged if nothing is missing; else scaled, float32, with NaN for missing values."""
    return image if missing is None else scaled(image).masked_fill(missing, math.nan)


def fitted(raster: Raster, in_channels: int) -> Tensor:
    """Return an image as (in_channels, H, W): as stored if nothing is missing, else scaled, with NaN for gaps.

    Raises:
        InputError: the channels do not fit.
    """
    alpha = raster.pixels.shape[0] != in_channels and (raster.alpha or has_dead_alpha(raster.pixels))
    missing = None if raster.missing is None else fit_channels(raster.missing, in_channels, alpha)
    return blanked(fit_channels(raster.pixels, in_channels, alpha), missing)
