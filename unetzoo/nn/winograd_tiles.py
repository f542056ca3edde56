"""The transforms of Winograd's F(2×2, 3×3), which need only additions and halves, of blocks of tiles.

A tile is 2×2 pixels of a convolution's output. Its 4×4 points are the values after a transform: of the 4×4 pixels of
the input around it, of the 3×3 kernel, of the products of both, or of a gradient. Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks" (2016), section 4.1; the matrices are theirs. Maps have their channels last here,
(N, H, W, C), and are float32 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

POINTS = 16
"""Points of a tile: 4×4."""

BLOCK, FEWEST = 2**17, 256
"""Tiles of a block × (channels in + channels out), for each thread, so that their points stay in the processor's cache;
and the fewest tiles of a block, because products of fewer are slow."""
WIDEST = 128
"""Tiles of a block next to each other."""

_HALVES = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
_KERNEL_TRANSFORM = [[a * b for a in down for b in across] for down in _HALVES for across in _HALVES]
"""16 × 9: makes the 16 points of a kernel from its 9 taps (G ⊗ G, with G of the paper)."""
_SIGNS = (1.0, 1.0, 1.0, -1.0)
_SIGNS_OF_POINTS = [a * b for a in _SIGNS for b in _SIGNS]
_SIGNED_TRANSFORM = [
    [sign * tap for tap in taps] for sign, taps in zip(_SIGNS_OF_POINTS, _KERNEL_TRANSFORM, strict=True)
]
"""The same, with the signs that :class:`GradientTransform` leaves out."""

Step = Callable[[], Tensor]
"""Reads views of one buffer, and writes to another."""


def empty(*shape: int) -> Tensor:
    """Return room for numbers, whatever types and devices a program has made the usual ones."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


