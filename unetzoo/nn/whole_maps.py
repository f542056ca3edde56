"""Resampling of complete maps, and resample-then-convolve by the identity of :mod:`unetzoo.nn.resampling` on them.

There are two implementations: one with plain operators, for compilers, exporters and gradients of gradients; and one
with fewer copies and explicit gradients, for devices other than the CPU.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Size = Sequence[int]

MOST = 2**31 - 1
"""Size of a map, in numbers, from which it cannot be resampled on CUDA with its channels last."""

MODES = ("nearest", "bilinear", "bilinear_aligned")
"""Modes of resampling: "bilinear" aligns the borders of both maps, as most programs do, and "bilinear_aligned" aligns
the centres of their outermost pixels (``align_corners=True``)."""


def interpolate(x: Tensor, size: Size, mode: str) -> Tensor:
    """Resample ``x`` by torch's operators."""
    if x.shape[1] == 1 and torch.compiler.is_exporting():
        # The strides of a single channel may be those of channels last, for which bfloat16 reads symbolic sizes.
        x = x.clone(memory_format=torch.contiguous_format)
    if x.device.type == "cuda" and math.prod((*x.shape[:2], *size)) >= MOST:
        x = x.contiguous()
    if mode == "nearest":
        return F.interpolate(x, size=tuple(size), mode=mode)
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=_aligned(mode))


def positions(source: int, target: int, mode: str) -> Tensor:
    """Return where the pixels of a side are read, (target,) float64: torch's own positions, rounding included.

    They are those of a ramp that it resamples: for "nearest" in float32, as torch rounds these for all types on CUDA,
    and for maps with channels last on the CPU.
    """
    dtype = torch.float32 if mode == "nearest" else torch.float64
    ramp = torch.arange(source, dtype=dtype, device="cpu").view(1, 1, -1, 1)
    return interpolate(ramp, (target, 1), mode).flatten().double()


def _aligned(mode: str) -> bool:
    return mode == "bilinear_aligned"


