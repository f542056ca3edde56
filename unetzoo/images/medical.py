"""NIfTI and DICOM, read by nibabel and pydicom: a slice is a plane, with the file's scaling applied to its values.

Slices are oriented as stored, in rows of x, as in SimpleITK, not aligned with the patient. The planes of NIfTI are its
third and fourth axis, those of DICOM its frames. A DICOM segmentation has a band for each of its segments, and a plane
for each slice with any of them, from the lowest position on.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from unetzoo import extras
from unetzoo.errors import InputError
from unetzoo.images.planes import Stack, stack_along

SUFFIXES = (".nii", ".nii.gz", ".dcm", ".dicom")
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_LARGEST = 178_956_970
"""The most pixels of a slice: Pillow's limit for decompression bombs."""
_MOST = 2**20
"""The most slices of a file."""
_PLACE = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z"),
)
"""Fields of NIfTI's header with the position of the image, apart from the size of its voxels."""


class Volume(Protocol):
    """A file of slices.

    Attributes:
        height, width: of a slice.
        stack: its planes; the pages of each are numbers that ``read`` takes.
    """

    height: int
    width: int
    stack: Stack

    def read(self, pages: Sequence[int]) -> Tensor:
        """Return pages of the file, one after the other, as (C, H, W)."""
        ...


