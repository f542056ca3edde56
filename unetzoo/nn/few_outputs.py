"""Convolutions with one or a few outputs, as in heads: a 1×1 convolution to all taps, which are shifted and added.

oneDNN computes 16 channels at once, so that a 3×3 convolution to one channel wastes most of its work. As a 1×1
convolution, its nine taps fill these channels, and the multiply-adds are the same. The backward pass is alike: nine
shifted copies of the gradient, which has few channels, take the place of nine shifted copies of the input.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo.nn.gradients import pointwise_gradients
from unetzoo.nn.pointwise import by_onednn, free_dilation

FEWEST_TAPPED = 16
"""Channels in from which a convolution to one or a few channels is computed by its taps."""


def has_few_outputs(weight: Tensor) -> bool:
    """Whether all taps of a kernel fit into the 16 channels that oneDNN computes at once; else most are not used."""
    out_channels, channels, *kernel = weight.shape
    taps = math.prod(kernel)
    return 1 < taps <= taps * out_channels <= 16 and channels >= FEWEST_TAPPED


def gains(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`few_outputs` is the faster way to convolve ``x`` at stride 1, in a model that is not optimised."""
    return has_few_outputs(weight) and by_onednn(x, weight.flatten(0, 2))  # the channels out are taps here


def few_outputs(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
    """Return the convolution of ``x`` (N, C, H, W), of plain operators; (N, O, H, W) with the usual padding."""
    mixer = weight_of_taps(weight)
    return sum_of_taps(F.conv2d(x, mixer, dilation=free_dilation(x, mixer)), weight, bias, padding)


def weight_of_taps(weight: Tensor) -> Tensor:
    """Return the weight of the 1×1 convolution to all taps, (K × L × O, C, 1, 1)."""
    return weight.permute(2, 3, 0, 1).flatten(0, 2)[:, :, None, None].contiguous()


def sum_of_taps(taps: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
    """Shift and add the taps (N, K × L × O, H, W) of a convolution; the result has channels first."""
    kernel = weight.shape[2:]
    down, across = padding
    taps = F.pad(taps.contiguous(), (across, across, down, down))
    height, width = (side - tap + 1 for side, tap in zip(taps.shape[2:], kernel, strict=True))
    parts = []
    for number, part in enumerate(taps.chunk(math.prod(kernel), dim=1)):
        row, column = divmod(number, kernel[1])
        parts.append(part[:, :, row : row + height, column : column + width])
    out = functools.reduce(torch.add, parts)
    return out if bias is None else out + bias[:, None, None]


def few_output_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, padding: Sequence[int], needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of x, weight and bias from that of the result, None for those that are not needed."""
    kernel, (height, width) = weight.shape[2:], x.shape[2:]
    rows, columns = (tap - 1 - side for tap, side in zip(kernel, padding, strict=True))
    padded = F.pad(grad.contiguous(), (columns, columns, rows, rows))
    taps = [
        padded[:, :, row : row + height, column : column + width]
        for row in reversed(range(kernel[0]))
        for column in reversed(range(kernel[1]))
    ]
    mixer = weight_of_taps(weight)
    spread = torch.cat(taps, dim=1).contiguous(memory_format=torch.channels_last)
    for_x, for_mixer = pointwise_gradients(spread, x, mixer, needed)
    for_weight = None if for_mixer is None else for_mixer.view(*kernel, *weight.shape[:2]).permute(2, 3, 0, 1)
    return for_x, for_weight, grad.sum((0, 2, 3)) if needed[2] else None
