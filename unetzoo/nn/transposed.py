"""Transposed convolutions with kernel = stride, as 1×1 convolutions to all places of the kernel.

Each pixel of the output comes from one of the input, so the convolution is one to K · L · O channels, which are then
put side by side. oneDNN's own backward pass takes up to three times as long as that of a 1×1 convolution.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetzoo.nn.gradients import pointwise_gradients
from unetzoo.nn.norming import watched
from unetzoo.nn.pointwise import by_onednn
from unetzoo.nn.programs import of_several, only_backward

FEWEST_PIXELS = 2048
"""Pixels of a batch from which the backward pass is that of a 1×1 convolution; with fewer, weights are reordered for
longer than this saves."""


def weight_of_places(weight: Tensor) -> Tensor:
    """Return the weight of the 1×1 convolution to all places of a kernel, (K × L × O, C, 1, 1), of (C, O, K, L)."""
    return weight.permute(2, 3, 1, 0).flatten(0, 2)[:, :, None, None].contiguous()


def from_places(y: Tensor, weight: Tensor) -> Tensor:
    """Put the places (N, K × L × O, H, W) side by side: (N, O, K × H, L × W), channels last."""
    (count, _, height, width), (_, channels, down, across) = y.shape, weight.shape
    y = y.permute(0, 2, 3, 1).reshape(count, height, width, down, across, channels)
    y = y.transpose(2, 3).reshape(count, height * down, width * across, channels)
    return y.permute(0, 3, 1, 2)


def to_places(y: Tensor, weight: Tensor) -> Tensor:
    """Do the reverse of :func:`from_places`."""
    (count, channels, height, width), (down, across) = y.shape, weight.shape[2:]
    y = y.permute(0, 2, 3, 1).reshape(count, height // down, down, width // across, across, channels)
    y = y.transpose(2, 3).reshape(count, height // down, width // across, -1)
    return y.permute(0, 3, 1, 2)


def gains_backward(conv: nn.ConvTranspose2d, x: Tensor) -> bool:
    """Whether :func:`transposed` is the faster way to convolve ``x`` for training; kernel = stride, without padding."""
    tensors = [x, conv.weight] if conv.bias is None else [x, conv.weight, conv.bias]
    if type(conv) is not nn.ConvTranspose2d or watched(conv) or not by_onednn(x, conv.weight.transpose(0, 1)):
        return False
    enough = x[:, 0].numel() >= FEWEST_PIXELS
    return enough and not torch.is_autocast_enabled(x.device.type) and only_backward(*tensors)


def transposed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the transposed convolution (N, O, K × H, L × W) of ``x`` (N, C, H, W) with kernel = stride = (K, L)."""
    out: Tensor = _Transposed.apply(x, weight, bias)
    return out


class _Transposed(torch.autograd.Function):
    """torch's own, with the backward pass of a 1×1 convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv_transpose2d(x, weight, bias, stride=weight.shape[2:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (grad,), needed = ctx.saved_tensors, grads, ctx.needs_input_grad
        if torch.is_grad_enabled() or of_several(grad):  # torch's own can be differentiated, and take many at once
            sizes, still = [weight.shape[1]], [0, 0]
            found: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
                grad, x, weight, sizes, weight.shape[2:], still, [1, 1], True, still, 1, needed
            )
            return found
        for_x, for_mixer = pointwise_gradients(to_places(grad, weight), x, weight_of_places(weight), needed)
        channels, out_channels, *kernel = weight.shape
        for_weight = None
        if for_mixer is not None:
            for_weight = for_mixer.view(*kernel, out_channels, channels).permute(3, 2, 0, 1)
        return for_x, for_weight, grad.sum((0, 2, 3)) if needed[2] else None
