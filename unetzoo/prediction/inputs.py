"""Images as predictors read them: by rows, whatever their source."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unetzoo import images
from unetzoo.errors import InputError
from unetzoo.files.identity import spaced
from unetzoo.prediction.geography import Tag, geography
from unetzoo.slides import Tissue, microns_in, resampled, taps

_AT_ONCE = 512
"""Number of rows that are read together when all rows are examined."""
_SHRUNK = 128
"""Number of rows that are made smaller together."""


class Rows(ABC):
    """An image that is read by rows.

    Attributes:
        name: for messages, or None.
        height, width: in pixels.
        place: for a GeoTIFF, the tags that georeference it.
        alpha: whether the last channel is opacity, because the file says so or because it is opaque everywhere; it is
            left out if the network takes one channel fewer.
        nodata: the file's nodata value, or None.
        tissue: for a slide, where its tissue is: the rest is not computed, and is 0; None: everything is computed.
        scale: for a slide, pixels of level 0 per pixel of the image, down and across; None for all other images.
        mpp: µm per pixel of the image, down and across; None if unknown.
    """

    name: str | None
    place: tuple[Tag, ...] = ()
    alpha: bool = False
    nodata: float | None = None
    tissue: Tissue | None = None
    scale: tuple[float, float] | None = None
    mpp: tuple[float, float] | None = None
    height: int
    width: int

    @abstractmethod
    def rows(self, first: int, last: int) -> Tensor:
        """Return rows ``first`` up to, not including, ``last``: (C, last - first, width)."""

    @property
    def identity(self) -> str:
        """Return what distinguishes the image from others: a digest of its size and some of its rows."""
        digest = hashlib.sha256(f"{self.height} {self.width}".encode())
        for k in spaced(self.height):
            row = self.rows(k, k + 1)
            digest.update(f" {row.shape[0]} {row.dtype} ".encode() + row.contiguous().numpy().tobytes())
        return digest.hexdigest()[:24]

    def check_unchanged(self) -> None:
        """Raise if the image has changed since it was opened.

        Raises:
            InputError: its file was replaced or written to.
        """
        return

    def moments(self) -> images.Moments:
        """Return the mean and spread of the whole image's values, for networks that normalise each image on its own."""
        blocks = (self.measured(k, min(k + _AT_ONCE, self.height)) for k in range(0, self.height, _AT_ONCE))
        return images.merged([images.moments(block) for block in blocks])

    def small(self, height: int, width: int) -> Tensor:
        """Return the image at a smaller size, (at most 3 channels, height, width), for people to look at.

        Missing values become the lowest value around them. Only some rows of the image are in memory at a time.
        """
        steps = self.height / height, self.width / width
        across = taps(0, width, self.width, steps[1])
        found, together = [], max(1, int(_SHRUNK / steps[0]))
        for top in range(0, height, together):
            indices, weights = taps(top, min(top + together, height), self.height, steps[0])
            first = int(indices.min())
            band = self.rows(first, int(indices.max()) + 1)[:3]
            missing = images.missing_in(band, self.nodata)
            band = band if missing is None else images.darkened(band, missing)
            found.append(resampled(band, (indices - first, weights), across))
        return torch.cat(found, dim=1)

    def measured(self, first: int, last: int) -> Tensor:
        """Return these rows; if values are missing in them, the rows are scaled, float32, with NaN for those values."""
        rows = self.rows(first, last)
        return images.blanked(rows, self.gaps(rows, first))

    def gaps(self, rows: Tensor, first: int) -> Tensor | None:
        """Return which values are missing in rows of the image from ``first`` on, in their shape; None: none."""
        return images.missing_in(rows, self.nodata, self.alpha)


class LoadedImage(Rows):
    """An image in memory.

    Args:
        image: (C, H, W).
        name: name of its file, or None.
        place, alpha: see :class:`Rows`.
        header: for a NIfTI image, what ``unetzoo.images.nifti_header`` returns.
        missing: (C, H, W) bool, which values are missing; None if none is. ``image`` is ignored at those values.
    """

    def __init__(
        self,
        image: Tensor,
        name: str | None = None,
        place: tuple[Tag, ...] = (),
        alpha: bool = False,
        missing: Tensor | None = None,
        header: bytes | None = None,
    ) -> None:
        self.image = image
        self.missing = missing
        self.name = name
        self.place = place
        self.header = header
        self.alpha = alpha or images.has_dead_alpha(image)
        self.height, self.width = image.shape[1:]

    def rows(self, first: int, last: int) -> Tensor:
        """Return some rows, see :class:`Rows`."""
        return self.image[:, first:last]

    def gaps(self, rows: Tensor, first: int) -> Tensor | None:
        """Return which values are missing, see :class:`Rows`."""
        missing = None if self.missing is None else self.missing[:, first : first + rows.shape[1]]
        return missing if missing is not None and missing.any() else None


