"""Launches of :mod:`unetzoo.nn.gpu_kernels`, and when they can be used: resampling with gradients of any order."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unetzoo.nn.programs import by_modes, of_several, only_backward, transformed
from unetzoo.nn.whole_maps import Size, positions, taps_summed

ADDED_IN = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
"""Types that the kernels take → the type in which they add."""

BLOCK, SMALL_BLOCK, WARPS = 2048, 512, 2
"""Numbers of a program of the kernels: where each reads four, and where it reads more; and its warps (measured)."""
LARGEST_SCALE = 16
"""Scale above which torch's kernels are used: the adjoint adds scale² pixels one by one (measured up to 16)."""


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


class _Reads(NamedTuple):
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


# Many: what a kernel under way reads, or a captured graph, must not be freed.
@functools.lru_cache(maxsize=4096)
def _reads(source: int, target: int, mode: str, device: torch.device, dtype: torch.dtype) -> _Reads:
    """Return where one side is read."""
    position = positions(source, target, mode)
    low = position.floor()
    part = position - low
    touched = torch.cat((low, (low + (part > 0)).clamp(max=source - 1))).long()
    pixel = torch.arange(target, device="cpu").repeat(2)
    first = torch.zeros(source, dtype=torch.long, device="cpu")
    last = first.scatter_reduce(0, touched, pixel + 1, "amax")
    first = first.scatter_reduce(0, touched, pixel, "amin", include_self=False)
    most = 1 << (int((last - first).max()) - 1).bit_length()
    return _Reads(low.int().to(device), part.to(device, dtype), first.int().to(device), most)


def _both(size: Sequence[int], sampling: Sampling, x: Tensor) -> tuple[_Reads, _Reads]:
    rows, columns = (
        _reads(source, target, sampling.mode, x.device, ADDED_IN[x.dtype])
        for source, target in zip(size, sampling.size, strict=True)
    )
    return rows, columns


