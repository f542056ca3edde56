"""Sheets of images side by side, with masks laid over them, titles and legends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unetzoo import images
from unetzoo.checks import class_names_of
from unetzoo.markup import Key as Key
from unetzoo.printing import printable

GAP = 4
"""White pixels around each tile."""
COLUMNS = ("image", "true mask", "predicted mask")
"""Titles of the tiles that :func:`beside` returns."""
NARROWEST = 160
"""Minimum width of a column that has a title, in pixels."""
LINE, LETTERS = 20, 13
"""Height of a line of text, and of its letters, in pixels."""


@dataclass(frozen=True)
class Row:
    """Tiles side by side, below a line of text.

    Attributes:
        title: the line; may be untrusted.
        tiles: (3, H, W) uint8 of any sizes.
    """

    title: str
    tiles: Sequence[Tensor]


def stretched(image: Tensor) -> Tensor:
    """Return (C, H, W) floating point as uint8, from its own darkest to its brightest value.

    The three channels of RGB are stretched together, which keeps the colours; other channels are stretched one by one.
    """
    dims = (0, 1, 2) if image.shape[0] == 3 else (1, 2)
    low, high = image.amin(dims, keepdim=True), image.amax(dims, keepdim=True)
    return ((image - low) / (high - low).clamp(min=1e-12) * 255).round().byte()


def visible(image: Tensor) -> Tensor:
    """Return an image (C, H, W) of any type as ``images.overlay`` takes it: unless uint8 or uint16, it is stretched."""
    return image if image.dtype in (torch.uint8, torch.uint16) else stretched(image.float())


def denormalised(image: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """Return the image that :func:`unetzoo.images.normalised` was given."""
    return image if mean is None or std is None else image * std[:, None, None] + mean[:, None, None]


def class_masks(target: Tensor, task: str, num_classes: int) -> Tensor:
    """Return the parts of a target to colour: (H, W) bool for binary, else (classes, H, W) without the background."""
    if task != "multiclass":
        return target == 1
    return target == torch.arange(1, num_classes)[:, None, None]


def predicted(probabilities: Tensor, task: str) -> Tensor:
    """Return the target that (classes, H, W) probabilities give: the likeliest class, or all classes above 0.5."""
    if task == "multiclass":
        return probabilities.argmax(dim=0)
    return (probabilities[0] if task == "binary" else probabilities) > 0.5


def shrunk(tile: Tensor, side: int) -> Tensor:
    """Return (3, H, W) uint8 with no side longer than ``side`` pixels."""
    longest = max(tile.shape[1:])
    if longest <= side:
        return tile
    size = [max(1, round(length * side / longest)) for length in tile.shape[1:]]
    return F.interpolate(tile[None].float(), size, mode="bilinear", antialias=True)[0].round().byte()


def enlarged(tile: Tensor, side: int) -> Tensor:
    """Return (3, H, W) enlarged by a whole number, so that its longest side is at most ``side``; never shrunk."""
    times = max(1, side // max(tile.shape[1:]))
    return tile.repeat_interleave(times, 1).repeat_interleave(times, 2)


def nearest(numbers: Tensor, size: Sequence[int]) -> Tensor:
    """Return integers, (H, W) or (layers, H, W), at another height and width, without interpolating between them."""
    layers = numbers.reshape(1, -1, *numbers.shape[-2:]).double()  # there may be more objects than float32 can count
    return (
        F.interpolate(layers, tuple(size), mode="nearest-exact").to(numbers.dtype).reshape(*numbers.shape[:-2], *size)
    )


def beside(image: Tensor, target: Tensor, prediction: Tensor, task: str, num_classes: int) -> list[Tensor]:
    """Return three tiles: the image, (C, H, W) float, the same with its true mask, and with the predicted one."""
    shown = stretched(image)
    plain = images.overlay(shown, torch.zeros(shown.shape[1:], dtype=torch.bool))
    return [plain, *(images.overlay(shown, class_masks(mask, task, num_classes), 0.4) for mask in (target, prediction))]


def beside_objects(image: Tensor, true: Tensor, found: Tensor) -> list[Tensor]:
    """Return three tiles, like :func:`beside`, in which neighbouring objects differ in colour.

    Args:
        image: (C, H, W), floating point.
        true, found: (H, W) or (planes, H, W), integers: a number for each object, 0 between them.
    """
    shown = stretched(image)
    plain = images.overlay(shown, torch.zeros(shown.shape[1:], dtype=torch.bool))
    return [plain, *(images.overlay_objects(shown, labels, 0.4) for labels in (true, found))]


def class_keys(
    shown: Sequence[Tensor], task: str, num_classes: int, class_names: Sequence[str] | None, *, objects: bool = False
) -> list[Key]:
    """Return the legend of images, (C, H, W), with masks laid over them: the classes that are coloured.

    Args:
        shown: the images without their masks; on red images, single classes and objects have other colours.
        task, num_classes, class_names: of the network.
        objects: whether objects are coloured instead of classes.
    """
    if objects:
        colours = dict.fromkeys(colour for image in shown for colour in images.object_palette(image))
        return [Key("objects: neighbours differ in colour", tuple(colours))]
    names = class_names_of(class_names, task, num_classes)[task == "multiclass" :]
    by_image = [images.colours_on(image, len(names)) for image in shown]
    return [Key(name, tuple(dict.fromkeys(colours[k] for colours in by_image))) for k, name in enumerate(names)]


def titled(rows: Sequence[Row], keys: Sequence[Key] = (), columns: Sequence[str] = COLUMNS) -> Tensor:
    """Return rows of tiles as one image on white, with titles of rows and columns, and a legend at the top.

    Lines that are too long end in "…". The pixels of the tiles are unchanged.
    """
    height, width = ((max(tile.shape[dim] for row in rows for tile in row.tiles) + GAP) for dim in (1, 2))
    width = max(width, NARROWEST)
    across = len(columns) * width + GAP
    places = [(GAP + k * width, title) for k, title in enumerate(columns)]
    parts = [*_legend(keys, across), _line([(x, [], title, width - GAP) for x, title in places], across)]
    for row in rows:
        parts.append(_line([(GAP, [], row.title, across - 2 * GAP)], across))
        tiles = torch.full((3, height, across), 255, dtype=torch.uint8)
        for (x, _), tile in zip(places, row.tiles, strict=True):
            tiles[:, : tile.shape[1], x : x + tile.shape[2]] = tile
        parts.append(tiles)
    return torch.cat(parts, dim=1)


_Piece = tuple[int, Sequence[str], str, int]
"""Where a piece begins, the colours of the squares before its text, the text, and the width in pixels for both."""


def _legend(keys: Sequence[Key], width: int) -> list[Tensor]:
    """Return the lines of a legend, each filled as far as possible."""
    lines: list[list[_Piece]] = []
    x = width
    for key in keys:
        needed = min(round(_font().getlength(printable(key.name))) + LETTERS * len(key.colours) + 16, width - 2 * GAP)
        if x + needed > width - GAP:
            lines.append([])
            x = GAP
        lines[-1].append((x, key.colours, key.name, needed))
        x += needed
    return [_line(line, width) for line in lines]


def _line(pieces: Sequence[_Piece], width: int) -> Tensor:
    """Return a line of text, (3, LINE, width) uint8."""
    canvas = Image.new("RGB", (width, LINE), "white")
    draw, font = ImageDraw.Draw(canvas), _font()
    for x, colours, text, room in pieces:
        for k, colour in enumerate(colours):
            left = x + k * LETTERS
            draw.rectangle((left, 5, left + LETTERS - 4, LETTERS + 1), fill=colour)
        start = len(colours) * LETTERS
        draw.text((x + start, 2), _shortened(printable(text), room - start), fill="black", font=font)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)


def _shortened(text: str, room: int) -> str:
    """Return text shortened to at most ``room`` pixels."""
    if _font().getlength(text) <= room:
        return text
    kept = len(text)
    while kept and _font().getlength(f"{text[:kept]}…") > room:
        kept -= max(1, kept // 16)
    return f"{text[:kept]}…"


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(LETTERS)


def sheet(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return rows of tiles, (3, H, W) uint8 of any sizes, as one image on white."""
    tiles = [tile for row in rows for tile in row]
    height, width = (max(tile.shape[dim] for tile in tiles) + GAP for dim in (1, 2))
    columns = max(map(len, rows))
    whole = torch.full((3, len(rows) * height + GAP, columns * width + GAP), 255, dtype=torch.uint8)
    for k, row in enumerate(rows):
        for n, tile in enumerate(row):
            y, x = k * height + GAP, n * width + GAP
            whole[:, y : y + tile.shape[1], x : x + tile.shape[2]] = tile
    return whole
