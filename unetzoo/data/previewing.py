"""A contact sheet of images with their masks, as training sees them."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from unetzoo import checks, images, sheets
from unetzoo.data.dataset import SegmentationDataset
from unetzoo.data.labels import IGNORED, Labels
from unetzoo.errors import ConfigError

SIDE = 256


def preview(dataset: SegmentationDataset, path: str | os.PathLike[str], *, count: int = 16, columns: int = 4) -> None:
    """Write a PNG sheet of items, with their masks as overlays.

    Images are taken evenly from the whole set; if it has fewer than ``count``, they are repeated, augmented as in later
    epochs. Each is stretched to its own darkest and brightest values, and each channel separately unless there are
    three. It is shown at up to 256 pixels a side: one channel as grey, of more than three the first three.
    Background is not coloured; pixels that do not count are darkened.

    Raises:
        ConfigError: counts that are not whole numbers from 1 up.
        InputError: a file cannot be read.
        WriteError: the sheet cannot be written.
    """
    problems = checks.whole("count", count) + checks.whole("columns", columns)
    if problems:
        raise ConfigError("cannot draw a preview", problems)
    length = len(dataset)
    draws = [divmod(k, length) if count > length else (0, k * length // count) for k in range(count)]
    tiles = [_tile(dataset, draw) for draw in draws]
    images.write_png(sheets.sheet([tiles[k : k + columns] for k in range(0, count, columns)]), path)


def _tile(dataset: SegmentationDataset, draw: tuple[int, int]) -> Tensor:
    """Return one item as (3, H, W) uint8."""
    item = dataset[draw]
    image = sheets.denormalised(item["image"], *dataset.levels(draw[1]))
    return tile(image, item["target"], dataset.labels, item.get("ids"))


def tile(image: Tensor, target: Tensor, labels: Labels, ids: Tensor | None = None) -> Tensor:
    """Return an image with its mask as an overlay, (3, H, W) uint8, of at most 256 pixels a side.

    Args:
        image: (C, H, W), floating point.
        target: as a data set has it; pixels that do not count are darkened.
        labels: what the target means.
        ids: (H, W), a number per object and 0 elsewhere: neighbours get different colours. None: classes do.
    """
    shown = sheets.stretched(image)
    shown[:, (target == IGNORED).reshape(-1, *target.shape[-2:]).all(0)] //= 3
    if ids is not None:
        _, numbers = torch.unique(torch.cat([ids.new_zeros(1), ids.flatten()]), return_inverse=True)
        objects = numbers[1:].reshape(ids.shape)
        return sheets.shrunk(images.overlay_objects(shown, objects, alpha=0.4), SIDE)
    masks = sheets.class_masks(target, labels.pixel_task, labels.num_classes)
    return sheets.shrunk(images.overlay(shown, masks, alpha=0.4), SIDE)