def as_image(source: Any, planes: str | int | None = None) -> LoadedImage:
    """Convert whatever :class:`~unetzoo.prediction.Predictor` accepts as an image to an image in memory.

    Args:
        source: a path, a tuple of the paths of its channels, an array (H, W) or (H, W, C), a tensor (C, H, W) or
            (H, W), or a PIL image.
        planes: which planes of a file are meant, see ``unetzoo.images.read_image``.

    Raises:
        InputError: a file cannot be read, or ``source`` is none of these.
    """
    if isinstance(source, LoadedImage):
        return source
    files = source if isinstance(source, tuple) and source else (source,)
    if all(isinstance(path, str | os.PathLike) for path in files):
        _check_no_folder(files)
        raster, first = images.read(tuple(map(Path, files)), planes), files[0]  # all have the first one's georeference
        header = images.nifti_header(first, planes)
        loaded = LoadedImage(raster.pixels, Path(first).name, geography(first), raster.alpha, raster.missing, header)
        loaded.mpp = microns_in(first)
        return loaded
    alpha, missing = False, None
    if isinstance(source, Tensor):
        image = source.detach().cpu()
    elif type(source).__module__.partition(".")[0] == "PIL":
        raster = images.from_pil(source)
        image, alpha = raster.pixels, raster.alpha
    elif hasattr(source, "__array__"):
        image, missing = _of_array(source)
    else:
        raise InputError(
            f"an image of type {type(source).__name__}: give a path, a tuple of the paths of its channels, an array "
            "(H, W) or (H, W, C), a tensor (C, H, W), or a PIL image"
        )
    if image.ndim == 2:
        image, missing = image[None], None if missing is None else missing[None]
    problem = _problem(image)
    if problem is not None:
        raise InputError(f"an image of shape {tuple(image.shape)}, {image.dtype}: {problem}")
    image = image.float() if image.dtype in (torch.float16, torch.bfloat16, torch.float64) else image
    found = images.missing_in(image, alpha=alpha)
    missing = found if missing is None else missing if found is None else missing | found
    return LoadedImage(image if missing is None else images.darkened(image, missing), alpha=alpha, missing=missing)


def _check_no_folder(files: tuple[Any, ...]) -> None:
    """Raise if a folder is given instead of an image.

    Raises:
        InputError: it is a folder, or a zarr array, which is a folder, too; the message says what accepts it.
    """
    for path in map(Path, files):
        if path.suffix.lower() == ".zarr" and path.is_dir():
            raise InputError(
                f"{str(path)!r} is a zarr array: use 'unetzoo predict' or write_mask, which read it by rows"
            )
        if path.is_dir():
            raise InputError(
                f"{str(path)!r} is a folder: give the path of an image, or a list of paths; 'unetzoo predict' takes "
                "folders"
            )


def _of_array(source: Any) -> tuple[Tensor, Tensor | None]:
    """Return a NumPy array, channels first, and which values are masked; None if none are."""
    import numpy as np

    array = np.asarray(source)
    if array.dtype.kind not in "biuf":
        raise InputError(f"an array of {array.dtype}: real numbers are needed")
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    array = array if array.flags.writeable else array.copy()
    image = torch.from_numpy(array)
    missing = torch.from_numpy(np.ma.getmaskarray(source).copy()) if np.ma.is_masked(source) else None
    if image.ndim == 3:
        return image.permute(2, 0, 1), None if missing is None else missing.permute(2, 0, 1)
    return image, missing


def _problem(image: Tensor) -> str | None:
    if image.ndim != 3:
        return "give one image, (H, W) or with channels: (H, W, C) for an array, (C, H, W) for a tensor"
    if 0 in image.shape:
        return "it is empty"
    if image.dtype == torch.bool:
        return "this is a mask and not an image: give the image's pixels, of 8 or 16 bits or floating point"
    if image.dtype in (torch.int64, torch.uint64):
        return "integers of 8, 16 or 32 bits are needed, because the largest value of the type counts as white"
    if image.is_complex():
        return "real numbers are needed"
    return None
