"""Where on the globe a GeoTIFF lies: the tags that say so, to be kept on its mask."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

Tag = tuple[int, int, Any]
"""Code, type and value of a tag of TIFF."""
_CODES = (33550, 33922, 34264, 34735, 34736, 34737)
"""Of GeoTIFF 1.1: scale, tie points, matrix, and the directory of keys with its numbers and texts."""


def geography(path: str | os.PathLike[str]) -> tuple[Tag, ...]:
    """Return the tags of a GeoTIFF that say where it lies; none of other files."""
    from PIL import Image, UnidentifiedImageError

    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        return ()
    try:
        with Image.open(path) as file:
            tags: Any = getattr(file, "tag_v2", {})
            return tuple((code, tags.tagtype[code], tags[code]) for code in _CODES if code in tags)
    except (UnidentifiedImageError, Image.DecompressionBombError):  # many bands, or many pixels: Pillow does not look
        import tifffile

        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            found = [page.tags.get(code) for code in _CODES]
            return tuple((tag.code, int(tag.dtype), tag.value) for tag in found if tag is not None)
