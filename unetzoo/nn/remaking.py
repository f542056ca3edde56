"""What is done again for backward: batch norms, from their input and the batch's statistics, to the bit.

Autograd keeps the result of norm and ReLU for the convolution after them. To do both again needs no statistics a second
time: it is two cheap passes over the map. Convolutions are here with their backward pass, so that both are computed in
the layout that suits them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetzoo.nn import winograd
from unetzoo.nn.few_outputs import few_output_gradients, few_outputs, gains
from unetzoo.nn.gradients import weight_gradient, weight_is_product
from unetzoo.nn.layouts import heavy_in_training
from unetzoo.nn.norming import watched
from unetzoo.nn.packing import Form
from unetzoo.nn.pointwise import by_product, is_product
from unetzoo.nn.programs import PLAIN, of_several

Statistics = tuple[Tensor, Tensor]
"""Two tensors of a number per channel: in training mode the batch's mean and its inverse deviation, in evaluation mode
running mean and variance."""


class Convolution(Form):
    """A convolution of this form. Its ``backward`` is written out, not recorded."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the convolution of ``x``, laid out as ``x`` is; with few outputs, channels last."""
        if self._by_taps(x, weight):
            return few_outputs(x, weight, bias, self.padding).contiguous(memory_format=torch.channels_last)
        if self.is_bare and is_product(self.pixels(x), x, weight):
            return by_product(x, weight, bias)
        if self._is_dense and winograd.gains(x, weight, self.padding, bias):
            return winograd.by_points(x, weight, bias, self.padding)
        heavy = heavy_in_training(x, weight, self._numbers(x, weight))
        y = F.conv2d(
            x.contiguous() if heavy else x, weight, bias, self.stride, self.padding, self.dilation, self.groups
        )
        return y.contiguous(memory_format=torch.channels_last) if heavy else y

    def backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, needed: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of x, weight and bias, None for those that are not needed."""
        if self._by_taps(x, weight) and not of_several(grad):
            return few_output_gradients(grad, x, weight, self.padding, needed)
        recorded = torch.is_grad_enabled() or of_several(grad)
        ways = winograd.Ways() if recorded else self._ways(x, weight)
        for_x = winograd.input_gradient(grad, weight, self.padding) if needed[0] and ways.input_gradient else None
        for_weight = self._weight_gradient(grad, x, weight, ways.kernel_gradient) if needed[1] else None
        # Not torch's for the bias alone: it would compute the gradient of the weight as well.
        for_bias = grad.sum((0, 2, 3)) if needed[2] and for_weight is not None else None
        own = (for_x, for_weight, for_bias)
        rest = [need and found is None for need, found in zip(needed, own, strict=True)]
        if not any(rest):
            return own
        heavy = heavy_in_training(x, weight, grad.numel()) and not of_several(grad)
        if heavy:
            grad, x = grad.contiguous(), x.contiguous()
        theirs = torch.ops.aten.convolution_backward(
            grad, x, weight, [len(weight)], self.stride, self.padding, self.dilation, False, (0, 0), self.groups, rest
        )
        for_x, for_weight, for_bias = (b if left else a for a, b, left in zip(own, theirs, rest, strict=True))
        if heavy and for_x is not None:
            for_x = for_x.contiguous(memory_format=torch.channels_last)
        return for_x, for_weight, for_bias

    def recorded(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the same, recorded by autograd with this backward pass; ``x`` is kept."""
        out: Tensor = _Convolved.apply(self, x, weight, bias)
        return out

    def differs(self, x: Tensor, weight: Tensor) -> bool:
        """Whether ``recorded`` does something else than torch's own convolution."""
        return (
            self._by_taps(x, weight)
            or heavy_in_training(x, weight, self._numbers(x, weight))
            or weight_is_product(self.pixels(x), x, weight)
            or any(self._ways(x, weight))
        )

    @property
    def _is_dense(self) -> bool:
        return self == Form(padding=self.padding)

    def _ways(self, x: Tensor, weight: Tensor) -> winograd.Ways:
        return winograd.ways_in_training(x, weight, self.padding) if self._is_dense else winograd.Ways()

    def _by_taps(self, x: Tensor, weight: Tensor) -> bool:
        return self._is_dense and gains(x, weight)

    def _weight_gradient(self, grad: Tensor, x: Tensor, weight: Tensor, by_points: bool) -> Tensor | None:
        """Return the gradient of the weight if there is a faster way than torch's own."""
        if by_points:
            return winograd.kernel_gradient(grad, x, self.padding)
        bare = self.groups == 1 and (weight.shape[2:] == (1, 1) or tuple(self.dilation) == (1, 1))
        return weight_gradient(grad, x, weight, self.stride, self.padding) if bare else None

    def _numbers(self, x: Tensor, weight: Tensor) -> int:
        """Return how many numbers the convolution of ``x`` has, but for its border."""
        return x[:, 0].numel() * len(weight) // math.prod(self.stride)


