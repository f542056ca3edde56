"""A network for images of any size, which it pads as ``Predictor`` does: mirrored to whole strides, then cropped."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unetzoo.exporting.request import network_of
from unetzoo.folding import OptimizedModel
from unetzoo.images import mirrored
from unetzoo.model import SegmentationModel
from unetzoo.prediction.reach import reach

FARTHEST = 96
"""Largest context of tiles in pixels: what the plain U-Net sees. Residual networks see farther, but faintly, and with
their full context the smallest tile would be larger than many images."""


@dataclass(frozen=True)
class Tiling:
    """How a program cuts images into tiles for a network: sides are ``least`` + k · ``step`` pixels.

    Attributes:
        least: the smallest side, including the halo at both ends.
        step: the network's stride: all tiles begin at multiples of it, so that pooling sees the same groups of pixels
            as in the whole image.
        halo: pixels by which a tile overlaps its neighbours at each end, a multiple of ``step``.
        exact: whether the network looks no farther, so that tiles give the same result as the whole image.
    """

    least: int
    step: int
    halo: int
    exact: bool


def tiling(model: SegmentationModel | OptimizedModel) -> Tiling:
    """Return how images are cut into tiles for a network."""
    step = max(network_of(model).encoder.strides)
    needed = reach(model.config)
    halo = -(-(FARTHEST if needed is None else min(needed, FARTHEST)) // step) * step
    return Tiling(2 * halo + step, step, halo, needed is not None and needed <= halo)


class Mirrored(nn.Module):
    """Images of any size → logits of the same size.

    Images are mirrored at their right and lower edges up to a multiple of the stride, and on all sides by the border
    that the network's logits lack. Positions are computed with operators, so that a trace is valid for all sizes.

    Args:
        network: images whose sides are multiples of the stride → logits.
        model: the model whose stride and border count.
    """

    def __init__(self, network: nn.Module, model: SegmentationModel | OptimizedModel) -> None:
        super().__init__()
        self.network = network
        decoder = network_of(model).decoder
        self.step, self.border = max(network_of(model).encoder.strides), decoder.border
        self.added = decoder.input_side(self.step) - self.step

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits (N, classes, H, W) of (N, channels, H, W)."""
        shape = torch._shape_as_tensor(image)
        shown = image
        for dim in (2, 3):
            shown = shown.index_select(dim, self._places(shape[dim]))
        logits: Tensor = self.network(shown)
        return logits[..., : shape[2], : shape[3]]

    def _places(self, side: Tensor) -> Tensor:
        """Return the indices of the padded rows, out of ``side``: for example 3 2 1 | 0 1 2 3 | 2 1 0."""
        end = (side + self.step - 1) // self.step * self.step + self.added - self.border
        period = (2 * (side - 1)).clamp(min=1)
        place = torch.arange(-self.border, end) % period  # type: ignore[call-overload]
        return torch.minimum(torch.minimum(place, period - place), side - 1)


@torch.inference_mode()
def logits_of(model: SegmentationModel | OptimizedModel, image: Tensor) -> Tensor:
    """Return the logits (N, classes, H, W) of images (N, channels, H, W) of any size, without a trace.

    This is the reference with which the traced network is compared.
    """
    network = network_of(model)
    step, border = max(network.encoder.strides), network.decoder.border
    sides = image.shape[-2:]
    for dim, side in zip((2, 3), sides, strict=True):
        shown = network.decoder.input_side(-(-side // step) * step)
        image = image.index_select(dim, mirrored(-border, shown, side))
    logits: Tensor = model(image)
    return logits[..., : sides[0], : sides[1]]
