"""3×3 convolutions of many channels on the CPU, with 2.25 times fewer multiplications: Winograd's F(2×2, 3×3).

Each 2×2 pixels of the output are made of 4×4 pixels of the input by way of 16 products for each pair of channels, where
the definition needs 36; :mod:`unetzoo.nn.tiles` has the additions before and after. Each sum has as many terms as there
are channels, in place of nine times as many, so rounding errors are smaller than those of oneDNN's own convolution. No
pixel of the output reads one that the definition does not. But where much larger pixels cancel beside it, it is
rounded as they are; and what is infinite in the input becomes NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from unetzoo.nn.pointwise import multiplies
from unetzoo.nn.programs import only_backward, transformed
from unetzoo.nn.tiles import POINTS, Blocks, Outputs, Pairs, Windows, kernel_of_points, points_of_kernel, tiles_of

MANY = 512
"""Tiles of a batch from which the points of a kernel are brought into oneDNN's order, for products of one block after
the other; up to here all tiles are one block."""

CHANNELS, CHANNELS_OF_THREADS = 40, 80
"""C · O / (C + O) from which this is faster than oneDNN's convolution: the products saved for each addition; and with
several threads, which wait for each other after each of many short operators."""
CHANNELS_OF_KERNEL, MANY_OF_KERNEL = 32, 2048
"""The same for gradients of kernels with a single thread, where oneDNN is slower; and tiles from which this is so."""
WORK, WORK_OF_THREADS = 25 * 10**7, 4 * 10**8
"""Multiplications of the definition for each thread, from which Python's share does not matter."""
FEWEST_TILES, FEWEST_KEPT = 128, 32
"""Tiles of a batch from which it pays to make the points of a kernel; and if they are kept."""

Packed = Callable[[Sequence[int]], Sequence[Tensor]]
"""Returns what :func:`packed_points` makes for maps of a size (N, 4 × C, rows, columns)."""


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
    if tiles < (FEWEST_KEPT if kept else FEWEST_TILES) or not pays(tiles, weight):
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
        after >= FEWEST_TILES and pays(after, weight),
        before >= FEWEST_TILES and pays(before, weight),
        after >= FEWEST_TILES and pays(after, weight, of_kernel=True),
    )


def pays(tiles: int, weight: Tensor, of_kernel: bool = False) -> bool:
    """Whether so many tiles of a batch, with this kernel, take less time by points than by its taps.

    Args:
        tiles, weight: of a 3×3 convolution.
        of_kernel: whether it is about the gradient of the kernel.
    """
    if weight.shape[2:] != (3, 3):
        return False
    (out_channels, channels), threads = weight.shape[:2], torch.get_num_threads()
    least, work = (CHANNELS, WORK) if threads == 1 else (CHANNELS_OF_THREADS, WORK_OF_THREADS * threads)
    if of_kernel and threads == 1 and tiles >= MANY_OF_KERNEL:
        least = CHANNELS_OF_KERNEL
    pairs = channels * out_channels
    return pairs >= least * (channels + out_channels) and 36 * pairs * tiles >= work


