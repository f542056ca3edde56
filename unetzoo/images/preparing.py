"""Images as a network expects them; training and prediction use the same functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unetzoo.config import ModelConfig
from unetzoo.errors import InputError
from unetzoo.images.moments import Moments, moments
from unetzoo.images.resizing import resized

TWINS = {
    one: other
    for unsigned in ("uint8", "uint16", "uint32", "uint64")
    for one, other in ((unsigned, unsigned[1:]), (unsigned[1:], unsigned))
}
"""Types of the same size, with and without a sign."""
Levels = tuple[Tensor | None, Tensor | None]
"""Mean and standard deviation of each channel of a scaled image, (C,) float32; None if it is not normalised."""


def scaled(image: Tensor) -> Tensor:
    """Return float32: integers divided by the largest value of their type, floating point unchanged."""
    return image.float() if image.is_floating_point() else image.float().div_(torch.iinfo(image.dtype).max)


def white(dtype: torch.dtype, config: ModelConfig) -> int:
    """Return the integer of a type that a model sees as 1.

    It is the largest of the type, so that 8 and 16 bits have the same scale. But files of types that differ only in
    their sign hold the same numbers, for example from Sentinel-2: if a model was trained on the other of the two types,
    1 is what it was in training.
    """
    own = str(dtype).removeprefix("torch.")
    # Images that are normalised by their own values have no scale.
    same = config.pixels is not None and config.normalisation == "fixed" and TWINS.get(own) == config.pixels
    return torch.iinfo(getattr(torch, str(config.pixels)) if same else dtype).max


def fit_channels(image: Tensor, in_channels: int, alpha: bool = False) -> Tensor:
    """Return a view of ``image`` (…, C, H, W) with ``in_channels``: an extra alpha is dropped, grey repeated as RGB.

    Args:
        image: the image, or several.
        in_channels: number of channels of the result.
        alpha: whether the last channel is opacity. A channel of integers that is opaque everywhere counts as opacity,
            too; no other channel is ever dropped.

    Raises:
        InputError: the channels do not fit.
    """
    found = image.shape[-3]
    if found == in_channels:  # without a look at the values in each step of training
        return image
    alpha = alpha or has_dead_alpha(image)
    if not fits(found, in_channels, alpha):
        extra = found == in_channels + 1 and found in (2, 4)
        why = ", and by its file and values the last is not alpha: leave it out, or train on all" if extra else ""
        raise InputError(f"an image of {found} channels does not fit in_channels={in_channels}{why}")
    image = image[..., :-1, :, :] if alpha else image
    return image.expand(*image.shape[:-3], in_channels, *image.shape[-2:])


def own_channels(image: Tensor, in_channels: int, alpha: bool = False) -> Tensor:
    """Return the channels of ``image`` (C, H, W) that :func:`fit_channels` keeps, each once: one for grey.

    Raises:
        InputError: the channels do not fit.
    """
    fitting = fit_channels(image, in_channels, alpha)
    return fitting[:1] if image.shape[0] - (alpha or has_dead_alpha(image)) == 1 else fitting


def fits(channels: int, in_channels: int, alpha: bool = False) -> bool:
    """Return whether an image fits: see :func:`fit_channels`."""
    left = channels - (alpha and channels != in_channels)
    return left == in_channels or (left == 1 and in_channels == 3)


def has_dead_alpha(image: Tensor) -> bool:
    """Return whether the last of 2 or 4 channels (…, C, H, W) of integers is opaque everywhere."""
    if image.shape[-3] not in (2, 4) or image.dtype.is_floating_point or image.dtype == torch.bool:
        return False
    return bool((image[..., -1, :, :].long() == torch.iinfo(image.dtype).max).all())


def filled(image: Tensor, mean: Sequence[float] | Tensor | None) -> Tensor:
    """Return a scaled image (…, C, H, W) with the mean of each channel, or 0 without one, instead of NaN.

    After normalisation by the same mean, missing values are 0, which is neutral.
    """
    values = image.new_zeros(image.shape[-3]) if mean is None else torch.as_tensor(mean).to(image)
    return torch.where(image.isnan(), values[:, None, None], image)


def normalised(image: Tensor, mean: Sequence[float] | Tensor | None, std: Sequence[float] | Tensor | None) -> Tensor:
    """Return (image - mean) / std for each channel of ``image`` (…, C, H, W); unchanged without both."""
    if mean is None or std is None:
        return image
    subtrahend, divisor = (torch.as_tensor(numbers, device=image.device)[:, None, None] for numbers in (mean, std))
    return (image - subtrahend) / divisor


def levels(
    config: ModelConfig, whole: Moments | None, alpha: bool = False, dtype: torch.dtype = torch.float32
) -> Levels:
    """Return the mean and standard deviation by which to normalise an image for a model, after :func:`scaled`.

    Args:
        config: of the model.
        whole: moments of the whole image, never of a part; not needed if ``config.normalisation`` is "fixed".
        alpha: whether the last of its channels is opacity, see :func:`fit_channels`.
        dtype: of the image as it is stored, which decides its scale, see :func:`white`.

    Raises:
        InputError: the channels do not fit.
    """
    if config.normalisation == "image":
        assert whole is not None
        return Moments(*(fit_channels(part, config.in_channels, alpha) for part in whole)).levels
    # For pixels that were divided by another number than those of the training.
    factor = 1.0 if dtype.is_floating_point else white(dtype, config) / torch.iinfo(dtype).max
    if config.mean is None or config.std is None:
        return (None, None) if factor == 1 else (torch.zeros(1), torch.full((1,), factor))
    if factor == 1:
        return torch.tensor(config.mean), torch.tensor(config.std)
    mean, std = (torch.tensor(numbers, dtype=torch.float64) for numbers in (config.mean, config.std))
    return (mean * factor).float(), (std * factor).float()


def prepare(image: Tensor, config: ModelConfig, alpha: bool = False, whole: Moments | None = None) -> Tensor:
    """Return ``image`` (C, H, W) as a batch (1, in_channels, H, W) that the model expects.

    Integers are scaled by the largest value of their type, so that 8 and 16 bits become [0, 1], or of the type in
    training, see :func:`white`; floating point is not scaled. An extra alpha channel (``alpha``, see
    :func:`fit_channels`) is dropped, grey is copied to RGB, and the channels are normalised as ``config.normalisation``
    says: by ``config.mean`` and ``config.std`` if there are any, or each image by its own mean and standard
    deviation. NaN is replaced by that mean. Then it is resized as ``config.resize`` says. Training uses the same
    functions.

    Args:
        image: the image.
        config: of the model.
        alpha: whether its last channel is opacity.
        whole: if ``image`` is a part of an image, the result of :func:`~unetzoo.images.moments` for the whole image:
            for models that normalise each image by its own values.

    Raises:
        InputError: the channels do not fit.
    """
    if image.ndim != 3:
        raise InputError(f"an image of shape {tuple(image.shape)}: (channels, height, width) is needed")
    fitting = fit_channels(image, config.in_channels, alpha)
    if config.normalisation == "image":
        alpha = alpha or has_dead_alpha(image)
        mean, std = levels(config, moments(image) if whole is None else whole, alpha)
    else:
        mean, std = levels(config, None, dtype=image.dtype)
    fitting = filled(scaled(fitting), mean)
    return resized(normalised(fitting, mean, std), config.resize)[None]
