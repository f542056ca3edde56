"""Checks that an image's values are on the scale of a network's training, and maps its black and white values."""

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
"""The values of an image that are black and white to a network."""
OF_UNITS = ((IMAGENET_MEAN, IMAGENET_STD), ((0.5,) * 3, (0.5,) * 3))
"""Mean and standard deviation, from published encoders, that only pixels in 0…1 have."""
MOST = 2.0
"""A value that such pixels never reach: sharpened and resampled pixels exceed 1 only slightly."""
FAR = 20.0
"""Standard deviations from the mean. In any distribution, at most 1 of 400 values is this far away (Chebyshev)."""
FEW = 0.01
"""Share of an image's values that may be this far above the mean, as radar speckle is."""
ALIKE = {"uint8", "uint16"}
"""Types of cameras: an image in either is the same after division by the largest value of its type."""
AT_ONCE = 512
"""Number of rows that are compared together."""
DARK = 1 / 8
"""Share of the largest value of a type: below it, an image uses three bits less than its type has."""
LOOKED_AT = 128
"""Number of rows, and of columns, whose values are compared when a maximum is not enough."""


class RangedRows(Rows):
    """An image whose values from ``low`` to ``high`` are scaled to 0…1, float32; values beyond are clipped.

    Args:
        source: the image as it is stored.
        low, high: values of the stored image.
    """

    def __init__(self, source: Rows, low: float, high: float) -> None:
        self.source, self.low, self.high = source, low, high
        self.name, self.alpha, self.tissue = source.name, source.alpha, source.tissue
        self.height, self.width = source.height, source.width

    def rows(self, first: int, last: int) -> Tensor:
        """Return some rows, see :class:`Rows`."""
        return self._mapped(self.source.rows(first, last))

    def measured(self, first: int, last: int) -> Tensor:
        """Return some rows, with NaN for missing values, see :class:`Rows`; they are read once."""
        stored = self.source.rows(first, last)
        return images.blanked(self._mapped(stored), self.source.gaps(stored, first))

    def gaps(self, rows: Tensor, first: int) -> Tensor | None:
        """Return where values are missing in the stored image, see :class:`Rows`."""
        return self.source.gaps(self.source.rows(first, first + rows.shape[1]), first)

    def _mapped(self, stored: Tensor) -> Tensor:
        # float64, because float32 keeps only 24 of up to 32 bits.
        return stored.double().sub(self.low).div_(self.high - self.low).clamp_(0, 1).float()


def range_of(given: Sequence[float] | None) -> Range | None:
    """Convert the argument ``intensity_range`` to a pair of numbers."""
    return None if given is None else (float(given[0]), float(given[1]))


def ranged(source: Rows, asked: Range | None) -> Rows:
    """Return an image with the values of a range scaled to 0…1; without a range, the image is unchanged."""
    return source if asked is None else RangedRows(source, *asked)


def look_at(source: Rows, networks: Networks, asked: Range | None) -> None:
    """Raise if an image does not fit networks; warn if it is nearly black to one, has another type, or is uniform.

    Networks that normalise each image on its own take any scale. For an image in memory, all values are examined. For
    others, only some rows are, including the first and the last, so whether the image is uniform is not checked.

    Args:
        source: the image as it is stored.
        networks: the networks that will see it.
        asked: its values of black and white; None: not given.

    Raises:
        InputError: its channels do not fit the networks.
        ScaleError: it is floating point on another scale than a network was trained on; the message gives both scales
            and the fix.
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
        # Without an alpha channel, which the network does not take.
        bands = values[:-1] if len(values) not in (1, config.in_channels) else values
        mean, std = (torch.tensor(numbers, dtype=torch.float64)[:, None] for numbers in (config.mean, config.std))
        if bands.is_floating_point():
            _check_scale(bands, mean, std, name, config)
            continue
        limit = images.white(bands.dtype, config)
        largest = bands.flatten(1).double().amax(dim=1, keepdim=True)
        # It must also be below the model's own values: if trained on 12 bits in 16, 4,095 of 65,535 is bright.
        if flat is None and float(largest.max()) < DARK * limit and bool((largest / limit < mean - std).all()):
            known = _largest_of_integers(config)
            white = known if known != limit and largest.max() <= known else 0
            tell(Dark(source.name, int(largest.max()), limit, float(mean.mean()), white, config.pixels))
            return
    if asked is None:
        _tell_unlike(source.name, first.dtype, networks.configs)


def _tell_unlike(name: str | None, dtype: torch.dtype, configs: Sequence[ModelConfig]) -> None:
    """Warn if a network was trained on another type, so that the scale of these integers may be wrong."""
    own = str(dtype).removeprefix("torch.")
    for config in configs:
        if dtype.is_floating_point or config.pixels is None or config.normalisation == "image":
            continue
        if config.pixels not in (own, images.TWINS.get(own)) and not {own, config.pixels} <= ALIKE:
            tell(Unlike(name, own, config.pixels, _largest_of_integers(config)))
            return


def _largest_of_integers(config: ModelConfig) -> int:
    """Return the largest value of the type that a network was trained on; 0 for floating point, or if unknown."""
    dtype = None if config.pixels is None else getattr(torch, config.pixels)
    return 0 if dtype is None or dtype.is_floating_point else int(torch.iinfo(dtype).max)


def _flat(source: Rows, asked: Range | None, channels: int) -> Flat | None:
    """Return a remark if the image is in memory and its pixels are all alike; None for others, and for one pixel."""
    if not isinstance(source, LoadedImage) or source.height * source.width == 1:
        return None
    if source.missing is not None and bool(source.missing.all()):
        return None  # nothing was measured, as the mask shows
    if _alike(source, channels):
        return Flat(source.name)
    return Flat(source.name, mapped=True) if asked is not None and _alike(ranged(source, asked), channels) else None


def _alike(source: Rows, channels: int) -> bool:
    """Return whether all pixels are alike, without opacity; for most images, a few rows show that they are not."""
    corner = source.rows(0, 1)[:channels, :, :1]
    edges = [0, *range(min(8, source.height), source.height, AT_ONCE), source.height]
    return all(bool((source.rows(*pair)[:channels] == corner).all()) for pair in itertools.pairwise(edges))


def _some(source: Rows) -> Tensor:
    """Return values of an image, (C, rows, width): all of them if it is in memory; missing values are dark."""
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
            f"a floating-point image with values around {middle:.3g}, up to {largest:.4g}: {name} was trained on "
            f"values around {float(mean.mean()):.3g}{', from 0 to 1' if units else ''}",
            _scale_fix(config),
        )


def _scale_fix(config: ModelConfig) -> str:
    """Return how to bring floating point to the scale of a network's training."""
    white = _largest_of_integers(config)
    if white:
        return (
            f"give {config.pixels}, as in training, or divide its numbers by {white}; or give the values of black and "
            f"white: intensity_range=(0, {white}) if they are those of the training"
        )
    if config.pixels is not None:
        return (
            "give floating point in the same unit as in training; or give the values that are 0 and 1 there, such as "
            "intensity_range=(0, 10000)"
        )
    return (
        "give 8 or 16 bits as they are, or divide by 255 or 65535, the largest value of their type; or give the values "
        "of black and white, such as intensity_range=(0, 255)"
    )
