"""Marks in masks: they record the image of a mask, and what was written with it."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetzoo import images
from unetzoo.files.identity import identity, place
from unetzoo.images.ifd import Page

SOFTWARE = 305
"""TIFF tag that holds the mark; in PNG it is a text with this tag's name, in zarr an attribute."""
BEGIN = "unetzoo"
"""First word of each mark, and the name of the attribute in zarr."""
_STRIPS, _TILES = (273, 279), (324, 325)


@dataclass(frozen=True)
class Mark:
    """What a mask records about itself. ``str()`` gives the text that is written into the file.

    Attributes:
        place: a digest of the path of its image.
        identity: identity of the image; empty if the mask is cut off, and in masks of unetzoo 0.1, which record only
            the place.
        others: name → size in bytes of the files written with it, such as "overlays".
    """

    place: str
    identity: str
    others: Mapping[str, int]

    @classmethod
    def of(cls, source: str | os.PathLike[str]) -> Mark:
        """Return the mark of an image as it is now.

        Raises:
            OSError: it cannot be read.
        """
        return cls(place(source), _identity(Path(source)), {})

    def __str__(self) -> str:
        return " ".join([BEGIN, self.place, self.identity, *(f"{name}:{size}" for name, size in self.others.items())])

    def same_image(self, other: Mark) -> bool:
        """Return whether both are of one image that has not changed."""
        return (self.place, self.identity) == (other.place, other.identity)


def _identity(path: Path) -> str:
    """Return the identity of an image; for MIRAX, whose pixels are in a folder next to the file, that of both."""
    if path.suffix.lower() == ".mrxs" and path.with_suffix("").is_dir():
        both = f"{identity(path)} {identity(path.with_suffix(''))}"
        return hashlib.sha256(both.encode()).hexdigest()[:24]
    return identity(path)


def mark_in(path: Path) -> Mark | None:
    """Return the mark of a mask; None for other files."""
    text, whole = _looked_at(path)
    begin, *words = text.split() if isinstance(text, str) and text.strip() else [""]
    if begin != BEGIN or not words:
        return None
    others = dict(word.partition(":")[::2] for word in words[2:])
    if not all(size.isdecimal() for size in others.values()):
        return None
    return Mark(
        words[0], words[1] if whole and len(words) > 1 else "", {name: int(size) for name, size in others.items()}
    )


def is_cut_off(path: Path) -> bool:
    """Return whether a file is cut off before the end of its pixels, or is not a PNG or TIFF."""
    return not _looked_at(path)[1]


def _looked_at(path: Path) -> tuple[Any, bool]:
    """Return the text of a mark, if there is one, and whether the file is complete."""
    try:
        match path.suffix.lower():
            case ".png":
                return _in_png(path)
            case ".tif" | ".tiff":
                return _in_tiff(path)
            case _:
                return _in_zarr(path), True
    except (OSError, ValueError, KeyError, TypeError):  # InputError is a ValueError
        return None, False


def _in_png(path: Path) -> tuple[str | None, bool]:
    """Return the text of a PNG, and whether its chunks reach to the end of the file."""
    text, kind = None, b""
    with path.open("rb") as stream:
        if stream.read(8) != b"\x89PNG\r\n\x1a\n":
            return None, False
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            body = stream.read(length) if kind == b"tEXt" and length < 1000 else None
            if body is None:
                stream.seek(length, os.SEEK_CUR)
            elif body.startswith(b"Software\0"):
                text = body.partition(b"\0")[2].decode("latin-1")
            stream.seek(4, os.SEEK_CUR)
        whole = kind == b"IEND" and stream.tell() == os.fstat(stream.fileno()).st_size
    return text, whole


def _in_tiff(path: Path) -> tuple[str | None, bool]:
    """Return the text of a TIFF, and whether the file contains the strips and tiles of all levels completely."""
    pages = images.pages_of(path, (SOFTWARE, *_STRIPS, *_TILES))
    if not pages:
        return None, False
    size = path.stat().st_size
    whole = images.ifd.ends_well(path, pages[-1]) and all(_lies_within(page, size) for page in pages)
    return pages[0].text(SOFTWARE), whole


def _lies_within(page: Page, size: int) -> bool:
    offsets, counts = (
        page.numbers(strips) or page.numbers(tiles) for strips, tiles in zip(_STRIPS, _TILES, strict=True)
    )
    return len(offsets) > 0 and all(first + count <= size for first, count in zip(offsets, counts, strict=True))


def _in_zarr(path: Path) -> Any:
    return json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"][BEGIN]
