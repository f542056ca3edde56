"""Nearest up-sampling by two, then a 3×3 convolution: four 2×2 convolutions at the coarse size.

Two of the three rows of the kernel read the same coarse row, and the same holds for columns. Which two depends on
whether the fine row is even or odd. There are four 2×2 weights, sums of the nine taps, one for each phase of the
fine map: this needs 4/9 of the multiply-adds, resamples nothing, and the zeros of the border are those of the coarse
map. With many channels, mixing them first saves more: see :func:`unetzoo.nn.resampling.upsample_conv`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unetzoo.nn.packing import Form, Packs, convolved

PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Rows and columns of the fine map: even, odd."""


def doubles(x: Tensor, weight: Tensor, size: Sequence[int], mode: str, padding: int) -> bool:
    """Whether this can be used: on the CPU, and not in half precision, where the sums of weights would be rounded.

    Args:
        x: (N, C, h, w), to be resampled to ``size`` by ``mode``.
        weight: (O, C, K, L).
        size: H, W.
        mode: of resampling.
        padding: of the convolution.
    """
    if mode != "nearest" or tuple(size) != (2 * x.shape[2], 2 * x.shape[3]):
        return False
    return padding == 1 and weight.shape[2:] == (3, 3) and x.device.type == "cpu" and x.dtype.itemsize >= 4


def phases(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    _size: Sequence[int],
    _mode: str,
    padding: int,
    packs: Packs | None = None,
) -> Tensor:
    """Return the convolution (N, O, 2 h, 2 w) of the up-sampled ``x``; ``packs``: those of the layer."""
    height, width = x.shape[2:]
    x = x.contiguous(memory_format=torch.channels_last)
    form, biases = Form(padding=(padding, padding)), None if bias is None else bias.repeat(4)
    made = ("phases", _of_phases)
    coarse = convolved(x, weight, biases, form, Packs() if packs is None else packs, made=made)
    shape = (len(x), len(weight), 2 * height, 2 * width)
    fine = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for (row, column), part in zip(PHASES, coarse.chunk(4, dim=1), strict=True):
        fine[:, :, row::2, column::2] = part[:, :, row : row + height, column : column + width]
    return fine


def phase_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, needed: Sequence[bool], *_how: object
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x and the weight."""
    count, _, height, width = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    coarse = torch.empty(
        (count, 4 * len(weight), height + 1, width + 1),
        dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last,
    )  # fmt: skip
    for (row, column), part in zip(PHASES, coarse.chunk(4, dim=1), strict=True):
        part[:, :, height * (1 - row)] = 0  # what the phase does not use
        part[:, :, :, width * (1 - column)] = 0
        part[:, :, row : row + height, column : column + width] = grad[:, :, row::2, column::2]
    for_x, for_phases, _ = torch.ops.aten.convolution_backward(
        coarse, x, _of_phases(weight), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [*needed, False]
    )
    if not needed[1]:
        return for_x, None
    for_weight = for_phases.view(2, 2, *weight.shape[:2], 2, 2)
    return for_x, _spread(_spread(for_weight, 1, 5), 0, 3)


def _of_phases(weight: Tensor) -> Tensor:
    """Return the 2×2 weights of the phases, (4 O, C, 2, 2), of a 3×3 one: the sums of the taps that read one pixel."""
    found = torch.stack([_summed(_summed(weight, row, 2), column, 3) for row, column in PHASES])
    return found.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _summed(weight: Tensor, phase: int, dim: int) -> Tensor:
    """Return the two taps of one side: an even pixel's outer one reads the coarse pixel before, an odd one's after."""
    first, middle, last = weight.unbind(dim)
    return torch.stack((first, middle + last) if phase == 0 else (first + middle, last), dim)


def _spread(grad: Tensor, phase_dim: int, dim: int) -> Tensor:
    """Do the adjoint of :func:`_summed` for both phases of one side, whose dimension goes."""
    even, odd = grad.unbind(phase_dim)
    (first, rest), (begin, last) = even.unbind(dim - 1), odd.unbind(dim - 1)
    return torch.stack((first + begin, rest + begin, rest + last), dim - 1)
