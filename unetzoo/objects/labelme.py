"""Objects as LabelMe JSON, a file an image: https://github.com/wkentaro/labelme."""

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
"""Of LabelMe, whose files these are like; 6 reads them as well."""


def to_labelme(instances: Instances, image: str, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the objects of an image as LabelMe keeps them, for ``json.dump``.

    An object is a polygon; one whose parts touch by corners alone is several of one "group_id", the object's number;
    and one with holes, which polygons of LabelMe cannot have, is a "mask", its very pixels. Each has a "score" beside,
    which LabelMe keeps, where there are scores.

    Args:
        instances: what :func:`unetzoo.objects.instances` found.
        image: path of the image from the folder of the JSON, with /. Its pixels are not put into the file.
        class_names: one name a class, background included in a multiclass task; None:
            "foreground"; or "background", "class_1", …; or "class_0", …, as the task is.

    Raises:
        ConfigError: names that are none, or not one a class; or SciPy is missing.
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
    """Give the kind, points and other entries of what an object is made of."""
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
