"""Images with their exact masks, for tests, examples and a first training run without data: nuclei, and shapes.

Nuclei are bright on a dark background, as in fluorescence microscopy. Shapes are discs, boxes, rings and thin lines;
their colours have the same distribution for all classes, so that only the shape tells the class. Most of an image is
background, and lines cover less than a fiftieth of it: an imbalance that a loss must be able to handle.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo import checks, images
from unetzoo.errors import ConfigError

CLASSES = ("background", "disc", "box", "ring", "line")
"""Classes of a multi-class mask, by value. A multi-label mask has all but the background."""
TASKS = ("multiclass", "multilabel")
SMALLEST = 32
"""Smallest height and width of images of shapes."""


def draw_nuclei(height: int = 256, width: int = 256, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw nuclei that do not touch, unevenly lit, a little out of focus, with haze and noise.

    Args:
        height, width: from 1 up.
        seed: the same seed draws the same image.

    Returns:
        The image, (3, height, width) uint8, grey; and its true mask, (height, width) bool: each of its connected
        components, pixels that share a corner being connected, is one nucleus or what the border leaves of it.

    Raises:
        ConfigError: lists all that is wrong.
    """
    problems = [*checks.whole("height", height), *checks.whole("width", width), *checks.whole("seed", seed, 0)]
    if problems:
        raise ConfigError("cannot draw nuclei", problems)
    generator = torch.Generator().manual_seed(seed)
    light, mask = torch.zeros(height, width), torch.zeros(height, width, dtype=torch.bool)
    for _ in range(max(1, height * width // 1600)):
        inside = _nucleus(height, width, generator)
        glow = 0.35 + 0.6 * float(torch.rand((), generator=generator))
        if not (mask & (inside > -0.16)).any():
            mask |= inside > 0
            shade = (4 * inside + 0.1).clamp(0, 1) * (1 - 0.25 * inside.clamp(0, 1))
            light = torch.maximum(light, glow * shade)
    light = _blurred(light * (1 + 0.12 * _waves(height, width, (height // 6 + 2, width // 6 + 2), generator)))
    haze = 0.07 + 0.02 * _waves(height, width, (4, 4), generator)
    grey = haze + 0.85 * light + 0.02 * torch.randn(height, width, generator=generator)
    return (grey.clamp(0, 1) * 255).byte().expand(3, -1, -1).contiguous(), mask


def _nucleus(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return for each pixel's centre how far inside a random nucleus it is: 1 in the middle, 0 on its rim."""
    v, u, size, stretch, turn, phase = torch.rand(6, generator=generator).tolist()
    y = torch.arange(height)[:, None] + 0.5 - v * height
    x = torch.arange(width)[None, :] + 0.5 - u * width
    radius, turn = 7 + 7 * size, math.pi * turn
    along = (x * math.cos(turn) + y * math.sin(turn)) / (radius * (1 + 0.35 * stretch))
    across = (y * math.cos(turn) - x * math.sin(turn)) / (radius * (1 - 0.2 * stretch))
    angle = torch.atan2(across, along)
    rim = 1 + 0.06 * torch.cos(2 * angle + 6 * phase) + 0.04 * torch.cos(3 * angle + 11 * phase)
    return 1 - torch.hypot(along, across) / rim


def _waves(height: int, width: int, knots: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return (height, width) of smooth normally distributed values, drawn at ``knots`` and interpolated between."""
    values = torch.randn(1, 1, *knots, generator=generator)
    return F.interpolate(values, (height, width), mode="bicubic", align_corners=True)[0, 0]


def _blurred(plane: Tensor) -> Tensor:
    """Return (H, W) blurred by a Gaussian of σ = 1.2 pixels."""
    bell = torch.exp(-0.5 * (torch.arange(-4, 5) / 1.2) ** 2)
    bell /= bell.sum()
    wide = F.pad(plane[None, None], (4,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(wide, bell[None, None, None]), bell[None, None, :, None])[0, 0]


def draw_shapes(height: int = 128, width: int = 128, seed: int = 0, task: str = "multiclass") -> tuple[Tensor, Tensor]:
    """Draw up to three each of discs, boxes and rings, and one or two lines 1 to 2 pixels wide, on noisy background.

    In a multi-class image, later shapes hide earlier ones, and lines come last. In a multi-label image, shapes
    lighten or darken what is below them, and a pixel where they overlap belongs to all of them.

    Args:
        height, width: from 32 up.
        seed: the same seed draws the same image.
        task: "multiclass" or "multilabel".

    Returns:
        The image, (3, height, width) uint8, and its mask, uint8: (height, width) of 0 to 4, indices of
        :data:`CLASSES`; or (4, height, width) of 0 and 1, one layer for each of ``CLASSES[1:]``.

    Raises:
        ConfigError: lists all that is wrong.
    """
    problems = checks.whole("height", height, SMALLEST) + checks.whole("width", width, SMALLEST)
    problems += checks.whole("seed", seed, 0, 2**63 - 1) + checks.one_of("task", task, TASKS)
    if problems:
        raise ConfigError("cannot draw shapes", problems)
    generator = torch.Generator().manual_seed(seed)
    ground = 0.25 + 0.5 * torch.rand(3, generator=generator)
    canvas = ground[:, None, None].repeat(1, height, width)
    mask = torch.zeros(len(CLASSES), height, width, dtype=torch.uint8)
    for kind in _kinds(generator):
        distance = _distance(kind, height, width, generator)
        colour, coverage = _colour(ground, generator), (0.5 - distance).clamp(0, 1)
        if task == "multiclass":
            canvas = torch.lerp(canvas, colour[:, None, None], coverage)
        else:
            canvas = canvas + 0.5 * (colour - ground)[:, None, None] * coverage
        inside = distance <= 0
        if task == "multiclass":
            mask[:, inside] = 0
        mask[kind, inside] = 1
    noise = 0.04 if task == "multiclass" else 0.02  # as the shapes are half as strong
    canvas = canvas + noise * torch.randn(canvas.shape, generator=generator)
    image = (canvas.clamp(0, 1) * 255).round().byte()
    return image, mask.argmax(0).byte() if task == "multiclass" else mask[1:].contiguous()


def write_shapes(
    folder: str | os.PathLike[str],
    count: int,
    size: tuple[int, int] = (128, 128),
    task: str = "multiclass",
    seed: int = 0,
) -> None:
    """Write drawn images and masks as a folder of data: ``images/000.png``, ``masks/000.png`` and so on.

    Multi-class masks are grey PNG files of class indices; multi-label ones are ``masks/<class>/000.png`` of 0 and 255.

    Args:
        folder: created if it does not exist; must be empty.
        count: number of images, from 1 up.
        size: (height, width) of each, from 32 up.
        task: "multiclass" or "multilabel".
        seed: data sets with different seeds share no image.

    Raises:
        ConfigError: lists all that is wrong; nothing was written.
        WriteError: a file cannot be written.
    """
    folder = Path(folder)
    problems = [
        *checks.sides("size", size, SMALLEST),
        *checks.whole("seed", seed, 0, 10**12),
        *checks.one_of("task", task, TASKS),
        *checks.whole("count", count, 1, _MOST),
    ]
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        problems.append(f"{str(folder)!r} is not an empty folder: give a new one, or empty it")
    if problems:
        raise ConfigError("cannot write shapes", problems)
    for index in range(count):
        name = f"{index:0{max(3, len(str(count - 1)))}d}.png"
        image, mask = draw_shapes(*size, seed=seed * _MOST + index, task=task)
        images.write_png(image, folder / "images" / name)
        if task == "multiclass":
            images.write_png(mask, folder / "masks" / name)
        else:
            for label, layer in zip(CLASSES[1:], mask, strict=True):
                images.write_png(layer * 255, folder / "masks" / label / name)


_MOST = 1_000_000  # images of one seed, each of which has a seed of its own, in sequence


def _kinds(generator: torch.Generator) -> list[int]:
    """Return the classes of the shapes to draw, in a random order, lines last."""
    line = CLASSES.index("line")
    shapes = torch.arange(1, line).repeat_interleave(torch.randint(4, (line - 1,), generator=generator))
    order = torch.randperm(len(shapes), generator=generator)
    return [*shapes[order].tolist(), *[line] * int(torch.randint(1, 3, (), generator=generator))]


def _distance(kind: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return each pixel's distance from a random shape, in pixels; inside the shape it is negative."""
    u, v, size, form, turn = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    side, turn = min(height, width), math.pi * turn
    y, x = torch.meshgrid(torch.arange(height) - u * height, torch.arange(width) - v * width, indexing="ij")
    along = x * math.cos(turn) + y * math.sin(turn)
    across = y * math.cos(turn) - x * math.sin(turn)
    radius = side * (0.08 + 0.1 * size)
    distance: Tensor
    match CLASSES[kind]:
        case "disc":
            distance = torch.hypot(x, y) - radius
        case "box":
            distance = torch.maximum(along.abs() - radius, across.abs() - radius * (0.5 + 0.5 * form))
        case "ring":
            distance = (torch.hypot(x, y) - radius).abs() - radius * (0.15 + 0.1 * form)
        case _:
            thickness = 1 + form
            # A line covers at most 0.8 % of the image's pixels.
            half = 0.5 * (0.5 + 0.5 * size) * min(0.7 * side, 0.008 * height * width / thickness)
            distance = torch.hypot((along.abs() - half).clamp(min=0), across) - thickness / 2
    return distance


def _colour(ground: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random colour that differs from the background's in each channel."""
    shift = (0.2 + 0.3 * torch.rand(3, generator=generator)) * (2 * torch.randint(2, (3,), generator=generator) - 1)
    return (ground + shift).clamp(0, 1)
