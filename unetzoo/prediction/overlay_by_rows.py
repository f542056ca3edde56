"""Overlays of images too large for memory: image and mask are made smaller first, so neither is held completely."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unetzoo import images
from unetzoo.config import ModelConfig
from unetzoo.prediction.by_rows import in_mask
from unetzoo.prediction.inputs import Rows
from unetzoo.prediction.partial import PartialMask
from unetzoo.prediction.results import of_files
from unetzoo.prediction.showing import Look

SIDE = 2000
"""Largest number of pixels of an overlay's longer side."""


def shrinking(height: int, width: int) -> float:
    """Return how many pixels of an image, in each direction, a pixel of its overlay covers; 1 if it is not smaller."""
    return max(1.0, max(height, width) / SIDE)


def scale_said(down: float, size: tuple[float, float] | None) -> str:
    """Return a description of the size of an overlay's pixel.

    Args:
        down: pixels of the mask that it covers, in each direction.
        size: its size in µm, down and across; None if unknown.
    """
    if size is None:
        return f"{down:.4g} × {down:.4g} of the mask"
    high, wide = (f"{side:.4g}" for side in size)
    return f"{down:.4g} × {down:.4g} of the mask, {wide if wide == high else f'{wide} × {high}'} µm"


def write_overlay(mask: PartialMask, source: Rows, config: ModelConfig, path: Path, *, outline: bool) -> None:
    """Write an overlay as PNG, with each class in its colour. The PNG text "Description" gives its scale.

    A pixel of the overlay shows the mask at its middle, and the mean of the image's pixels in it; for a slide, the
    image is taken from the nearest finer level.

    Args:
        mask: the mask, with all rows done.
        source: the image.
        config: configuration of the model.
        path: path of the file.
        outline: draw only the outlines.

    Raises:
        InputError: the image cannot be read.
        WriteError: the file cannot be written.
    """
    down = shrinking(source.height, source.width)
    height, width = (max(1, round(side / down)) for side in (source.height, source.width))
    look = Look(source.small(height, width), of_files(_layers(mask, config, height, width), config), None, config)
    size = None if source.mpp is None else (source.mpp[0] * down, source.mpp[1] * down)
    images.write_png(look.painted(outline=outline), path, f"1 pixel is {scale_said(down, size)}")


def _layers(mask: PartialMask, config: ModelConfig, height: int, width: int) -> list[Tensor]:
    """Return the layers of a mask at another size, with the values of files: each pixel has the value at its middle."""
    layers, whole, across = mask.shape
    rows = [math.floor((k + 0.5) * whole / height) for k in range(height)]
    columns = ((np.arange(width) + 0.5) * across / width).astype(np.int64)
    found = (np.stack([mask.rows(layer, row, 1)[0, columns] for row in rows]) for layer in range(layers))
    return [torch.from_numpy(in_mask(part, config)) for part in found]
