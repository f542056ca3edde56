"""Transforms that change the values of the image, and not its mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from unetzoo.augmentation._base import bare, like, number_problems, range_problems, uniform
from unetzoo.checks import flag
from unetzoo.errors import ConfigError


class Photometric(v2.Transform):  # type: ignore[misc]
    """Changes the image and not the mask, by a new random amount each time.

    All amounts are relative to the mean and the standard deviation of each channel of the image itself, and nothing
    is clipped. So values of any range, such as those of dark 16-bit microscopy or decibels, change in the same way.
    """

    def __init__(self, p: float, problems: list[str]) -> None:
        super().__init__()
        problems = [*problems, *number_problems("p", p, 0, 1)]
        if problems:
            raise ConfigError(f"cannot make {type(self).__name__}", problems)
        self.p = p

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw whether to do anything, and how much."""
        return {"amount": self._draw() if torch.rand(()) < self.p else None}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Change an image; return a mask unchanged."""
        if params["amount"] is None or isinstance(inpt, tv_tensors.Mask):
            return inpt
        return like(inpt, self._change(bare(inpt), params["amount"]))

    def _draw(self) -> float:
        raise NotImplementedError

    def _change(self, image: Tensor, amount: float) -> Tensor:
        raise NotImplementedError


class RandomBrightness(Photometric):
    """Add to each channel its standard deviation times a number from ``-strength`` to ``strength``.

    Args:
        strength: from 0 up.
        p: probability of doing anything.

    Raises:
        ConfigError: lists all that is wrong.
    """

    def __init__(self, strength: float = 0.2, p: float = 0.5) -> None:
        super().__init__(p, number_problems("strength", strength, 0))
        self.strength = strength

    def _draw(self) -> float:
        return uniform(-self.strength, self.strength)

    def _change(self, image: Tensor, amount: float) -> Tensor:
        return image + amount * _spread(image)


class RandomContrast(Photometric):
    """Multiply each channel's distance from its mean by a number from ``1 - strength`` to ``1 + strength``.

    Args:
        strength: from 0 to 1.
        p: probability of doing anything.

    Raises:
        ConfigError: lists all that is wrong.
    """

    def __init__(self, strength: float = 0.2, p: float = 0.5) -> None:
        super().__init__(p, number_problems("strength", strength, 0, 1))
        self.strength = strength

    def _draw(self) -> float:
        return uniform(1 - self.strength, 1 + self.strength)

    def _change(self, image: Tensor, amount: float) -> Tensor:
        return torch.lerp(image.mean((-2, -1), keepdim=True), image, amount)


class RandomNoise(Photometric):
    """Add normally distributed noise to each value.

    Args:
        sigma: the noise's largest standard deviation, as a share of the channel's own; drawn uniformly from 0 up.
        p: probability of doing anything.

    Raises:
        ConfigError: lists all that is wrong.
    """

    def __init__(self, sigma: float = 0.2, p: float = 0.5) -> None:
        super().__init__(p, number_problems("sigma", sigma, 0))
        self.sigma = sigma

    def _draw(self) -> float:
        return uniform(0, self.sigma)

    def _change(self, image: Tensor, amount: float) -> Tensor:
        return image + amount * _spread(image) * torch.randn(image.shape).to(image)


class RandomBlur(Photometric):
    """Blur by a Gaussian of three standard deviations to each side; at the border the outermost pixel is repeated.

    Args:
        sigma: the Gaussian's largest standard deviation in pixels; drawn uniformly from 0 up.
        p: probability of doing anything.

    Raises:
        ConfigError: lists all that is wrong.
    """

    def __init__(self, sigma: float = 1.5, p: float = 0.5) -> None:
        super().__init__(p, number_problems("sigma", sigma, 0))
        self.sigma = sigma

    def _draw(self) -> float:
        return uniform(0, self.sigma)

    def _change(self, image: Tensor, amount: float) -> Tensor:
        radius = math.ceil(3 * amount)
        if radius == 0:
            return image
        bell = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=image.dtype) / amount) ** 2)
        bell /= bell.sum()
        height, width = image.shape[-2:]
        padded = F.pad(image[None], (radius,) * 4, mode="replicate")[0]
        across = _weighed([padded[..., k : k + width] for k in range(len(bell))], bell)
        return _weighed([across[..., k : k + height, :] for k in range(len(bell))], bell)


class RandomGamma(Photometric):
    """Apply a power to each channel, between its smallest and largest value; keep its mean and standard deviation.

    As nnU-Net does: ``((x - least) / range) ** gamma · range + least``, then restored to the mean and the standard
    deviation that the channel had. One power is drawn for all channels, below 1 as often as above.

    Args:
        gamma: the smallest power, above 0 and at most 1, and the largest, from 1 up.
        inverted: apply it to the inverted image, as if dark were bright.
        p: probability of doing anything.

    Raises:
        ConfigError: lists all that is wrong.
    """

    def __init__(self, gamma: Sequence[float] = (0.7, 1.5), inverted: bool = False, p: float = 0.3) -> None:
        super().__init__(p, [*range_problems("gamma", gamma, (0, 1), (1, math.inf)), *flag("inverted", inverted)])
        self.gamma, self.inverted = gamma, inverted

    def _draw(self) -> float:
        low, high = self.gamma
        return uniform(low, 1) if torch.rand(()) < 0.5 else uniform(1, high)

    def _change(self, image: Tensor, amount: float) -> Tensor:
        values = -image if self.inverted else image
        least, most = values.amin((-2, -1), keepdim=True), values.amax((-2, -1), keepdim=True)
        width = torch.where(most > least, most - least, 1)
        bent = ((values - least) / width) ** amount
        # The next steps undo any linear change, so range and least need not be applied here.
        bent -= bent.mean((-2, -1), keepdim=True)
        spread = _spread(bent)
        bent *= _spread(image) / torch.where(spread > 0, spread, 1)
        bent = -bent if self.inverted else bent
        return bent.add_(image.mean((-2, -1), keepdim=True))


class RandomLowResolution(Photometric):
    """Scale the image down by taking nearest pixels, and back up by linear interpolation.

    Like nnU-Net's simulation of a low resolution.

    Args:
        scale: the smallest and the largest factor of each side, above 0 and at most 1.
        p: probability of doing anything.

    Raises:
        ConfigError: lists all that is wrong.
    """

    def __init__(self, scale: Sequence[float] = (0.5, 1), p: float = 0.25) -> None:
        super().__init__(p, range_problems("scale", scale, (0, 1), (0, 1)))
        self.scale = scale

    def _draw(self) -> float:
        return uniform(*self.scale)

    def _change(self, image: Tensor, amount: float) -> Tensor:
        size = image.shape[-2:]
        small = F.interpolate(image[None], [max(1, round(side * amount)) for side in size], mode="nearest-exact")
        return F.interpolate(small, size, mode="bilinear")[0]


def _weighed(parts: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the weighted sum of parts: much faster than a convolution of one channel."""
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights.tolist()[1:], strict=True):
        total.add_(part, alpha=weight)
    return total


def _spread(image: Tensor) -> Tensor:
    """Return each channel's standard deviation; ``torch.std`` takes ten times as long."""
    return (image - image.mean((-2, -1), keepdim=True)).square_().mean((-2, -1), keepdim=True).sqrt_()
