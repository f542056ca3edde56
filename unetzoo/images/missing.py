"""Where nothing was measured: the nodata of satellites' images, NaN, masked arrays.

A value is missing if its file calls it nodata (GDAL's tag), if it is not a finite number, or if it lies at the very end
of float32, as the -3.4e38 of many files without a tag does. Each band is looked at by itself, with one exception: a
value that an unsigned type has in one band alone was measured, as 0 may be a dark blue and 65535 a bright red. A
pixel is missing where all its bands are, as for rasterio's ``dataset_mask``.

Missing values are NaN in what goes on to a network, until they get the mean that its images were trained with.
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
"""Magnitude from which floating point is no measurement: float32 ends at 3.4028235e38, ESRI's nodata just before."""
_FLOATING = 3
"""Of TIFF's tag of sample formats."""


def without_gaps(raster: Raster, nodata: float | None = None) -> Raster:
    """Return an image with what is missing in its pixels as ``missing``, and darkened there."""
    missing = missing_in(raster.pixels, nodata, raster.alpha)
    return raster if missing is None else Raster(darkened(raster.pixels, missing), raster.alpha, missing)


def may_lack(path: str | os.PathLike[str]) -> bool:
    """Return whether anything can be missing in the image of a file, from its header alone.

    Raises:
        InputError: it cannot be read.
    """
    pages = ifd.pages_of(path, (ifd.FORMAT,), most=1)
    floating = _FLOATING in pages[0].numbers(ifd.FORMAT) if pages else Path(path).suffix.lower() == ".pfm"
    return floating or nodata(path) is not None


def missing_in(image: Tensor, nodata: float | None = None, alpha: bool = False) -> Tensor | None:
    """Return where values of an image (C, H, W) are missing, bool of its shape; None where none is.

    Args:
        image: as stored.
        nodata: what its file calls so. Of floating point it is compared as GDAL does, to some units in the last place.
        alpha: whether the last channel is opacity, which is no band.
    """
    if image.is_floating_point():
        if nodata is None and image.numel():
            low, high = image.aminmax()  # NaN, where there is one: one look at all values instead of four
            if bool((low > -END) & (high < END)):
                return None
        found = ~(image.abs() < END)  # not of NaN either
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
    """Return (C, H, W) with the least value that each band has elsewhere where its values are missing."""
    known = [band[~gaps].double() for band, gaps in zip(image, missing, strict=True)]
    least = torch.tensor([float(values.min()) if values.numel() else 0.0 for values in known], dtype=torch.float64)
    return torch.where(missing, least.to(image.dtype)[:, None, None], image)


def blanked(image: Tensor, missing: Tensor | None) -> Tensor:
    """Return (C, H, W) as it is where nothing is missing; else scaled, float32, with NaN where something is."""
    return image if missing is None else scaled(image).masked_fill(missing, math.nan)


def fitted(raster: Raster, in_channels: int) -> Tensor:
    """Return an image as (in_channels, H, W): as stored where nothing is missing, else scaled, with NaN for it.

    Raises:
        InputError: the channels do not fit.
    """
    alpha = raster.pixels.shape[0] != in_channels and (raster.alpha or has_dead_alpha(raster.pixels))
    missing = None if raster.missing is None else fit_channels(raster.missing, in_channels, alpha)
    return blanked(fit_channels(raster.pixels, in_channels, alpha), missing)
