"""Formats of labelling tools that are not read here, and what to export instead: one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetzoo.data.annotations import parsing
from unetzoo.errors import InputError


@dataclass(frozen=True)
class Other:
    """A format that is known, but not read.

    Attributes:
        title: its name, to follow "it is".
        suffixes: of its files, in lower case.
        recognises: whether a file with such a suffix has this format.
        fix: what to do.
    """

    title: str
    suffixes: tuple[str, ...]
    recognises: Callable[[Path], bool]
    fix: str


def advice(path: Path) -> str | None:
    """Return what a file that is not read here is, and what to export instead; None if it is not known.

    Only the start of a file is looked at, except for JSON, which is parsed.
    """
    for other in OTHERS:
        try:
            if path.name.lower().endswith(other.suffixes) and other.recognises(path):
                return f"it is {other.title}: {other.fix}"
        except (InputError, OSError):
            continue
    return None


def may_be_other(name: str) -> bool:
    """Return whether a file has a suffix of a format that is not read here."""
    return name.lower().endswith(tuple(suffix for other in OTHERS for suffix in other.suffixes))


def _json(fits: Callable[[Any], bool]) -> Callable[[Path], bool]:
    return lambda path: fits(parsing.json_of(path))


def _first(found: Any) -> Any:
    return found[0] if isinstance(found, list) and found else None


def _root(tag: str, inside: str = "") -> Callable[[Path], bool]:
    def recognises(path: Path) -> bool:
        tags = parsing.xml_start(path)
        return tags[:1] == (tag,) and (not inside or inside in tags)

    return recognises


def _label_studio(found: Any) -> bool:
    one = _first(found)
    return parsing.has(one, data=dict) and ("annotations" in one or "completions" in one)


def _label_studio_brush(found: Any) -> bool:
    return parsing.has(_first(found), id=int, annotation_id=int)


def _via(found: Any) -> bool:
    if parsing.has(found, _via_img_metadata=dict):
        return True
    one = next(iter(found.values()), None) if isinstance(found, dict) else None
    return parsing.has(one, filename=str, regions=list) or parsing.has(one, filename=str, regions=dict)


_COCO = "export it as COCO JSON"
OTHERS = (
    Other(
        "Cellpose's _seg.npy, a pickle, which may run code",
        ("_seg.npy",),
        lambda path: True,
        "save its masks as an image (_cp_masks.png or .tif: 'Save masks as PNG/TIF' in Cellpose)",
    ),
    Other("Label Studio's own JSON", (".json",), _json(_label_studio), f"{_COCO}, including brushes"),
    Other("Label Studio's JSON-MIN", (".json",), _json(_label_studio_brush), f"{_COCO}, including brushes"),
    Other("VIA's own JSON", (".json",), _json(_via), f"{_COCO} (Annotation, Export Annotations)"),
    Other(
        "Supervisely's own JSON",
        (".json",),
        _json(lambda found: parsing.has(found, objects=list, size=dict)),
        _COCO,
    ),
    Other(
        "Labelbox's own JSON",
        (".json", ".ndjson"),
        lambda path: b'"data_row"' in _start(path) or b'"Labeled Data"' in _start(path),
        f"{_COCO} (labelbox.data.serialization, or their converter)",
    ),
    Other(
        "Datumaro's JSON",
        (".json",),
        _json(lambda found: parsing.has(found, items=list, categories=dict)),
        f"{_COCO}, or as CVAT for images",
    ),
    Other(
        "CVAT's XML of videos",
        (".xml",),
        _root("annotations", "track"),
        "export it from CVAT as 'CVAT for images 1.1', with its images",
    ),
    Other(
        "Pascal VOC's XML of boxes",
        (".xml",),
        _root("annotation", "object"),
        "boxes are not masks; VOC's masks are the images in SegmentationClass/",
    ),
    Other(
        "XML of ImageScope or ASAP",
        (".xml",),
        lambda path: parsing.xml_start(path)[:1] in (("Annotations",), ("ASAP_Annotations",)),
        "open it with its image in QuPath, and export the objects as GeoJSON",
    ),
    Other("QuPath's own data", (".qpdata",), lambda path: True, "export the objects from QuPath as GeoJSON"),
)
"""The first one that fits is used."""


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(2**16)
