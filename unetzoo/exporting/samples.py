"""Images on which a file is calibrated and compared; drawn at random if none are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo import images
from unetzoo.config import ModelConfig
from unetzoo.errors import InputError
from unetzoo.exporting import qgis
from unetzoo.exporting.request import Request, network_of
from unetzoo.folding import optimize
from unetzoo.prediction.layout import room
from unetzoo.prediction.reach import memory_of_pixel
from unetzoo.prediction.tiles import lay_out

LONGEST_TILE = 1024
"""Longest side of a tile in pixels, as in prediction."""
MOST_TILES = 128
"""Largest number of tiles of all images: from more, this many are chosen, spread evenly."""
OVERLAP = 0.25
"""Overlap of neighbouring tiles, as in prediction."""


class Given(NamedTuple):
    """The same images twice.

    Attributes:
        file: as the exported file takes them.
        models: as each of the models takes them, float32.
    """

    file: Tensor
    models: tuple[Tensor, ...]


def read_images(files: Sequence[Path], config: ModelConfig, inputs: str, kinds: Sequence[str]) -> list[Tensor]:
    """Return the images, (in_channels, H, W), as they are stored; ``kinds``: other possible values of ``inputs``.

    Raises:
        InputError: lists images that cannot be read, or do not fit the model and ``inputs``.
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
            fix = f"give inputs={stored!r}" if stored in kinds else "inputs='normalised' takes any"
            problems.append(f"{path.name} is {stored}, and inputs={inputs!r}; {fix}")
        found.append(image)
    if problems:
        raise InputError("these images cannot be used:" + "".join(f"\n  - {problem}" for problem in problems))
    return found


