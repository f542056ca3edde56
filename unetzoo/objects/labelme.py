"""Objects as LabelMe JSON, one file per image: https://github.com/wkentaro/labelme."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from unetzoo.objects.finding import Instances
from unetzoo.objects.outlines import polygons
from unetzoo.objects.writing import Annotated, place_of, register_writer

VERSION = "5.5.0"
"""Version of LabelMe whose format is written; version 6 reads it as well."""


def to_labelme(instances: Instances, image: str, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the objects of an image in LabelMe's format, for ``json.dump``.

    An object is a polygon. If its parts touch only at corners, it is several polygons with one "group_id", the object's
    number. If it has holes, which LabelMe's polygons cannot have, it is a "mask" with exactly its pixels. Each also has
    a "score", which LabelMe keeps, if there are scores.

    Args:
        instances: the result of :func:`unetzoo.objects.instances`.
        image: path of the image relative to the folder of the JSON, with /. Its pixels are not put into the file.
        class_names: one name per class, background included in a multiclass task; None: depending on the task,
            "foreground"; "background", "class_1", …; or "class_0", ….

    Raises:
        ConfigError: names are invalid, or not one per class; or SciPy is missing.
    """
    height, width = instances.labels.shape[-2:]
    shapes = [
        _shape(row, kind, points, more)
        for row, parts in zip(instances.rows(class_names), polygons(instances), strict=True)
        for kind, points, more in _shapes(instances, row, parts)
    ]
    return {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


@register_writer("labelme", title="LabelMe JSON", suffix=".json")
def _written(found: Annotated) -> str:
    return json.dumps(to_labelme(found.instances, place_of("LabelMe JSON", found.path), found.class_names))


def _shape(row: dict[str, Any], kind: str, points: list[list[float]], more: dict[str, Any]) -> dict[str, Any]:
    common: dict[str, Any] = {"group_id": None, "description": "", "flags": {}, "mask": None}
    score = {"score": row["score"]} if "score" in row else {}
    return {"label": row["class_name"], "points": points, "shape_type": kind} | common | more | score


def _shapes(
    instances: Instances, row: dict[str, Any], parts: list[list[Tensor]]
) -> Iterator[tuple[str, list[list[float]], dict[str, Any]]]:
    """Give the kind, points and other entries of each shape of an object."""
    if any(len(part) > 1 for part in parts):
        last = [float(row["right"] - 1), float(row["bottom"] - 1)]  # pixels, the last one included
        yield "mask", [[float(row["left"]), float(row["top"])], last], {"mask": _png(instances, row)}
        return
    group = {"group_id": row["id"]} if len(parts) > 1 else {}
    for (ring,) in parts:
        yield "polygon", ring.double().tolist(), group


def _png(instances: Instances, row: dict[str, Any]) -> str:
    from PIL import Image

    plane = instances.labels[row["class"]] if instances.task == "multilabel" else instances.labels
    inside = plane[row["top"] : row["bottom"], row["left"] : row["right"]] == row["id"]
    stream = io.BytesIO()
    Image.fromarray(inside.numpy().astype(np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")
