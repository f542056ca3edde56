"""Mean and standard deviation of an image's channels, for normalisation of each image by its own values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float32).tiny
_COUNTED = (torch.uint8, torch.uint16)
"""Types whose values are counted, in a fraction of the time: training reads large images again and again."""


class Moments(NamedTuple):
    """Moments of each channel, with integers divided by the largest value of their type: (C, 1, 1) float64.

    Attributes:
        number: of values that are not missing.
        mean: of these values; 0 without any.
        squares: the sum of their squared differences from the mean.
    """

    number: Tensor
    mean: Tensor
    squares: Tensor

    @property
    def std(self) -> Tensor:
        """The population standard deviation; 1 where it would be 0, or too small for float32."""
        std = (self.squares / self.number.clamp(min=1)).sqrt()
        return torch.where(std >= _TINY, std, 1.0)

    @property
    def levels(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (C,) float32."""
        return self.mean.flatten().float(), self.std.flatten().float()


def moments(image: Tensor, missing: Tensor | None = None) -> Moments:
    """Return the moments of an image.

    Args:
        image: (C, H, W), as stored. NaN counts as missing.
        missing: (C, H, W) bool, the values to leave out.
    """
    once = image if image.stride(0) or len(image) == 1 else image[:1]  # grey that was expanded to three channels
    found = [_of(band, None if missing is None else missing[k]) for k, band in enumerate(once)]
    number, mean, squares = torch.tensor(found, dtype=torch.float64).T[..., None, None].expand(3, len(image), 1, 1)
    return Moments(number, mean, squares)


def merged(parts: Sequence[Moments]) -> Moments:
    """Return the moments of all values together, by Chan, Golub and LeVeque 1979 (equation 2.1): no cancellation."""
    count, mean, squares = parts[0]
    for more, its_mean, its_squares in parts[1:]:
        step, total = its_mean - mean, (count + more).clamp(min=1)
        squares = squares + its_squares + step**2 * (count * more / total)
        mean = mean + step * (more / total)
        count = count + more
    return Moments(count, mean, squares)


def _of(band: Tensor, missing: Tensor | None) -> tuple[int, float, float]:
    """Return number, mean and sum of squared deviations of a channel (H, W)."""
    if band.dtype in _COUNTED:
        return _of_counts(band, missing)
    values = band.double() / (1 if band.is_floating_point() else torch.iinfo(band.dtype).max)
    gaps = values.isnan() if missing is None else missing | values.isnan()
    known = values[~gaps] if bool(gaps.any()) else values.flatten()
    if not len(known):
        return 0, 0.0, 0.0
    # Differences from one value of the channel: if all are equal, they are exactly 0, without rounding errors.
    first = float(known[0])
    apart = known - first
    middle = float(apart.mean())
    return len(known), first + middle, float((apart - middle).square().sum())


def _of_counts(band: Tensor, missing: Tensor | None) -> tuple[int, float, float]:
    """Return the same for a channel of 8 or 16 bits; sums of values, and so the mean, are exact."""
    known = band.flatten() if missing is None else band[~missing]
    number, largest = len(known), torch.iinfo(band.dtype).max
    if not number:
        return 0, 0.0, 0.0
    counts = torch.bincount(known if band.dtype == torch.uint8 else known.int(), minlength=largest + 1).double()
    values = torch.arange(largest + 1, dtype=torch.float64)
    mean = float(counts @ values) / number
    return number, mean / largest, float(counts @ (values - mean).square()) / largest**2
