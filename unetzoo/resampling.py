"""Resampling, and resample-then-convolve without the resampled map.

Both steps are linear. For a coarse map x of C channels and a K × K weight,

    conv(resample(x)) = Σ over taps (a, b) of shift_ab(resample(x · weight_ab)),

so the channels can be mixed at the coarse size, and the O channels of each tap resampled instead of C. Resampling
is separable: the rows of the three taps are resampled, shifted and added, then the columns. A tap shifted over the
image's border reads the convolution's zero padding, and is left out of the resampling weights there: exact at
borders, at every scale, and at sizes that do not divide.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Size = Sequence[int]

MIXED_FIRST = 128
"""Channels from which :func:`upsample_conv` mixes first."""


def resize(x: Tensor, size: Size, mode: str = "bilinear") -> Tensor:
    """Resample ``x`` to height and width ``size`` ("nearest", or "bilinear" with pixel centres aligned)."""
    if x.shape[1] == 1 and torch.compiler.is_exporting():
        # A single channel's strides may be those of channels last, about which bfloat16 asks symbolic sizes.
        x = x.clone(memory_format=torch.contiguous_format)
    return F.interpolate(x, size=tuple(size), mode=mode, align_corners=False if mode == "bilinear" else None)


def upsample_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, size: Size, mode: str = "bilinear", padding: int = 1
) -> Tensor:
    """Return ``F.conv2d(resize(x, size, mode), weight, bias, padding=padding)``, exactly, at a fraction of the cost.

    The plain way is taken where it is cheaper: with a kernel of 1 if the convolution adds channels, otherwise below
    :data:`MIXED_FIRST` of them, as there are then not many more to resample than the taps' own. The rule depends on
    no size, so a program exported at one size is right at all. ``docs/speed.md`` has the measurement.

    Args:
        x: (N, C, h, w), floating point.
        weight: (O, C, K, L), of x's dtype (under autocast any).
        bias: (O,), or None.
        size: H, W that x is resampled to before the convolution. Any; also smaller ones.
        mode: "nearest" or "bilinear" (pixel centres aligned).
        padding: zeros on each side of the resampled map; fewer than K and L.

    Returns:
        (N, O, H + 2 padding - K + 1, W + 2 padding - L + 1).
    """
    dtype = autocast_dtype(x)
    x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    out_channels, channels, *kernel = weight.shape
    if not mixes_first(channels, out_channels, kernel):
        return F.conv2d(resize(x, size, mode), weight, bias, padding=padding)
    if math.prod(kernel) == 1 and padding == 0:
        return resize(F.conv2d(x, weight, bias), size, mode)
    if type(x) is not Tensor or torch.compiler.is_compiling():
        return _by_taps(x, weight, bias, size, mode, padding)
    out: Tensor = _UpsampleConv.apply(x, weight, bias, tuple(size), mode, padding)
    return out


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which autocast convolves ``x``: its own where there is no autocast."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def mixes_first(channels: int, out_channels: int, kernel: Size) -> bool:
    """Whether :func:`upsample_conv` mixes the channels before it resamples them."""
    return out_channels <= channels if math.prod(kernel) == 1 else channels >= MIXED_FIRST


def _by_taps(x: Tensor, weight: Tensor, bias: Tensor | None, size: Size, mode: str, padding: int) -> Tensor:
    """The identity in whole maps: for compilers, exporters and devices other than the CPU."""
    kernel = weight.shape[2:]
    x = F.conv2d(x, weight.permute(3, 2, 0, 1).reshape(-1, weight.shape[1], 1, 1))
    x = resize(x, (x.shape[2], size[1]), mode)
    x = _shifted_sum(x, kernel[1], padding, columns=True)
    x = resize(x, (size[0], x.shape[3]), mode)
    x = _shifted_sum(x, kernel[0], padding, columns=False)
    return x if bias is None else x + bias[:, None, None]


def _shifted_sum(x: Tensor, taps: int, padding: int, columns: bool) -> Tensor:
    """Add ``taps`` groups of channels, the one of tap a shifted by a - padding; zeros come in at the border."""
    x = F.pad(x, (padding, padding) if columns else (0, 0, padding, padding))
    parts = []
    for tap, part in enumerate(x.chunk(taps, dim=1)):
        cut = (-tap, tap + 1 - taps)
        parts.append(F.pad(part, cut if columns else (0, 0, *cut)))
    return functools.reduce(torch.add, parts)


class _Axis(NamedTuple):
    """One side: its resampling, then the shifts of the convolution's taps. A sparse linear map."""

    mode: str
    source: int
    target: int
    taps: int
    padding: int

    @property
    def length(self) -> int:
        """Pixels after the convolution."""
        return self.target + 2 * self.padding - self.taps + 1


class _Block(NamedTuple):
    """Rows ``start`` to ``stop`` of an axis's map, which read its sources ``first`` to ``last``.

    ``merged`` is (rows, sources × taps); the adjoint's is (rows × taps, sources).
    """

    start: int
    stop: int
    first: int
    last: int
    merged: Tensor

    def sources(self, whole: _Tile, taps: int = 1) -> slice:
        """Where its sources are among those of ``whole``, counted in ``taps`` a pixel."""
        offset = whole.first if self.last > self.first else self.first
        return slice((self.first - offset) * taps, (self.last - offset) * taps)


