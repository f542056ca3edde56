"""Objects as GeoJSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from unetzoo.checks import class_name_problems
from unetzoo.errors import ConfigError
from unetzoo.objects.finding import Instances
from unetzoo.objects.outlines import polygons
from unetzoo.objects.writing import Annotated, register_writer

_DEGREES = ("EPSG:4326", "OGC:CRS84")
"""The system of RFC 7946, longitude first. It need not be named, but it is here, to distinguish degrees from pixels."""


def to_geojson(
    instances: Instances,
    class_names: Sequence[str] | None = None,
    *,
    transform: Iterable[float] | None = None,
    crs: str | None = None,
    scale: tuple[float, float] | None = None,
    mpp: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Return a GeoJSON FeatureCollection (RFC 7946), for ``json.dump``: a feature for each object.

    A geometry is a Polygon, or a MultiPolygon if parts of the object touch only at corners; its outline runs exactly
    along the edges of pixels. Rings are closed, and their numbers follow the right-hand rule of section 3.1.6,
    whichever way y is drawn. Properties are "id", "class", "class_name", "area" (always in pixels), and "score" if
    there are scores.

    Without a transform, coordinates are whole pixels, x to the right and y down, as QuPath reads them, and each feature
    also has QuPath's properties "objectType" (detection), "classification" and "measurements", which QuPath shows:
    "area" in pixels, "area_um2" with ``mpp``, and "score" if there are scores. RFC 7946 allows only degrees, so QGIS
    takes whole pixels for degrees. A transform therefore needs the ``crs`` of its coordinates.

    Args:
        instances: the result of :func:`unetzoo.objects.instances`.
        class_names: one name per class, background included in a multiclass task; None: depending on the task,
            "foreground"; "background", "class_1", …; or "class_0", ….
        transform: (a, b, c, d, e, f) with x' = a x + b y + c and y' = d x + e y + f, from corners of pixels to
            coordinates: rasterio's ``dataset.transform`` unchanged. GDAL itself has another order: c, a, b, f, d, e.
            It needs a ``crs``.
        crs: the system of those coordinates, such as "EPSG:32633". It is written as the "crs" of GeoJSON 2008
            (section 3), which RFC 7946 dropped (section 4) and GDAL reads; EPSG:4326, in which x is the longitude, is
            written as OGC:CRS84.
        scale: for the mask of a smaller copy, pixels of the whole image per pixel of the copy, down and across:
            coordinates are those of the whole image, such as a slide's level 0. Not with a transform. Areas stay those
            of the mask.
        mpp: µm per pixel of the mask, down and across; None: unknown.

    Raises:
        ConfigError: lists all arguments that are wrong; or SciPy is missing.
    """
    affine = _numbers(transform)
    problems = [
        *class_name_problems(class_names, instances.num_classes),
        *_transform_problems(transform, affine),
        *_crs_problems(crs, transform),
        *_scale_problems(scale, transform),
        *([] if _are_two(mpp) else [f"mpp={mpp!r:.100}: two numbers above 0 are needed, µm down and across"]),
    ]
    if problems:
        raise ConfigError("cannot write GeoJSON", problems)
    return {**head_of(crs), "features": features_of(instances, class_names, affine, scale, mpp=mpp)}


def head_of(crs: str | None) -> dict[str, Any]:
    """Return the entries of a FeatureCollection that come before its features."""
    return {"type": "FeatureCollection", **({} if crs is None else {"crs": _named(crs)})}


def features_of(
    instances: Instances,
    class_names: Sequence[str] | None,
    affine: Sequence[float] | None,
    scale: tuple[float, float] | None,
    *,
    mpp: tuple[float, float] | None = None,
    ids: Sequence[int] | None = None,
    corner: tuple[int, int] = (0, 0),
) -> list[dict[str, Any]]:
    """Return a feature for each object, see :func:`to_geojson`.

    Args:
        instances: objects of an image, or of a part of it.
        class_names, scale, mpp: see :func:`to_geojson`.
        affine: the transform, as six numbers.
        ids: ids of the objects; None: they are numbered here.
        corner: row and column of the part's first pixel in the image.
    """
    features = []
    shift = torch.tensor(corner[::-1])
    rows = instances.rows(class_names)
    for row, parts, number in zip(rows, polygons(instances), ids or range(1, len(rows) + 1), strict=True):
        row["id"] = number
        coordinates = [[_closed(ring + shift, affine) for ring in part] for part in parts]
        if scale is not None and scale != (1, 1):
            coordinates = [[_scaled(ring, scale) for ring in part] for part in coordinates]
        single = len(coordinates) == 1
        geometry = {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": coordinates[0] if single else coordinates,
        }
        properties: dict[str, Any] = {key: row[key] for key in _PROPERTIES if key in row}
        if affine is None:
            properties |= _for_qupath(properties, mpp)
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return features


