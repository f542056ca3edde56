"""Images on which a file is calibrated and compared; drawn at random where none are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo import images
from unetzoo.config import ModelConfig
from unetzoo.errors import InputError
from unetzoo.exporting.request import Request

LONGEST = 512
"""Pixels of a side that are used, from the middle."""


class Given(NamedTuple):
    """The same images twice.

    Attributes:
        file: as the exported file takes them.
        models: as each of the models takes them, float32.
    """

    file: Tensor
    models: tuple[Tensor, ...]


def read_images(files: Sequence[Path], config: ModelConfig, inputs: str) -> list[Tensor]:
    """Return the images, (in_channels, H, W), as they are stored.

    Raises:
        InputError: lists those that cannot be read, or do not fit model and inputs.
    """
    found, problems = [], []
    for path in files:
        try:
            raster = images.read(path)
            image = images.fit_channels(raster.pixels, config.in_channels, raster.alpha)
        except InputError as error:
            problems.append(str(error) if str(path) in str(error) else f"{path.name}: {error}")
            continue
        stored = str(image.dtype).removeprefix("torch.")
        if inputs != "normalised" and stored != inputs:
            problems.append(f"{path.name} is {stored}, and inputs={inputs!r}; inputs='normalised' takes any")
        found.append(image)
    if problems:
        raise InputError("images that cannot be used:" + "".join(f"\n  - {problem}" for problem in problems))
    return found


def draw_noise(count: int, config: ModelConfig, inputs: str, height: int, width: int) -> list[Tensor]:
    """Return ``count`` images (in_channels, height, width) of grainy clouds, the same each time.

    Clouds have edges and areas of all sizes, so that networks which say nothing to white noise see something in them.
    """
    dtype = torch.uint16 if inputs == "uint16" else torch.uint8
    generator = torch.Generator().manual_seed(0)
    clouds = torch.zeros(count, config.in_channels, height, width)
    for coarseness in (1, 4, 16, 64):
        size = (-(-height // coarseness), -(-width // coarseness))
        noise = torch.rand(count, config.in_channels, *size, generator=generator)
        clouds += coarseness**0.5 * F.interpolate(noise, (height, width), mode="bilinear", align_corners=False)
    low, high = (edge(clouds, dim=(2, 3), keepdim=True) for edge in (torch.amin, torch.amax))
    values = (clouds - low) / (high - low).clamp(min=1e-6) * torch.iinfo(dtype).max
    return list(values.round().to(torch.int32).to(dtype))


def fitted(image: Tensor, height: int, width: int) -> Tensor:
    """Return the middle of (C, H, W), as (C, height, width); a side that is too short is repeated."""
    for dim, side in ((1, height), (2, width)):
        length = image.shape[dim]
        rows = torch.arange(side) + max(0, (length - side) // 2)
        # Indexing has no uint16.
        whole = image.to(torch.int32) if image.dtype == torch.uint16 else image
        image = whole.index_select(dim, rows % length).to(image.dtype)
    return image


def given(stored: Sequence[Tensor], request: Request) -> Given:
    """Return images (in_channels, H, W) of one size as a batch."""
    prepared = tuple(torch.cat([images.prepare(image, model.config) for image in stored]) for model in request.models)
    return Given(prepared[0] if request.inputs == "normalised" else torch.stack(list(stored)), prepared)


def samples(stored: Sequence[Tensor], request: Request) -> list[Given]:
    """Return each image as a batch of one: at ``size``, or at its own, from ``least`` to :data:`LONGEST`."""
    found, least = [], request.least
    for image in stored:
        height, width = request.size or (min(max(side, least), max(LONGEST, least)) for side in image.shape[1:])
        found.append(given([fitted(image, height, width)], request))
    return found
