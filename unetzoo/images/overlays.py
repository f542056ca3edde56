"""Masks laid over images, each in its colour."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CYAN = "#42d4f4"
COLOURS = ["#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", CYAN, "#f032e6"]
"""Of the masks of an overlay, in the order of the classes."""


def colours_on(image: Tensor, count: int) -> list[str]:
    """Return the colours of masks laid over a picture: :data:`COLOURS` in turn; of one alone cyan where all is red.

    Args:
        image: (C, H, W). It is red if that channel's mean is above one and a half times those of the others: retinas
            and endoscopy are, stained tissue is not.
        count: of masks.
    """
    if count == 1 and image.shape[0] >= 3:
        red, green, blue = image[:3].float().mean((-2, -1)).tolist()
        if red > 1.5 * max(green, blue):
            return [CYAN]
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


def overlay(image: Tensor, masks: Tensor, alpha: float = 0.5) -> Tensor:
    """Return the picture as (3, H, W) uint8 with one colour laid over each mask, and twice as much along its rim.

    The colours are those of :func:`colours_on`; where masks overlap, they are laid over each other. The rim lies inside
    of the mask; it is as wide as the 512th part of the picture's shorter side, a pixel at least.

    Args:
        image: (C, H, W), uint8, or uint16, which is stretched to its own darkest and brightest values; one channel
            is shown grey, of more than three the first three.
        masks: (H, W) or (classes, H, W), bool.
        alpha: how much of the colour covers, from 0 to 1; from 0.5 the rim has nothing but its colour.
    """
    if image.dtype != torch.uint8:
        light = image.float() - image.float().min()
        image = (light / light.max().clamp(min=1) * 255).byte()
    rgb = image[:1].expand(3, -1, -1) if image.shape[0] < 3 else image[:3]
    shown = rgb.float()
    layers = masks.reshape(-1, *masks.shape[-2:])
    width = max(1, min(masks.shape[-2:]) // 512)
    outside = F.max_pool2d((~layers)[:, None].float(), 2 * width + 1, stride=1, padding=width)[:, 0] > 0
    for mask, rim, name in zip(layers, layers & outside, colours_on(rgb, len(layers)), strict=True):
        colour = torch.tensor([*bytes.fromhex(name[1:])])[:, None, None]
        cover = alpha * (1 + rim.float()).clamp(max=1 / alpha if alpha else 1)
        shown = torch.where(mask, (1 - cover) * shown + cover * colour, shown)
    return shown.byte()