class _Convolved(torch.autograd.Function):
    """A convolution that keeps its input, as torch's does."""

    @staticmethod
    def forward(ctx: Any, form: Convolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.form = form
        ctx.save_for_backward(x, weight)
        return form(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return None, *ctx.form.backward(grads[0], x, weight, ctx.needs_input_grad[1:])


@dataclass(frozen=True)
class NormAgain:
    """How one batch was normalised: all that is needed to do it again, and its backward pass, but for tensors."""

    training: bool
    eps: float

    def again(self, x: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics) -> Tensor:
        """Return what :func:`normalised` returned."""
        mean, spread = statistics
        if self.training:
            # The kernel of evaluation mode, with a scale that is made as that of training mode is: the same to the bit.
            weight, spread, eps = weight * spread, torch.ones_like(spread), 0.0
        else:
            eps = self.eps
        return torch.native_batch_norm(x, weight, bias, mean, spread, False, 0.0, eps)[0]

    def differentiable(self, x: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics) -> Tensor:
        """Return the same from torch's own function, for gradients of gradients."""
        if self.training:
            return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)
        return F.batch_norm(x, *statistics, weight, bias, training=False, eps=self.eps)

    def backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, statistics: Statistics, needed: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of x, weight and bias, None for those that are not needed."""
        if not x.numel():  # torch would divide by the number of pixels, which ends the process
            for_x, for_weight, for_bias = (
                torch.zeros_like(tensor) if need else None
                for tensor, need in zip((x, weight, weight), needed, strict=True)
            )
            return for_x, for_weight, for_bias
        running, batch = ((None, None), statistics) if self.training else (statistics, (None, None))
        found = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, *running, *batch, self.training, self.eps, list(needed)
        )
        for_x, for_weight, for_bias = (tensor if need else None for tensor, need in zip(found, needed, strict=True))
        return for_x, for_weight, for_bias


@dataclass(frozen=True)
class NormActAgain:
    """The same with the activation after it: a ReLU, or a leaky one of a positive ``slope``."""

    norm: NormAgain
    slope: float = 0.0

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics, twice: bool) -> Tensor:
        """Return the map, recorded by autograd; ``twice``: its gradients can be recorded, too."""
        if twice:
            return self.activated(self.norm.differentiable(x, weight, bias, statistics))
        out: Tensor = _NormAct.apply(self, x, weight, bias, *statistics)
        return out

    def activated(self, y: Tensor) -> Tensor:
        """Return the activation of ``y``, which is overwritten."""
        return F.leaky_relu_(y, self.slope) if self.slope else y.relu_()

    def through(self, grad: Tensor, out: Tensor) -> Tensor:
        """Return the gradient of what :meth:`activated` made ``out`` of; ``grad`` may be overwritten."""
        # A new map takes longer to fill. But of a gradient with gaps, the norm's backward pass would make a copy.
        place = grad if grad.stride() == out.stride() else torch.empty_like(out)
        if self.slope:
            torch.ops.aten.leaky_relu_backward.grad_input(grad, out, self.slope, True, grad_input=place)
        else:
            torch.ops.aten.threshold_backward.grad_input(grad, out, 0, grad_input=place)
        return place


class _NormAct(torch.autograd.Function):
    """A map made again, and its backward pass with the statistics of the first time."""

    @staticmethod
    def forward(ctx: Any, how: NormActAgain, x: Tensor, weight: Tensor, bias: Tensor, *statistics: Tensor) -> Tensor:
        first, second = statistics
        out = how.activated(how.norm.again(x, weight, bias, (first, second)))
        ctx.how = how
        ctx.save_for_backward(x, weight, out, first, second)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, out, *statistics = ctx.saved_tensors
        grad = ctx.how.through(grads[0], out)
        return None, *ctx.how.norm.backward(grad, x, weight, statistics, ctx.needs_input_grad[1:4]), None, None


def is_plain_activation(act: nn.Module) -> bool:
    """Whether ``act`` is a ReLU, or a leaky one whose sign its result has, that nobody watches."""
    return type(act) in (nn.ReLU, nn.LeakyReLU) and slope_of(act) >= 0 and not watched(act)


def slope_of(act: nn.Module) -> float:
    """Return the slope below zero of a ReLU or a leaky one."""
    return float(act.negative_slope) if isinstance(act, nn.LeakyReLU) else 0.0


def normalised(norm: nn.BatchNorm2d, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, NormAgain, Statistics]:
    """Return ``norm(x)``, counted in its running statistics, and what is needed to do it again.

    Args:
        norm: one for which :func:`can_be_done_again` holds.
        x: (N, C, H, W).
        weight, bias: those of ``norm``.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    if norm.training and x.numel() == x.shape[1]:
        norm(x)  # which refuses it: a single number has no deviation
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    out, mean, spread = torch.native_batch_norm(
        x, weight, bias, norm.running_mean, norm.running_var, norm.training, norm.momentum, norm.eps
    )
    if not norm.training:  # which another batch may change before backward
        mean, spread = norm.running_mean.clone(), norm.running_var.clone()
    return out, NormAgain(norm.training, norm.eps), (mean, spread)


def can_be_done_again(norm: nn.Module, x: Tensor) -> bool:
    """Whether ``norm``, of maps like ``x``, is a batch norm that does what its class says, unwatched."""
    if type(norm) is not nn.BatchNorm2d or not norm.affine or norm.momentum is None or watched(norm):
        return False
    wide = torch.float32 if x.dtype.itemsize < 4 else x.dtype  # statistics in half precision would be rounded
    tensors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    alike = all(isinstance(y, Tensor) and type(y) in PLAIN and y.dtype == wide for y in tensors)
    return alike and norm.track_running_stats and x.device.type in ("cpu", "meta")
