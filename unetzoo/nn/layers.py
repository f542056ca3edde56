"""The layers of which all encoders and decoders are made.

All maps are (N, C, H, W). A map at stride ``s`` of an H × W image is ceil(H / s) × ceil(W / s): pooling
rounds up, so that every pixel counts and no map is ever empty, and what is up-sampled is cut to the size
of the skip connection it meets. At sizes that divide this is the usual arithmetic.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unetzoo.nn.convolutions import Activated, ConcatConv, Source, Upsampled
from unetzoo.nn.layouts import heavy_in_training
from unetzoo.nn.norming import hooked, normed
from unetzoo.nn.programs import transformed
from unetzoo.nn.resampling import MODES, Size
from unetzoo.nn.transposed import gains_backward, transposed

Made = TypeVar("Made")
NORMS: tuple[str, ...] = ("batch", "group", "instance", "layer")
ACTIVATIONS: tuple[str, ...] = ("relu", "leaky_relu")


class InstanceNorm2d(nn.Module):
    """Instance normalisation with learned scale and shift (Ulyanov et al. 2016, arXiv 1607.08022).

    torch's own layer refuses a map of a single pixel; here it becomes the shift, its limit.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel, as in ConvNeXt (arXiv 2201.03545)."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


def group_count(channels: int) -> int:
    """Return the groups of a group norm: the largest divisor of ``channels`` up to 32, with two or more per group.

    32 is the default of Wu and He 2018 (arXiv 1803.08494, section 4).
    """
    limit = max(1, min(32, channels // 2))
    return max(divisor for divisor in range(1, limit + 1) if channels % divisor == 0)


def make_norm(norm: str | None, channels: int) -> nn.Module:
    """Return the normalisation ``norm`` (one of :data:`NORMS`, or None for none) over ``channels``."""
    match norm:
        case None:
            return nn.Identity()
        case "batch":
            return nn.BatchNorm2d(channels)
        case "group":
            return nn.GroupNorm(group_count(channels), channels)
        case "instance":
            return InstanceNorm2d(channels)
        case "layer":
            return LayerNorm2d(channels, eps=1e-6)
    raise AssertionError(f"the configuration should have refused this norm: {norm!r}")


def make_activation(activation: str) -> nn.Module:
    """Return the activation of that name (one of :data:`ACTIVATIONS`), which works in place."""
    return nn.LeakyReLU(0.01, inplace=True) if activation == "leaky_relu" else nn.ReLU(inplace=True)


@runtime_checkable
class Foldable(Protocol):
    """A module that knows which of its batch norms are the only readers of a convolution's output."""

    def foldable(self) -> Iterable[tuple[str, str]]:
        """Return pairs of names in the module: a convolution, and the batch norm that can become part of it.

        Holds for ``forward`` of the same class. A subclass that changes ``forward`` says anew what can be folded;
        until it does, nothing is.
        """


@dataclass(frozen=True)
class ConvStyle:
    """The settings of all convolutions of one network.

    Attributes:
        norm: the normalisation after each 3×3 convolution, None for none.
        bias: whether convolutions, transposed ones too, have a bias.
        padded: False for the unpadded convolutions of the 2015 paper, each of which costs a border pixel.
        activation: the activation after the norm, one of :data:`ACTIVATIONS`.
    """

    norm: str | None = "batch"
    bias: bool = False
    padded: bool = True
    activation: str = "relu"


class ConvNormAct(nn.Module):
    """3×3 convolution → norm → activation, of one or more sources: see :class:`unetzoo.nn.convolutions.ConcatConv`."""

    def __init__(self, in_channels: int, out_channels: int, style: ConvStyle) -> None:
        super().__init__()
        padding = 1 if style.padded else 0
        self.conv = ConcatConv(in_channels, out_channels, 3, padding, style.bias)
        self.norm = make_norm(style.norm, out_channels)
        self.act = make_activation(style.activation)

    def forward(self, *sources: Source) -> Tensor:
        out: Tensor = self.act(normed(self.norm, self._convolved(*sources)))
        return out

    def pending(self, *sources: Source) -> Activated:
        """Convolve, and leave norm and activation to the next convolution, the only user of the result."""
        return Activated(self._convolved(*sources), self.norm, self.act)

    def _convolved(self, *sources: Source) -> Tensor:
        out: Tensor = self.conv(*sources)
        return out.clone() if hooked(self.conv) else out  # a hook may have kept it, so it must not be overwritten

    def foldable(self) -> list[tuple[str, str]]:
        return [("conv", "norm")]


class DoubleConv(nn.Sequential):
    """Two times :class:`ConvNormAct`, first in → middle, then middle → out; the middle is as wide as the output."""

    def __init__(
        self, in_channels: int, out_channels: int, style: ConvStyle, middle_channels: int | None = None
    ) -> None:
        middle_channels = out_channels if middle_channels is None else middle_channels
        super().__init__(
            ConvNormAct(in_channels, middle_channels, style),
            ConvNormAct(middle_channels, out_channels, style),
        )

    def forward(self, *sources: Source) -> Tensor:
        first, second = self
        assert isinstance(first, ConvNormAct)
        out: Tensor = second(first.pending(*sources))
        return out


class Concat(nn.Module):
    """``body`` applied to the concatenation of its sources along the channels, which it never builds."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, *sources: Source) -> Tensor:
        out: Tensor = self.body(*sources)
        return out


class Upsample(nn.Module):
    """Up-sampling by a whole factor, to exactly the given size.

    Args:
        in_channels, out_channels: equal unless ``mode`` is "transpose", which alone can change them.
        scale: ratio of the strides; 1 keeps the size.
        mode: "transpose" (a transposed convolution with kernel = stride = scale), or one of
            ``unetzoo.nn.resampling.MODES``.
        bias: of the transposed convolution.
    """

    MODES = ("transpose", *MODES)

    def __init__(self, in_channels: int, out_channels: int, scale: int, mode: str, bias: bool) -> None:
        super().__init__()
        self.mode = mode
        self.scale = scale
        self.out_channels = out_channels if mode == "transpose" else in_channels
        if mode == "transpose":
            self.conv = nn.ConvTranspose2d(in_channels, out_channels, scale, stride=scale, bias=bias)

    def forward(self, x: Tensor, size: Size) -> Source:
        if self.mode == "transpose":
            return crop(self._transposed(x), size)
        return x if self.scale == 1 else Upsampled(x, size, self.mode)

    def _transposed(self, x: Tensor) -> Tensor:
        weight = self.conv.weight
        out: Tensor
        if not torch.is_grad_enabled() or transformed():  # a trace would hold the questions about sizes
            out = self.conv(x)
        elif heavy_in_training(x, weight, x.numel() // x.shape[1] * weight[0].numel()):
            out = self.conv(x.contiguous()).contiguous(memory_format=torch.channels_last)
        elif gains_backward(self.conv, x):
            out = transposed(x, weight, self.conv.bias)
        else:
            out = self.conv(x)
        return out


def crop(x: Tensor, size: Size) -> Tensor:
    """Cut surplus rows and columns at the lower right, where a size rounded up put them."""
    if torch.compiler.is_exporting():
        # A slice would be specialised to sizes that divide; a negative padding is not.
        return F.pad(x, (0, size[-1] - x.shape[-1], 0, size[-2] - x.shape[-2]))
    return x[..., : size[-2], : size[-1]]


def max_pool(x: Tensor, scale: int) -> Tensor:
    """Max-pool with kernel = stride = ``scale``, size rounded up; the identity at scale 1."""
    if scale == 1:
        return x
    if torch.compiler.is_exporting():
        # ceil_mode asks of a symbolic size whether it divides; padding first needs no question.
        x = F.pad(x, (0, scale - 1, 0, scale - 1), value=-torch.inf)
        return F.max_pool2d(x, scale, scale)
    return F.max_pool2d(x, scale, scale, ceil_mode=True)


def pad_to_multiple(x: Tensor, step: int) -> Tensor:
    """Pad maps (N, C, H, W) with zeros at the lower right, so that their sides are divisible by ``step``."""
    if not torch.compiler.is_exporting():
        rows, columns = (-side % step for side in x.shape[-2:])
        return F.pad(x, (0, columns, 0, rows)) if rows or columns else x
    # How much a symbolic size lacks cannot be read: rows and columns are selected by index, and missing ones are the
    # last ones times 0.
    for dim in (2, 3):
        side = x.shape[dim]
        numbers = torch.arange((side - 1) // step * step + step, device=x.device)
        there = (numbers < side).to(x.dtype)
        x = x.index_select(dim, numbers.clamp(max=side - 1)) * (there[:, None] if dim == 2 else there)
    return x


def upper_left(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return the first rows and columns of maps (N, C, H, W), cut to ``size``, or the maps themselves."""
    if not torch.compiler.is_exporting():
        return x if tuple(x.shape[-2:]) == tuple(size) else x[..., : size[0], : size[1]].contiguous()
    # A slice checks whether there are as many, which is not known for symbolic sizes.
    rows, columns = (torch.arange(side, device=x.device) for side in size)
    return x.index_select(2, rows).index_select(3, columns)


def halve(x: Tensor) -> Tensor:
    """Average-pool 2×2 at stride 2, size rounded up: a window at the border is the mean of the pixels that it has."""
    if torch.compiler.is_exporting():
        # As in max_pool. The pixels beyond repeat those at the border, which does not change the mean.
        return F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2)
    return F.avg_pool2d(x, 2, ceil_mode=True)


def pad_up(x: Tensor, step: int) -> Tensor:
    """Pad zeros at the lower right, so that a convolution with kernel = stride = ``step`` rounds sizes up.

    At divisible sizes there is no padding, except in an exported program, where that convolution ignores it.
    """
    if torch.compiler.is_exporting():
        # What a size lacks would be asked of a symbolic one. This is enough for any, and too little for one more.
        return F.pad(x, (0, step - 1, 0, step - 1))
    return pad_to_multiple(x, step)


def adaptive_max_pool(x: Tensor, size: Size, scale: int) -> Tensor:
    """Adaptive max-pool to ``size``, which is x's size over ``scale``, rounded up; identity at scale 1."""
    if scale == 1:
        return x
    if not torch.compiler.is_exporting():
        return F.adaptive_max_pool2d(x, tuple(size))
    # The operator does not export with dynamic sizes: gather its windows, of at most scale + 1 rows.
    for dim in (2, 3):
        starts = torch.arange(size[dim - 2], device=x.device)
        first = starts * x.shape[dim] // size[dim - 2]
        last = ((starts + 1) * x.shape[dim] + size[dim - 2] - 1) // size[dim - 2] - 1
        rows = (x.index_select(dim, torch.minimum(first + k, last)) for k in range(scale + 1))
        x = functools.reduce(torch.maximum, rows)
    return x


def add_biases(module: nn.Module) -> None:
    """Give each convolution in ``module`` that has no bias one of zeros."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is None:
            weight = layer.weight
            layer.bias = nn.Parameter(torch.zeros(layer.out_channels, device=weight.device, dtype=weight.dtype))


def initialise(module: nn.Module) -> None:
    """Initialise the weights of all convolutions in ``module`` as He et al. 2015 (arXiv 1502.01852), biases zero.

    U-Net's paper (section 3.1) asks for a standard deviation of sqrt(2 / N), N the inputs of a neuron. Layers
    without a ReLU behind them (transposed and 1×1 ones) get sqrt(1 / N).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            kernel = math.prod(layer.kernel_size)
            fan_in = layer.in_channels * (kernel if isinstance(layer, nn.Conv2d) else 1)
            gain = 2.0 if isinstance(layer, nn.Conv2d) and kernel > 1 else 1.0
            nn.init.normal_(layer.weight, std=math.sqrt(gain / fan_in))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Checkpointed(nn.Module):
    """Base of encoders and decoders: :meth:`run` calls a part, with its activations recomputed if asked."""

    gradient_checkpointing: bool = False

    def run(self, part: Callable[..., Made], *inputs: Any) -> Made:
        """Return ``part(*inputs)``; with ``gradient_checkpointing`` nothing inside it is kept for backward."""
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            return part(*inputs)

        def contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
            return contextlib.nullcontext(), _statistics_kept(self)

        out: Made = checkpoint(part, *inputs, use_reentrant=False, context_fn=contexts)
        return out


@contextlib.contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Let parts of ``module`` run a second time without counting the batch twice in the running statistics."""
    norms = [
        (layer, layer.momentum, layer.num_batches_tracked)
        for layer in module.modules()
        if isinstance(layer, nn.BatchNorm2d) and layer.training and layer.num_batches_tracked is not None
    ]
    counts = [count.clone() for _, _, count in norms]
    for layer, _, _ in norms:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for (layer, momentum, count), before in zip(norms, counts, strict=True):
            layer.momentum = momentum
            count.copy_(before)
