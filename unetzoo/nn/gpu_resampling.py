"""Resampling on a GPU by :mod:`unetzoo.nn.gpu_kernels`, with gradients of any order; values are torch's."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo.nn.programs import transformed

DTYPES = {torch.float32: torch.float32, torch.bfloat16: torch.float32, torch.float16: torch.float32}
DTYPES[torch.float64] = torch.float64
"""Types that the kernels take → the type in which they add."""


class Sampling(NamedTuple):
    """A resampling to ``size`` = (H, W), then the shifted sum of ``taps`` (rows, columns) of a padded convolution."""

    size: tuple[int, int]
    mode: str
    taps: tuple[int, int] = (1, 1)
    padding: int = 0

    def out(self) -> tuple[int, int]:
        """Return height and width of the result."""
        height, width = (side + 2 * self.padding - taps + 1 for side, taps in zip(self.size, self.taps, strict=True))
        return height, width


class _Axis(NamedTuple):
    """Where the pixels of one side are read, on the device.

    Attributes:
        low: (target,) int32: the first of the two neighbouring sources of each pixel.
        part: (target,): the share of the second.
        first: (source,) int32: the first pixel that reads a source.
        most: the largest number of pixels that read one source, rounded up to a power of two.
    """

    low: Tensor
    part: Tensor
    first: Tensor
    most: int


@functools.lru_cache(maxsize=256)
def _axis(source: int, target: int, mode: str, device: torch.device, dtype: torch.dtype) -> _Axis:
    """Return an axis; its positions are torch's own: those of a ramp that it resamples."""
    ramp = torch.arange(source, dtype=torch.float64, device="cpu").view(1, 1, -1, 1)
    how: dict[str, Any] = {"mode": "nearest"}
    if mode != "nearest":
        how = {"mode": "bilinear", "align_corners": mode == "bilinear_aligned"}
    position = F.interpolate(ramp, size=(target, 1), **how).flatten()
    low = position.floor()
    part = position - low
    touched = torch.cat((low, (low + (part > 0)).clamp(max=source - 1))).long()
    pixel = torch.arange(target, device="cpu").repeat(2)
    first = torch.zeros(source, dtype=torch.long, device="cpu")
    last = first.scatter_reduce(0, touched, pixel + 1, "amax")
    first = first.scatter_reduce(0, touched, pixel, "amin", include_self=False)
    most = 1 << (int((last - first).max()) - 1).bit_length()
    return _Axis(low.int().to(device), part.to(device, dtype), first.int().to(device), most)


def _axes(size: Sequence[int], sampling: Sampling, x: Tensor) -> tuple[_Axis, _Axis]:
    rows, columns = (
        _axis(source, target, sampling.mode, x.device, DTYPES[x.dtype])
        for source, target in zip(size, sampling.size, strict=True)
    )
    return rows, columns


