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
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo.nn.doubling import doubles, phase_gradients, phases
from unetzoo.nn.gpu_costs import BY_KERNELS, BY_TORCH
from unetzoo.nn.gpu_resampling import Resample, Sampling, fits
from unetzoo.nn.gradients import pointwise_gradients
from unetzoo.nn.packing import Form, Packs, convolved, packable
from unetzoo.nn.programs import only_backward, transformed
from unetzoo.nn.resizing import resize as resize, resize_alike as resize_alike
from unetzoo.nn.whole_maps import (
    MODES as MODES,
    Size as Size,
    by_taps,
    mixer_of,
    positions,
    tap_gradients,
    whole_map_gradients,
    whole_maps,
)

MIXED_FIRST = 96
"""Channels from which :func:`upsample_conv` mixes first."""
MIXED_FIRST_ENLARGED, ENLARGED = 64, 12
"""The same for maps that get ``ENLARGED`` times as many pixels or more: by a scale of 4, also at sizes that 4 does not
divide."""


def upsample_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, size: Size, mode: str = "bilinear", padding: int = 1
) -> Tensor:
    """Return ``F.conv2d(resize(x, size, mode), weight, bias, padding=padding)``, exactly, at a fraction of the cost.

    The direct computation is used where it is cheaper: with a kernel of 1 if the convolution adds channels, otherwise
    with few channels (``mixes``), because there are then not many more to resample than those of the taps. Exact
    doubling by "nearest" on the CPU uses ``unetzoo.nn.doubling``. In a compiled or exported program, sizes do not
    matter, so that it is right for all of them. ``docs/speed.md`` has the measurements.

    Args:
        x: (N, C, h, w), floating point.
        weight: (O, C, K, L), of x's dtype (under autocast any).
        bias: (O,), or None.
        size: H, W that x is resampled to before the convolution. Any; also smaller ones.
        mode: "nearest", "bilinear" or "bilinear_aligned".
        padding: zeros on each side of the resampled map; fewer than K and L.

    Returns:
        (N, O, H + 2 padding - K + 1, W + 2 padding - L + 1).
    """
    if mixes(x, weight, size, mode, padding):
        return mixed_first(x, weight, bias, size, mode, padding)
    dtype = autocast_dtype(x)
    x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return F.conv2d(resize_alike(x, size, mode), weight, bias, padding=padding)