def in_own_type(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Return a context in which ``x`` is resampled in its type: on CUDA, autocast would take float32, to no end."""
    if x.device.type != "cuda" or not torch.is_autocast_enabled("cuda"):
        return contextlib.nullcontext()
    return torch.autocast("cuda", enabled=False)


def by_taps(x: Tensor, weight: Tensor, bias: Tensor | None, size: Size, mode: str, padding: int) -> Tensor:
    """The identity in whole maps, of plain operators: for compilers and exporters, and for gradients of gradients."""
    x = taps_summed(F.conv2d(x, mixer_of(weight)), size, mode, weight.shape[2:], padding)
    return x if bias is None else x + bias[:, None, None]


def taps_summed(x: Tensor, size: Size, mode: str, taps: Size, padding: int) -> Tensor:
    """Return the resampled maps of all ``taps`` (rows, columns) in ``x``, shifted and added."""
    with in_own_type(x):
        x = interpolate(x, (x.shape[2], size[1]), mode)
        x = _shifted_sum(x, taps[1], padding, columns=True)
        x = interpolate(x, (size[0], x.shape[3]), mode)
        return _shifted_sum(x, taps[0], padding, columns=False)


def _shifted_sum(x: Tensor, taps: int, padding: int, columns: bool) -> Tensor:
    """Add ``taps`` groups of channels, the one of tap a shifted by a - padding; zeros come in at the border."""
    x = F.pad(x, (padding, padding) if columns else (0, 0, padding, padding))
    parts = []
    for tap, part in enumerate(x.chunk(taps, dim=1)):
        cut = (-tap, tap + 1 - taps)
        parts.append(F.pad(part, cut if columns else (0, 0, *cut)))
    return functools.reduce(torch.add, parts)


def tap_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, needed: Sequence[bool], size: tuple[int, int], mode: str, padding: int
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x and the weight; differentiable where a gradient of them will be asked for."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        if not again:
            x, weight = (tensor.detach().requires_grad_() for tensor in (x, weight))
        y = by_taps(x, weight, None, size, mode, padding)
    wanted = [tensor for tensor, need in zip((x, weight), needed, strict=True) if need]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=again) if wanted else ())
    return tuple(next(found) if need else None for need in needed)


def whole_maps(
    x: Tensor, weight: Tensor, bias: Tensor | None, size: tuple[int, int], mode: str, padding: int
) -> Tensor:
    """The identity in whole maps, for devices other than the CPU: :func:`by_taps` with sums in place."""
    kernel = weight.shape[2:]
    x = F.conv2d(x, mixer_of(weight))
    with in_own_type(x):
        x = _added(interpolate(x, (x.shape[2], size[1]), mode), kernel[1], padding, dim=3)
        x = _added(interpolate(x, (size[0], x.shape[3]), mode), kernel[0], padding, dim=2)
    return x if bias is None else x.add_(bias[:, None, None])


def whole_map_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, needed: Sequence[bool], size: tuple[int, int], mode: str, padding: int
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x and the weight: the adjoint of each step of :func:`whole_maps`, last to first."""
    out_channels, channels, *kernel = weight.shape
    z = _resize_adjoint(_spread(grad, size[0], kernel[0], padding, dim=2), (x.shape[2], grad.shape[3]), mode)
    z = _resize_adjoint(_spread(z, size[1], kernel[1], padding, dim=3), x.shape[2:], mode)
    grad_x, grad_mixer, _ = torch.ops.aten.convolution_backward(
        z, x, mixer_of(weight), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [*needed, False]
    )
    if not needed[1]:
        return grad_x, None
    return grad_x, grad_mixer.view(*kernel[::-1], out_channels, channels).permute(2, 3, 1, 0)


def mixer_of(weight: Tensor) -> Tensor:
    """Return the 1×1 weight that mixes channels for all taps: column taps × row taps × O out."""
    return weight.permute(3, 2, 0, 1).reshape(-1, weight.shape[1], 1, 1)


def _added(x: Tensor, taps: int, padding: int, dim: int) -> Tensor:
    """Do as :func:`_shifted_sum` along ``dim``, in place on a copy of the group of the tap that is not shifted."""
    parts = x.chunk(taps, dim=1)
    shape = list(parts[0].shape)
    shape[dim] += 2 * padding - taps + 1
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))
    covered = min(shape[dim], x.shape[dim])
    out.narrow(dim, 0, covered).copy_(parts[padding].narrow(dim, 0, covered))
    out.narrow(dim, covered, shape[dim] - covered).zero_()
    for tap, part in enumerate(parts):
        start, stop = max(0, padding - tap), min(shape[dim], x.shape[dim] + padding - tap)
        if tap != padding and stop > start:
            out.narrow(dim, start, stop - start).add_(part.narrow(dim, start + tap - padding, stop - start))
    return out


def _spread(grad: Tensor, length: int, taps: int, padding: int, dim: int) -> Tensor:
    """Do the adjoint of :func:`_added`, to ``length`` pixels along ``dim``: a group of channels for each tap."""
    shape = list(grad.shape)
    shape[1], shape[dim] = taps * shape[1], length
    out = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=_layout(grad)).zero_()
    for tap, part in enumerate(out.chunk(taps, dim=1)):
        start, stop = max(0, padding - tap), min(grad.shape[dim], length + padding - tap)
        if stop > start:
            part.narrow(dim, start + tap - padding, stop - start).copy_(grad.narrow(dim, start, stop - start))
    return out


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def _resize_adjoint(grad: Tensor, size: Size, mode: str) -> Tensor:
    """Do the adjoint of :func:`interpolate` from ``size``."""
    sizes = list(grad.shape[2:]), [*grad.shape[:2], *size]
    if mode == "nearest":
        found: Tensor = torch.ops.aten.upsample_nearest2d_backward(grad, *sizes, None, None)
    else:
        found = torch.ops.aten.upsample_bilinear2d_backward(grad, *sizes, _aligned(mode), None, None)
    return found
