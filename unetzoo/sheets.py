"""Images side by side, with masks laid over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo import images

GAP = 4
"""White pixels around each tile."""


def stretched(image: Tensor) -> Tensor:
    """Return (C, H, W) floating point as uint8, from its own darkest to its brightest value.

    The three channels of RGB are stretched together, so that their colours stay; others each by itself.
    """
    dims = (0, 1, 2) if image.shape[0] == 3 else (1, 2)
    low, high = image.amin(dims, keepdim=True), image.amax(dims, keepdim=True)
    return ((image - low) / (high - low).clamp(min=1e-12) * 255).round().byte()


def visible(image: Tensor) -> Tensor:
    """Return an image (C, H, W) of any type as ``images.overlay`` takes it: others than 8 and 16 bits stretched."""
    return image if image.dtype in (torch.uint8, torch.uint16) else stretched(image.float())


def denormalised(image: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Tensor:
    """Return what :func:`unetzoo.images.normalised` was given."""
    if mean is None or std is None:
        return image
    return image * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]


def class_masks(target: Tensor, task: str, num_classes: int) -> Tensor:
    """Return what is coloured of a target: (H, W) bool for binary, else (classes, H, W), background left out."""
    if task != "multiclass":
        return target == 1
    return target == torch.arange(1, num_classes)[:, None, None]


def predicted(probabilities: Tensor, task: str) -> Tensor:
    """Return the target that (classes, H, W) probabilities amount to: the likeliest class, or those above 0.5."""
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


def beside(image: Tensor, target: Tensor, prediction: Tensor, task: str, num_classes: int) -> list[Tensor]:
    """Return three tiles: the image, (C, H, W) float, the same with its true mask, and with the predicted one."""
    shown = stretched(image)
    plain = images.overlay(shown, torch.zeros(shown.shape[1:], dtype=torch.bool))
    return [plain, *(images.overlay(shown, class_masks(mask, task, num_classes), 0.4) for mask in (target, prediction))]


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
