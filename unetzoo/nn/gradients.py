"""Gradients of convolutions on the CPU, by the faster of oneDNN's convolution and its matrix product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo.nn.pointwise import FEW_PIXELS, free_dilation, multiplies, product
from unetzoo.nn.programs import of_several

MANY, MANY_WIDE = 1024, 512
"""Channels in from which a weight's gradient is a matrix product of its own, if there are few pixels: for 1×1 kernels,
and for larger ones, which need as many channels out."""
MANY_WEIGHTS = 4096
"""Weights per pixel from which this is so for 1×1 kernels with fewer channels in."""
BLOCK = 512
"""Channels in that are taken together for larger kernels, so that what they need stays in the processor's cache."""


def weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int] = (1, 1), padding: Sequence[int] = (0, 0)
) -> Tensor | None:
    """Return the gradient of a convolution's weight from a matrix product, if that is faster; else None.

    oneDNN's own for convolutions reaches 30 to 80 % of the processor's speed if many channels meet few pixels.

    Args:
        grad: of the convolution's result, (N, O, H, W).
        x: what was convolved, (N, C, H', W').
        weight: (O, C, K, L).
        stride, padding: those of the convolution, which has one group and no dilation.
    """
    pixels = grad[:, 0].numel()
    if torch.is_grad_enabled() or of_several(grad) or not weight_is_product(pixels, x, weight):
        return None
    rows = grad.transpose(0, 1).reshape(-1, pixels)
    out_channels, channels, *kernel = weight.shape
    if kernel == [1, 1]:
        found = product(rows, _windows(x, kernel, stride, padding).t())
        return found.view(weight.shape)
    found = torch.empty_like(weight)
    for start in range(0, channels, BLOCK):
        windows = _windows(x[:, start : start + BLOCK], kernel, stride, padding)
        part = product(rows, windows.t()).view(out_channels, *kernel, -1)
        found[:, start : start + BLOCK] = part.permute(0, 3, 1, 2)
    return found


def weight_is_product(pixels: int, x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`weight_gradient` is the faster way for a convolution of ``x`` to so many pixels of a batch."""
    channels = weight.shape[1]
    if weight.shape[2:] == (1, 1):
        many = channels >= MANY or weight.numel() >= MANY_WEIGHTS * pixels
    else:
        many = min(weight.shape[:2]) >= MANY_WIDE
    return many and pixels <= FEW_PIXELS and multiplies(x, weight)


def _windows(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Return what each pixel of the output reads, (pixels, K × L × C)."""
    down, across = padding
    x = F.pad(x, (across, across, down, down)) if down or across else x
    x = x.contiguous(memory_format=torch.channels_last)
    count, channels, height, width = x.shape
    sides = [(side - tap) // step + 1 for side, tap, step in zip((height, width), kernel, stride, strict=True)]
    line = width * channels  # one row of a window is one piece of memory
    steps = (height * line, stride[0] * line, stride[1] * channels, line, 1)
    windows = x.as_strided((count, *sides, kernel[0], kernel[1] * channels), steps, x.storage_offset())
    # Windows of one image that move in one direction only overlap as a view, which oneDNN does not take.
    return windows.reshape(count * sides[0] * sides[1], -1).contiguous()


def pointwise_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of ``x`` and ``weight``, or None, of a 1×1 convolution from that of its result."""
    matrix = weight_gradient(grad, x, weight) if needed[1] else None
    mask = [needed[0], needed[1] and matrix is None, False]
    spread = [free_dilation(x, weight)] * 2
    for_x, for_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], [0, 0], spread, False, [0, 0], 1, mask
    )
    return for_x, for_weight if matrix is None else matrix