def mixed_first(
    x: Tensor, weight: Tensor, bias: Tensor | None, size: Size, mode: str, padding: int, packs: Packs | None = None
) -> Tensor:
    """Do :func:`upsample_conv` with channels mixed first, whatever the rule says; ``packs``: those of the layer."""
    dtype = autocast_dtype(x)
    x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if math.prod(weight.shape[2:]) == 1 and padding == 0:
        mixed = F.conv2d(x, weight, bias) if packs is None else convolved(x, weight, bias, Form(), packs)
        return resize_alike(mixed, size, mode)
    if type(x) is not Tensor or transformed():
        return by_taps(x, weight, bias, size, mode, padding)
    if packs is not None and packable(x, weight):
        form, _ = _forms(x, weight, size, mode, padding)
        return form(x, weight, bias, tuple(size), mode, padding, packs)
    if fits(x, size) and only_backward(weight):
        height, width = weight.shape[2:]
        sampling = Sampling((size[0], size[1]), mode, (height, width), padding)
        summed: Tensor = Resample.apply(F.conv2d(x, mixer_of(weight)), bias, sampling)
        return summed
    out: Tensor = _UpsampleConv.apply(x, weight, bias, tuple(size), mode, padding)
    return out


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which autocast convolves ``x``: its own where there is no autocast."""
    device = x.device.type
    if not x.is_meta and torch.is_autocast_enabled(device):  # of meta it knows nothing
        return torch.get_autocast_dtype(device)
    return x.dtype


def mixes_first(channels: int, out_channels: int, kernel: Size) -> bool:
    """Whether :func:`upsample_conv` mixes the channels before it resamples them, by the channels alone."""
    return out_channels <= channels if math.prod(kernel) == 1 else channels >= MIXED_FIRST


def mixes(x: Tensor, weight: Tensor, size: Size, mode: str, padding: int, joined: bool = False) -> bool:
    """Whether channels are mixed before they are resampled, in this program on this device.

    On CUDA, plain convolutions are so fast that memory traffic and the number of kernels decide: there the rule depends
    on sizes, and on whether gradients are needed. Compilers fuse the costly parts.

    Args:
        x: (N, C, h, w), to be resampled to ``size``.
        weight: (O, …, K, L).
        size: H, W.
        mode, padding: of the resampling, and of the convolution.
        joined: whether the plain way would concatenate the resampled map with others.
    """
    channels, out_channels, kernel = x.shape[1], len(weight), weight.shape[2:]
    if math.prod(kernel) == 1 or transformed():
        return mixes_first(channels, out_channels, kernel)
    if x.device.type != "cuda":
        enlarged = math.prod(size) >= ENLARGED * math.prod(x.shape[2:])
        least = MIXED_FIRST_ENLARGED if enlarged else MIXED_FIRST
        return channels >= least or doubles(x, weight, size, mode, padding)
    recorded = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    costs = (BY_KERNELS if fits(x, size) else BY_TORCH)[recorded, x.dtype.itemsize <= 2]
    return costs.gain(channels, out_channels, len(x) * math.prod(size), size[0] / x.shape[2], joined) > 0


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
    """Return output pixel, coarse pixel, tap and weight of every entry that is not zero."""
    position = positions(axis.source, axis.target, axis.mode)
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
LEAST = 16
"""Rows and columns of input in a tile, at the least."""
STEP = (8, 16)
"""Rows and columns of one small matrix product. Larger ones multiply more zeros, smaller ones are slow."""


def _forms(
    x: Tensor, weight: Tensor, size: Size, mode: str, padding: int
) -> tuple[Callable[..., Tensor], Callable[..., tuple[Tensor | None, ...]]]:
    """Return how the convolution is computed, and its gradients."""
    if x.device.type != "cpu":
        return whole_maps, whole_map_gradients
    if x.shape[1] < MIXED_FIRST and doubles(x, weight, size, mode, padding):
        return phases, phase_gradients
    return _tiled, _tiled_gradients


class _UpsampleConv(torch.autograd.Function):
    """Keeps x and the weight for backward, nothing else."""

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, size: tuple[int, int], mode: str, padding: int
    ) -> Tensor:
        form, _ = _forms(x, weight, size, mode, padding)
        return form(x, weight, bias, size, mode, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, *ctx.how = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        *needed, biased = ctx.needs_input_grad[:3]
        _, form = _forms(x, weight, *ctx.how)
        # A gradient of these will be asked for, or they have to be the same each time, as the adjoint's sums are not.
        if torch.is_grad_enabled() or (x.device.type != "cpu" and torch.are_deterministic_algorithms_enabled()):
            form = tap_gradients
        found = form(grads[0], x, weight, needed, *ctx.how)
        return (*found, grads[0].sum(dim=(0, 2, 3)) if biased else None, None, None, None)


def _tiled(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    size: tuple[int, int],
    mode: str,
    padding: int,
    packs: Packs | None = None,
) -> Tensor:
    """The identity in tiles that stay in cache: mixed by 1×1 convolutions, resampled by small matrix products."""
    rows, columns = _axes(x.shape, weight.shape, size, mode, padding)
    x = x.contiguous(memory_format=torch.channels_last)
    shape = (len(x), len(weight), rows.length, columns.length)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    packs = Packs() if packs is None else packs
    for images, band, panel in _tiles(len(x), rows, columns, x.dtype):
        tile = x[images, :, band.first : band.last, panel.first : panel.last]
        mixed = convolved(tile, weight, None, Form(), packs, made=("taps", mixer_of))
        wide = _widened(mixed.permute(0, 2, 3, 1), panel, (rows.taps, columns.taps), len(weight))
        shift = None if bias is None else bias.repeat(panel.stop - panel.start)
        across = slice(panel.start * len(weight), panel.stop * len(weight))
        for lines, into in zip(wide, y[images].permute(0, 2, 3, 1).flatten(2), strict=True):
            for block in band.blocks:
                factors = block.merged, lines[block.sources(band, rows.taps)]
                out = into[block.start : block.stop, across]
                torch.mm(*factors, out=out) if shift is None else torch.addmm(shift, *factors, out=out)
    return y


def _widened(z: Tensor, panel: _Tile, taps: tuple[int, int], channels: int) -> Tensor:
    """Resample the columns of nine-tap maps (N, h, w, column tap × row tap × O) to (N, h × row tap, W × O)."""
    count, height, width, _ = z.shape
    z = z.reshape(count, height, width * taps[1], taps[0] * channels)
    wide = z.new_empty(count, height, taps[0], panel.stop - panel.start, channels)
    for block in panel.blocks:
        out = wide[:, :, :, block.start - panel.start : block.stop - panel.start].transpose(2, 3)
        out.copy_(torch.matmul(block.merged, z[:, :, block.sources(panel, taps[1])]).view(out.shape))
    return wide.flatten(1, 2).flatten(2)


def _tiled_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, needed: Sequence[bool], size: tuple[int, int], mode: str, padding: int
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x and the weight: the adjoints of both resamplings, then of the mixing, in tiles."""
    rows, columns = _axes(x.shape, weight.shape, size, mode, padding)
    x = x.contiguous(memory_format=torch.channels_last)
    grad = grad.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).flatten(2)
    mixer = weight.permute(2, 3, 0, 1).flatten(0, 2)[:, :, None, None]
    grad_x = torch.empty_like(x) if needed[0] else None  # the tiles cover it
    grad_mixer: Tensor | None = None
    for images, band, panel in _tiles(len(x), rows, columns, x.dtype, adjoint=True):
        tile = (images, slice(None), slice(band.start, band.stop), slice(panel.start, panel.stop))
        z = _narrowed(grad[images], band, panel, (rows.taps, columns.taps), len(weight))
        below = x[tile].contiguous(memory_format=torch.channels_last)
        part_x, part_mixer = pointwise_gradients(z.permute(0, 3, 1, 2), below, mixer, needed)
        if grad_x is not None and part_x is not None:
            grad_x[tile] = part_x
        if part_mixer is not None:
            grad_mixer = part_mixer if grad_mixer is None else grad_mixer.add_(part_mixer)
    if grad_mixer is None:
        return grad_x, None
    out_channels, channels, *kernel = weight.shape
    return grad_x, grad_mixer.view(*kernel, out_channels, channels).permute(2, 3, 0, 1)


