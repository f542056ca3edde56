"""Convolution of several maps together, for which neither their concatenation nor up-sampled maps are kept.

Autograd keeps the input of each convolution for the backward pass. If that input is large, and cheap to recompute (a
concatenation, an up-sampled map, a norm and ReLU of a tensor that is kept anyway), :class:`ConcatConv` keeps the
tensors from which it is made instead: see :func:`remakes`. Values and gradients are those of the ordinary computation.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from unetzoo.errors import InputError
from unetzoo.nn import winograd
from unetzoo.nn.few_outputs import few_outputs, gains
from unetzoo.nn.layouts import settled
from unetzoo.nn.norming import normed
from unetzoo.nn.packing import Form, Packs, convolved
from unetzoo.nn.pointwise import free_dilation
from unetzoo.nn.programs import by_tracing, of_several, only_backward, transformed
from unetzoo.nn.remaking import Convolution, NormActAgain, can_be_done_again, is_plain_activation, normalised, slope_of
from unetzoo.nn.resampling import (
    MODES,
    Size,
    autocast_dtype,
    mixed_first,
    mixes,
    resize_alike,
)

SMALL = 300_000
"""Numbers of the sources of a convolution, of one image, up to which their concatenation is kept for backward."""

FEWEST_PIXELS = {torch.float32: 16384, torch.bfloat16: 32768}
"""Pixels of a batch, by type, from which the backward pass takes the maps of a concatenation one by one: it takes no
longer, and their concatenation is never made. On smaller maps one large convolution is faster."""
BLOCK = 16
"""Channels that oneDNN computes at once: maps of other numbers of channels are faster together."""


@dataclass(frozen=True)
class Upsampled:
    """``x`` resampled to ``size`` ("nearest", "bilinear" or "bilinear_aligned"), which is still to be done."""

    x: Tensor
    size: Size
    mode: str = "bilinear"


@dataclass(frozen=True)
class Activated:
    """``act(norm(x))``, which is still to be done. Nobody else may use ``x``: it may be overwritten."""

    x: Tensor
    norm: nn.Module
    act: nn.Module


Source = Tensor | Upsampled | Activated


class ConcatConv(nn.Conv2d):
    """A convolution, at stride 1, of the concatenation of its sources along the channels.

    Called with maps of one size, (N, C_i, H, W), whose C_i add up to ``in_channels``: each a tensor, or
    :class:`Upsampled`, or :class:`Activated`. One that is up-sampled and has many channels never is at its full
    size: see :func:`unetzoo.nn.resampling.upsample_conv`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, padding: int, bias: bool) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=padding, bias=bias)
        self.border = padding
        # For optimised copies: what is made from the weight, and the activation after the convolution.
        self.packs: Packs | None = None
        self.after: nn.Module | None = None

    def forward(self, *sources: Source) -> Tensor:
        """Return (N, out_channels, H, W), with the weight, a slice of it for each source, shared out.

        Raises:
            InputError: an argument is not a source, or the channels do not add up to ``in_channels``.
        """
        problem = self._problem(sources)
        if problem is not None:
            raise InputError(problem)
        parts = self._parts(sources)
        if self.packs is not None:
            return self._fused(parts, self.packs)
        out, bias = None, self.bias
        for group, weight in parts:
            part = _conv(group, weight, bias, self.border)
            out, bias = part if out is None else out.add_(part), None
        assert out is not None
        return out

    def _parts(self, sources: Sequence[Source]) -> list[tuple[Upsampled | list[Source], Tensor]]:
        """Return the groups of sources with their parts of the weight."""
        groups = list(self._groups(sources))
        if len(groups) == 1:
            return [(groups[0], self.weight)]
        # Not slices: for each, autograd would make a gradient of the complete weight, and add them up.
        widths = [sum(_tensor(source).shape[1] for source in _listed(group)) for group in groups]
        return list(zip(groups, torch.split(self.weight, widths, dim=1), strict=True))

    def _fused(self, parts: list[tuple[Upsampled | list[Source], Tensor]], packs: Packs) -> Tensor:
        """Return the convolution with the activation after it, computed as :mod:`unetzoo.nn.packing` does."""
        # A plain convolution comes last: it adds the others, and applies the activation, as it writes.
        parts = sorted(parts, key=lambda part: not isinstance(part[0], Upsampled))
        out, bias, form = None, self.bias, Form(padding=(self.border, self.border))
        for number, (group, weight) in enumerate(parts, 1):
            after = self.after if number == len(parts) else None
            if isinstance(group, Upsampled):
                part = mixed_first(group.x, weight, bias, group.size, group.mode, self.border, packs)
                out = part if out is None else out.add_(part)
                out = out if after is None else after(out)
            else:
                dtype = autocast_dtype(weight)
                weight = weight.to(dtype)
                joined = _joined([_made(source, _tensor(source), spare=_is_spare(source)) for source in group], weight)
                bias = None if bias is None else bias.to(dtype)
                out = convolved(joined, weight, bias, form, packs, after, out, spare=True)
            bias = None
        assert out is not None
        return out

    def _problem(self, sources: Sequence[object]) -> str | None:
        widths = []
        for source in sources:
            if not isinstance(source, Source):
                return f"a tensor, Upsampled or Activated is needed for each source, not {type(source).__name__}"
            if isinstance(source, Upsampled) and source.mode not in MODES:
                return f"Upsampled with mode={source.mode!r}: one of {', '.join(map(repr, MODES))} is needed"
            widths.append(_tensor(source).shape[1])
        if sum(widths) != self.in_channels:
            given = " + ".join(map(str, widths)) or "no"
            return f"sources of {given} channels: in_channels={self.in_channels} are needed in total"
        return None

    def _groups(self, sources: Sequence[Source]) -> Iterator[Upsampled | list[Source]]:
        """Yield neighbours to convolve together; an up-sampled map whose channels are mixed first is alone."""
        group: list[Source] = []
        for source in sources:
            if isinstance(source, Upsampled) and mixes(
                source.x, self.weight, source.size, source.mode, self.border, joined=len(sources) > 1
            ):
                if group:
                    yield group
                yield source
                group = []
            else:
                group.append(source)
        if group:
            yield group


