"""The light forms of UNet++ and UNet 3+: the same wiring, cheap fusion.

Source: a public table of U-Nets on ResNets, whose totals are reproduced to the parameter. Every source is
resampled (adaptive max-pool down, bilinear up), brought to 64 channels by a 1×1 convolution without norm, and
the concatenation fused by a double convolution; encoders other than the plain one end in a transposed
convolution. Ours: deep supervision, pruning, and any width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from unetzoo.decoders._base import Feature, register_decoder
from unetzoo.decoders.unet3p import FullScaleDecoder, FullScaleOptions
from unetzoo.decoders.unetpp import MOST_LEVELS, NestedDecoder, nested_problems
from unetzoo.encoders import Encoder
from unetzoo.nn.convolutions import Source, Upsampled
from unetzoo.nn.layers import ConvStyle, DoubleConv, Upsample, adaptive_max_pool, initialise
from unetzoo.nn.resampling import Size


class LightFusion(nn.Module):
    """Resample each source to the size of one of them, 1×1 convolution each, concatenate, double convolution.

    Args:
        channels, strides: of the sources, in the order in which they are given to ``forward``.
        target: number of the source whose size is taken.
        width: channels of each branch and of the output.
        style: bias and norm of the convolutions.
    """

    def __init__(self, channels: list[int], strides: list[int], target: int, width: int, style: ConvStyle) -> None:
        super().__init__()
        self.strides = strides
        self.target = target
        self.branches = nn.ModuleList(nn.Conv2d(c, width, 1, bias=style.bias) for c in channels)
        self.fuse = DoubleConv(width * len(channels), width, style)

    def forward(self, *sources: Tensor) -> Tensor:
        size, stride = sources[self.target].shape[-2:], self.strides[self.target]
        branches: list[Source] = []
        for source, its_stride, branch in zip(sources, self.strides, self.branches, strict=True):
            if its_stride <= stride:
                branches.append(branch(adaptive_max_pool(source, size, stride // its_stride)))
            else:
                branches.append(Upsampled(branch(source), size, "bilinear"))
        out: Tensor = self.fuse(*branches)
        return out


@dataclass(frozen=True)
class UNetPlusPlusLiteOptions(FullScaleOptions):
    """Options of the light UNet++ decoder.

    Attributes:
        branch_channels: channels of each source and of each node.
        levels: depth of the triangle, 1 to 4: x_0_levels is the output. What ``prune`` gives is this. The default is
            4, or as many as the encoder has maps for: one less than these.
        output: "last", or "average" of all heads (needs deep supervision).
    """

    levels: int = MOST_LEVELS
    output: str = "last"

    def problems(self) -> list[str]:
        return super().problems() + nested_problems(self.levels, self.output)


@register_decoder("unetpp_lite")
class UNetPlusPlusLiteDecoder(NestedDecoder):
    """UNet++'s triangle of light nodes."""

    title = "UNet++ light"
    paper = "wiring of Zhou et al. 2018, arXiv 1807.10165"
    summary = "UNet++ with 1×1 fusion"
    Options = UNetPlusPlusLiteOptions
    published: ClassVar = {
        "plain": 20.62,
        "resnet18": 12.86,
        "resnet34": 22.97,
        "resnet50": 25.51,
        "resnet101": 44.50,
        "resnet152": 60.15,
    }

    def __init__(
        self, encoder: Encoder, style: ConvStyle, options: UNetPlusPlusLiteOptions, deep_supervision: bool
    ) -> None:
        super().__init__(encoder, style, options, deep_supervision)
        width = options.branch_channels
        for j in range(1, self.levels + 1):
            for i in range(self.levels + 1 - j):
                below = encoder.channels[i + 1] if j == 1 else width
                channels = [encoder.channels[i], *[width] * (j - 1), below]
                strides = [*[encoder.strides[i]] * j, encoder.strides[i + 1]]
                self.nodes[f"x_{i}_{j}"] = LightFusion(channels, strides, 0, width, style)
        if not encoder.symmetric:
            for j in self.ended(deep_supervision):
                self.ends[f"x_0_{j}"] = Upsample(width, width, encoder.strides[0], "transpose", bias=True)
        self.features = [Feature(width, 1) for _ in self.ended(deep_supervision)]
        initialise(self)


@register_decoder("unet3p_lite")
class UNet3PlusLiteDecoder(FullScaleDecoder):
    """UNet 3+'s stages of light fusions."""

    title = "UNet 3+ light"
    paper = "wiring of Huang et al. 2020, arXiv 2004.08790"
    summary = "UNet 3+ with 1×1 fusion"
    published: ClassVar = {
        "plain": 20.13,
        "resnet18": 12.30,
        "resnet34": 22.40,
        "resnet50": 25.16,
        "resnet101": 44.15,
        "resnet152": 59.79,
    }

    def __init__(self, encoder: Encoder, style: ConvStyle, options: FullScaleOptions, deep_supervision: bool) -> None:
        super().__init__(encoder, style, options, deep_supervision)
        width = options.branch_channels
        channels, strides = list(encoder.channels), list(encoder.strides)
        for level in reversed(range(len(channels) - 1)):
            self.stages[f"d{level + 1}"] = LightFusion(channels, strides, level, width, style)
            channels[level] = width
        self.end: Upsample | None = None
        if not encoder.symmetric:
            self.end = Upsample(width, width, strides[0], "transpose", bias=True)
        features = [Feature(width, 1), *map(Feature, channels[1:], strides[1:])]
        self.features = features if deep_supervision else features[:1]
        initialise(self)

    def forward(self, maps: list[Tensor], size: Size, deep: bool) -> list[Tensor]:
        main, *others = super().forward(maps, size, deep)
        return [main if self.end is None else self.run(self.end, main, size), *others]

    def tails(self, deep: bool) -> list[nn.Module | None]:
        return [self.end]
