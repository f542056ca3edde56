"""The contracting path of U-Net: double convolutions with 2×2 max-pools between.

Paper: Ronneberger, Fischer, Brox 2015, arXiv 1505.04597, section 2. Reference code: Caffe, by the authors.
Here: padded and with batch norm unless asked otherwise; pooling rounds odd sizes up instead of refusing them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from unetzoo.checks import LARGEST, whole
from unetzoo.encoders._base import Encoder, Options, register_encoder
from unetzoo.nn.layers import ConvStyle, DoubleConv, initialise, max_pool


@dataclass(frozen=True)
class PlainOptions(Options):
    """Options of the plain encoder.

    Attributes:
        base_channels: channels of the finest map; each coarser map has twice as many, but see doublings.
        doublings: how often the channels double on the way down, from 0 to 4, as in the paper. With 3, the deepest map
            is as wide as the one above it, as in many public U-Nets without transposed convolutions.
    """

    base_channels: int = 64
    doublings: int = 4

    def problems(self) -> list[str]:
        return whole("base_channels", self.base_channels, 1, LARGEST) + whole("doublings", self.doublings, 0, 4)


@register_encoder(
    "plain",
    title="plain",
    paper="Ronneberger et al. 2015, arXiv 1505.04597",
    options=PlainOptions,
    names=lambda decoder: (decoder,),
    unpaddable=True,
)
class PlainEncoder(Encoder):
    """Five maps at strides 1, 2, 4, 8, 16 with c, 2c, 4c, 8c, 16c channels by default, c = ``base_channels``."""

    symmetric = True
    image_convolution = "levels.0.0.conv"

    def __init__(self, in_channels: int, style: ConvStyle, options: PlainOptions, depth: int = 5) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.channels = tuple(options.base_channels * 2 ** min(level, options.doublings) for level in range(depth))
        self.strides = tuple(2**level for level in range(depth))
        widths = (in_channels, *self.channels)
        self.levels = nn.ModuleList(DoubleConv(widths[i], widths[i + 1], style) for i in range(depth))
        initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for level in self.levels:
            maps.append(self.run(level, max_pool(maps[-1], 2) if maps else images))
        return maps

    def stages(self) -> list[Sequence[nn.Module]]:
        return [[level] for level in self.levels]
