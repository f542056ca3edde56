"""Backward pass of a 1×1 convolution and the batch norm after it, without what is between them.

With h the input, W the weight, and g the gradient of the norm's result, y = W h is linear in h. Hence all sums over
pixels that the norm's backward pass takes of g and y are sums of g and h, weighted by W: with hc = h - mean(h),
M = Σ g hcᵀ and G = Σ hc hcᵀ,

    Σ g x̂ = inv_std · rowsum(W ∘ M),
    dy    = a (g - mean(g) - x̂ mean(g x̂)),                 a = scale · inv_std
    dW    = a M - k (W G),                                  k = a · inv_std · mean(g x̂)
    dh    = r - mean(r),                                    r = Wᵀ a g - (Wᵀ k W) hc.

Where y has several times the channels of h, this is faster than to compute y again, and y is not kept. As h is centred
before the sums, and dh after them, rounding errors are those of the usual computation; where gradients nearly cancel,
they are up to about five times as large.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from unetzoo.nn.remaking import Convolution, NormAgain, Statistics

FEW = 128
"""Channels in up to which this is used: the multiply-adds with G and Wᵀ k W are then few."""


def passes_by(conv: Convolution, weight: Tensor) -> bool:
    """Whether what is between this convolution and its norm is not needed for backward."""
    out, channels, *kernel = weight.shape
    return kernel == [1, 1] and conv.is_bare and channels <= FEW and out >= 2 * channels and weight.dtype.itemsize >= 4


def pointwise_norm_backward(
    conv: Convolution,
    norm: NormAgain,
    grad: Tensor,
    x: Tensor,
    tensors: Sequence[Tensor],
    statistics: Statistics,
    needed: bool,
) -> list[Tensor | None]:
    """Return the gradients of x, the weight, and the norm's scale and shift.

    Args:
        conv, norm: as they were for x.
        grad: of the norm's result, (N, O, H, W).
        x: (N, C, H, W).
        tensors: the convolution's weight, the norm's scale.
        statistics: those of the norm.
        needed: whether x needs a gradient.
    """
    weight, scale = tensors
    matrix = weight.flatten(1)
    mean = x.mean((0, 2, 3))
    centred = x - mean[:, None, None]
    _, found, _ = conv.backward(grad, centred, weight, (False, True, False))
    assert found is not None
    for_shift = grad.sum((0, 2, 3))  # which the convolution would give, too, but slower
    products = found.flatten(1)
    with_y = (matrix * products).sum(1)
    if not norm.training:
        running_mean, variance = statistics
        inverse = (variance + norm.eps).rsqrt()
        for_scale = inverse * (with_y + for_shift * (matrix @ mean - running_mean))
        gain = scale * inverse
        for_weight = gain[:, None] * (products + for_shift[:, None] * mean)
        for_x = _data_gradient(conv, grad, x, weight, gain) if needed else None
        return [for_x, for_weight.view_as(weight), for_scale, for_shift]
    inverse, pixels = statistics[1], x[:, 0].numel()
    for_scale = inverse * with_y
    gain = scale * inverse
    along = (gain * inverse * for_scale / pixels)[:, None] * matrix
    square = matrix.new_empty((len(mean), len(mean), 1, 1))  # of which only the shape is read
    _, gram, _ = conv.backward(centred, centred, square, (False, True, False))
    assert gram is not None
    for_weight = gain[:, None] * products - along @ gram.flatten(1)
    for_x = None
    if needed:
        for_x = _data_gradient(conv, grad, x, weight, gain)
        mixed = matrix.t() @ along
        for_x.sub_(F.conv2d(centred, mixed[:, :, None, None], dilation=conv.dilation))
        for_x.sub_(for_x.mean((0, 2, 3))[:, None, None])
    return [for_x, for_weight.view_as(weight), for_scale, for_shift]


def _data_gradient(conv: Convolution, grad: Tensor, x: Tensor, weight: Tensor, gain: Tensor) -> Tensor:
    """Return the gradient of x from ``gain`` times ``grad``."""
    for_x, _, _ = conv.backward(grad, x, weight * gain[:, None, None, None], (True, False, False))
    assert for_x is not None
    return for_x