def draw_noise(count: int, config: ModelConfig, inputs: str, height: int, width: int) -> list[Tensor]:
    """Return ``count`` images (in_channels, height, width) of grainy clouds, the same each time.

    Clouds have edges and areas of all sizes, so that networks that find nothing in white noise find something in them.
    """
    kind = torch.uint8 if inputs == "normalised" else getattr(torch, inputs)
    generator = torch.Generator().manual_seed(0)
    clouds = torch.zeros(count, config.in_channels, height, width)
    for coarseness in (1, 4, 16, 64):
        size = (-(-height // coarseness), -(-width // coarseness))
        noise = torch.rand(count, config.in_channels, *size, generator=generator)
        clouds += coarseness**0.5 * F.interpolate(noise, (height, width), mode="bilinear", align_corners=False)
    low, high = (edge(clouds, dim=(2, 3), keepdim=True) for edge in (torch.amin, torch.amax))
    values = (clouds - low) / (high - low).clamp(min=1e-6)
    if kind.is_floating_point:
        return list(values)
    most = min(torch.iinfo(kind).max, 2**24)  # float32 represents all integers up to this one
    return list((values * most).round().to(torch.int32).to(kind))


def fitted(image: Tensor, height: int, width: int) -> Tensor:
    """Return the middle of (C, H, W), as (C, height, width); a side that is too short is repeated."""
    for dim, side in ((1, height), (2, width)):
        length = image.shape[dim]
        image = _taken(image, dim, (torch.arange(side) + max(0, (length - side) // 2)) % length)
    return image


def _taken(image: Tensor, dim: int, places: Tensor) -> Tensor:
    # Indexing supports neither uint16 nor uint32.
    whole = image.to(torch.int64) if image.dtype in (torch.uint16, torch.uint32) else image
    return whole.index_select(dim, places).to(image.dtype)


def given(stored: Sequence[Tensor], request: Request, whole: images.Moments | None = None) -> Given:
    """Return images (in_channels, H, W) of one size as a batch; ``whole``: moments of the image that contains them."""
    configs = [model.config.replace(resize=1.0) for model in request.models]  # a file sees images already resized
    prepared = tuple(torch.cat([images.prepare(image, config, whole=whole) for image in stored]) for config in configs)
    if request.qgis is not None and request.config.normalisation == "fixed":
        # Computed as the plugin does from the file's metadata, so that the comparison covers the metadata, too.
        shown = [qgis.seen(image, request.config, request.qgis.pixels) for image in stored]
        return Given(torch.stack(shown), prepared)
    return Given(prepared[0] if request.inputs == "normalised" else torch.stack(list(stored)), prepared)


@dataclass(frozen=True)
class Tile:
    """A part of an image for a file and its models.

    Attributes:
        given: the part, a batch of one.
        rows, columns: the part of the output that counts: each pixel of the image counts in one tile.
    """

    given: Given
    rows: slice
    columns: slice


class Samples:
    """Whole images, in tiles as prediction cuts them; tiles are made when they are needed.

    An image of up to :data:`LONGEST_TILE` a side, or up to what fits in half of the free memory, is one tile. Tiles of
    larger images overlap, and each pixel counts in the tile where it is farthest from an edge. At a fixed size, all
    tiles have this size, and images are mirrored at their edges. If the images have more than :data:`MOST_TILES`
    together, some tiles are left out.

    Args:
        stored: images (in_channels, H, W).
        request: the export.

    Attributes:
        stored: as given.
        share: share of the images' pixels that count.
    """

    def __init__(self, stored: Sequence[Tensor], request: Request) -> None:
        self.stored, self._request = stored, request
        most = max(1, MOST_TILES // max(len(stored), 1))
        side = _longest(request) if stored else LONGEST_TILE
        self._places = [_spread(_places(image, side, request), most) for image in stored]
        sides = [[span.end - span.begin for span in place] for places in self._places for place in places]
        counted = sum(height * width for height, width in sides)
        self.share = counted / max(sum(image.shape[1] * image.shape[2] for image in stored), 1)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.stored)

    def __iter__(self) -> Iterator[Iterator[Tile]]:
        """Give the tiles of each image."""
        for image, places in zip(self.stored, self._places, strict=True):
            whole = images.moments(image) if self._request.config.normalisation == "image" else None
            yield (self._tile(image, place, whole) for place in places)

    def inputs(self) -> Iterator[Tensor]:
        """Give the input of the file, tile by tile."""
        return (tile.given.file for tiles in self for tile in tiles)

    def _tile(self, image: Tensor, place: _Place, whole: images.Moments | None) -> Tile:
        rows, columns = (
            images.mirrored(at.first, at.length, side) for at, side in zip(place, image.shape[1:], strict=True)
        )
        cut = _taken(_taken(image, 1, rows), 2, columns)
        counted = (slice(span.begin, span.end) for span in place)
        return Tile(given([cut], self._request, whole), *counted)


class _Span(NamedTuple):
    """The position of a tile along one side of an image: its pixels from ``first`` on, and which outputs count."""

    first: int
    length: int
    begin: int
    end: int


class _Place(NamedTuple):
    down: _Span
    across: _Span


def _longest(request: Request) -> int:
    """Return the longest side of a tile whose feature maps fit in half of the free memory."""
    memory = max(memory_of_pixel(optimize(network_of(model))) for model in request.models)
    fits = int((room(torch.device("cpu")) / memory) ** 0.5)
    return max(min(LONGEST_TILE, fits), request.least)


def _places(image: Tensor, side: int, request: Request) -> list[_Place]:
    fixed = request.size or (None, None)
    down, across = (_spans(length, side, size, request) for length, size in zip(image.shape[1:], fixed, strict=True))
    return [_Place(one, other) for one in down for other in across]


def _spans(length: int, side: int, size: int | None, request: Request) -> list[_Span]:
    """Return the tiles along one side of an image."""
    border, unit = request.border, 1 if size is not None else request.least - 1
    window = (max(min(length, side), request.least) if size is None else size) - 2 * border
    if length <= window:
        return [_Span(-border, window + 2 * border, 0, length)]
    axis = lay_out(length, window, int(OVERLAP * window), unit, "crop")
    spans = []
    for k, start in enumerate(axis.starts):
        counted, _ = axis.parts(k)
        end = min(counted.stop, length - start)
        spans.append(_Span(start - border, axis.window + 2 * border, counted.start, end))
    return spans


def _spread(places: list[_Place], most: int) -> list[_Place]:
    return [places[k * len(places) // most] for k in range(most)] if len(places) > most else places