class _Tile(NamedTuple):
    """Neighbouring blocks."""

    start: int
    stop: int
    first: int
    last: int
    blocks: tuple[_Block, ...]


@functools.lru_cache(maxsize=32)
def _entries(axis: _Axis) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return output pixel, coarse pixel, tap and weight of every entry that is not zero.

    The positions are torch's own, rounding included: those of a ramp that ``interpolate`` resamples.
    """
    ramp = torch.arange(axis.source, dtype=torch.float64, device="cpu").view(1, 1, -1, 1)
    position = resize(ramp, (axis.target, 1), axis.mode).flatten()
    below = position.floor()
    part = position - below
    coarse = torch.stack((below, (below + 1).clamp(max=axis.source - 1))).long()
    tap = torch.arange(axis.taps, device="cpu")[:, None, None]
    output = torch.arange(axis.target, device="cpu") - tap + axis.padding
    grid = (output, coarse, tap, torch.stack((1 - part, part)))
    output, coarse, tap, weight = (values.expand(axis.taps, 2, axis.target).flatten() for values in grid)
    kept = (output >= 0) & (output < axis.length) & (weight != 0)
    return output[kept], coarse[kept], tap[kept], weight[kept]


@functools.lru_cache(maxsize=4096)
def _blocks(axis: _Axis, start: int, stop: int, step: int, dtype: torch.dtype, adjoint: bool) -> tuple[_Block, ...]:
    """Cut rows ``start`` to ``stop`` of the map of ``axis``, or of its adjoint, into blocks of ``step`` rows."""
    rows, sources, tap, weight = _entries(axis)
    if adjoint:
        rows, sources = sources, rows
    inside = (rows >= start) & (rows < stop)
    rows, sources, tap, weight = rows[inside] - start, sources[inside], tap[inside], weight[inside]
    number = rows // step
    lows = range(start, stop, step)
    first = torch.zeros(len(lows), dtype=torch.long, device="cpu")
    last = first.scatter_reduce(0, number, sources + 1, "amax")
    first = first.scatter_reduce(0, number, sources, "amin", include_self=False)
    width = int((last - first).max())
    size = (len(lows), step, axis.taps, width) if adjoint else (len(lows), step, width, axis.taps)
    matrix = torch.zeros(size, dtype=torch.float64, device="cpu")
    place = (tap, sources - first[number]) if adjoint else (sources - first[number], tap)
    matrix.index_put_((number, rows % step, *place), weight, accumulate=True)
    blocks = []
    for low, begin, end, part in zip(lows, first.tolist(), last.tolist(), matrix.to(dtype), strict=True):
        high = min(low + step, stop)
        part = part[: high - low, :, : end - begin] if adjoint else part[: high - low, : end - begin]
        merged = part.flatten(0, 1) if adjoint else part.flatten(1)
        blocks.append(_Block(low, high, begin, end, merged))
    return tuple(blocks)


TILE = (64, 128)
"""Rows and columns of output that are worked on at a time: what they need stays in cache, at any image size."""
STEP = (8, 16)
"""Rows and columns of one small matrix product. Larger ones multiply more zeros, smaller ones are slow."""


class _UpsampleConv(torch.autograd.Function):
    """Keeps x and the weight for backward, nothing else."""

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, size: tuple[int, int], mode: str, padding: int
    ) -> Tensor:
        form = _tiled if x.device.type == "cpu" else _by_taps
        return form(x, weight, bias, size, mode, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, *ctx.how = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        *needed, biased = ctx.needs_input_grad[:3]
        if x.device.type == "cpu" and not torch.is_grad_enabled():
            found = _tiled_gradients(grads[0], x, weight, needed, *ctx.how)
        else:
            found = _tap_gradients(grads[0], x, weight, needed, *ctx.how)
        return (*found, grads[0].sum(dim=(0, 2, 3)) if biased else None, None, None, None)


def _tap_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, needed: Sequence[bool], size: tuple[int, int], mode: str, padding: int
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x and the weight; differentiable where a gradient of them will be asked for."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        if not again:
            x, weight = (tensor.detach().requires_grad_() for tensor in (x, weight))
        y = _by_taps(x, weight, None, size, mode, padding)
    wanted = [tensor for tensor, need in zip((x, weight), needed, strict=True) if need]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=again) if wanted else ())
    return tuple(next(found) if need else None for need in needed)


def _tiled(x: Tensor, weight: Tensor, bias: Tensor | None, size: tuple[int, int], mode: str, padding: int) -> Tensor:
    """The identity in tiles that stay in cache: mixed by 1×1 convolutions, resampled by small matrix products."""
    rows, columns = _axes(x.shape, weight.shape, size, mode, padding)
    mixer, channels = weight.permute(3, 2, 0, 1).flatten(0, 2)[:, :, None, None], len(weight)
    x = x.contiguous(memory_format=torch.channels_last)
    shape = (len(x), channels, rows.length, columns.length)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for band in _tiles(rows, TILE[0], STEP[0], x.dtype):
        for panel in _tiles(columns, TILE[1], STEP[1], x.dtype):
            tile = x[:, :, band.first : band.last, panel.first : panel.last]
            wide = x.new_empty(len(x), tile.shape[2], rows.taps, panel.stop - panel.start, channels)
            z = F.conv2d(tile, mixer).permute(0, 2, 3, 1)
            z = z.reshape(len(x), tile.shape[2], tile.shape[3] * columns.taps, rows.taps * channels)
            for piece in panel.blocks:
                out = wide[:, :, :, piece.start - panel.start : piece.stop - panel.start].transpose(2, 3)
                part = torch.matmul(piece.merged, z[:, :, piece.sources(panel, columns.taps)])
                out.copy_(part.view(out.shape))
            shift = None if bias is None else bias.repeat(panel.stop - panel.start)
            for image, into in zip(wide.flatten(1, 2).flatten(2), y.permute(0, 2, 3, 1).flatten(2), strict=True):
                into = into[:, panel.start * channels : panel.stop * channels]
                for line in band.blocks:
                    factors, out = (line.merged, image[line.sources(band, rows.taps)]), into[line.start : line.stop]
                    if shift is None:
                        torch.mm(*factors, out=out)
                    else:
                        torch.addmm(shift, *factors, out=out)
    return y


def _tiled_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, needed: Sequence[bool], size: tuple[int, int], mode: str, padding: int
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x and the weight: the adjoints of both resamplings, then of the mixing, in tiles."""
    rows, columns = _axes(x.shape, weight.shape, size, mode, padding)
    x = x.contiguous(memory_format=torch.channels_last)
    grad = grad.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    mixer = _by_row_tap(weight).flatten(0, 1)[:, :, None, None]
    grad_x = torch.zeros_like(x) if needed[0] else None
    grad_mixer = torch.zeros_like(mixer)
    for band in _tiles(rows, TILE[0], STEP[0], x.dtype, adjoint=True):
        for panel in _tiles(columns, TILE[1], STEP[1], x.dtype, adjoint=True):
            wide = x.new_empty(len(x), (band.stop - band.start) * rows.taps, (panel.last - panel.first) * len(weight))
            for image, source in zip(wide, grad.flatten(2), strict=True):
                source = source[:, panel.first * len(weight) : panel.last * len(weight)]
                for line in band.blocks:
                    out = image[(line.start - band.start) * rows.taps : (line.stop - band.start) * rows.taps]
                    torch.mm(line.merged, source[line.first : line.last], out=out)
            wide = wide.view(len(x), band.stop - band.start, rows.taps, panel.last - panel.first, len(weight))
            z = x.new_empty(
                len(x), band.stop - band.start, panel.stop - panel.start, rows.taps, columns.taps * len(weight)
            )
            for piece in panel.blocks:
                source = wide[:, :, :, piece.sources(panel)]
                out = z[:, :, piece.start - panel.start : piece.stop - panel.start]
                part = torch.matmul(piece.merged, source)
                out.copy_(part.view(*part.shape[:3], piece.stop - piece.start, z.shape[-1]).transpose(2, 3))
            tile = (slice(None), slice(None), slice(band.start, band.stop), slice(panel.start, panel.stop))
            part_x, part_mixer, _ = torch.ops.aten.convolution_backward(
                z.flatten(3).permute(0, 3, 1, 2), x[tile], mixer,
                None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [*needed, False],
            )  # fmt: skip
            if grad_x is not None:
                grad_x[tile] = part_x
            if needed[1]:
                grad_mixer += part_mixer
    if not needed[1]:
        return grad_x, None
    out_channels, channels, *kernel = weight.shape
    return grad_x, grad_mixer.view(*kernel, out_channels, channels).permute(2, 3, 0, 1)


def _axes(x: Size, weight: Size, size: Size, mode: str, padding: int) -> tuple[_Axis, _Axis]:
    rows, columns = (_Axis(mode, *sides, padding) for sides in zip(x[2:], size, weight[2:], strict=True))
    return rows, columns


def _by_row_tap(weight: Tensor) -> Tensor:
    """Return (O, C, K, L) as (K, L · O, C): the mixing of channels for each row of taps."""
    return weight.permute(2, 3, 0, 1).flatten(1, 2)


def _tiles(axis: _Axis, tile: int, step: int, dtype: torch.dtype, adjoint: bool = False) -> Iterator[_Tile]:
    """Cut an axis into tiles, and each of them into blocks; the adjoint into as much of its output."""
    length = axis.length
    if adjoint:
        length = axis.source
        tile, step = (max(1, round(side * axis.source / axis.target)) for side in (tile, step))
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        blocks = _blocks(axis, start, stop, step, dtype, adjoint)
        used = [block for block in blocks if block.last > block.first]
        first = min((block.first for block in used), default=0)
        last = max((block.last for block in used), default=0)
        yield _Tile(start, stop, first, last, blocks)
