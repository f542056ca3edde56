"""The georeference of a GeoTIFF: its tags, which masks keep, and their meaning."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from unetzoo import images

Tag = tuple[int, int, Any]
"""Code, type and value of a TIFF tag."""
_SCALE, _TIE_POINTS, _MATRIX, _KEYS = 33550, 33922, 34264, 34735
_CODES = (_SCALE, _TIE_POINTS, _MATRIX, _KEYS, 34736, 34737)
"""Of GeoTIFF 1.1 (OGC 19-008): scale, tie points, matrix, and the directory of keys with its numbers and texts."""
_ORIENTATION = 274
_MODEL, _RASTER, _GEOGRAPHIC, _PROJECTED = 1024, 1025, 2048, 3072
"""Keys: whether a map is projected, whether tie points are pixel centres, and the codes of both coordinate systems."""


def geography(path: str | os.PathLike[str]) -> tuple[Tag, ...]:
    """Return the tags that georeference a GeoTIFF; no tags for other files, or if the image is stored rotated."""
    pages = images.pages_of(path, (_ORIENTATION, *_CODES), most=1)
    if not pages or pages[0].number(_ORIENTATION, 1) != 1:
        return ()
    return tuple((code, *pages[0].tags[code]) for code in _CODES if code in pages[0].tags)


def georeference(place: Sequence[Tag]) -> dict[str, Any]:
    """Return "transform" and "crs" as ``unetzoo.objects.to_geojson`` takes them; nothing unless the tags give both.

    They are read as GDAL reads them: a scale has priority over a matrix, and y decreases from row to row whatever the
    sign of the scale.
    """
    tags = {code: _numbers(value) for code, _, value in place}
    keys = _keys(tags.get(_KEYS, ()))
    code = keys.get(_GEOGRAPHIC if keys.get(_MODEL) == 2 else _PROJECTED, 0)
    transform = _transform(tags)
    if transform is None or not 1024 <= code <= 32766:  # EPSG's; 32767 is a system of the user's own
        return {}
    a, b, c, d, e, f = transform
    if a * e == b * d:
        return {}
    if keys.get(_RASTER) == 2:
        c, f = c - (a + b) / 2, f - (d + e) / 2
    return {"transform": (a, b, c, d, e, f), "crs": f"EPSG:{int(code)}"}


def _numbers(value: object) -> tuple[float, ...]:
    """Return the values of a tag; none if the tag is broken and some values are not finite numbers."""
    values = value if isinstance(value, tuple) else (value,)
    sound = all(isinstance(number, int | float) and math.isfinite(number) for number in values)
    return values if sound else ()


def _keys(directory: Sequence[float]) -> dict[float, float]:
    """Return key → value for the keys whose value is in the directory itself."""
    rows = [directory[k : k + 4] for k in range(4, len(directory) - 3, 4)]
    return {key: value for key, location, _, value in rows if location == 0}


def _transform(tags: dict[int, tuple[float, ...]]) -> tuple[float, ...] | None:
    """Return a, b, c, d, e, f of x' = a x + b y + c and y' = d x + e y + f."""
    scale, point, matrix = (tags.get(code, ()) for code in (_SCALE, _TIE_POINTS, _MATRIX))
    if len(scale) >= 2 and scale[0] and scale[1] and len(point) == 6:
        across, down = scale[0], -abs(scale[1])
        return (across, 0.0, point[3] - point[0] * across, 0.0, down, point[4] - point[1] * down)
    return (*matrix[0:2], matrix[3], *matrix[4:6], matrix[7]) if len(matrix) == 16 else None