def _block(channels: int, across: int, least: int = 1) -> tuple[int, int]:
    """Return how many pixels and channels a program takes."""
    deep = min(128, 1 << (channels - 1).bit_length())
    wide = max(1, BLOCK // deep)
    return min(wide, 1 << (across - 1).bit_length()), deep


BLOCK = 2048
WARPS = 4


def forward(x: Tensor, sampling: Sampling, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Return the shifted sum of the resampled taps of ``x``, into ``out`` if given."""
    from unetzoo.nn import gpu_kernels

    count, channels, h, w = x.shape
    channels //= math.prod(sampling.taps)
    rows, columns = sampling.out()
    if out is None:
        shape = (count, channels, rows, columns)
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    vertical, horizontal = _axes((h, w), sampling, x)
    wide, deep = _block(channels, columns)
    grid = (count * rows * -(-columns // wide), -(-channels // deep))
    if math.prod(grid):
        gpu_kernels.resample[grid](
            x, out, out if bias is None else bias, vertical.low, vertical.part, horizontal.low, horizontal.part,
            h, w, *sampling.size, rows, columns, channels, sampling.padding,
            *_strides(x), *_strides(out),
            ROW_TAPS=sampling.taps[0], COLUMN_TAPS=sampling.taps[1], LINEAR=sampling.mode != "nearest",
            BIASED=bias is not None, ACROSS=wide, DEEP=deep, DTYPE=_names()[DTYPES[x.dtype]], num_warps=WARPS,
        )  # fmt: skip
    return out


def backward(grad: Tensor, size: Sequence[int], sampling: Sampling) -> Tensor:
    """Return the adjoint of :func:`forward`, at (height, width) ``size``."""
    from unetzoo.nn import gpu_kernels

    count, channels, rows, columns = grad.shape
    taps = math.prod(sampling.taps)
    shape = (count, channels * taps, *size)
    out = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)
    vertical, horizontal = _axes(size, sampling, grad)
    wide, deep = _block(channels, size[1])
    grid = (count * size[0] * -(-size[1] // wide), -(-channels // deep), taps)
    if math.prod(grid):
        gpu_kernels.adjoint[grid](
            grad, out, vertical.low, vertical.part, vertical.first,
            horizontal.low, horizontal.part, horizontal.first,
            *size, *sampling.size, rows, columns, channels, sampling.padding,
            *_strides(grad), *_strides(out),
            ROW_TAPS=sampling.taps[0], COLUMN_TAPS=sampling.taps[1], LINEAR=sampling.mode != "nearest",
            MOST_ROWS=vertical.most, MOST_COLUMNS=horizontal.most,
            ACROSS=wide, DEEP=deep, DTYPE=_names()[DTYPES[grad.dtype]], num_warps=WARPS,
        )  # fmt: skip
    return out


def _strides(x: Tensor) -> tuple[int, int, int]:
    return x.stride(0), x.stride(2), x.stride(3)


@functools.cache
def _names() -> dict[torch.dtype, Any]:
    import triton.language as tl

    return {torch.float32: tl.float32, torch.float64: tl.float64}


def _channels_last(x: Tensor) -> Tensor:
    """Return ``x`` with neighbouring channels next to each other in memory; a slice of channels may stay one."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous(memory_format=torch.channels_last)


class Resample(torch.autograd.Function):
    """(N, taps · C, h, w) → (N, C, H, W), with a bias of (C,) or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, sampling: Sampling) -> Tensor:
        ctx.size, ctx.sampling = tuple(x.shape[2:]), sampling
        return forward(_channels_last(x), sampling, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, (needed, biased, _) = grads[0], ctx.needs_input_grad
        for_x = Adjoint.apply(grad, ctx.size, ctx.sampling) if needed else None
        return for_x, grad.sum(dim=(0, 2, 3)) if biased else None, None


class Adjoint(torch.autograd.Function):
    """(N, C, H, W) → (N, taps · C, h, w)."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, size: tuple[int, int], sampling: Sampling) -> Tensor:
        ctx.sampling = sampling
        return backward(_channels_last(grad), size, sampling)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return Resample.apply(grads[0], None, ctx.sampling), None, None


def fits(x: Tensor) -> bool:
    """Whether the kernels of this module take ``x``: on CUDA, where Triton works, in a program that torch itself runs."""
    plain = x.device.type == "cuda" and type(x) is Tensor and x.dtype in DTYPES and not transformed()
    return plain and available(x.device)


@functools.cache
def available(device: torch.device) -> bool:
    """Whether Triton's kernels run on a GPU, and are right there; if they fail, a warning says why."""
    try:
        import triton as triton
    except ImportError:
        return False
    x = torch.arange(24.0, device=device).view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    sampling = Sampling((6, 8), "bilinear")
    try:
        found = forward(x, sampling), backward(forward(x, sampling), x.shape[2:], sampling)
    except Exception as error:  # no compiler, a GPU that Triton does not know, a disk that is full, and many more
        fault = f"{type(error).__name__}: {str(error)[:300]}"
    else:
        expected = F.interpolate(x, size=(6, 8), mode="bilinear")
        again = torch.ops.aten.upsample_bilinear2d_backward(expected, [6, 8], list(x.shape), False, None, None)
        if all(torch.allclose(*pair, rtol=1e-4) for pair in zip(found, (expected, again), strict=True)):
            return True
        fault = "their values are not those of torch"
    warnings.warn(f"Triton's kernels do not work on {device}, so maps are resampled by torch, slower ({fault})", stacklevel=2)
    return False