def _conv(sources: Upsampled | Sequence[Source], weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Convolve the concatenation of ``sources``, which may be made again for backward; or one map, mixed first."""
    if isinstance(sources, Upsampled):
        return mixed_first(sources.x, weight, bias, sources.size, sources.mode, padding)
    dtype = autocast_dtype(weight)
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    norms = [source.norm for source in sources if isinstance(source, Activated)]
    tensors = [*map(_tensor, sources), *(parameter for norm in norms for parameter in norm.parameters())]
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in (weight, *tensors))
    kept_anyway = len(sources) == 1 and isinstance(sources[0], Tensor) and not gains(sources[0], weight)
    if kept_anyway or not recorded or transformed() or not remakes(sources):
        # A trace is compared with a second one without gradients: both must do the same.
        spare = not (recorded or by_tracing())
        maps = [_made(source, _tensor(source), spare=spare) for source in sources]
        joined = _joined(maps, weight)
        form = Convolution(padding=(padding, padding))
        if recorded and not transformed():
            tensors = [joined, weight] if bias is None else [joined, weight, bias]
            if only_backward(*tensors) and form.differs(joined, weight):
                return form.recorded(joined, weight, bias)
        if gains(joined, weight):
            return few_outputs(joined, weight, bias, (padding, padding))
        if winograd.gains(joined, weight, form.padding, bias):
            return winograd.by_points(joined, weight, bias, form.padding)
        spread = free_dilation(joined, weight)
        return settled(lambda x: F.conv2d(x, weight, bias, padding=padding, dilation=spread), joined, weight)
    out: Tensor = _RemadeInput.apply(sources, padding, weight, bias, *tensors)
    return out


def remakes(sources: Sequence[Source]) -> bool:
    """Whether the input of a convolution is recomputed for backward.

    Not on CUDA: to concatenate, normalise and resample again takes a tenth of a layer's time there, and on small maps
    the overhead of Python is larger. ``model.gradient_checkpointing()`` saves more memory if needed. Nor is what is
    small: it takes up to a tenth of the time there, too, and saves next to nothing. But a map that is up-sampled by
    itself always is: the coarse one is a quarter of it, or less, as it is where no fine one is made.
    """
    if _tensor(sources[0]).device.type == "cuda":
        return False
    by_itself = len(sources) == 1 and isinstance(sources[0], Upsampled)
    return by_itself or sum(math.prod(_tensor(source).shape[1:]) for source in sources) > SMALL


def _listed(group: Upsampled | list[Source]) -> list[Source]:
    return [group] if isinstance(group, Upsampled) else group


def _tensor(source: Source) -> Tensor:
    return source if isinstance(source, Tensor) else source.x


def _made(source: Source, x: Tensor, norm: Callable[[Tensor], Tensor] | None = None, spare: bool = False) -> Tensor:
    """Apply the pending operation of ``source`` to ``x``.

    Args:
        norm: in place of its own.
        spare: whether ``x`` may be overwritten.
    """
    match source:
        case Upsampled():
            return resize_alike(x, source.size, source.mode)
        case Activated():
            y = normed(source.norm, x) if spare else (norm or source.norm)(x)
            out: Tensor = source.act(y.clone() if y is x and not spare else y)
            return out
    return x


def _is_spare(source: Source) -> bool:
    """Whether what a source of an optimised copy holds may be overwritten."""
    return not (by_tracing() or (torch.is_grad_enabled() and _tensor(source).requires_grad))


def _joined(maps: Sequence[Tensor], weight: Tensor) -> Tensor:
    maps = [x.to(weight.dtype) for x in maps]
    return torch.cat(maps, dim=1) if len(maps) > 1 else maps[0]


class _RemadeInput(torch.autograd.Function):
    """Convolution that keeps for backward the tensors from which its input is made, not the input.

    Its tensors are those of the sources, then the parameters of their norms.
    """

    @staticmethod
    def forward(
        ctx: Any, sources: Sequence[Source], padding: int, weight: Tensor, bias: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        ctx.convolution = Convolution(padding=(padding, padding))
        ctx.recipes = [_Recipe(source) for source in sources]
        ctx.autocast = _autocast_again(weight.device.type)
        parameters = iter(tensors[len(sources) :])
        maps = [recipe.first(source, parameters) for recipe, source in zip(ctx.recipes, sources, strict=True)]
        statistics = [tensor for recipe in ctx.recipes for tensor in recipe.statistics()]
        ctx.save_for_backward(weight, *tensors, *statistics)
        out: Tensor = ctx.convolution(_joined(maps, weight), weight, bias)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, *tensors = ctx.saved_tensors
        _, _, weight_needed, bias_needed, *needed = ctx.needs_input_grad
        tensors, statistics = tensors[: len(needed)], iter(tensors[len(needed) :])
        again = torch.is_grad_enabled()  # create_graph=True: a gradient of this gradient will be needed
        if not again:
            tensors = [x.detach().requires_grad_(need) for x, need in zip(tensors, needed, strict=True)]
        with torch.enable_grad(), ctx.autocast():
            parameters = iter(tensors[len(ctx.recipes) :])
            maps = [
                recipe(x, parameters, statistics, twice=again or of_several(grads[0]))
                for recipe, x in zip(ctx.recipes, tensors, strict=False)
            ]
            parts = _taken_together(maps, weight)
        for_parts, for_weight, for_bias = _gradients(
            ctx.convolution, grads[0], parts, weight, weight_needed, bias_needed
        )
        wanted = [tensor for tensor, need in zip(tensors, needed, strict=True) if need]
        ends = [x for x in parts if x.requires_grad]
        for_ends = [grad for grad in for_parts if grad is not None]
        found = iter(torch.autograd.grad(ends, wanted, for_ends, create_graph=again) if wanted else ())
        return None, None, for_weight, for_bias, *(next(found) if need else None for need in needed)


def _taken_together(maps: Sequence[Tensor], weight: Tensor) -> list[Tensor]:
    """Return the maps as the backward pass takes them, of the weight's type: each alone, or one of them all."""
    pixels, blocks = maps[0][:, 0].numel(), all(x.shape[1] % BLOCK == 0 for x in maps)
    enough = pixels >= FEWEST_PIXELS.get(weight.dtype, math.inf)
    alone = blocks and enough and weight.device.type == "cpu" and not transformed()
    if alone and not winograd.joins(maps[0], weight):
        return [x.to(weight.dtype) for x in maps]
    return [_joined(maps, weight)]


def _gradients(
    conv: Convolution, grad: Tensor, parts: Sequence[Tensor], weight: Tensor, weight_needed: bool, bias_needed: bool
) -> tuple[list[Tensor | None], Tensor | None, Tensor | None]:
    """Return the gradients of the parts of the input, of the weight, and of the bias, or None for each not needed."""
    weights = torch.split(weight, [x.shape[1] for x in parts], dim=1)
    found = [
        conv.backward(grad, x, part, (x.requires_grad, weight_needed, bias_needed and number == 0))
        for number, (x, part) in enumerate(zip(parts, weights, strict=True))
    ]
    for_weights = [for_weight for _, for_weight, _ in found if for_weight is not None]
    return [for_x for for_x, *_ in found], torch.cat(for_weights, 1) if weight_needed else None, found[0][2]


def _autocast_again(device: str) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Return a context that restores the current autocast, because backward passes run without it."""
    if not torch.amp.is_autocast_available(device):
        return contextlib.nullcontext
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled)


class _Recipe:
    """Recomputes the map of a source from its tensor: its norm must not count the batch twice."""

    def __init__(self, source: Source) -> None:
        self.source = replace(source, x=torch.empty(0)) if not isinstance(source, Tensor) else torch.empty(0)
        self.buffers: dict[str, Tensor] = {}
        self.how: NormActAgain | None = None
        self._statistics: Sequence[Tensor] = ()

    def first(self, source: Source, parameters: Iterator[Tensor]) -> Tensor:
        """Return the map of ``source`` for the first time, when its norm counts the batch."""
        if not isinstance(source, Activated):
            return _made(source, _tensor(source))
        own = [next(parameters) for _ in source.norm.parameters()]
        if can_be_done_again(source.norm, source.x) and is_plain_activation(source.act):
            assert isinstance(source.norm, nn.BatchNorm2d)
            y, norm, self._statistics = normalised(source.norm, source.x, *own)
            self.how = NormActAgain(norm, slope_of(source.act))
            return self.how.activated(y)
        self.buffers = {name: buffer.clone() for name, buffer in source.norm.named_buffers()}
        return _made(source, source.x)

    def statistics(self) -> Sequence[Tensor]:
        """Return what of the batch is kept besides the tensors of the source, once."""
        found, self._statistics = self._statistics, ()
        return found

    def __call__(self, x: Tensor, parameters: Iterator[Tensor], statistics: Iterator[Tensor], twice: bool) -> Tensor:
        """Return the map again, recorded by autograd.

        Args:
            twice: whether it must have gradients of gradients, or of several at once.
        """
        if not isinstance(self.source, Activated):
            return _made(self.source, x)
        norm = self.source.norm
        state = {name: next(parameters) for name, _ in norm.named_parameters()}
        if self.how is not None:
            return self.how(x, state["weight"], state["bias"], (next(statistics), next(statistics)), twice)
        state = {**self.buffers, **state}
        return _made(self.source, x, lambda y: functional_call(norm, state, (y,)))
