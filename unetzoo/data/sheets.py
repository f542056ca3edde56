"""A sheet of pictures with their masks, as training sees them."""

from __future__ import annotations

import math
import os

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo import images
from unetzoo.data.dataset import SegmentationDataset
from unetzoo.data.labels import IGNORED
from unetzoo.errors import ConfigError

_SIDE, _GAP = 256, 4


def preview(dataset: SegmentationDataset, path: str | os.PathLike[str], *, count: int = 16, columns: int = 4) -> None:
    """Write a PNG sheet of items with their masks laid over them.

    Pictures are taken evenly from the whole set; where it has fewer than ``count``, they come again as a later
    epoch draws them. Each is stretched to its own darkest and brightest values, those of more or fewer than three
    channels by channel, and shown at up to 256 pixels a side: one channel grey, of more than three the first three.
    Background is not coloured; what does not count is darkened.

    Raises:
        ConfigError: counts that are not whole numbers from 1 up.
        InputError: a file that cannot be read, or the sheet cannot be written.
    """
    problems = [
        f"{name}={value!r}: a whole number from 1 up is needed"
        for name, value in (("count", count), ("columns", columns))
        if type(value) is not int or value < 1
    ]
    if problems:
        raise ConfigError("cannot draw a preview", problems)
    length = len(dataset)
    draws = [divmod(k, length) if count > length else (0, k * length // count) for k in range(count)]
    tiles = [_tile(dataset, draw) for draw in draws]
    height, width = (max(tile.shape[dim] for tile in tiles) + _GAP for dim in (1, 2))
    columns = min(columns, count)
    sheet = torch.full((3, math.ceil(count / columns) * height + _GAP, columns * width + _GAP), 255, dtype=torch.uint8)
    for k, tile in enumerate(tiles):
        y, x = (k // columns) * height + _GAP, (k % columns) * width + _GAP
        sheet[:, y : y + tile.shape[1], x : x + tile.shape[2]] = tile
    images.write_png(sheet, path)


def _tile(dataset: SegmentationDataset, draw: tuple[int, int]) -> Tensor:
    """Return one item as (3, H, W) uint8."""
    item = dataset[draw]
    image, target = item["image"], item["target"]
    if dataset.mean is not None and dataset.std is not None:
        mean, std = (torch.tensor(values)[:, None, None] for values in (dataset.mean, dataset.std))
        image = image * std + mean
    shown = _stretched(image)
    shown[:, (target == IGNORED).reshape(-1, *target.shape[-2:]).all(0)] //= 3
    tile = images.overlay(shown, _masks(target, dataset), alpha=0.4)
    side = max(tile.shape[1:])
    if side <= _SIDE:
        return tile
    size = [max(1, round(length * _SIDE / side)) for length in tile.shape[1:]]
    return F.interpolate(tile[None].float(), size, mode="bilinear", antialias=True)[0].round().byte()


def _stretched(image: Tensor) -> Tensor:
    """Return (C, H, W) float as uint8; the three channels of RGB together, so that their colours stay."""
    dims = (0, 1, 2) if image.shape[0] == 3 else (1, 2)
    low, high = image.amin(dims, keepdim=True), image.amax(dims, keepdim=True)
    return ((image - low) / (high - low).clamp(min=1e-12) * 255).round().byte()


def _masks(target: Tensor, dataset: SegmentationDataset) -> Tensor:
    """Return what is coloured, (H, W) or (classes, H, W) bool."""
    if dataset.task != "multiclass":
        return target == 1
    return target == torch.arange(1, dataset.num_classes)[:, None, None]
