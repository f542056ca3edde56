"""GeoJSON in pixels, as QuPath, napari's plugins and ``unetzoo predict`` write it: a file for each image.

RFC 7946, and https://qupath.readthedocs.io: a FeatureCollection, a list of features, a single feature, or only
geometries. x and y count pixels from the upper left corner of the image, along the edges of pixels. A class is
``classification.name`` (QuPath), ``class_name``, ``class``, ``label`` or a plain text as ``classification``. QuPath's
own classes that end in an asterisk do not count, such as "Ignore*"; but "Region*" and cores of tissue arrays only mark
where somebody looked, and are left out. The outline of a cell is used. Later objects in the file are on top.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unetzoo.data.annotations import parsing
from unetzoo.data.annotations._base import Annotation, Document, Drawing, Faults, register_annotation_format
from unetzoo.data.annotations.regions import NoArea, Polygons, Region, Ring, United
from unetzoo.errors import InputError

_NO_AREA = {
    "Point": "a point",
    "MultiPoint": "a group of points",
    "LineString": "a line",
    "MultiLineString": "a group of lines",
}
_GEOMETRIES = ("Polygon", "MultiPolygon", "GeometryCollection", *_NO_AREA)
_NAMES = ("class_name", "class", "label")
_NO_OBJECTS = ("tmaCore", "tma_core", "TMACoreObject", "root", "PathRootObject")
_DEEPEST = 8
"""The deepest nesting of collections of geometries."""


def _recognises(path: Path) -> bool:
    found = parsing.json_of(path)
    first = found[0] if isinstance(found, list) and found else found
    if not parsing.has(first, type=str):
        return False
    return first["type"] in ("FeatureCollection", "Feature", *_GEOMETRIES)


@register_annotation_format("geojson", title="GeoJSON", suffixes=(".geojson", ".json"), recognises=_recognises)
def read(path: Path) -> Document:
    """Read a GeoJSON file."""
    found, faults = parsing.json_of(path), Faults()
    _refuse_places(found, path)
    annotations: list[Annotation] = []
    planes = set()
    for k, feature in enumerate(_features(found), 1):
        try:
            geometry, properties = _parts(feature)
            if geometry is None or properties.get("objectType") in _NO_OBJECTS:
                continue
            kind = _kind(properties)
            if kind == "Region*":
                continue
            planes.add(_plane(geometry))
            ignored = kind.endswith("*")
            annotations.append(Annotation("" if ignored else kind, _region(geometry), ignored))
        except ValueError as error:
            faults.add(f"feature {k}", error)
    if len(planes) > 1:
        faults.add("features", "they are on several planes of a stack (z, t): export each plane to a file of its own")
    names = dict.fromkeys(str(one.kind) for one in annotations if one.kind)
    return Document({"": Drawing(path, tuple(annotations))}, tuple(names), tuple(faults.sentences))


def _refuse_places(found: Any, path: Path) -> None:
    """Raise if coordinates are places on the earth."""
    crs = found.get("crs") if isinstance(found, Mapping) else None
    if crs is not None:
        name = crs["properties"].get("name") if parsing.has(crs, properties=Mapping) else None
        raise InputError(
            f"{str(path)!r} has coordinates in {name or 'a reference system'!r:.60}, not in pixels: burn it into a "
            "mask (gdal_rasterize, or rasterio.features.rasterize), or convert it to pixels and leave 'crs' out"
        )


def _features(found: Any) -> Iterator[Any]:
    for one in found if isinstance(found, list) else [found]:
        inner = one.get("features") if parsing.has(one, type=str) and one["type"] == "FeatureCollection" else None
        yield from inner if isinstance(inner, list) else [one]


def _parts(feature: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return geometry and properties of a feature; a bare geometry has no properties.

    Raises:
        ValueError: it is neither a feature nor a geometry.
    """
    if not parsing.has(feature, type=str):
        raise ValueError("an object with a type is needed")
    if feature["type"] in _GEOMETRIES:
        return feature, {}
    properties = feature.get("properties") or {}
    if feature["type"] != "Feature" or "geometry" not in feature or not isinstance(properties, Mapping):
        raise ValueError("a Feature with a geometry is needed")
    return feature["geometry"], properties


def _kind(properties: Mapping[str, Any]) -> str:
    told = properties.get("classification")
    if isinstance(told, Mapping):
        names = told.get("names")
        told = ": ".join(map(str, names)) if isinstance(names, list) and names else told.get("name")
    for name in (told, *(properties.get(key) for key in _NAMES)):
        if isinstance(name, str):
            return name
    return ""


def _plane(geometry: Any) -> tuple[Any, ...]:
    plane = geometry.get("plane") if isinstance(geometry, Mapping) else None
    found = tuple(plane.get(axis, 0) for axis in "zt") if isinstance(plane, Mapping) else (0, 0)
    return found if all(isinstance(at, int | float) for at in found) else (0, 0)


def _region(geometry: Any, depth: int = 0) -> Region:
    """Return the region of a geometry.

    Raises:
        ValueError: says what is wrong.
    """
    if not parsing.has(geometry, type=str) or geometry["type"] not in _GEOMETRIES:
        raise ValueError("a Polygon, a MultiPolygon or a GeometryCollection is needed")
    kind = geometry["type"]
    if kind in _NO_AREA:
        return NoArea(_NO_AREA[kind])
    if kind == "GeometryCollection":
        parts = geometry.get("geometries")
        if not isinstance(parts, list) or not parts or depth == _DEEPEST:
            raise ValueError("a GeometryCollection needs geometries, and not too many levels of them")
        return United(tuple(_region(part, depth + 1) for part in parts))
    polygons = geometry.get("coordinates")
    if kind == "Polygon":
        polygons = [polygons]
    if not isinstance(polygons, list) or not polygons:
        raise ValueError(f"a {kind} needs coordinates")
    return Polygons(tuple(map(_rings, polygons)))


def _rings(polygon: Any) -> tuple[Ring, ...]:
    if not isinstance(polygon, list) or not polygon:
        raise ValueError("a polygon needs rings of corners")
    return tuple(parsing.corners(ring) for ring in polygon)
