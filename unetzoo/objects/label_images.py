"""Objects as label images, an integer for each object: what napari, Cellpose, StarDist and scikit-image call labels.

0 is background, and each number from 1 up is an object: 16 bits, or 32 for more than 65,535 objects.
"""

from __future__ import annotations

import gzip
import io

import numpy as np
from numpy.typing import NDArray

from unetzoo import extras
from unetzoo.files.resolution import resolution
from unetzoo.objects.writing import Annotated, register_writer


@register_writer("labels", title="label images", suffix=".tif", by_class=True)
def _written(found: Annotated) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    sized = resolution(found.mpp)
    Image.fromarray(_labels(found)).save(stream, "TIFF", compression="tiff_adobe_deflate", **sized)
    return stream.getvalue()


@register_writer("nifti", title="NIfTI label images", suffix=".nii.gz", by_class=True, needs="nibabel")
def _written_as_nifti(found: Annotated) -> bytes:
    """Return a slice, with x along its first axis and y along its second, at the image's position in space.

    If the image has no position, pixels have size 1 and run right and down from the origin, as ITK places images: then
    ITK-SNAP and 3D Slicer lay both over each other.
    """
    nibabel = extras.needed("nibabel", "NIfTI label images")
    labels = _labels(found).T
    # NIfTI-1 has 15 bits for a side.
    kind = nibabel.Nifti1Image if max(labels.shape) < 2**15 else nibabel.Nifti2Image
    header = kind.header_class(found.header)
    if found.header is None:
        header.set_data_shape(labels.shape)
        header.set_qform(_RIGHT_AND_DOWN, "scanner")
        header.set_sform(_RIGHT_AND_DOWN, "scanner")
    header.set_data_dtype(labels.dtype)
    header.set_intent("label")
    return gzip.compress(kind(labels.reshape(header.get_data_shape()), None, header).to_bytes(), mtime=0)


_RIGHT_AND_DOWN = np.diag([-1.0, -1.0, 1.0, 1.0])
"""NIfTI's own axes run to the right and the front of a patient, ITK's to the left and the back."""


def _labels(found: Annotated) -> NDArray[np.uint16] | NDArray[np.int32]:
    labels = found.instances.labels.numpy()
    if len(found.instances) <= np.iinfo(np.uint16).max:
        return labels.astype(np.uint16)
    return labels.astype(np.int32)  # Pillow has no unsigned 32 bits
