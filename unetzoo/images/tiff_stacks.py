"""The planes of a TIFF's pages, from the first page's description by OME-XML, ImageJ or tifffile.

A description is believed only if it accounts for all pages of the file, and no other file is opened for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from xml.parsers import expat

from unetzoo.images import ifd
from unetzoo.images.ifd import Page
from unetzoo.images.planes import Stack, stack_along

WANTED = (
    *(ifd.SUBFILE, ifd.WIDTH, ifd.HEIGHT, ifd.BITS, ifd.SAMPLES, ifd.FORMAT, ifd.PLANAR, ifd.TILE_WIDTH),
    *(ifd.DESCRIPTION, ifd.STK_PLANES),
)
"""Tags that describe the planes."""
_REDUCED, _MASK = 1, 4
_KIND = (ifd.WIDTH, ifd.HEIGHT, ifd.BITS, ifd.SAMPLES, ifd.FORMAT, ifd.PLANAR)
Axes = list[tuple[str, int]]


def stack_of(pages: Sequence[Page], behind: int = 1) -> Stack:
    """Return the planes of a TIFF.

    Args:
        pages: with the tags :data:`WANTED`.
        behind: number of images of the first page's size that fit from its first pixel to the end of the file; some
            programs write a stack in this way, with one page.
    """
    first = pages[0]
    whole = [k for k, page in enumerate(pages) if k == 0 or not page.number(ifd.SUBFILE, 0) & (_REDUCED | _MASK)]
    alike = [k for k in whole if _kind(pages[k]) == _kind(first)]
    others = [pages[k] for k in sorted({*whole} - {*alike})]
    if ifd.TILE_WIDTH in first.tags:  # a pyramid, or a slide with its label
        others = [page for page in others if not _smaller(page, first)]
    stack = _described(first, len(alike), behind) or stack_along([("pages", len(alike))])
    if len(alike) > 1:
        stack = Stack(stack.axes, tuple(tuple(alike[k] for k in plane) for plane in stack.pages))
    return Stack(stack.axes, stack.pages, len(others))


def _described(first: Page, count: int, behind: int) -> Stack | None:
    """Return the planes by the description, if it accounts for all pages, or for the images after the only page."""
    text, order = first.text(ifd.DESCRIPTION), None
    try:
        if text.startswith("ImageJ="):
            axes = _imagej(text)
        elif text.startswith('{"shape"'):
            axes = _shaped(text, first)
        elif "<OME" in text[:1000] or "<ome:OME" in text[:1000]:
            axes, order = _ome(text, first.number(ifd.SAMPLES, 1), count)
        elif ifd.STK_PLANES in first.tags:
            axes = [("pages", len(first.numbers(ifd.STK_PLANES)) // 2)]  # rationals, one per plane
        else:
            return None
    except (ValueError, KeyError, TypeError, StopIteration, RecursionError, expat.ExpatError):
        return None
    pages = math.prod(length for _, length in axes)
    if pages == count or (count == 1 and order is None and 1 < pages <= behind):
        return stack_along(axes, ("C",), order)
    return None


def _imagej(text: str) -> Axes:
    """Pages go through channels first, then depths, then times (ImageJ's class ImagePlus)."""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    axes = [(axis, int(fields.get(name, 1))) for axis, name in (("T", "frames"), ("Z", "slices"), ("C", "channels"))]
    if any(length < 1 for _, length in axes):
        raise ValueError(text)
    images = int(fields.get("images", 1))
    if math.prod(length for _, length in axes) == images:
        return axes
    return [("pages", images)]  # old stacks have only their number


def _shaped(text: str, first: Page) -> Axes:
    """Return the axes before those of a page, as tifffile writes them."""
    record = json.loads(text)
    shape = [length if type(length) is int and length > 0 else 0 for length in record["shape"]]
    height, width, samples = (first.number(code, 1) for code in (ifd.HEIGHT, ifd.WIDTH, ifd.SAMPLES))
    inner = (
        [[height, width, samples], [samples, height, width]] if samples > 1 else [[height, width], [height, width, 1]]
    )
    known = next(len(part) for part in inner if shape[-len(part) :] == part)
    names = record.get("axes")
    if not isinstance(names, str) or len(names) != len(shape):
        names = "Q" * len(shape)
    outer = [("pages" if name in "QI" else name, length) for name, length in zip(names, shape, strict=True)]
    return outer[: len(shape) - known] or [("pages", 1)]


def _ome(text: str, samples: int, count: int) -> tuple[Axes, list[int] | None]:
    """Return the axes of the first image, and the page of each place (OME-TIFF specification, "TiffData")."""
    found, parts = ome_pixels(text)
    sizes = {axis: int(found[f"Size{axis}"]) for axis in "ZCT"}
    if sizes["C"] % samples or min(sizes.values()) < 1:
        raise ValueError(text)
    sizes["C"] //= samples
    names = found["DimensionOrder"][2:]
    if sorted(names) != ["C", "T", "Z"] or math.prod(sizes.values()) != count:
        raise ValueError(text)
    axes = [(axis, sizes[axis]) for axis in reversed(names)]
    return axes, _places(parts, names, sizes, samples, count)


def ome_pixels(text: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return the first image in OME-XML: the attributes of its Pixels, and of each of its TiffData.

    Raises:
        ValueError: the text declares entities.
        xml.parsers.expat.ExpatError: the text is not XML.
    """
    found: dict[str, str] = {}
    parts: list[dict[str, str]] = []
    open_images = 0

    def begin(name: str, attributes: dict[str, str]) -> None:
        nonlocal open_images
        kind = name.rpartition(":")[2]
        open_images += kind == "Image"
        if open_images == 1 and kind == "Pixels" and not found:
            found.update(attributes)
        elif open_images == 1 and kind == "TiffData":
            parts.append(attributes)

    def refuse(*_: object) -> None:
        raise ValueError("entities are not read")

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    parser.EntityDeclHandler = refuse
    parser.Parse(text.encode(), True)
    return found, parts


def _places(
    parts: Sequence[dict[str, str]], names: str, sizes: dict[str, int], samples: int, count: int
) -> list[int] | None:
    """Return the page of each place, or None if they are in order."""
    if not any(set(part) & {"IFD", "FirstZ", "FirstC", "FirstT"} for part in parts):
        return None
    order: list[int | None] = [None] * count
    filled = 0
    for part in parts:
        place, step = 0, 1
        for axis in names:
            at = int(part.get(f"First{axis}", 0))
            place += (at // samples if axis == "C" else at) * step
            step *= sizes[axis]
        page = int(part.get("IFD", 0))
        more = min(int(part.get("PlaneCount", 1 if "IFD" in part else count)), count - filled)
        filled += more  # so that many parts of many planes take no more time than there are pages
        for k in range(more):
            order[place + k] = page + k
    pages = [page for page in order if page is not None]
    if sorted(pages) != list(range(count)):
        raise ValueError("not every page has a place")
    return pages


def _kind(page: Page) -> tuple[object, ...]:
    return tuple(page.tags.get(code, (0, None))[1] for code in _KIND)


def _smaller(page: Page, than: Page) -> bool:
    return all(page.number(side, 0) < than.number(side, 0) for side in (ifd.WIDTH, ifd.HEIGHT))
