"""3×3 convolutions of many channels on the CPU, with 2.25 times fewer multiplications: Winograd's F(2×2, 3×3).

Each 2×2 pixels of the output are made of 4×4 pixels of the input by way of 16 products for each pair of channels, where
the definition needs 36; :mod:`unetzoo.nn.winograd_tiles` has the additions before and after. All functions take and
return float32 maps on the CPU, (N, C, H, W), best with channels last, of convolutions with stride and dilation 1, one
group, and a padding of 0 to 2.

Each sum has as many terms as there are channels, in place of nine times as many, so rounding errors are smaller than
those of oneDNN's own convolution. No pixel of the output reads one that the definition does not. But if one of the
pixels is much larger than the others, and its weight near zero, the error is relative to that pixel; where the sum of
four neighbours is too large for float32, the result is infinite or NaN; and in the gradient of a kernel, what is no
number reaches all nine taps of its channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from unetzoo.nn.pointwise import multiplies
from unetzoo.nn.programs import only_backward, transformed
from unetzoo.nn.winograd_tiles import (
    POINTS,
    Blocks,
    GradientTransform,
    InputTransform,
    OutputTransform,
    empty,
    kernel_of_points,
    points_of_kernel,
    tiles_of,
)

MANY = 512
"""Tiles of a batch from which they are shared out in blocks, and the points of a kernel are packed for oneDNN; below,
all tiles are one block, for which packing takes too long."""

CHANNELS, CHANNELS_OF_THREADS = 50, 80
"""C · O / (C + O) from which this is faster than oneDNN's convolution: the products saved for each addition; and with
several threads, which wait for each other after each of many short operators."""
CHANNELS_OF_KERNEL, MANY_OF_KERNEL = 32, 2048
"""The same for gradients of kernels with a single thread, where oneDNN is slower; and tiles from which this is so."""
WORK = 4 * 10**8
"""Multiply-adds of the definition for each thread, below which the time of Python outweighs the gain."""
MOST_AT_ONCE = 2**22
"""Numbers of the points of a kernel that are made at once where all tiles are one block, to save memory."""
FEWEST_TILES, FEWEST_KEPT = 128, 64
"""Tiles of a batch from which this is used; and if the points of the kernel are kept, as in optimised copies."""

_FOUR_GROUPS = ((0, 0), (1, 1), (1, 1), 4)
"""Padding, stride, dilation and groups of the 1×1 convolution that multiplies a row of four points."""
_NOTHING_AFTER: tuple[str, list[float], str] = ("none", [], "")

Packed = Callable[[Sequence[int]], Iterable[Tensor]]
"""Returns what :func:`packed_points` makes for maps of a size (1, 4 × C, rows, columns)."""


class Ways(NamedTuple):
    """Which functions of this module are the faster ways to a convolution and to its gradients."""

    by_points: bool = False
    input_gradient: bool = False
    kernel_gradient: bool = False


def gains(x: Tensor, weight: Tensor, padding: Sequence[int], bias: Tensor | None = None, kept: bool = False) -> bool:
    """Whether :func:`by_points` is the faster way, and nothing asks for derivatives of it.

    Args:
        x, weight, padding, bias: of a convolution with stride and dilation 1 and one group.
        kept: whether what is made of the weight is kept.
    """
    if not _fits(x, weight, padding):
        return False
    tiles = _tiles_after(x, padding)
    if tiles < (FEWEST_KEPT if kept else FEWEST_TILES) or not _pays(tiles, weight):
        return False
    if bias is not None and (bias.dtype != x.dtype or bias.device != x.device or bias.shape != weight.shape[:1]):
        return False
    tensors = [x, weight] if bias is None else [x, weight, bias]
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return not recorded and only_backward(*tensors)


def ways_in_training(x: Tensor, weight: Tensor, padding: Sequence[int]) -> Ways:
    """Return those for such a convolution of ``x`` and its gradients, if nothing asks for derivatives of these."""
    if not (_fits(x, weight, padding) and only_backward(x, weight)):
        return Ways()
    before, after = tiles_of(len(x), *x.shape[2:]), _tiles_after(x, padding)
    return Ways(
        after >= FEWEST_TILES and _pays(after, weight),
        before >= FEWEST_TILES and _pays(before, weight),
        after >= FEWEST_TILES and _pays(after, weight, of_kernel=True),
    )


def joins(x: Tensor, weight: Tensor) -> bool:
    """Whether the gradients of a convolution of several maps like ``x`` take less time for all together.

    The additions for the gradient of the result are made once then.
    """
    tiles = x[:, 0].numel() // 4  # but for the border
    return weight.shape[2:] == (3, 3) and _computes(x, weight) and _pays(tiles, weight)


def _pays(tiles: int, weight: Tensor, of_kernel: bool = False) -> bool:
    """Whether so many tiles of a batch take less time by points than by taps.

    Args:
        tiles, weight: of a 3×3 convolution.
        of_kernel: whether it is about the gradient of the kernel.
    """
    (out_channels, channels), threads = weight.shape[:2], torch.get_num_threads()
    least = CHANNELS if threads == 1 else CHANNELS_OF_THREADS
    if of_kernel and threads == 1 and tiles >= MANY_OF_KERNEL:
        least = CHANNELS_OF_KERNEL
    pairs = channels * out_channels
    return pairs >= least * (channels + out_channels) and 36 * pairs * tiles >= WORK * threads


def _fits(x: Tensor, weight: Tensor, padding: Sequence[int]) -> bool:
    """Whether this module computes such convolutions of ``x``."""
    if weight.shape[2:] != (3, 3) or max(padding) > 2 or x.shape[1] != weight.shape[1]:
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and _computes(x, weight)


def _computes(x: Tensor, weight: Tensor) -> bool:
    """Whether torch runs the program itself, in float32, with the operators that are needed."""
    if transformed() or torch.is_autocast_enabled("cpu"):  # which would round the products
        return False
    names = ("_convolution_pointwise", "_reorder_convolution_weight")
    return multiplies(x, weight) and all(hasattr(torch.ops.mkldnn, name) for name in names)


def _tiles_after(x: Tensor, padding: Sequence[int]) -> int:
    return tiles_of(len(x), x.shape[2] + 2 * padding[0] - 2, x.shape[3] + 2 * padding[1] - 2)


def by_points(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    padding: Sequence[int] = (1, 1),
    packed: Packed | None = None,
    add: Tensor | None = None,
    act: Callable[[Tensor], object] | None = None,
) -> Tensor:
    """Return ``act(conv(x) + add)``, (N, O, H, W), channels last.

    Args:
        x: (N, C, H', W').
        weight: (O, C, 3, 3).
        bias: (O,), or None.
        padding: of zeros, down and across.
        packed: of an optimised copy, which keeps what is made of the weight; None: it is made here.
        add: (N, O, H, W), or None.
        act: applied in place.
    """
    products = _products(x, weight, padding, turned=False, packed=packed)
    return _convolved(x, padding, products, bias, add, act)


def input_gradient(grad: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    """Return the gradient of a convolution's input, (N, C, H', W'), from that of its result, (N, O, H, W)."""
    padding = [2 - side for side in padding]
    return _convolved(grad, padding, _products(grad, weight, padding, turned=True))