def _narrowed(grad: Tensor, band: _Tile, panel: _Tile, taps: tuple[int, int], channels: int) -> Tensor:
    """Take (N, H, W × O) back to nine-tap maps (N, h, w, row tap × column tap × O)."""
    height, width = band.stop - band.start, panel.stop - panel.start
    wide = grad.new_empty(len(grad), height * taps[0], (panel.last - panel.first) * channels)
    for lines, source in zip(wide, grad[:, :, panel.first * channels : panel.last * channels], strict=True):
        for block in band.blocks:
            out = lines[(block.start - band.start) * taps[0] : (block.stop - band.start) * taps[0]]
            torch.mm(block.merged, source[block.first : block.last], out=out)
    wide = wide.view(len(grad), height, taps[0], panel.last - panel.first, channels)
    z = grad.new_empty(len(grad), height, width, taps[0], taps[1] * channels)
    for block in panel.blocks:
        out = z[:, :, block.start - panel.start : block.stop - panel.start].transpose(2, 3)
        out.copy_(torch.matmul(block.merged, wide[:, :, :, block.sources(panel)]).view(out.shape))
    return z.flatten(3)


def _axes(x: Size, weight: Size, size: Size, mode: str, padding: int) -> tuple[_Axis, _Axis]:
    rows, columns = (_Axis(mode, *sides, padding) for sides in zip(x[2:], size, weight[2:], strict=True))
    return rows, columns


def _tiles(
    batch: int, rows: _Axis, columns: _Axis, dtype: torch.dtype, adjoint: bool = False
) -> Iterator[tuple[slice, _Tile, _Tile]]:
    """Cut a batch into tiles of about the same number of pixels: images, rows, columns."""
    # Of a map that is up-sampled by much, enough pixels to be worth a convolution.
    sides = [max(side, LEAST * axis.target // axis.source) for side, axis in zip(TILE, (rows, columns), strict=True)]
    held = min(sides[0], rows.length) * min(sides[1], columns.length)
    step = max(1, math.prod(TILE) // max(1, held))
    for start in range(0, batch, step):
        for band in _cut(rows, sides[0], STEP[0], dtype, adjoint):
            for panel in _cut(columns, sides[1], STEP[1], dtype, adjoint):
                yield slice(start, min(start + step, batch)), band, panel


def _cut(axis: _Axis, tile: int, step: int, dtype: torch.dtype, adjoint: bool) -> Iterator[_Tile]:
    """Cut an axis into tiles, and each of them into blocks; the adjoint into as much of its sources."""
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
