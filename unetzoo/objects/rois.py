"""Objects as ImageJ's ROIs, one ``RoiSet.zip`` per image, which ImageJ's ROI Manager opens."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetzoo import extras
from unetzoo.objects.finding import Instances
from unetzoo.objects.outlines import polygons
from unetzoo.objects.writing import Annotated, register_writer

_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0
"""Codes of Java's paths, in which ImageJ stores shapes of several rings."""
_MOST = 255
"""Number of groups in ImageJ."""
_TIME = (1980, 1, 1, 0, 0, 0)
"""Time of all files in the archive, so that its content depends only on the objects."""


def to_rois(instances: Instances, class_names: Sequence[str] | None = None) -> bytes:
    """Return the objects of an image as an archive of ImageJ's ROIs.

    An object is a polygon, or a composite if it has holes or parts that touch only at corners. Its name is its class
    and its number, "nucleus-0001". Its group is the class in a multiclass task, else the class + 1; ImageJ's last
    group, 255, has all higher ones.

    Args:
        instances: the result of :func:`unetzoo.objects.instances`.
        class_names: one name per class, background included in a multiclass task; None: depending on the task,
            "foreground"; "background", "class_1", …; or "class_0", ….

    Raises:
        ConfigError: names are invalid, or not one per class; or SciPy or roifile is missing.
    """
    roifile = extras.needed("roifile", "ImageJ ROIs")
    rows = instances.rows(class_names)
    shift = 0 if instances.task == "multiclass" else 1
    stream, digits = io.BytesIO(), max(4, len(str(len(rows))))
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for row, parts in zip(rows, polygons(instances), strict=True):
            rings = [ring.numpy() for part in parts for ring in part]
            roi = _polygon(roifile, rings[0]) if len(rings) == 1 else _composite(roifile, rings, row)
            number = f"{row['id']:0{digits}}"
            roi.name = f"{_in_16_bits(str(row['class_name']))}-{number}"
            roi.group = min(int(row["class"]) + shift, _MOST)
            # Its name in ImageJ; a name that could be a path must not be used in an archive.
            plain = re.fullmatch(r"[\w ()+,-]+", roi.name)
            entry = roi.name if plain else number
            archive.writestr(zipfile.ZipInfo(f"{entry}.roi", _TIME), roi.tobytes(), zipfile.ZIP_DEFLATED)
    return stream.getvalue()


@register_writer("rois", title="ImageJ ROIs", suffix=".zip", needs="roifile")
def _written(found: Annotated) -> bytes:
    return to_rois(found.instances, found.class_names)


def _polygon(roifile: Any, ring: NDArray[np.int64]) -> Any:
    roi = roifile.ImagejRoi.frompoints(ring)
    roi.roitype = roifile.ROI_TYPE.POLYGON  # whose corners can be moved
    return roi


def _composite(roifile: Any, rings: list[NDArray[np.int64]], row: dict[str, Any]) -> Any:
    path = np.concatenate([_path(ring) for ring in rings]).astype(np.float32)
    roi = roifile.ImagejRoi()
    roi.roitype, roi.shape_roi_size, roi.multi_coordinates = roifile.ROI_TYPE.RECT, len(path), path
    roi.left, roi.top, roi.right, roi.bottom = (int(row[side]) for side in ("left", "top", "right", "bottom"))
    return roi


def _path(ring: NDArray[np.int64]) -> NDArray[np.float64]:
    steps = np.column_stack([np.full(len(ring), _LINE), ring])
    steps[0, 0] = _MOVE
    return np.append(steps, _CLOSE)


def _in_16_bits(name: str) -> str:
    """Return a name in which each letter is one UTF-16 code unit, as roifile counts them."""
    return "".join("\ufffd" if letter > "\uffff" or "\ud800" <= letter <= "\udfff" else letter for letter in name)