def kernel_gradient(grad: Tensor, x: Tensor, padding: Sequence[int]) -> Tensor:
    """Return the gradient of a convolution's weight, (O, C, 3, 3), from its input (N, C, H', W') and ``grad``."""
    (images, out_channels, height, width), channels = grad.shape, x.shape[1]
    blocks = Blocks.of(images, height, width, channels + out_channels, fewest=MANY)
    at_once = 4 if blocks.tiles >= tiles_of(images, height, width) else 1  # rows of points; all if there are few tiles
    of_x, of_grad = (empty(at_once, 4, *blocks.shape, depth) for depth in (channels, out_channels))
    windows, pairs = (
        kind(blocks, [*points] * (4 // at_once))
        for kind, points in ((InputTransform, of_x), (GradientTransform, of_grad))
    )
    rows, columns = (points.view(4 * at_once, blocks.tiles, -1) for points in (of_grad, of_x))
    found, before = empty(0 if at_once == 4 else POINTS, out_channels, channels), 0.0
    for image, row, column in blocks:
        windows.move(x.permute(0, 2, 3, 1), (image, row - padding[0], column - padding[1]))
        pairs.move(grad.permute(0, 2, 3, 1), (image, row, column))
        for number in range(4):
            windows.write(number)
            pairs.write(number)
            if at_once == 1:  # MKL's product, because oneDNN's have no operator for many, or transposed, matrices
                part = found[4 * number : 4 * number + 4]
                part.baddbmm_(rows.transpose(1, 2), columns, beta=before)
        before = 1.0
    if at_once == 1:
        return kernel_of_points(found)
    some, kernel = _channels_at_once(channels), empty(out_channels, channels, 3, 3)
    for start in range(0, out_channels, some):
        of_some = torch.bmm(rows[:, :, start : start + some].transpose(1, 2), columns)
        kernel[start : start + some] = kernel_of_points(of_some)
    return kernel


def _channels_at_once(others: int) -> int:
    """Return for how many channels on one side the points of a kernel are made at once, if there are so many others."""
    return max(64, MOST_AT_ONCE // (POINTS * others))


class _PackedProducts:
    """Products of the points of one block after the other with a kernel that is packed for oneDNN.

    Attributes:
        blocks: those of the output.
        out_channels: O.
        points: for each row of points, where it is to be written.
    """

    def __init__(self, blocks: Blocks, channels: int, out_channels: int, packed: Packed) -> None:
        self.blocks, self.out_channels = blocks, out_channels
        buffer = empty(*blocks.shape, 4, channels)
        self.points = [buffer.permute(3, 0, 1, 2, 4)] * 4
        # As one image, because oneDNN's order of a kernel depends on the pixels of one.
        self._map = buffer.view(1, -1, blocks.shape[2], 4 * channels).permute(0, 3, 1, 2)
        self._kernels = [*packed(self._map.shape)]

    def of_rows(self, write: Callable[[int], object]) -> Iterator[Sequence[Tensor]]:
        """Yield the products, four of (N, rows, columns, O), of each row of points that ``write`` writes."""
        for row, kernel in enumerate(self._kernels):
            write(row)
            found = torch.ops.mkldnn._convolution_pointwise.default(
                self._map, kernel, None, *_FOUR_GROUPS, "none", [], ""
            )
            yield found.permute(0, 2, 3, 1).view(*self.blocks.shape, 4, self.out_channels).unbind(3)


class _UnpackedProducts:
    """The same of all tiles in one block, with a kernel that is not packed: its points are made a part at a time."""

    def __init__(self, blocks: Blocks, weight: Tensor, turned: bool) -> None:
        self.blocks, self._weight, self._turned = blocks, weight, turned
        self.out_channels, channels = weight.shape[1::-1] if turned else weight.shape[:2]
        points, self._found = (empty(4, 4, *blocks.shape, width) for width in (channels, self.out_channels))
        self.points = points.unbind()
        self._rows, self._out = (x.view(POINTS, blocks.tiles, -1) for x in (points, self._found))

    def of_rows(self, write: Callable[[int], object]) -> Iterator[Sequence[Tensor]]:
        """Yield the same."""
        for row in range(4):
            write(row)
        some = _channels_at_once(self._rows.shape[2])
        for start in range(0, self.out_channels, some):
            part = slice(start, start + some)
            kernel = points_of_kernel(self._weight[:, part] if self._turned else self._weight[part], self._turned)
            self._out[:, :, part] = torch.bmm(self._rows, kernel if self._turned else kernel.transpose(1, 2))
        for found in self._found:
            yield found.unbind()


def packed_points(weight: Tensor, size: Sequence[int], turned: bool = False) -> Iterator[Tensor]:
    """Yield each row of points of a kernel (O, C, 3, 3) in oneDNN's order for maps (1, 4 × C, rows, columns)."""
    weight = weight.contiguous()
    for row in range(4):
        points = points_of_kernel(weight, turned, row).flatten(0, 1)[:, :, None, None]
        yield torch.ops.mkldnn._reorder_convolution_weight(points, *_FOUR_GROUPS, list(size))


def _products(
    x: Tensor, weight: Tensor, padding: Sequence[int], turned: bool, packed: Packed | None = None
) -> _PackedProducts | _UnpackedProducts:
    """Return what multiplies for a convolution of ``x`` with ``weight``, or, turned, for that of a gradient."""
    (images, channels, height, width), both = x.shape, sum(weight.shape[:2])
    size = height + 2 * padding[0] - 2, width + 2 * padding[1] - 2
    tiles = tiles_of(images, *size)
    whole = Blocks.of(images, *size, both, fewest=MANY)
    if packed is None and tiles < MANY and whole.tiles >= tiles:
        return _UnpackedProducts(whole, weight, turned)
    if packed is None:
        packed = partial(packed_points, weight.transpose(0, 1) if turned else weight, turned=turned)
    return _PackedProducts(Blocks.of(images, *size, both), channels, both - channels, packed)


def _convolved(
    x: Tensor,
    padding: Sequence[int],
    products: _PackedProducts | _UnpackedProducts,
    bias: Tensor | None = None,
    add: Tensor | None = None,
    act: Callable[[Tensor], object] | None = None,
) -> Tensor:
    blocks, windows = products.blocks, InputTransform(products.blocks, products.points)
    outputs = OutputTransform(blocks, products.out_channels)
    # Not a view of what is written below: autograd does not let sums be added in place to a view.
    shape = (blocks.images, products.out_channels, blocks.height, blocks.width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for image, row, column in blocks:
        windows.move(x.permute(0, 2, 3, 1), (image, row - padding[0], column - padding[1]))
        for number, found in enumerate(products.of_rows(windows.write)):
            if bias is not None and number == 1:
                found[1].add_(bias)  # which comes to all four pixels as it is
            outputs.read(number, found)
        part = blocks.part(out.permute(0, 2, 3, 1), (image, row, column))
        outputs.write(part)
        if add is not None:
            part += blocks.part(add.permute(0, 2, 3, 1), (image, row, column))
        if act is not None:
            act(part)
    return out
