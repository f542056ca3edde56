"""Losses of structure: multi-scale structural similarity, and the gaps between objects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo.checks import whole
from unetzoo.losses._base import SingleLoss, register_loss
from unetzoo.losses._target import Truth
from unetzoo.losses.pixels import against_the_rest

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""From the finest scale to the coarsest, as in the paper."""
WINDOW, SIGMA = 11, 1.5
LUMINANCE_FLOOR, CONTRAST_FLOOR = 0.01**2, 0.03**2
"""The constants C1 and C2 of SSIM, for values between 0 and 1."""
LEAST = 1e-5
"""Similarity of a scale below which its power is replaced, as that becomes infinitely steep at 0."""


@register_loss("ms_ssim")
class MSSSIM(SingleLoss):
    """1 − MS-SSIM of each class's probabilities and its mask: a weighted mean over classes, then a mean over images.

    Paper: Wang, Simoncelli and Bovik 2003, "Multiscale structural similarity for image quality assessment", equation
    7: five scales, a Gaussian window of 11 × 11 with σ = 1.5 that stays inside the image, K1 = 0.01, K2 = 0.03.

    Here, the weights of the scales, which add up to 1.0001, are normalised to a sum of 1. The number of scales depends
    on how often the shorter side can be halved and still contain the window (five from 176 pixels); if there are fewer,
    the weights of the finest ones are normalised to a sum of 1. Below 11 pixels, the window shrinks to the largest odd
    one that fits, down to 1. If the mean similarity s of a scale, which is negative for opposed structures, is below
    1e-5, it counts as 1e-5 · exp(s − 1e-5): almost nothing, but with a finite slope. All classes are compared,
    including those that do not occur in an image. Ignored pixels get the target's value, so that they count as equal.

    Args:
        task, class_weights, ignore_index: see :class:`SingleLoss`.
    """

    def measure(self, logits: Tensor, truth: Truth) -> Tensor:
        """Return the loss; see :class:`SingleLoss`."""
        similarity = ms_ssim(self.probabilities(logits) * truth.valid, truth.classes)
        weights = self.weights(logits)
        return ((1 - similarity) * weights).sum(dim=1).mean() / weights.sum()


@register_loss("gaps")
class Gaps(SingleLoss):
    """Binary cross-entropy of narrow gaps: −log(1 − p) in gaps and 0 elsewhere, a mean over all pixels, as in BCE.

    Gaps are the pixels that a morphological closing with a square of ``width + 1`` pixels adds to the mask of a class:
    the background between two objects that nearly touch, narrow bays and small holes. Outside the image, the mask is 0.

    It has the purpose of U-Net's weight map (Ronneberger et al. 2015, arXiv 1505.04597, equation 2), to separate
    objects that touch, without object numbers and distances: in ``bce + 10*gaps``, pixels of gaps count 11 times.

    Args:
        task, class_weights, ignore_index: see :class:`SingleLoss`.
        width: of the widest gaps, in pixels, from 1 up.
    """

    def __init__(
        self,
        task: str,
        *,
        width: int = 4,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
    ) -> None:
        problems = whole("width", width)
        super().__init__(task, class_weights=class_weights, ignore_index=ignore_index, problems=problems)
        self.width = width

    def measure(self, logits: Tensor, truth: Truth) -> Tensor:
        """Return the loss; see :class:`SingleLoss`."""
        margins = against_the_rest(logits) if self.task == "multiclass" else logits
        gaps = (1 - truth.classes) * _closed(truth.classes, self.width + 1)
        return truth.mean(F.softplus(margins) * gaps * self.weights(logits)[:, None, None])


def _closed(masks: Tensor, side: int) -> Tensor:
    """Return masks (N, C, H, W) of 0 and 1, closed with a square of ``side`` pixels; outside the image they are 0."""
    wide = F.max_pool2d(F.pad(masks, (side - 1,) * 4), side, stride=1)
    return 1 - F.max_pool2d(1 - wide, side, stride=1)


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the similarity (N, C), from above 0 to 1, of images (N, C, H, W) of values from 0 to 1."""
    shape = a.shape[:2]
    a, b = a.flatten(0, 1), b.flatten(0, 1)
    weights = SCALE_WEIGHTS[: _scales(min(a.shape[-2:]))]
    product = a.new_ones(len(a))
    for number, weight in enumerate(weights, 1):
        luminance, contrast = _similarity(a, b)
        last = number == len(weights)
        similarity = (luminance * contrast if last else contrast).mean(dim=(1, 2))
        similarity = similarity.clamp(min=LEAST) * (similarity - LEAST).clamp(max=0).exp()
        product = product * similarity ** (weight / sum(weights))
        if not last:
            a, b = (F.avg_pool2d(x[:, None], 2)[:, 0] for x in (a, b))
    return product.reshape(shape)


def _scales(side: int) -> int:
    """Return how many scales an image has whose shorter side is ``side`` pixels long."""
    return max(1, min(len(SCALE_WEIGHTS), (side // WINDOW).bit_length()))


def _similarity(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return luminance, and contrast times structure, around each pixel whose window is inside: (M, h, w) each."""
    mean_a, mean_b, square_a, square_b, product = _blurred(torch.stack((a, b, a * a, b * b, a * b), dim=1)).unbind(1)
    luminance = (2 * mean_a * mean_b + LUMINANCE_FLOOR) / (mean_a**2 + mean_b**2 + LUMINANCE_FLOOR)
    spread = square_a - mean_a**2 + square_b - mean_b**2
    contrast = (2 * (product - mean_a * mean_b) + CONTRAST_FLOOR) / (spread + CONTRAST_FLOOR)
    return luminance, contrast


def _blurred(x: Tensor) -> Tensor:
    """Return the weighted means of (M, K, H, W) in the window, separately for rows and columns.

    This is a depthwise convolution: torch has its own kernels for it on GPUs, in true float32, while cuDNN's TF32 would
    leave too few digits for a variance.
    """
    channels = x.shape[1]
    for dim in (2, 3):
        shape = (channels, 1, -1, 1) if dim == 2 else (channels, 1, 1, -1)
        x = F.conv2d(x, _window(x.shape[dim], x).expand(channels, -1).reshape(shape), groups=channels)
    return x


def _window(side: int, like: Tensor) -> Tensor:
    """Return the weights of the Gaussian window, made on the device: a copy from the CPU would stall a GPU."""
    size = min(WINDOW, side - 1 + side % 2)
    places = torch.arange(size, device=like.device, dtype=like.dtype) - (size - 1) / 2
    bell = torch.exp(-(places**2) / (2 * SIGMA**2))
    return bell / bell.sum()
