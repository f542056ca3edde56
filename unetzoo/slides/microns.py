"""µm a pixel of a TIFF, by its first page: from Aperio, OME, ImageJ or the resolution tags."""

from __future__ import annotations

import contextlib
import os
import re
from xml.parsers import expat

from unetzoo.images import ifd
from unetzoo.images.ifd import Page
from unetzoo.images.tiff import LYING
from unetzoo.images.tiff_stacks import ome_pixels
from unetzoo.slides.asking import is_microns

WANTED = (ifd.DESCRIPTION, ifd.X_RESOLUTION, ifd.Y_RESOLUTION, ifd.RESOLUTION_UNIT)
"""Tags that may have it."""
ON_A_MAP = (33550, 34264)
"""GeoTIFF's scale and matrix: the size of its pixels is that on the map."""
_UNITS = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_OF_TAGS = {2: 25_400.0, 3: 10_000.0}
"""Unit of the resolution tags → µm: inches and centimetres."""
PRINTED = 20.0
"""From this many µm on, 1,270 dots per inch, the tags mean paper. Programs write 72 or 300 without knowing a scale."""


def microns_in(path: str | os.PathLike[str]) -> tuple[float, float] | None:
    """Return µm a pixel, down and across, of the image of a TIFF; None for other files, and if it is not known.

    Raises:
        InputError: the file is cut off before its first page's tags.
    """
    pages = ifd.pages_of(path, (*WANTED, *ON_A_MAP, ifd.ORIENTATION), most=1)
    if not pages or {*ON_A_MAP} & {*pages[0].tags}:
        return None
    found = microns_of(pages[0])
    return found[::-1] if found is not None and pages[0].number(ifd.ORIENTATION, 1) in LYING else found


def microns_of(page: Page) -> tuple[float, float] | None:
    """Return µm a pixel, down and across; None if the page has no plausible value.

    Args:
        page: the first page, with the tags :data:`WANTED`.
    """
    text = page.text(ifd.DESCRIPTION)
    if text.startswith("Aperio"):
        found = _aperio(text)
    elif "<OME" in text[:1000] or "<ome:OME" in text[:1000]:
        found = _ome(text)
    else:
        found = _tags(page, text)
    return found if found is not None and all(map(is_microns, found)) else None


def _aperio(text: str) -> tuple[float, float] | None:
    named = re.search(r"\|\s*MPP\s*=\s*([0-9.]{1,20})\s*(?:\||$)", text)
    with contextlib.suppress(ValueError):
        return None if named is None else (float(named[1]),) * 2
    return None


def _ome(text: str) -> tuple[float, float] | None:
    """OME's schema: PhysicalSizeX and PhysicalSizeY, in µm if their units are not named."""
    with contextlib.suppress(ValueError, KeyError, expat.ExpatError):
        pixels, _ = ome_pixels(text)
        down, across = (
            float(pixels[f"PhysicalSize{axis}"]) * _UNITS[pixels.get(f"PhysicalSize{axis}Unit", "µm")] for axis in "YX"
        )
        return down, across
    return None


def _tags(page: Page, text: str) -> tuple[float, float] | None:
    unit = _OF_TAGS.get(page.number(ifd.RESOLUTION_UNIT, 2))
    fitting = PRINTED
    if text.startswith("ImageJ="):
        named = re.search(r"^unit=(\S+)$", text, re.MULTILINE)
        unit = _UNITS.get("µm" if named[1] in (r"\u00B5m", "Âµm") else named[1]) if named is not None else None
        fitting = float("inf")
    found = [page.numbers(tag) for tag in (ifd.Y_RESOLUTION, ifd.X_RESOLUTION)]
    if unit is None or not all(len(each) == 2 and min(each) > 0 for each in found):
        return None
    down, across = (unit * below / above for above, below in found)
    return (down, across) if max(down, across) < fitting else None
