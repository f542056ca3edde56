"""Images as predictors take them: by rows, whatever they come from."""

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
"""Rows that are looked at together where all are."""
_SHRUNK = 128
"""Rows that are made smaller together."""


class Rows(ABC):
    """An image that is read by rows.

    Attributes:
        name: for messages, or None.
        height, width: in pixels.
        place: of a GeoTIFF, the tags that say where on the globe it lies.
        alpha: whether the last channel is opacity, by the file or as it is opaque everywhere; it is left out where
            the network takes one channel fewer.
        nodata: what its file calls so; None where it calls nothing so.
        tissue: of a slide, where there is any: what lies elsewhere is not computed, and is 0; None: all is.
        scale: of a slide, pixels of its level 0 to one of the image, down and across; None of all others.
        mpp: µm a pixel of the image, down and across; None where nothing says so.
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
        """Return what tells the image from another: a digest of its size, and of some of its rows."""
        digest = hashlib.sha256(f"{self.height} {self.width}".encode())
        for k in spaced(self.height):
            row = self.rows(k, k + 1)
            digest.update(f" {row.shape[0]} {row.dtype} ".encode() + row.contiguous().numpy().tobytes())
        return digest.hexdigest()[:24]

    def check_unchanged(self) -> None:
        """Raise if it is not the image any more that it was when it was opened.

        Raises:
            InputError: its file was replaced or written to.
        """
        return

    def moments(self) -> images.Moments:
        """Return how the values of the whole image are spread, for networks that normalise each image by itself."""
        blocks = (self.measured(k, min(k + _AT_ONCE, self.height)) for k in range(0, self.height, _AT_ONCE))
        return images.merged([images.moments(block) for block in blocks])

    def small(self, height: int, width: int) -> Tensor:
        """Return the image in a smaller size, (at most 3 channels, height, width): for people to look at.

        Of what is missing it has the least value around. No more than some rows of the image are in memory.
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
        """Return these rows; where something is missing in them scaled, float32, with NaN there."""
        rows = self.rows(first, last)
        return images.blanked(rows, self.gaps(rows, first))

    def gaps(self, rows: Tensor, first: int) -> Tensor | None:
        """Return which values are missing in rows of the image from ``first`` on, of their shape; None: none."""
        return images.missing_in(rows, self.nodata, self.alpha)


class LoadedImage(Rows):
    """An image in memory.

    Args:
        image: (C, H, W).
        name: its file's, or None.
        place, alpha: see :class:`Rows`.
        header: of a NIfTI image, what ``unetzoo.images.nifti_header`` returns.
        missing: (C, H, W) bool, which values are; None where none is. Those of ``image`` are not looked at there.
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
    """Return what :class:`~unetzoo.prediction.Predictor` takes for an image as one.

    Args:
        source: a path, a tuple of the paths of its channels, an array (H, W) or (H, W, C), a tensor (C, H, W) or
            (H, W), or a PIL image.
        planes: which planes of a file are meant, see ``unetzoo.images.read_image``.

    Raises:
        InputError: a file that cannot be read, or none of these.
    """
    if isinstance(source, LoadedImage):
        return source
    files = source if isinstance(source, tuple) and source else (source,)
    if all(isinstance(path, str | os.PathLike) for path in files):
        _check_no_folder(files)
        raster, first = images.read(tuple(map(Path, files)), planes), files[0]  # the others lie where the first does
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
            f"an image of type {type(source).__name__}: a path, a tuple of the paths of its channels, an array (H, W) "
            "or (H, W, C), a tensor (C, H, W), or a PIL image is needed"
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
    """Raise if a folder is given for an image.

    Raises:
        InputError: with what takes folders, or a zarr array, which is one.
    """
    for path in map(Path, files):
        if path.suffix.lower() == ".zarr" and path.is_dir():
            raise InputError(f"{str(path)!r} is a zarr array: 'unetzoo predict' and write_mask take it, by rows")
        if path.is_dir():
            raise InputError(
                f"{str(path)!r} is a folder: give the path of an image, or a list of paths; 'unetzoo predict' takes "
                "folders"
            )


def _of_array(source: Any) -> tuple[Tensor, Tensor | None]:
    """Return an array of NumPy, channels first, and where it is masked; None where it is not."""
    import numpy as np

    array = np.asarray(source)
    if array.dtype.kind not in "biuf":
        raise InputError(f"an array of {array.dtype}: numbers are needed")
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    array = array if array.flags.writeable else array.copy()
    image = torch.from_numpy(array)
    missing = torch.from_numpy(np.ma.getmaskarray(source).copy()) if np.ma.is_masked(source) else None
    if image.ndim == 3:
        return image.permute(2, 0, 1), None if missing is None else missing.permute(2, 0, 1)
    return image, missing


def _problem(image: Tensor) -> str | None:
    if image.ndim != 3:
        return "one image is needed, (H, W) or with channels: (H, W, C) of an array, (C, H, W) of a tensor"
    if 0 in image.shape:
        return "it is empty"
    if image.dtype == torch.bool:
        return "a mask is no image: give its pixels, of 8 or 16 bits or floating point"
    if image.dtype in (torch.int64, torch.uint64):
        return "integers of 8, 16 or 32 bits are needed: their largest value is what white is taken for"
    if image.is_complex():
        return "real numbers are needed"
    return None
