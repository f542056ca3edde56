"""Images and labels at another size: that at which a network was trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo.checks import ratio


def mirrored(first: int, count: int, length: int) -> Tensor:
    """Return which of ``length`` pixels are at ``first``, ``first`` + 1, … if the ends are mirrors.

    The outermost pixel is not repeated, as in the overlap-tile strategy of Ronneberger et al. 2015 (figure 2).
    """
    period = max(2 * (length - 1), 1)
    rows = torch.arange(first, first + count).remainder(period)
    return torch.minimum(rows, period - rows).clamp(max=length - 1)


def resized(image: Tensor, resize: float) -> Tensor:
    """Return an image (C, H, W), floating point, at another size, with the sides of :func:`resized_side`.

    Interpolation is bilinear, and for smaller sizes over all pixels that one covers (antialiasing), so that thin
    structures become faint rather than vanish at random. The image is mirrored at its right and lower edge, as in
    prediction.
    """
    scale = ratio(resize)
    if scale == 1:
        return image
    for dim in (1, 2):  # to where new and old pixels end together, and beyond, as the last ones are averaged over more
        length = image.shape[dim]
        image = image.index_select(dim, mirrored(0, (-(-length // scale.denominator) + 2) * scale.denominator, length))
    size = [int(side * scale) for side in image.shape[1:]]
    found = F.interpolate(image[None], size, mode="bilinear", antialias=scale < 1)[0]
    found.clamp_(*image.aminmax())  # rounding must not give values above 1, which augmentation would refuse
    return found[:, : size[0] - 2 * scale.numerator, : size[1] - 2 * scale.numerator]


def resized_labels(labels: Tensor, resize: float, outside: int) -> Tensor:
    """Return labels (…, H, W) at the size of their :func:`resized` image; each pixel is the nearest old one, unmixed.

    Args:
        labels: classes, or numbers of objects.
        resize: factor of each side.
        outside: value of new pixels whose centre is beyond the last old one.
    """
    scale = ratio(resize)
    if scale == 1:
        return labels
    for dim in (labels.ndim - 2, labels.ndim - 1):
        length = labels.shape[dim]
        places = (2 * torch.arange(resized_side(length, resize)) + 1) * scale.denominator // (2 * scale.numerator)
        behind = (places >= length).view(-1, *[1] * (labels.ndim - 1 - dim))
        labels = labels.index_select(dim, places.clamp(max=length - 1)).masked_fill(behind, outside)
    return labels


def resized_side(length: int, resize: float) -> int:
    """Return the side that ``length`` pixels become in :func:`resized`."""
    scale = ratio(resize)
    return -(-length // scale.denominator) * scale.numerator
