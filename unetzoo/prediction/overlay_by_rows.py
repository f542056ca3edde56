"""Overlays of images beyond memory: image and mask are made small first, so that neither is held as a whole."""

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
"""Pixels of an overlay's longer side, at most."""


def shrinking(height: int, width: int) -> float:
    """Return how many pixels of an image, down and across, are one of its overlay; 1 where it is not made smaller."""
    return max(1.0, max(height, width) / SIDE)


def scale_said(down: float, size: tuple[float, float] | None) -> str:
    """Return what a pixel of an overlay is.

    Args:
        down: pixels of the mask, down and across.
        size: in µm, down and across; None where nothing says so.
    """
    if size is None:
        return f"{down:.4g} × {down:.4g} of the mask"
    high, wide = (f"{side:.4g}" for side in size)
    return f"{down:.4g} × {down:.4g} of the mask, {wide if wide == high else f'{wide} × {high}'} µm"


def write_overlay(mask: PartialMask, source: Rows, config: ModelConfig, path: Path, *, outline: bool) -> None:
    """Write an overlay as PNG: each class in its colour. A text in it, "Description", has its scale.

    Of the mask it has the pixels in the middle of its own; of the image their means, of a slide from the nearest finer
    level.

    Args:
        mask: whose rows are all done.
        source: the image.
        config: of the model.
        path: of the file.
        outline: lay the outlines alone over it.

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
    """Return the layers of a mask in another size, as files have them: of each pixel the one in its middle."""
    layers, whole, across = mask.shape
    rows = [math.floor((k + 0.5) * whole / height) for k in range(height)]
    columns = ((np.arange(width) + 0.5) * across / width).astype(np.int64)
    found = (np.stack([mask.rows(layer, row, 1)[0, columns] for row in rows]) for layer in range(layers))
    return [torch.from_numpy(in_mask(part, config)) for part in found]