def _block(numbers: int, channels: int, across: int) -> dict[str, int]:
    """Return the pixels and channels that a program of ``numbers`` takes."""
    deep = min(128, 1 << (channels - 1).bit_length())
    return {"wide": min(max(1, numbers // deep), 1 << (across - 1).bit_length()), "deep": deep}


def forward(x: Tensor, sampling: Sampling, bias: Tensor | None = None) -> Tensor:
    """Return the shifted sum of the resampled taps of ``x``."""
    from unetzoo.nn import gpu_kernels

    count, channels, h, w = x.shape
    channels //= math.prod(sampling.taps)
    rows, columns = sampling.out()
    shape = (count, channels, rows, columns)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    vertical, horizontal = _both((h, w), sampling, x)
    block = _block(BLOCK if math.prod(sampling.taps) == 1 else SMALL_BLOCK, channels, columns)
    grid = (count * rows * -(-columns // block["wide"]), -(-channels // block["deep"]))
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        gpu_kernels.resample[grid](
            x, out, out if bias is None else bias, vertical.low, vertical.part, horizontal.low, horizontal.part,
            h, w, *sampling.size, rows, columns, channels, sampling.padding,
            *_strides(x), *_strides(out),
            row_taps=sampling.taps[0], column_taps=sampling.taps[1], linear=sampling.mode != "nearest",
            biased=bias is not None, **block, dtype=_names()[ADDED_IN[x.dtype]], num_warps=WARPS,
        )  # fmt: skip
    return out


def backward(grad: Tensor, size: Sequence[int], sampling: Sampling) -> Tensor:
    """Return the adjoint of :func:`forward`, at (height, width) ``size``."""
    from unetzoo.nn import gpu_kernels

    count, channels, rows, columns = grad.shape
    taps = math.prod(sampling.taps)
    shape = (count, channels * taps, *size)
    out = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)
    vertical, horizontal = _both(size, sampling, grad)
    block = _block(SMALL_BLOCK, channels, size[1])
    grid = (count * size[0] * -(-size[1] // block["wide"]), -(-channels // block["deep"]), taps)
    with torch.cuda.device_of(grad):  # type: ignore[no-untyped-call]
        gpu_kernels.adjoint[grid](
            grad, out, vertical.low, vertical.part, vertical.first,
            horizontal.low, horizontal.part, horizontal.first,
            *size, *sampling.size, rows, columns, channels, sampling.padding,
            *_strides(grad), *_strides(out),
            row_taps=sampling.taps[0], linear=sampling.mode != "nearest",
            most_rows=vertical.most, most_columns=horizontal.most,
            **block, dtype=_names()[ADDED_IN[grad.dtype]], num_warps=WARPS,
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
        if bias is not None:
            bias = bias.contiguous().view(x.shape[1] // math.prod(sampling.taps))
        return forward(_channels_last(x), sampling, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, (needed, biased, _) = grads[0], ctx.needs_input_grad
        for_x: Tensor | None = None
        if needed:
            adjoint = _adjoint_by_operators if of_several(grad) or transformed() else Adjoint.apply
            for_x = adjoint(grad, ctx.size, ctx.sampling)
        return for_x, grad.sum(dim=(0, 2, 3)) if biased else None, None


class Adjoint(torch.autograd.Function):
    """(N, C, H, W) → (N, taps · C, h, w)."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, size: tuple[int, int], sampling: Sampling) -> Tensor:
        ctx.sampling = sampling
        return backward(_channels_last(grad), size, sampling)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if of_several(grads[0]) or transformed():
            return _by_operators(grads[0], ctx.sampling), None, None
        return Resample.apply(grads[0], None, ctx.sampling), None, None


def _by_operators(x: Tensor, sampling: Sampling) -> Tensor:
    """Do as :class:`Resample` by torch's operators."""
    return taps_summed(x, sampling.size, sampling.mode, sampling.taps, sampling.padding)


def _adjoint_by_operators(grad: Tensor, size: tuple[int, int], sampling: Sampling) -> Tensor:
    """Do as :class:`Adjoint` for many gradients at once: the operation is linear, so the map's values do not matter."""
    shape = (len(grad), grad.shape[1] * math.prod(sampling.taps), *size)
    with torch.enable_grad():
        x = torch.zeros(shape, dtype=grad.dtype, device=grad.device, requires_grad=True)
        y = _by_operators(x, sampling)
    (found,) = torch.autograd.grad(y, x, grad, create_graph=torch.is_grad_enabled())
    return found


def fits(x: Tensor, size: Size) -> bool:
    """Whether the kernels resample ``x``: on CUDA, where Triton works, in a program that torch itself runs."""
    if x.device.type != "cuda" or transformed() or by_modes():
        return False
    if not only_backward(x) or x.dtype not in ADDED_IN or x.numel() == 0:
        return False
    scale = max(new / old for new, old in zip(size, x.shape[2:], strict=True))
    return scale <= LARGEST_SCALE and available(x.device, x.dtype)


_WARNED: set[tuple[torch.device, torch.dtype]] = set()


def available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton's kernels run on a device, and are right there; if they are not, a warning says why, once."""
    if not _has_triton() or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        return False  # of a graph that is captured, nothing can be tried
    fault = _fault(device, dtype)
    if fault is not None and (device, dtype) not in _WARNED:
        _WARNED.add((device, dtype))
        warnings.warn(
            f"Triton's kernels do not work on {device} for {dtype}, so torch resamples maps: the same values, but "
            f"slower. {fault}",
            stacklevel=2,
        )
    return fault is None


@functools.cache
def _has_triton() -> bool:
    return find_spec("triton") is not None  # torch brings it, but not on Windows


@functools.cache
def _fault(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return what is wrong with the kernels on a device: they are tried, and compared with torch's operators."""
    with torch.inference_mode(False), torch.no_grad():
        whole = torch.arange(48, dtype=torch.float32, device=device).view(1, 8, 2, 3)
        x = whole.to(dtype).contiguous(memory_format=torch.channels_last)
        try:
            sampling = Sampling((4, 6), "bilinear", (2, 2), 1)
            y = forward(x, sampling, x[0, :2, 0, 0].contiguous())
            pairs = [(y, _by_operators(x, sampling) + x[0, :2, :1, :1])]
            pairs.append((backward(y, (2, 3), sampling), _adjoint_by_operators(y, (2, 3), sampling)))
            if not all(torch.allclose(*pair, rtol=2e-2, atol=1.0) for pair in pairs):
                return "Their values are not those of torch."
        except torch.OutOfMemoryError:
            raise  # which says nothing about the kernels
        except Exception as error:  # no C compiler, a GPU that Triton does not know, a cache that is read-only, ...
            return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None
