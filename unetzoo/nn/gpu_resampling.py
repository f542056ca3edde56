"""Resampling on a GPU by :mod:`unetzoo.nn.gpu_kernels`, with gradients of any order; values are torch's."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo.nn.programs import of_several, transformed
from unetzoo.nn.whole_maps import Size, in_own_type, interpolate, taps_summed

DTYPES = {torch.float32: torch.float32, torch.bfloat16: torch.float32, torch.float16: torch.float32}
DTYPES[torch.float64] = torch.float64
"""Types that the kernels take → the type in which they add."""

BLOCK, SMALL_BLOCK, WARPS = 2048, 512, 2
"""Numbers of a program of the kernels: where each reads four, and where it reads more; and its warps (measured)."""
FEWEST = 2**24
"""Numbers of a resampled map up to which torch's kernels are used: they are slower, but start sooner."""


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
    vertical, horizontal = _axes((h, w), sampling, x)
    block = _block(BLOCK if math.prod(sampling.taps) == 1 else SMALL_BLOCK, channels, columns)
    grid = (count * rows * -(-columns // block["wide"]), -(-channels // block["deep"]))
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        gpu_kernels.resample[grid](
            x, out, out if bias is None else bias, vertical.low, vertical.part, horizontal.low, horizontal.part,
            h, w, *sampling.size, rows, columns, channels, sampling.padding,
            *_strides(x), *_strides(out),
            row_taps=sampling.taps[0], column_taps=sampling.taps[1], linear=sampling.mode != "nearest",
            biased=bias is not None, **block, dtype=_names()[DTYPES[x.dtype]], num_warps=WARPS,
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
            **block, dtype=_names()[DTYPES[grad.dtype]], num_warps=WARPS,
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
        for_x: Tensor | None = None
        if needed:
            adjoint = _adjoint_by_operators if of_several(grad) else Adjoint.apply
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
        return Resample.apply(grads[0], None, ctx.sampling), None, None


def _adjoint_by_operators(grad: Tensor, size: tuple[int, int], sampling: Sampling) -> Tensor:
    """Do as :class:`Adjoint` for many gradients at once: the operation is linear, so the map's values do not matter."""
    shape = (len(grad), grad.shape[1] * math.prod(sampling.taps), *size)
    with torch.enable_grad():
        x = torch.zeros(shape, dtype=grad.dtype, device=grad.device, requires_grad=True)
        y = taps_summed(x, sampling.size, sampling.mode, sampling.taps, sampling.padding)
    (found,) = torch.autograd.grad(y, x, grad, create_graph=torch.is_grad_enabled())
    return found


def resize(x: Tensor, size: Size, mode: str = "bilinear") -> Tensor:
    """Resample ``x`` to height and width ``size``: "nearest", "bilinear", or "bilinear_aligned" (``align_corners``)."""
    if not fits(x) or not x.is_contiguous(memory_format=torch.channels_last) or not _pays(x, size):
        return interpolate(x, size, mode)
    x = x.float() if torch.is_autocast_enabled("cuda") else x  # as autocast does for torch's
    out: Tensor = Resample.apply(x, None, Sampling((size[0], size[1]), mode))
    return out


def _pays(x: Tensor, size: Size) -> bool:
    # Where results have to be the same each time, torch resamples in many small steps.
    return math.prod((*x.shape[:2], *size)) > FEWEST or torch.are_deterministic_algorithms_enabled()


def resize_alike(x: Tensor, size: Size, mode: str) -> Tensor:
    """Do :func:`resize` for a convolution, in the type of ``x``."""
    with in_own_type(x):
        return resize(x, size, mode)


def fits(x: Tensor) -> bool:
    """Whether the kernels take ``x``: on CUDA, where Triton works, in a program that torch itself runs."""
    if x.device.type != "cuda" or transformed() or torch._C._len_torch_dispatch_stack():
        return False
    return type(x) is Tensor and x.dtype in DTYPES and x.numel() > 0 and available(x.device)


@functools.cache
def available(device: torch.device) -> bool:
    """Whether Triton's kernels run on a device, and are right there; if they are not, a warning says why."""
    if find_spec("triton") is None:
        return False  # as on Windows
    with torch.inference_mode(False), torch.no_grad():
        fault = _fault(device)
    if fault is None:
        return True
    warnings.warn(
        f"Triton's kernels do not work on {device}, so torch resamples maps: the same values, but slower. {fault}",
        stacklevel=2,
    )
    return False


def _fault(device: torch.device) -> str | None:
    """Return what is wrong with the kernels on a device: they are tried, and compared with torch's operators."""
    x = torch.arange(24.0, device=device).view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    sampling = Sampling((6, 8), "bilinear")
    try:
        found = forward(x, sampling)
        again = backward(found, x.shape[2:], sampling)
    except Exception as error:  # no C compiler, a GPU that Triton does not know, a cache that cannot be written, ...
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    expected = F.interpolate(x, size=sampling.size, mode=sampling.mode)
    if torch.allclose(found, expected, rtol=1e-4) and torch.allclose(
        again, _adjoint_by_operators(expected, (3, 4), sampling), rtol=1e-4
    ):
        return None
    return "Their values are not those of torch."
