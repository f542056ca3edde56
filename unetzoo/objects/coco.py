"""Objects as COCO JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unetzoo.checks import class_name_problems
from unetzoo.errors import ConfigError
from unetzoo.objects.finding import Instances
from unetzoo.objects.outlines import polygons
from unetzoo.objects.writing import Annotated, object_classes, place_of, register_writer


def to_coco(
    images: Iterable[tuple[str, Instances]], class_names: Sequence[str] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Return a data set in COCO's format for object detection (cocodataset.org/#format-data), for ``json.dump``.

    A segmentation is a list of polygons if the object has no holes, else an uncompressed run-length encoding, because
    COCO's polygons cannot have holes; pycocotools draws exactly the same pixels from both. No annotation is a crowd.
    "score" is there if there are scores.

    Args:
        images: file name and objects of each image, all of one model; they are taken one at a time, so that a generator
            keeps only one image in memory.
        class_names: one name per class, background included in a multiclass task; None: depending on the task,
            "foreground"; "background", "class_1", …; or "class_0", ….

    Returns:
        "images", "annotations" and "categories". Ids count from 1; the id of a category is the class in a multiclass
        task, whose background is not a category, and otherwise the class + 1.

    Raises:
        ConfigError: there is no image, images have different tasks or classes, or class names are invalid or not one
            per class; or SciPy is missing.
    """
    record: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    named = (Annotated(found, class_names, name) for name, found in images)
    for image, drawn, record["categories"] in _described(named):
        record["images"].append(image)
        record["annotations"] += drawn
    return record


@register_writer("coco", title="COCO JSON", suffix=".json", many=True, folder="annotations")
def _written(images: Iterable[Annotated]) -> Iterator[str]:
    """Give the text of a data set piece by piece; the list of images comes last, because it is small to keep."""
    listed, between, categories = [], "", list[dict[str, Any]]()
    yield '{"annotations": ['
    for image, drawn, categories in _described(images):  # noqa: B007
        listed.append({**image, "file_name": place_of("COCO JSON", image["file_name"])})
        for annotation in drawn:
            yield f"{between}\n{json.dumps(annotation)}"
            between = ","
    yield f'],\n"categories": {json.dumps(categories)},\n"images": {json.dumps(listed)}}}\n'


def _described(
    images: Iterable[Annotated],
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]]:
    """Give each image, its annotations, and the categories of all.

    Raises:
        ConfigError: see :func:`to_coco`.
    """
    known: tuple[str, int] | None = None
    total = 0
    for number, image in enumerate(images, 1):
        found = image.instances
        if known is None:
            known = found.task, found.num_classes
            problems = class_name_problems(image.class_names, found.num_classes)
            if problems:
                raise ConfigError("cannot write COCO JSON", problems)
            names = object_classes(*known, image.class_names)
            categories = [
                {"id": kind + _shift(found.task), "name": name, "supercategory": ""} for kind, name in names.items()
            ]
        elif (found.task, found.num_classes) != known:
            raise ConfigError(
                f"cannot write COCO JSON: {image.name!r} has {found.num_classes} {found.task} classes, but the first "
                f"image has {known[1]} {known[0]} classes; write a separate file for each model"
            )
        height, width = image.size
        drawn = _annotations(found, number, total + 1)
        total += len(drawn)
        yield {"id": number, "file_name": image.name, "width": width, "height": height}, drawn, categories
    if known is None:
        raise ConfigError("cannot write COCO JSON: there are no images; at least one is needed")


def _shift(task: str) -> int:
    """Return what is added to a class for the id of its category, because ids count from 1."""
    return 0 if task == "multiclass" else 1


def _annotations(found: Instances, image: int, first: int) -> list[dict[str, Any]]:
    shift, labels = _shift(found.task), found.labels.numpy()
    annotations = list[dict[str, Any]]()
    for row, parts in zip(found.rows(), polygons(found), strict=True):
        kind, left, top = (int(row[key]) for key in ("class", "left", "top"))
        plane = labels[kind] if found.task == "multilabel" else labels
        annotation = {
            "id": first + len(annotations),
            "image_id": image,
            "category_id": kind + shift,
            "bbox": [left, top, int(row["right"]) - left, int(row["bottom"]) - top],
            "area": row["area"],
            "iscrowd": 0,
            "segmentation": _segmentation(parts, plane, row),
        }
        annotations.append(annotation | ({"score": row["score"]} if "score" in row else {}))
    return annotations


def _segmentation(parts: list[list[Tensor]], plane: NDArray[np.int32], row: dict[str, Any]) -> Any:
    if all(len(part) == 1 for part in parts):
        return [ring.flatten().tolist() for (ring,) in parts]
    height, width = plane.shape
    box = plane[row["top"] : row["bottom"], row["left"] : row["right"]] == row["id"]
    x, y = np.nonzero(box.T)  # column after column, as COCO counts
    at = (x + row["left"]) * height + y + row["top"]
    breaks = np.flatnonzero(np.diff(at) != 1) + 1
    starts, ends = at[np.r_[0, breaks]], at[np.r_[breaks - 1, len(at) - 1]] + 1
    counts = np.diff(np.stack([starts, ends], 1).ravel(), prepend=0).tolist()
    rest = height * width - int(ends[-1])
    return {"size": [height, width], "counts": counts + ([rest] if rest else [])}
