"""Whether the values of an image are those that a network was trained on, and which of them are black and white."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from unetzoo import images
from unetzoo.config import ModelConfig
from unetzoo.files.identity import spaced
from unetzoo.prediction.inputs import LoadedImage, Rows
from unetzoo.prediction.networks import Networks, check_channels
from unetzoo.prediction.remarks import Dark, Flat, ScaleError, Unlike, tell
from unetzoo.pretrained import IMAGENET_MEAN, IMAGENET_STD

Range = tuple[float, float]
"""Values of an image that are black and white to a network."""
OF_UNITS = ((IMAGENET_MEAN, IMAGENET_STD), ((0.5,) * 3, (0.5,) * 3))
"""Mean and deviation of pixels in 0…1 and of nothing else: those of published encoders."""
MOST = 2.0
"""What such pixels never reach: sharpened and resampled ones are beyond 1 by a little."""
FAR = 20.0
"""Standard deviations. Of the values that these were measured of, at most one in 400 lies so far (Chebyshev)."""
FEW = 0.01
"""Share of an image's values that may lie so far above: the speckle of radar does."""
ALIKE = {"uint8", "uint16"}
"""Types of which images are the same when each is divided by the largest value of its own: what cameras write."""
AT_ONCE = 512
"""Rows that are compared together."""
DARK = 1 / 8
"""Share of the largest value of a type: below it, an image uses three bits less than its type has."""
LOOKED_AT = 128
"""Rows, and columns, whose values are compared, where a maximum does not do."""


class RangedRows(Rows):
    """An image whose values from ``low`` to ``high`` are 0 to 1, float32; values beyond are the nearer of both.

    Args:
        source: the image as it is stored.
        low, high: values of it.
    """

    def __init__(self, source: Rows, low: float, high: float) -> None:
        self.source, self.low, self.high = source, low, high
        self.name, self.alpha, self.tissue = source.name, source.alpha, source.tissue
        self.height, self.width = source.height, source.width

    def rows(self, first: int, last: int) -> Tensor:
        """Return some rows, see :class:`Rows`."""
        return self._mapped(self.source.rows(first, last))

    def measured(self, first: int, last: int) -> Tensor:
        """Return some rows, NaN where something is missing, see :class:`Rows`; they are read once."""
        stored = self.source.rows(first, last)
        return images.blanked(self._mapped(stored), self.source.gaps(stored, first))

    def gaps(self, rows: Tensor, first: int) -> Tensor | None:
        """Return where values are missing, see :class:`Rows`: in the image as it is stored."""
        return self.source.gaps(self.source.rows(first, first + rows.shape[1]), first)

    def _mapped(self, stored: Tensor) -> Tensor:
        # float64, as float32 has no more than 24 of the 32 bits that there may be.
        return stored.double().sub(self.low).div_(self.high - self.low).clamp_(0, 1).float()


def range_of(given: Sequence[float] | None) -> Range | None:
    """Return the values that are black and white, as a pair of numbers that an argument has."""
    return None if given is None else (float(given[0]), float(given[1]))


def ranged(source: Rows, asked: Range | None) -> Rows:
    """Return an image with the values of a range as 0 to 1; as it is where there is no range."""
    return source if asked is None else RangedRows(source, *asked)


def look_at(source: Rows, networks: Networks, asked: Range | None) -> None:
    """Raise if an image does not fit networks; tell if it is nearly black to one, of a type unlike, or all the same.

    Networks that normalise each image by itself take any scale. Of an image in memory all values are looked at, of
    others those of some rows, the first and the last among them, which do not say whether it is the same everywhere.

    Args:
        source: the image as it is stored.
        networks: that are to see it.
        asked: what is black and white in it; None: nobody says it.

    Raises:
        InputError: it has other channels than the networks.
        ScaleError: floating point of another scale than one was trained on; says what there is, and the fix.
    """
    first = source.image if isinstance(source, LoadedImage) else source.rows(0, 1)
    check_channels(first, networks.config, source.alpha, networks.names[0])
    flat = _flat(source, asked, len(first) if len(first) == 1 else networks.config.in_channels)
    if flat is not None:
        tell(flat)
    named = zip(networks.names, networks.configs, strict=True)
    fixed = [(name, config) for name, config in named if config.mean is not None and config.std is not None]
    if not fixed or (asked is None and first.dtype in (torch.uint8, torch.int8)):
        if asked is None:
            _tell_unlike(source.name, first.dtype, networks.configs)
        return
    values = _some(ranged(source, asked))
    for name, config in fixed:
        # Without an alpha channel, which is none of the network's.
        bands = values[:-1] if len(values) not in (1, config.in_channels) else values
        mean, std = (torch.tensor(numbers, dtype=torch.float64)[:, None] for numbers in (config.mean, config.std))
        if bands.is_floating_point():
            _check_scale(bands, mean, std, name, config)
            continue
        limit = images.white(bands.dtype, config)
        largest = bands.flatten(1).double().amax(dim=1, keepdim=True)
        # Also below a model's own values: one that was trained on 12 bits in 16 finds 4,095 of 65,535 bright.
        if flat is None and float(largest.max()) < DARK * limit and bool((largest / limit < mean - std).all()):
            known = _largest_of_integers(config)
            white = known if known != limit and largest.max() <= known else 0
            tell(Dark(source.name, int(largest.max()), limit, float(mean.mean()), white, config.pixels))
            return
    if asked is None:
        _tell_unlike(source.name, first.dtype, networks.configs)