@register_writer("geojson", title="GeoJSON", suffix=".geojson")
def _written(found: Annotated) -> str:
    place: dict[str, Any] = {"transform": found.transform, "crs": found.crs, "scale": found.scale, "mpp": found.mpp}
    placed = to_geojson(found.instances, found.class_names, **place)
    return json.dumps(placed)


_PROPERTIES = ("id", "class", "class_name", "area", "score")


def _closed(ring: Tensor, affine: Sequence[float] | None) -> list[list[int]] | list[list[float]]:
    """Return a ring's corners with the first one repeated at the end, in reverse order if the transform mirrors."""
    points: list[list[int]] = ring.tolist()
    points.append(points[0])
    if affine is None:
        return points
    a, b, c, d, e, f = affine
    moved = [[a * x + b * y + c, d * x + e * y + f] for x, y in points]
    return moved if a * e - b * d > 0 else moved[::-1]


def _scaled(ring: list[Any], scale: tuple[float, float]) -> list[list[float]]:
    """Return a ring in pixels of the whole image, to a thousandth."""
    down, across = scale
    return [[round(x * across, 3), round(y * down, 3)] for x, y in ring]


def _for_qupath(properties: dict[str, Any], mpp: tuple[float, float] | None) -> dict[str, Any]:
    measured = {"area": properties["area"]}
    if mpp is not None:
        measured["area_um2"] = round(properties["area"] * mpp[0] * mpp[1], 6)
    if "score" in properties:
        measured["score"] = properties["score"]
    name = properties["class_name"]
    return {"objectType": "detection", "classification": {"name": name}, "measurements": measured}


def _named(crs: str) -> dict[str, Any]:
    authority, code = crs.split(":")
    degrees = crs.upper() in _DEGREES
    name = "urn:ogc:def:crs:OGC:1.3:CRS84" if degrees else f"urn:ogc:def:crs:{authority.upper()}::{code}"
    return {"type": "name", "properties": {"name": name}}


def _numbers(transform: object) -> tuple[float, ...] | None:
    """Return a, b, c, d, e, f; None if there are no such numbers."""
    numbers = list(transform) if isinstance(transform, Iterable) else []
    if len(numbers) not in (6, 9) or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        return None
    return tuple(map(float, numbers[:6]))


def _transform_problems(transform: object, affine: Sequence[float] | None) -> list[str]:
    if transform is None:
        return []
    if affine is None:
        return [f"transform={transform!r:.100}: give six finite numbers (a, b, c, d, e, f), or rasterio's Affine"]
    a, b, _, d, e, _ = affine
    return [] if a * e - b * d else [f"transform={affine}: all points would fall on one line"]


def _scale_problems(scale: object, transform: object) -> list[str]:
    if scale is None:
        return []
    if not _are_two(scale):
        return [f"scale={scale!r:.100}: two numbers above 0 are needed, down and across"]
    return [] if transform is None else ["scale with transform: give only one of them"]


def _are_two(values: object) -> bool:
    """Return whether they are two numbers above 0, or None."""
    return values is None or (
        isinstance(values, tuple)
        and len(values) == 2
        and all(isinstance(n, int | float) and math.isfinite(n) and n > 0 for n in values)
    )


def _crs_problems(crs: object, transform: object) -> list[str]:
    if crs is None and transform is not None:
        why = "readers would take the coordinates for degrees, after RFC 7946"
        return [f"transform without crs: {why}: give for example crs='EPSG:32633'; for degrees, crs='EPSG:4326'"]
    if crs is None:
        return []
    found = []
    if not isinstance(crs, str) or not re.fullmatch(r"[A-Za-z]+:\w+", crs):
        found.append(f"crs={crs!r:.100}: give an authority and its code, such as 'EPSG:32633'")
    if transform is None:
        found.append("crs without transform: pixels are not coordinates of this system; give both")
    return found
