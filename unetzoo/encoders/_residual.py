"""torchvision's residual blocks with the same values and gradients, and about half of what autograd keeps of them.

Of a branch, conv → norm → ReLU → conv → norm → …, autograd keeps the input of each convolution and of each norm. Here
only the outputs of convolutions are kept, and norm and ReLU are done again for backward. A wide 1×1 convolution, which
in ResNet-50 gives most of the numbers of a block, keeps none: see ``unetzoo.nn.pointwise_norm``. 1×1 convolutions are
computed by the faster of torch's libraries: see ``unetzoo.nn.pointwise``.

This file imports torchvision, so it is imported late.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet

from unetzoo.nn.norming import watched
from unetzoo.nn.packing import is_folded
from unetzoo.nn.pointwise_norm import passes_by, pointwise_norm_backward
from unetzoo.nn.programs import of_several, only_backward, transformed
from unetzoo.nn.remaking import (
    Convolution,
    NormAgain,
    Statistics,
    can_be_done_again,
    normalised,
)
from unetzoo.nn.resampling import autocast_dtype


def make_lean(network: nn.Module) -> None:
    """Let the residual blocks of ``network`` be computed in this way; names and modules stay as they are."""
    for module in network.modules():
        if type(module) in LEAN:
            module.__class__ = LEAN[type(module)]


class _Lean(nn.Module):
    """Base of both kinds of blocks, before torchvision's, whose ``forward`` does whatever is not exactly its own."""

    downsample: nn.Module | None
    relu: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        # Not on CUDA: see ``unetzoo.nn.convolutions.remakes``. On meta, so that what is counted there holds here.
        if type(x) is Tensor and x.device.type in ("cpu", "meta") and not transformed() and only_backward(x):
            if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *self.parameters()))):
                return self._without_gradients(x)
            dtype = autocast_dtype(x)
            if x.dtype == dtype and self._plain(x):
                return self._remade(x, dtype)
        out: Tensor = super().forward(x)
        return out

    def _branch(self) -> list[tuple[nn.Module, nn.Module]]:
        """Return its convolutions, each with the norm after it."""
        numbers = (1, 2, 3) if isinstance(self, resnet.Bottleneck) else (1, 2)
        return [(self.get_submodule(f"conv{k}"), self.get_submodule(f"bn{k}")) for k in numbers]

    def _shortcut(self) -> list[tuple[nn.Module, nn.Module]]:
        """Return the convolution of the shortcut and its norm, or nothing."""
        if self.downsample is None:
            return []
        assert isinstance(self.downsample, nn.Sequential)
        conv, norm = self.downsample
        return [(conv, norm)]

    def _without_gradients(self, x: Tensor) -> Tensor:
        """Return what torchvision's ``forward`` gives, to the bit; in an optimised copy by its fused convolutions."""
        *before, last = self._branch()
        if not (type(self.relu) is nn.ReLU and all(is_folded(conv, norm) for conv, norm in (*before, last))):
            plain: Tensor = super().forward(x)
            return plain
        out = x
        for conv, _ in before:
            out = conv(out, after=self.relu)
        added = x if self.downsample is None else self.downsample(x)
        spare = self.downsample is not None and not any(map(watched, self.downsample.modules()))
        result: Tensor = last[0](out, add=added, after=self.relu, spare=spare)
        return result

    def _plain(self, x: Tensor) -> bool:
        """Whether all parts are those that torchvision put there, and nobody looks at what is between them."""
        if not (x.numel() and only_backward(x, *self.parameters()) and _is_unwatched(self.relu, nn.ReLU)):
            return False
        if self.downsample is not None and not _is_pair(self.downsample):
            return False
        pairs = [*self._branch(), *self._shortcut()]
        casts = torch.is_autocast_enabled(x.device.type) if not x.is_meta else False
        return all(
            _is_plain_convolution(conv, None if casts else x.dtype) and can_be_done_again(norm, x)
            for conv, norm in pairs
        )

    def _remade(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        pairs = [*self._branch(), *self._shortcut()]
        tensors = [tensor for conv, norm in pairs for tensor in (conv.weight.to(dtype), norm.weight, norm.bias)]
        out: Tensor = _RemadeBlock.apply(pairs, len(self._branch()), x, *tensors)
        return out


class BasicBlock(_Lean, resnet.BasicBlock):  # type: ignore[misc]
    """torchvision's block of two 3×3 convolutions."""


class Bottleneck(_Lean, resnet.Bottleneck):  # type: ignore[misc]
    """torchvision's block of a 1×1, a 3×3 and a 1×1 convolution."""


LEAN: dict[type, type] = {resnet.BasicBlock: BasicBlock, resnet.Bottleneck: Bottleneck}
"""torchvision's class → the one in its place."""


def _is_unwatched(module: nn.Module, kind: type) -> bool:
    return type(module) is kind and not watched(module)


def _is_pair(downsample: nn.Module) -> bool:
    return _is_unwatched(downsample, nn.Sequential) and len(downsample) == 2  # type: ignore[arg-type]


def _is_plain_convolution(conv: nn.Module, dtype: torch.dtype | None) -> bool:
    """Whether ``conv`` does what its class says, with a weight of type ``dtype`` (None: of any) and no bias."""
    if not (isinstance(conv, nn.Conv2d) and _is_unwatched(conv, nn.Conv2d)) or conv.bias is not None:
        return False
    padded_by_zeros = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return padded_by_zeros and dtype in (None, conv.weight.dtype)


def _settings(conv: nn.Conv2d, x: Tensor, weight: Tensor) -> Convolution:
    """Return those of ``conv`` for ``x``, with the faster dilation where it says nothing."""
    assert not isinstance(conv.padding, str)
    return Convolution(conv.stride, conv.padding, conv.dilation, conv.groups).freed(x, weight)


class _Step:
    """A convolution and its norm in one backward pass, with their tensors.

    Attributes:
        y: what is between them; None if backward passes it by.
    """

    def __init__(self, conv: Convolution, norm: NormAgain, tensors: Sequence[Tensor], kept: Iterator[Tensor]) -> None:
        self.conv, self.norm = conv, norm
        self.weight, self.scale, self.shift = tensors
        self.statistics: Statistics = next(kept), next(kept)
        self.y = None if passes_by(conv, self.weight) else next(kept)

    def activated(self, x: Tensor) -> Tensor:
        """Return norm and ReLU of the convolution of x again."""
        y = self.conv(x, self.weight) if self.y is None else self.y
        return self.norm.again(y, self.scale, self.shift, self.statistics).relu_()

    def backward(self, grad: Tensor, x: Tensor, needed: Sequence[bool]) -> list[Tensor | None]:
        """Return the gradients of x, weight, scale and shift from that of the norm's result; ``y`` is dropped."""
        if self.y is None:
            found = pointwise_norm_backward(
                self.conv, self.norm, grad, x, (self.weight, self.scale), self.statistics, needed[0]
            )
            return [gradient if need else None for gradient, need in zip(found, needed, strict=True)]
        through = needed[0] or needed[1]
        for_y, for_scale, for_shift = self.norm.backward(
            grad, self.y, self.scale, self.statistics, (through, needed[2], needed[3])
        )
        self.y = None
        if for_y is None:
            return [None, None, for_scale, for_shift]
        for_x, for_weight, _ = self.conv.backward(for_y, x, self.weight, (needed[0], needed[1], False))
        return [for_x, for_weight, for_scale, for_shift]


class _RemadeBlock(torch.autograd.Function):
    """``relu(branch(x) + shortcut(x))`` that keeps x, the result, and the outputs of the costly convolutions.

    Its tensors are weight, scale and shift of each pair of convolution and norm: first those of the branch, of
    ``depth`` pairs, then that of the shortcut, if there is one.
    """

    @staticmethod
    def forward(
        ctx: Any, pairs: Sequence[tuple[nn.Conv2d, nn.BatchNorm2d]], depth: int, x: Tensor, *tensors: Tensor
    ) -> Tensor:
        ctx.hows, ctx.depth = [], depth
        kept: list[Tensor] = []
        ends: list[Tensor] = []
        out = x
        for number, (conv, norm) in enumerate(pairs):
            below, (weight, scale, shift) = x if number == depth else out, _three(tensors, number)
            settings = _settings(conv, below, weight)
            y = settings(below, weight)
            out, how, statistics = normalised(norm, y, scale, shift)
            kept += statistics if passes_by(settings, weight) else (*statistics, y)
            ctx.hows.append((settings, how))
            if number < depth - 1:
                out.relu_()
            else:
                ends.append(out)
        out = ends[0].add_(ends[1] if len(ends) > 1 else x).relu_()
        ctx.save_for_backward(x, out, *tensors, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, out, *rest = ctx.saved_tensors
        tensors, kept = rest[: 3 * len(ctx.hows)], iter(rest[3 * len(ctx.hows) :])
        steps = [_Step(conv, norm, _three(tensors, number), kept) for number, (conv, norm) in enumerate(ctx.hows)]
        branch, shortcut = steps[: ctx.depth], steps[ctx.depth :]
        _, _, for_x_needed, *needed = ctx.needs_input_grad
        if torch.is_grad_enabled() or of_several(
            grads[0]
        ):  # its own gradient will be needed, or it is one of many at once
            wanted = [for_x_needed, *needed]
            return None, None, *_differentiable((branch, shortcut), grads[0], [x, *tensors], wanted)
        del rest, kept
        grad = torch.ops.aten.threshold_backward(grads[0], out, 0)
        for_x, *found = _through(branch, grad, x, [for_x_needed, *needed[: 3 * len(branch)]])
        for_shortcut: Tensor | None = grad
        if shortcut:
            for_shortcut, *others = _through(shortcut, grad, x, [for_x_needed, *needed[3 * len(branch) :]])
            found += others
        if for_x is not None and for_shortcut is not None:
            for_x.add_(for_shortcut)
        return None, None, for_x, *found


def _three(tensors: Sequence[Tensor], number: int) -> Sequence[Tensor]:
    return tensors[3 * number : 3 * number + 3]


def _through(steps: Sequence[_Step], grad: Tensor, x: Tensor, needed: Sequence[bool]) -> list[Tensor | None]:
    """Return the gradients of x and of the tensors of ``steps`` that are needed, from that of the last norm."""
    found: list[Tensor | None] = []
    for number in reversed(range(len(steps))):
        first = 3 * number + 1
        below = _input(steps, number, x)
        own = [any(needed[:first]), *needed[first : first + 3]]
        for_below, *others = steps[number].backward(grad, below, own)
        found = [*others, *found]
        if for_below is None:
            return [None] * first + found
        if number:
            grad = torch.ops.aten.threshold_backward.grad_input(for_below, below, 0, grad_input=for_below)
    return [for_below, *found]


def _input(steps: Sequence[_Step], number: int, x: Tensor) -> Tensor:
    """Return the input of a step's convolution, made again from what the step before it has kept."""
    if number == 0:
        return x
    before = steps[number - 1]
    return before.activated(x if before.y is not None else _input(steps, number - 1, x))


def _differentiable(
    chains: tuple[Sequence[_Step], Sequence[_Step]], grad: Tensor, tensors: list[Tensor], needed: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients of x and the others of ``tensors`` by autograd, from the whole block computed again."""
    again = torch.is_grad_enabled()
    if not again:
        tensors = [tensor.detach().requires_grad_(need) for tensor, need in zip(tensors, needed, strict=True)]
    x, *others = tensors
    ends, number = [], 0
    with torch.enable_grad():
        for steps in chains:
            out = x
            for step in steps:
                weight, scale, shift = _three(others, number)
                out = out.relu() if step is not steps[0] else out
                out = step.norm.differentiable(step.conv(out, weight), scale, shift, step.statistics)
                number += 1
            ends.append(out)
        result = (ends[0] + ends[1]).relu()
    wanted = [tensor for tensor, need in zip(tensors, needed, strict=True) if need]
    found = iter(torch.autograd.grad(result, wanted, grad, create_graph=again))
    return [next(found) if need else None for need in needed]