def is_medical(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is NIfTI or DICOM, by its name."""
    return Path(path).name.lower().endswith(SUFFIXES)


def volume_of(path: str | os.PathLike[str]) -> Volume:
    """Open a file; its header is read.

    Raises:
        InputError: nibabel or pydicom is missing, or the file cannot be used; damaged files raise any of their errors.
    """
    return _Nifti(path) if is_nifti(path) else _Dicom(path)


def nifti_header(path: str | os.PathLike[str], planes: str | int | None) -> bytes | None:
    """Return a NIfTI header for results of an image: only the position of its pixels, and nothing else of the file.

    Args:
        path: of the image; the result is None if it is not NIfTI.
        planes: which of its planes: the number of one, or what ``read_image`` takes; several get the position of the
            first.

    Raises:
        InputError: nibabel is missing, or the file cannot be used, or there is no such plane.
    """
    return _Nifti(path).header(planes) if is_nifti(path) else None


def is_nifti(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is NIfTI, by its name."""
    return Path(path).name.lower().endswith((".nii", ".nii.gz"))


class _Nifti:
    def __init__(self, path: str | os.PathLike[str]) -> None:
        nibabel = extras.needed("nibabel", f"{str(path)!r}, a NIfTI image", error=InputError)
        self._path, self._image = path, nibabel.load(path)
        shape = self._image.shape
        if not 2 <= len(shape) <= 4:
            raise InputError(f"{str(path)!r} has {len(shape)} axes: it must have x and y, and may have z and time")
        self.width, self.height, *rest = shape
        _check(path, self.height, self.width, math.prod(rest))
        self._axes = tuple(rest)
        self.stack = stack_along([*zip("ZT", rest, strict=False)][::-1])

    def read(self, pages: Sequence[int]) -> Tensor:
        return torch.cat([self._slice(page) for page in pages])

    def header(self, planes: str | int | None) -> bytes:
        """Return a header for one slice of these planes, see :func:`nifti_header`."""
        page = self.stack.chosen(planes, self._path)[0][0]
        found = self._image.header
        nibabel = extras.needed("nibabel", "NIfTI images", error=InputError)
        # NIfTI-2 only if a side needs it: some software does not read it.
        made = nibabel.Nifti1Header() if max(self.width, self.height) < 2**15 else nibabel.Nifti2Header()
        made.set_data_shape((self.width, self.height, 1) if self._axes else (self.width, self.height))
        # Copied directly, not through matrices, which would round quaternions.
        for name in _PLACE:
            made[name] = found[name]
        made["pixdim"][:4] = found["pixdim"][:4]
        made["xyzt_units"] = int(found["xyzt_units"]) % 8  # only of space
        depth = self._place(page)[0] if self._axes else 0
        if depth:
            for row in ("srow_x", "srow_y", "srow_z"):
                made[row][3] += depth * made[row][2]
            try:
                step = found.get_qform()[:3, 2]
            except ValueError:  # quaternion not of length 1, in a file that relies on its matrix
                made["qform_code"] = 0
            else:
                for name, length in zip(("qoffset_x", "qoffset_y", "qoffset_z"), step, strict=True):
                    made[name] += depth * length
        return bytes(made.binaryblock)

    def _place(self, page: int) -> tuple[int, ...]:
        """Return the position of a slice along the third and the fourth axis."""
        import numpy as np

        return tuple(map(int, np.unravel_index(page, self._axes, order="F"))) if self._axes else ()

    def _slice(self, page: int) -> Tensor:
        import numpy as np

        found = np.asarray(self._image.dataobj[(slice(None), slice(None), *self._place(page))])
        if found.dtype.names:  # RGB and RGBA, a byte each
            found = np.stack([found[name] for name in found.dtype.names], -1)
        return _tensor(found.reshape(self.width, self.height, -1).transpose(2, 1, 0))


class _Dicom:
    def __init__(self, path: str | os.PathLike[str]) -> None:
        purpose = f"{str(path)!r}, a DICOM file"
        pydicom = extras.needed("pydicom", purpose, error=InputError)
        self._pixels = extras.needed("pydicom.pixels", purpose, error=InputError)
        self._path, self._head = path, pydicom.dcmread(path, stop_before_pixels=True)
        if "Rows" not in self._head or "Columns" not in self._head:
            raise InputError(f"{str(path)!r} is DICOM without an image")
        self.height, self.width = int(self._head.Rows), int(self._head.Columns)
        frames = int(self._head.get("NumberOfFrames") or 1)
        _check(path, self.height, self.width, frames)
        if self._head.get("PhotometricInterpretation") == "PALETTE COLOR":
            raise InputError(f"{str(path)!r} has a palette, which is not read from DICOM: save it as RGB")
        of_segments = self._head.get("SOPClassUID") == _SEGMENTATION
        self.stack = self._segments() if of_segments else stack_along([("frames", frames)])

    def _segments(self) -> Stack:
        """Return the planes of a segmentation: for each slice the frame of every segment, −1 for none."""
        if self._head.SegmentationType != "BINARY":
            raise InputError(
                f"{str(self._path)!r} is a segmentation of type {self._head.SegmentationType}: only BINARY is read"
            )
        numbers = [int(segment.SegmentNumber) for segment in self._head.SegmentSequence]
        slices: dict[float, list[int]] = {}
        for frame, group in enumerate(self._head.PerFrameFunctionalGroupsSequence):
            number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            slices.setdefault(self._depth(group), [-1] * len(numbers))[numbers.index(number)] = frame
        planes = tuple(tuple(slices[depth]) for depth in sorted(slices))
        return Stack((("Z", len(planes)),) if len(planes) > 1 else (), planes)

    def _depth(self, group: Any) -> float:
        """Return the position of a frame along the normal of its plane, in micrometres."""
        if "PlanePositionSequence" not in group:
            return 0.0
        shared = self._head.get("SharedFunctionalGroupsSequence") or [group]
        turned = next((part for part in (group, shared[0]) if "PlaneOrientationSequence" in part), None)
        a, b, c, d, e, f = turned.PlaneOrientationSequence[0].ImageOrientationPatient if turned else (1, 0, 0, 0, 1, 0)
        normal = (b * f - c * e, c * d - a * f, a * e - b * d)
        place = group.PlanePositionSequence[0].ImagePositionPatient
        return round(1000 * sum(float(n) * float(at) for n, at in zip(normal, place, strict=True)))

    def read(self, pages: Sequence[int]) -> Tensor:
        empty = torch.zeros((1, self.height, self.width), dtype=torch.uint8)
        return torch.cat([empty if page < 0 else self._frame(page) for page in pages])

    def _frame(self, page: int) -> Tensor:
        found = self._pixels.pixel_array(self._path, index=page)
        if found.ndim == 3:  # RGB
            return _tensor(found.transpose(2, 0, 1))
        if (self._head.get("RescaleSlope", 1), self._head.get("RescaleIntercept", 0)) != (1, 0):
            found = self._pixels.apply_rescale(found, self._head)
        return _tensor(found[None])


def _check(path: str | os.PathLike[str], height: int, width: int, slices: int) -> None:
    if not 0 < height * width <= _LARGEST or not 0 < slices <= _MOST:
        raise InputError(f"{str(path)!r} has {slices} slices of {width}×{height} pixels, which is too much to read")


def _tensor(found: Any) -> Tensor:
    """Return an array as a tensor in this machine's byte order; floating point as float32."""
    import numpy as np

    if found.dtype.kind not in "uif":
        raise InputError(f"it holds {found.dtype}: whole numbers or floating point are needed")
    kind = np.dtype(np.float32) if found.dtype.kind == "f" else found.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(found, kind, order="C"))  # a copy: nibabel's array is in the file
