"""1×1 convolutions, and linear layers over channels, with the faster of the two libraries that torch has for them.

oneDNN's convolutions use all that a processor has. With a single thread, as in workers, torch gives 1×1 convolutions to
its matrix product instead, and linear layers with any number of threads: MKL's, which uses half of the width of an AMD
processor's registers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetzoo.nn.programs import of_several, transformed

FEWEST = 4
"""Channels out below which the matrix product is as fast or faster."""
FEWEST_FIRST = 64
"""Channels in and out, of maps that have their channels first, below which it is."""

SMALL = 20480
"""Numbers of the map of one image up to which torch never takes oneDNN, and a dilation would bring a slow loop."""

MANY, FEW_PIXELS = 1024, 512
"""Channels in from which, and pixels of a batch up to which, a weight's gradient is a matrix product of its own."""


def free_dilation(x: Tensor, weight: Tensor) -> int:
    """Return the dilation for a convolution that has none: 2 where it says nothing, and brings the faster library.

    A 1×1 kernel is the same at every dilation; but with one torch always takes oneDNN.

    Args:
        x: (N, C, H, W), what is convolved.
        weight: (O, C, K, L).
    """
    if weight.shape[2:] != (1, 1) or not by_onednn(x, weight) or torch.get_num_threads() > 1:
        return 1
    last = x.is_contiguous(memory_format=torch.channels_last)
    return 2 if last or min(weight.shape[:2]) >= FEWEST_FIRST else 1


def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int] = (1, 1)) -> Tensor | None:
    """Return the gradient of the weight of a 1×1 convolution from a matrix product, if that is faster; else None.

    oneDNN's own for convolutions reaches 35 to 70 % of the processor's speed if many channels meet few pixels.

    Args:
        grad: of the convolution's result, (N, O, H, W).
        x: what was convolved, (N, C, H', W').
        weight: (O, C, 1, 1).
        stride: that of the convolution, which has no padding and one group.
    """
    pixels = grad[:, 0].numel()
    if weight.shape[1] < MANY or pixels > FEW_PIXELS or torch.is_grad_enabled() or not by_onednn(x, weight):
        return None
    if of_several(grad) or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return None
    x = x[:, :, :: stride[0], :: stride[1]]
    rows, columns = (each.transpose(0, 1).reshape(-1, pixels) for each in (grad, x))
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, columns, None, "none", [], "")
    return found.view(weight.shape)


def pointwise_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of ``x`` and ``weight``, or None, of a 1×1 convolution from that of its result."""
    matrix = weight_gradient(grad, x, weight) if needed[1] else None
    mask = [needed[0], needed[1] and matrix is None, False]
    spread = [free_dilation(x, weight)] * 2
    for_x, for_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], [0, 0], spread, False, [0, 0], 1, mask
    )
    return for_x, for_weight if matrix is None else matrix


def by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether torch itself runs this, on the CPU in float32, and oneDNN could compute it, and gain."""
    if transformed():  # a compiler has no threads to ask for
        return False
    fits = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and len(weight) >= FEWEST
    return fits and (len(x) > 1 or x.numel() > SMALL) and has_onednn()


def has_onednn() -> bool:
    """Whether torch has oneDNN, and may use it."""
    return bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)  # type: ignore[no-untyped-call]


class PointwiseLinear(nn.Linear):
    """A linear layer over the channels of maps (…, C), for inference."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, O) of ``x`` (…, C)."""
        if not by_onednn(x, self.weight) or x.numel() <= SMALL or not x.is_contiguous():
            return super().forward(x)
        pixels = x.view(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
        out = F.conv2d(pixels, self.weight[:, :, None, None], self.bias, dilation=2)
        return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(self.weight))


def make_pointwise(network: nn.Module) -> None:
    """Let the linear layers of ``network`` be computed in this way; the modules stay in place."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = PointwiseLinear