def _tell_unlike(name: str | None, dtype: torch.dtype, configs: Sequence[ModelConfig]) -> None:
    """Tell if a network was trained on another type, whose scale that of these integers cannot be known to be."""
    own = str(dtype).removeprefix("torch.")
    for config in configs:
        if dtype.is_floating_point or config.pixels is None or config.normalisation == "image":
            continue
        if config.pixels not in (own, images.TWINS.get(own)) and not {own, config.pixels} <= ALIKE:
            tell(Unlike(name, own, config.pixels, _largest_of_integers(config)))
            return


def _largest_of_integers(config: ModelConfig) -> int:
    """Return the largest value of the type that a network was trained on; 0 of floating point, or if nobody knows."""
    dtype = None if config.pixels is None else getattr(torch, config.pixels)
    return 0 if dtype is None or dtype.is_floating_point else int(torch.iinfo(dtype).max)


def _flat(source: Rows, asked: Range | None, channels: int) -> Flat | None:
    """Return a remark on an image in memory whose pixels are all alike; None of others, and of a single pixel."""
    if not isinstance(source, LoadedImage) or source.height * source.width == 1:
        return None
    if source.missing is not None and bool(source.missing.all()):
        return None  # nothing was measured, which the mask says
    if _alike(source, channels):
        return Flat(source.name)
    return Flat(source.name, mapped=True) if asked is not None and _alike(ranged(source, asked), channels) else None


def _alike(source: Rows, channels: int) -> bool:
    """Return whether all pixels are, without opacity; of most images a few rows say so."""
    corner = source.rows(0, 1)[:channels, :, :1]
    edges = [0, *range(min(8, source.height), source.height, AT_ONCE), source.height]
    return all(bool((source.rows(*pair)[:channels] == corner).all()) for pair in itertools.pairwise(edges))


def _some(source: Rows) -> Tensor:
    """Return values of an image, (C, rows, width): in memory all; what is missing is dark."""
    if isinstance(source, LoadedImage):
        return source.image
    found = []
    for k in spaced(source.height):
        rows = source.rows(k, k + 1)
        gaps = source.gaps(rows, k)
        found.append(rows if gaps is None else images.darkened(rows, gaps))
    return torch.cat(found, dim=1)


def _check_scale(bands: Tensor, mean: Tensor, std: Tensor, name: str, config: ModelConfig) -> None:
    units = (config.mean, config.std) in OF_UNITS
    steps = (max(1, side // LOOKED_AT) for side in bands.shape[1:])
    some = bands[:, :: next(steps), :: next(steps)].flatten(1).double()
    above = (some - mean) / std
    largest, middle = float(bands.max()), float(some.median())
    beyond = float(above.abs().median()) > FAR or float((above > FAR).double().mean()) > FEW
    if beyond or (units and largest > MOST):
        raise ScaleError(
            f"a floating-point image of values about {middle:.3g}, up to {largest:.4g}: {name} was trained on "
            f"values about {float(mean.mean()):.3g}{', from 0 to 1' if units else ''}",
            _scale_fix(config),
        )


def _scale_fix(config: ModelConfig) -> str:
    """Return what brings floating point to the scale of a network's training."""
    white = _largest_of_integers(config)
    if white:
        return (
            f"give {config.pixels}, as in training, or divide its numbers by {white}; or say which values are black "
            f"and white: intensity_range=(0, {white}) where they are those of the training"
        )
    if config.pixels is not None:
        return (
            "give floating point of the same unit as in training; or say which values are 0 and 1 there, such as "
            "intensity_range=(0, 10000)"
        )
    return (
        "give 8 or 16 bits as they are, or divide by 255 or 65535, the largest value of their type; or say which "
        "values are black and white, such as intensity_range=(0, 255)"
    )
