"""COCO JSON: one file for the images of a folder, as CVAT, Roboflow, Label Studio, Supervisely and many more export it.

https://cocodataset.org/#format-data. A segmentation is a list of polygons, or a run-length encoding of the pixels,
plain or compressed. Crowds do not count. Annotations cover those that come before them in the file.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetzoo.data.annotations import parsing, regions
from unetzoo.data.annotations._base import Annotation, Document, Drawing, Faults, register_annotation_format
from unetzoo.data.annotations.regions import Part, Polygons, Region, Size
from unetzoo.errors import InputError
from unetzoo.printing import some_of


def _recognises(path: Path) -> bool:
    return parsing.has(parsing.json_of(path), images=list, annotations=list)


@register_annotation_format("coco", title="COCO JSON", suffixes=(".json",), recognises=_recognises, many=True)
def read(path: Path) -> Document:
    """Read a COCO file.

    Raises:
        InputError: the file has no categories at all.
    """
    found, faults = parsing.json_of(path), Faults()
    if not isinstance(found.get("categories"), list):
        raise InputError(f"{str(path)!r} is COCO JSON without categories, which name the classes: export them too")
    images = {
        image["id"]: image for k, image in enumerate(found["images"]) if _is_image(image, f"image {k + 1}", faults)
    }
    if len(images) < len(found["images"]) and not faults.sentences:
        faults.add("images", "two images have the same id")
    kinds = {}
    for k, category in enumerate(found["categories"]):
        if parsing.has(category, id=int, name=str):
            kinds[category["id"]] = category["name"]
        else:
            faults.add(f"category {k + 1}", "an id and a name are needed")
    drawn: dict[Any, list[Annotation]] = defaultdict(list)
    boxes = dict[Any, int]()
    for k, annotation in enumerate(found["annotations"]):
        if _is_box(annotation, images):
            boxes[annotation["image_id"]] = boxes.get(annotation["image_id"], 0) + 1
            continue
        try:
            image, one = _annotation(annotation, images, kinds)
        except ValueError as error:
            faults.add(_where(k, annotation), error)
        else:
            drawn[image].append(one)
    if boxes:
        named = [images[image]["file_name"] for image in boxes]
        faults.sentences.append(
            f"{sum(boxes.values())} of {len(found['annotations'])} annotations are detection boxes, without a "
            f"segmentation: {regions.NO_BOXES}; their images are {some_of(named)}"
        )
    drawings = {
        image["file_name"].replace("\\", "/"): Drawing(path, tuple(drawn[key]), _size(image))
        for key, image in images.items()
    }
    names = _names(found["categories"], kinds, found["annotations"])
    return Document(drawings, names, tuple(faults.sentences), listed=True)


@dataclass(frozen=True, eq=False)
class Runs:
    """Run lengths: numbers of pixels that are outside, inside, outside, …, column after column.

    Attributes:
        size: (height, width).
        counts: of pixels; their sum is the number of all pixels.
    """

    size: Size
    counts: NDArray[np.int64]

    def pixels(self, size: Size) -> Part:
        """Return the pixels inside, see ``Region``."""
        if tuple(size) != self.size:
            height, width = self.size
            raise InputError(f"its run lengths are for {width}×{height} pixels, but its image has {size[1]}×{size[0]}")
        starts = np.concatenate([[0], self.counts.cumsum()])
        inside = np.flatnonzero(self.counts[1::2]) * 2 + 1
        if not len(inside):
            return Part(0, 0, np.zeros((0, 0), bool))
        left, right = starts[inside[0]] // size[0], (starts[inside[-1] + 1] - 1) // size[0] + 1
        values = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        return Part(0, int(left), values[left * size[0] : right * size[0]].reshape(-1, size[0]).T)

    @property
    def fingerprint(self) -> str:
        """See ``Region``."""
        return hashlib.sha256(f"{self.size}".encode() + self.counts.tobytes()).hexdigest()


def uncompressed(text: str) -> list[int]:
    """Return the run lengths of COCO's compressed text.

    Each number is written in groups of five bits, the lowest first, as characters from "0" on. Bit 5 says that more
    groups follow, and the highest bit of the last group is the sign. From the third on, a number is the difference from
    the run two before it (pycocotools' ``maskApi.c``).

    Raises:
        ValueError: the text has other characters, or a number is cut off.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{letter!r} is not a character of compressed counts")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("compressed counts are cut off")
    return counts


def _annotation(found: Any, images: Mapping[Any, Any], kinds: Mapping[Any, str]) -> tuple[Any, Annotation]:
    """Return the id of the image, and the annotation.

    Raises:
        ValueError: says what is wrong.
    """
    if not isinstance(found, Mapping):
        raise ValueError("an object is needed")
    image, kind = found.get("image_id"), found.get("category_id")
    if not isinstance(image, int | str) or image not in images:
        raise ValueError(f"image_id {image!r:.60} is not the id of an image")
    if not isinstance(kind, int) or kind not in kinds:
        raise ValueError(f"category_id {kind!r:.60} is not the id of a category")
    return image, Annotation(kinds[kind], _region(found.get("segmentation"), _size(images[image])), _crowd(found))


def _is_box(found: Any, images: Mapping[Any, Any]) -> bool:
    """Return whether an annotation of an image has only a box, and no segmentation."""
    if not parsing.has(found, bbox=list) or found.get("segmentation"):
        return False
    return isinstance(found.get("image_id"), int | str) and found["image_id"] in images


def _crowd(found: Mapping[str, Any]) -> bool:
    return bool(found.get("iscrowd") or found.get("ignore"))


def _region(found: Any, size: Size) -> Region:
    if isinstance(found, list) and found:
        return Polygons(tuple((_ring(part),) for part in found))
    if parsing.has(found, size=list) and isinstance(found.get("counts"), list | str):
        return _runs(found, size)
    raise ValueError("no segmentation, and a box is not a mask" if not found else "polygons or counts are needed")


def _ring(numbers: Any) -> NDArray[np.float64]:
    fits = isinstance(numbers, list) and len(numbers) >= 6 and len(numbers) % 2 == 0
    if not fits or not all(map(parsing.is_place, numbers)):
        raise ValueError("each polygon needs x and y of 3 corners or more, as finite numbers")
    return np.array(numbers, np.float64).reshape(-1, 2)


def _runs(found: Mapping[str, Any], size: Size) -> Runs:
    counts = uncompressed(found["counts"]) if isinstance(found["counts"], str) else found["counts"]
    if not all(type(n) is int and 0 <= n <= size[0] * size[1] for n in counts):
        raise ValueError("its counts are not all numbers of pixels")
    if found["size"] != list(size):
        raise ValueError(f"its run lengths have the size {found['size']!r:.60}, but its image has {list(size)}")
    if sum(counts) != size[0] * size[1]:
        raise ValueError(f"its counts are of {sum(counts)} pixels, but its image has {size[0] * size[1]}")
    return Runs(size, np.array(counts, np.int64))


def _is_image(found: Any, where: str, faults: Faults) -> bool:
    fits = parsing.has(found, file_name=str, height=int, width=int) and isinstance(found.get("id"), int | str)
    if not fits or found["height"] < 1 or found["width"] < 1:
        faults.add(where, "id, file_name, height and width are needed")
        return False
    return True


def _size(image: Mapping[str, Any]) -> Size:
    return image["height"], image["width"]


def _where(k: int, annotation: Any) -> str:
    number = annotation.get("id") if isinstance(annotation, Mapping) else None
    return f"annotation {k + 1}" if number is None else f"annotation {k + 1} (id {number!r:.40})"


def _names(categories: list[Any], kinds: Mapping[Any, str], annotations: list[Any]) -> tuple[str, ...]:
    """Return the names of the categories, without the unused one that Roboflow adds.

    This is the parent of the others, or has the number 0 and no parent.
    """
    found = [category for category in categories if isinstance(category, Mapping)]
    parents = {category.get("supercategory") for category in found}
    parents |= {category.get("name") for category in found if _is_root(category)} if len(kinds) > 1 else set()
    used = {annotation.get("category_id") for annotation in annotations if isinstance(annotation, Mapping)}
    names = [name for key, name in kinds.items() if key in used or name not in parents or len(kinds) == 1]
    return tuple(dict.fromkeys(names))


def _is_root(category: Mapping[str, Any]) -> bool:
    return category.get("id") == 0 and category.get("supercategory") == "none"