def _fits(x: Tensor, weight: Tensor, padding: Sequence[int]) -> bool:
    """Whether this module computes such convolutions of ``x``, in torch's own run of the program."""
    if transformed() or weight.shape[2:] != (3, 3) or max(padding) > 2:
        return False
    last = x.is_contiguous(memory_format=torch.channels_last)
    return last and multiplies(x, weight) and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")


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
    at_once = (
        4 if blocks.tiles >= tiles_of(images, height, width) else 1
    )  # rows of points: memory for more speed if few
    of_x, of_grad = (torch.empty(at_once, 4, *blocks.shape, depth) for depth in (channels, out_channels))
    windows, pairs = (kind(blocks, [*points] * (4 // at_once)) for kind, points in ((Windows, of_x), (Pairs, of_grad)))
    rows, columns = (points.view(4 * at_once, blocks.tiles, -1) for points in (of_grad, of_x))
    found, before = torch.empty(POINTS, out_channels, channels), 0.0
    for image, row, column in blocks:
        windows.move(x.permute(0, 2, 3, 1), (image, row - padding[0], column - padding[1]))
        pairs.move(grad.permute(0, 2, 3, 1), (image, row, column))
        for first, part in zip(range(0, 4, at_once), found.view(-1, 4 * at_once, out_channels, channels), strict=True):
            for number in range(first, first + at_once):
                windows.write(number)
                pairs.write(number)
            part.baddbmm_(rows.transpose(1, 2), columns, beta=before)
        before = 1.0
    return kernel_of_points(found)


class _KeptInOrder:
    """Products of the points of one block after the other with a kernel that is in oneDNN's order.

    Attributes:
        blocks: those of the output.
        out_channels: O.
        points: for each row of points, where it is to be written.
    """

    def __init__(self, blocks: Blocks, channels: int, out_channels: int, packed: Packed) -> None:
        self.blocks, self.out_channels = blocks, out_channels
        buffer = torch.empty(*blocks.shape, 4, channels)
        self.points = [buffer.permute(3, 0, 1, 2, 4)] * 4
        self._map = buffer.flatten(3).permute(0, 3, 1, 2)
        self._kernels = packed(self._map.shape)

    def of_rows(self, write: Callable[[int], object]) -> Iterator[Sequence[Tensor]]:
        """Yield the products, four of (N, rows, columns, O), of each row of points that ``write`` writes."""
        for row, kernel in enumerate(self._kernels):
            write(row)
            found = torch.ops.mkldnn._convolution_pointwise.default(self._map, kernel, None, *_FORM, "none", [], "")
            yield found.permute(0, 2, 3, 1).split(self.out_channels, 3)


class _AsTheyAre:
    """The same with a kernel (16, C, O) in any order."""

    def __init__(self, blocks: Blocks, kernel: Tensor) -> None:
        _, channels, self.out_channels = kernel.shape
        self.blocks, self._kernel = blocks, kernel
        points, self._found = (torch.empty(4, 4, *blocks.shape, width) for width in (channels, self.out_channels))
        self.points = points.unbind()
        self._rows, self._out = (x.view(POINTS, blocks.tiles, -1) for x in (points, self._found))

    def of_rows(self, write: Callable[[int], object]) -> Iterator[Sequence[Tensor]]:
        """Yield the same."""
        for row in range(4):
            write(row)
        torch.bmm(self._rows, self._kernel, out=self._out)
        for found in self._found:
            yield found.unbind()


_FORM = ((0, 0), (1, 1), (1, 1), 4)


def packed_points(points: Tensor, size: Sequence[int]) -> Sequence[Tensor]:
    """Return the points (16, O, C) of a kernel in oneDNN's order for maps (N, 4 × C, rows, columns): row by row."""
    rows = points.view(4, -1, points.shape[2], 1, 1)
    return [torch.ops.mkldnn._reorder_convolution_weight(row, *_FORM, list(size)) for row in rows]


def _products(
    x: Tensor, weight: Tensor, padding: Sequence[int], turned: bool, packed: Packed | None = None
) -> _KeptInOrder | _AsTheyAre:
    """Return what multiplies for a convolution of ``x`` with ``weight``, or, turned, for that of a gradient."""
    (images, channels, height, width), both = x.shape, sum(weight.shape[:2])
    size = height + 2 * padding[0] - 2, width + 2 * padding[1] - 2
    if packed is None and tiles_of(images, *size) < MANY:
        kernel = points_of_kernel(weight, turned)
        return _AsTheyAre(Blocks.of(images, *size, both, fewest=MANY), kernel if turned else kernel.transpose(1, 2))
    if packed is None:
        kernel = points_of_kernel(weight.transpose(0, 1) if turned else weight, turned)
        packed = partial(packed_points, kernel)
    return _KeptInOrder(Blocks.of(images, *size, both), channels, both - channels, packed)


def _convolved(
    x: Tensor,
    padding: Sequence[int],
    products: _KeptInOrder | _AsTheyAre,
    bias: Tensor | None = None,
    add: Tensor | None = None,
    act: Callable[[Tensor], object] | None = None,
) -> Tensor:
    blocks, windows = products.blocks, Windows(products.blocks, products.points)
    outputs = Outputs(blocks, products.out_channels)
    # Not a view of what is written below: autograd does not let sums be added in place to a view.
    shape = (blocks.images, products.out_channels, blocks.height, blocks.width)
    out = torch.empty(shape, memory_format=torch.channels_last)
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
