"""Objects as YOLO's text for segmentation: a polygon on each line, a file for each image."""

from __future__ import annotations

from collections.abc import Sequence

from unetzoo.objects.bridging import bridged
from unetzoo.objects.finding import Instances
from unetzoo.objects.outlines import polygons
from unetzoo.objects.writing import Annotated, register_writer

_DIGITS = 8
"""Decimals: they give a thousandth of a pixel in images with sides of 100,000 pixels."""


def to_yolo(instances: Instances) -> str:
    """Return the objects of an image as lines "class x1 y1 x2 y2 …", x and y as shares of width and height.

    Classes count from 0, without the background of a multiclass task. A line is one closed polygon: if an object has
    holes, or parts that touch only at corners, it runs to them and back on the same path. Filled by the even-odd rule,
    it covers exactly the object's pixels; programs that also draw outlines, such as OpenCV, draw that path, too.

    Raises:
        ConfigError: SciPy is missing.
    """
    height, width = instances.labels.shape[-2:]
    first = 1 if instances.task == "multiclass" else 0
    lines = []
    for kind, parts in zip(instances.classes.tolist(), polygons(instances), strict=True):
        line = bridged([[ring.numpy() for ring in part] for part in parts])
        shares = (line / (width, height)).round(_DIGITS).ravel().tolist()
        lines.append(" ".join([str(kind - first), *map(_short, shares)]) + "\n")
    return "".join(lines)


def _short(share: float) -> str:
    return f"{share:.{_DIGITS}f}".rstrip("0").rstrip(".")


def _beside(names: Sequence[str]) -> dict[str, str]:
    """Return the file with the names of the classes, and the folders of the images."""
    import yaml

    said = {"train": "images", "val": "images", "names": dict(enumerate(names))}
    note = "# Put the images, with the same names, into images/ next to labels/; split them into train and val.\n"
    plain = all(map(str.isprintable, names))  # others are escaped
    return {"data.yaml": note + yaml.safe_dump(said, allow_unicode=plain, sort_keys=False, width=1000)}


@register_writer("yolo", title="YOLO text", suffix=".txt", folder="labels", beside=_beside)
def _written(found: Annotated) -> str:
    return to_yolo(found.instances)
