"""Objects as label images, an integer an object: what napari, Cellpose, StarDist and scikit-image call labels."""

from __future__ import annotations

import io

import numpy as np

from unetzoo.objects.writing import Annotated, register_writer


@register_writer("labels", title="label images", suffix=".tif", by_class=True)
def _written(found: Annotated) -> bytes:
    """Return a TIFF of 16 bits, or of 32 where there are more than 65,535 objects: 0, and from 1 up an object each."""
    from PIL import Image

    labels = found.instances.labels.numpy()
    # Pillow has no unsigned 32 bits.
    kind = np.uint16 if len(found.instances) <= np.iinfo(np.uint16).max else np.int32
    stream = io.BytesIO()
    Image.fromarray(labels.astype(kind)).save(stream, "TIFF", compression="tiff_adobe_deflate")
    return stream.getvalue()