@dataclass(frozen=True)
class Blocks:
    """How the tiles of a batch's output are shared out: blocks of one size, which may hang over at the end.

    Attributes:
        images, height, width: of the output; pixels.
        shape: images, and tiles down and across, of one block.
    """

    images: int
    height: int
    width: int
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, images: int, height: int, width: int, channels: int, fewest: int = FEWEST) -> Blocks:
        """Return those of an output of so many ``images``, for ``channels`` in and out, of ``fewest`` tiles or more."""
        most = max(BLOCK // channels, fewest) * torch.get_num_threads()
        down, across = (height + 1) // 2, (width + 1) // 2
        columns = _share(across, WIDEST)
        rows = _share(down, max(1, most // columns))
        whole = (rows, columns) == (down, across)
        count = _share(images, max(1, most // (rows * columns))) if whole else 1
        return cls(images, height, width, (count, rows, columns))

    @property
    def tiles(self) -> int:
        """The number of tiles in one block."""
        return math.prod(self.shape)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Yield for each block its first image, and its first row and column of pixels."""
        count, rows, columns = self.shape
        for image in range(0, self.images, count):
            for row in range(0, self.height, 2 * rows):
                for column in range(0, self.width, 2 * columns):
                    yield image, row, column

    def part(self, y: Tensor, start: tuple[int, int, int]) -> Tensor:
        """Return what of ``y`` (N, H, W, O) lies in the block that begins there."""
        (image, row, column), (count, rows, columns) = start, self.shape
        return y[image : image + count, row : row + 2 * rows, column : column + 2 * columns]


def tiles_of(images: int, height: int, width: int) -> int:
    """Return how many tiles the output of a batch has."""
    return images * ((height + 1) // 2) * ((width + 1) // 2)


def _share(length: int, most: int) -> int:
    """Return the length of the fewest equal parts of ``length``, of ``most`` at most."""
    return math.ceil(length / math.ceil(length / most))


class _Window:
    """A part of a map (N, H, W, C) of one size, with zeros where it hangs over the border."""

    def __init__(self, *shape: int) -> None:
        self.pixels = empty(*shape)
        self._within: tuple[slice, ...] | None = None

    def move(self, x: Tensor, start: Sequence[int]) -> None:
        """Read the part that begins at ``start`` (image, row, column), which may be negative."""
        spans = [
            (first, max(0, first), min(first + length, size))
            for first, length, size in zip(start, self.pixels.shape, x.shape, strict=False)
        ]
        within = tuple(slice(low - first, high - first) for first, low, high in spans)
        if within != self._within:  # else the zeros are still where they were
            self.pixels.zero_()
            self._within = within
        self.pixels[within] = x[tuple(slice(low, high) for _, low, high in spans)]


class InputTransform:
    """The points of the 4×4 pixels around each tile (Bᵀ d B of the paper).

    Args:
        blocks: those of the output.
        points: for each of the four rows of points, (4, N, rows, columns, C) of a block, to which it is written; it may
            be the same for all.
    """

    overlap = 2
    """Pixels down and across that a block needs besides those of its tiles."""

    def __init__(self, blocks: Blocks, points: Sequence[Tensor]) -> None:
        (count, rows, columns), channels = blocks.shape, points[0].shape[-1]
        across = 2 * columns + self.overlap
        self._window = _Window(count, 2 * rows + self.overlap, across, channels)
        halfway = empty(count, rows, across, channels)
        down = self._along(self._window.pixels, 1, [halfway] * 4)
        self._steps = [[step, *self._along(halfway, 2, row.unbind())] for step, row in zip(down, points, strict=True)]

    @staticmethod
    def _along(x: Tensor, dim: int, out: Sequence[Tensor]) -> list[Step]:
        return _of_windows(x, dim, out)

    def move(self, x: Tensor, start: Sequence[int]) -> None:
        """Take ``x`` (N, H, W, C) from ``start`` on: image, row and column, which may be negative."""
        self._window.move(x, start)

    def write(self, row: int) -> None:
        """Write one of the four rows of points."""
        for step in self._steps[row]:
            step()


class GradientTransform(InputTransform):
    """The points of the 2×2 pixels of each tile of a gradient (A y Aᵀ of the paper), but for signs.

    Those of the last row and of the last column have the opposite sign, which :func:`kernel_of_points` puts right.
    """

    overlap = 0

    @staticmethod
    def _along(x: Tensor, dim: int, out: Sequence[Tensor]) -> list[Step]:
        return _of_pairs(x, dim, out)


def _of_windows(x: Tensor, dim: int, out: Sequence[Tensor]) -> list[Step]:
    """Return what makes the 4 points of every 4 pixels along ``dim``, which begin at every second."""
    last = x.shape[dim] - 2
    zeroth, first, second, third = (_every_second(x, dim, tap, tap + last) for tap in range(4))
    return [
        partial(torch.sub, zeroth, second, out=out[0]),
        partial(torch.add, first, second, out=out[1]),
        partial(torch.sub, second, first, out=out[2]),
        partial(torch.sub, first, third, out=out[3]),
    ]


def _of_pairs(x: Tensor, dim: int, out: Sequence[Tensor]) -> list[Step]:
    """Return what makes the 4 points of every 2 pixels along ``dim``."""
    even, odd = (_every_second(x, dim, tap, x.shape[dim]) for tap in range(2))
    return [
        partial(out[0].copy_, even),
        partial(torch.add, even, odd, out=out[1]),
        partial(torch.sub, even, odd, out=out[2]),
        partial(out[3].copy_, odd),
    ]


def _every_second(x: Tensor, dim: int, start: int, stop: int) -> Tensor:
    return x[(slice(None),) * dim + (slice(start, stop, 2),)]


class OutputTransform:
    """The 2×2 pixels of each tile of a block, from the products of its points (Aᵀ m A of the paper)."""

    def __init__(self, blocks: Blocks, channels: int) -> None:
        shape = (*blocks.shape, 2, channels)
        self._sums = empty(3, *shape)
        self._halves = [half.unbind(3) for half in self._sums]

    def read(self, row: int, products: Sequence[Tensor]) -> None:
        """Take the products of one row of points: four of (N, rows, columns, O)."""
        zeroth, first, second, third = products
        even, odd = self._halves[min(row, 2)]
        torch.sub(first, second, out=odd).sub_(third)
        torch.add(zeroth, first, out=even).add_(second)
        upper, lower, last = self._sums
        if row == 1:
            upper += lower
        elif row == 2:
            upper += last
            lower -= last
        elif row == 3:
            lower -= last

    def write(self, out: Tensor) -> None:
        """Write all pixels to ``out`` (N, H, W, O), of up to 2 rows × 2 columns; what hangs over is left out."""
        for down, half in enumerate(self._sums[:2]):
            lines = out[:, down::2]
            lines.copy_(half.flatten(2, 3)[: len(lines), : lines.shape[1], : lines.shape[2]])


def points_of_kernel(weight: Tensor, turned: bool = False, row: int | None = None) -> Tensor:
    """Return the points (16, O, C) of a 3×3 kernel (O, C, 3, 3), or the four of one row.

    Args:
        weight: the kernel.
        turned: by half a turn, as for the gradient of a convolution's input.
        row: of points; None: all.
    """
    taps = weight.new_tensor(_KERNEL_TRANSFORM if row is None else _KERNEL_TRANSFORM[4 * row : 4 * row + 4])
    points = torch.mm(taps.flip(1) if turned else taps, weight.reshape(-1, 9).t())
    return points.view(-1, *weight.shape[:2])


def kernel_of_points(points: Tensor) -> Tensor:
    """Return the gradient (O, C, 3, 3) of a kernel from its points (16, O, C), of :class:`GradientTransform`."""
    taps = torch.mm(points.new_tensor(_SIGNED_TRANSFORM).t(), points.view(POINTS, -1))
    return taps.t().contiguous().view(*points.shape[1:], 3, 3)  # far faster than a product that writes the transpose
