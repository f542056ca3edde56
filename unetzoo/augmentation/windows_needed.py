"""The size of the window that a transform needs to make a result of a given size."""

from __future__ import annotations

from torch import nn
from torchvision.transforms import v2

from unetzoo.augmentation.borrowed import CONTAINERS, Framed
from unetzoo.augmentation.photometric import Photometric
from unetzoo.augmentation.warping import RandomQuarterTurn, RandomWarp
from unetzoo.augmentation.windows import Size, grown, turned

_LOCAL = (
    Photometric,
    v2.ColorJitter,
    v2.GaussianBlur,
    v2.GaussianNoise,
    v2.Identity,
    v2.RandomAdjustSharpness,
    v2.RandomAutocontrast,
    v2.RandomChannelPermutation,
    v2.RandomEqualize,
    v2.RandomGrayscale,
    v2.RandomHorizontalFlip,
    v2.RandomInvert,
    v2.RandomPhotometricDistort,
    v2.RandomPosterize,
    v2.RandomSolarize,
    v2.RandomVerticalFlip,
)


def reach(transform: nn.Module, size: Size) -> Size | None:
    """Return the size of the window from which ``transform`` makes ``size``; None: it needs the whole image."""
    if isinstance(transform, Framed):
        return reach(transform.transform, size)
    if isinstance(transform, _LOCAL):
        return size
    if isinstance(transform, RandomQuarterTurn):
        return max(size), max(size)
    if isinstance(transform, RandomWarp):
        return transform.reach(size)
    if isinstance(transform, v2.RandomRotation) and not transform.expand and transform.center is None:
        return grown(size, turned(size, *transform.degrees))
    if isinstance(transform, v2.RandomAffine) and transform.translate is transform.shear is transform.center is None:
        return grown(size, turned(size, *transform.degrees), shrink=(transform.scale or [1])[0])
    if isinstance(transform, v2.ElasticTransform):
        # Noise in [-1, 1] times alpha / 2 pixels, smoothed: 1 / sigma is six standard deviations of it.
        margin = max(alpha * min(1, 1 / max(transform.sigma[0], 1)) for alpha in transform.alpha)
        return grown(size, size, margin)
    if isinstance(transform, CONTAINERS):
        needed: Size | None = size
        for child in transform.transforms:
            needed = None if needed is None else reach(child, needed)
        return needed
    return None
