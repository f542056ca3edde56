"""Sample images to try the model on: drawn here, without anybody's data, and never fetched."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo import drawing, images
from unetzoo.config import ModelConfig

_HEIGHT, _WIDTH = 256, 320


@dataclass(frozen=True)
class Drawn:
    """A sample image to try the model on.

    Attributes:
        name: its name on the page.
        file: name of its file.
        image: (3, H, W) uint8.
        content: the PNG file, with as many channels as the model takes.
    """

    name: str
    file: str
    image: Tensor
    content: bytes


def samples(config: ModelConfig) -> list[Drawn]:
    """Return images that suit the names of a model's classes; none if it takes neither grey nor colour images."""
    if config.in_channels not in (1, 3):
        return []
    named = " ".join(config.class_names or ()).lower()
    if "vessel" in named:
        drawn = [(f"Drawn vessels {k}", draw_vessels(_HEIGHT, _WIDTH, k)) for k in (1, 2)]
    elif any(word in named for word in drawing.CLASSES[1:]):
        task = "multilabel" if config.task == "multilabel" else "multiclass"
        drawn = [(f"Drawn shapes {k}", drawing.draw_shapes(128, 160, k, task)[0]) for k in (1, 2)]
    else:
        drawn = [
            ("Drawn nuclei", drawing.draw_nuclei(_HEIGHT, _WIDTH, 3)[0]),
            ("Fewer nuclei", drawing.draw_nuclei(128, 160, 5)[0]),
        ]
    return [_sample(name, image, config.in_channels) for name, image in drawn]


def _sample(name: str, image: Tensor, channels: int) -> Drawn:
    taken = image if channels == 3 else image.float().mean(0).round().byte()
    return Drawn(name, f"{name.lower().replace(' ', '_')}.png", image, images.png_of(taken))


def draw_vessels(height: int, width: int, seed: int) -> Tensor:
    """Draw dark branching vessels on a reddish background, as in a photograph of the retina.

    Returns:
        (3, height, width) uint8.
    """
    generator = torch.Generator().manual_seed(seed)
    dark = torch.zeros(height, width)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    tips = [(0.12 * width, 0.5 * height, turn, 3.2) for turn in (-0.9, -0.3, 0.35, 0.95)]
    while tips:
        left, top, turn, radius = tips.pop()
        for _ in range(14):
            bend, fork, side = torch.rand(3, generator=generator).tolist()
            turn += 0.5 * (bend - 0.5)
            left, top = left + 7 * math.cos(turn), top + 7 * math.sin(turn)
            here = _around(top, height), _around(left, width)  # far away nothing is drawn
            distance = _from_line(x[here], y[here], left, top, turn, 7.0)
            shade = ((radius - distance) / 1.5 + 0.5).clamp(0, 1) * (0.6 + 0.1 * radius)
            dark[here] = torch.maximum(dark[here], shade)
            if fork < 0.09 and radius > 1.4:
                tips.append((left, top, turn + (0.6 if side < 0.5 else -0.6), 0.7 * radius))
        if radius > 1.4 and 0 < left < width and 0 < top < height:
            tips.append((left, top, turn, 0.75 * radius))
    ground = F.interpolate(torch.randn(1, 1, 5, 6, generator=generator), (height, width), mode="bicubic")[0, 0]
    light = 1 + 0.06 * ground - 0.25 * ((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2)
    red, green, blue = 0.78 * light - 0.16 * dark, 0.42 * light - 0.19 * dark, 0.2 * light - 0.07 * dark
    noise = 0.012 * torch.randn(3, height, width, generator=generator)
    return ((torch.stack([red, green, blue]) + noise).clamp(0, 1) * 255).byte()


def _around(place: float, length: int) -> slice:
    low, high = (min(max(round(place) + step, 0), length) for step in (-14, 14))
    return slice(low, high)


def _from_line(x: Tensor, y: Tensor, left: float, top: float, turn: float, length: float) -> Tensor:
    """Return how far each pixel is from a line of a length that ends at a point."""
    along = (x - left) * math.cos(turn) + (y - top) * math.sin(turn)
    across = (y - top) * math.cos(turn) - (x - left) * math.sin(turn)
    return torch.hypot(along - along.clamp(-length, 0), across)
