"""UNet 3+: every decoder stage sees all five scales.

Paper: Huang et al. 2020, arXiv 2004.08790, section 2.1. Reference code: PyTorch, by the authors. Stage d_k takes
the encoder's finer maps through max-pools, its map of the same level, and the coarser *decoder* maps (the
encoder's deepest map among them) through bilinear up-sampling; each source becomes 64 channels by a 3×3
convolution, norm and ReLU, and one more such convolution fuses the 320. Here: sizes are rounded up in the pools,
and on an encoder whose finest map is coarser than the image the logits go up bilinearly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from unetzoo.checks import LARGEST, whole
from unetzoo.decoders._base import Decoder, Feature, register_decoder
from unetzoo.encoders import Encoder, Options
from unetzoo.nn.convolutions import Upsampled
from unetzoo.nn.layers import Concat, ConvNormAct, ConvStyle, initialise, max_pool
from unetzoo.nn.resampling import Size


@dataclass(frozen=True)
class FullScaleOptions(Options):
    """Options of the UNet 3+ decoder and its light form.

    Attributes:
        branch_channels: channels that each source is brought to.
    """

    branch_channels: int = 64

    def problems(self) -> list[str]:
        return whole("branch_channels", self.branch_channels, 1, LARGEST)


class FullScaleDecoder(Decoder):
    """The wiring of UNet 3+ and its light form; a subclass makes the stages.

    ``stages["d4"]`` runs first. Each is called with the sources, finest first, and its own level.
    """

    Options = FullScaleOptions
    stages: nn.ModuleDict

    def __init__(self, encoder: Encoder, style: ConvStyle, options: FullScaleOptions, deep_supervision: bool) -> None:
        super().__init__(encoder, style, options, deep_supervision)
        self.stages = nn.ModuleDict()

    def forward(self, maps: list[Tensor], size: Size, deep: bool) -> list[Tensor]:
        sources = list(maps)
        for level in reversed(range(len(maps) - 1)):
            sources[level] = self.run(self.stages[f"d{level + 1}"], *sources)
        return sources if deep else sources[:1]


class FullScaleStage(nn.Module):
    """One decoder stage: one branch per source, then the fusing convolution."""

    def __init__(self, level: int, channels: list[int], strides: tuple[int, ...], width: int, style: ConvStyle) -> None:
        super().__init__()
        self.level = level
        self.strides = strides
        self.branches = nn.ModuleList(ConvNormAct(c, width, style) for c in channels)
        fused = width * len(channels)
        self.fuse = Concat(ConvNormAct(fused, fused, style))

    def forward(self, *sources: Tensor) -> Tensor:
        size, stride = sources[self.level].shape[-2:], self.strides[self.level]
        branches = []
        for source, its_stride, branch in zip(sources, self.strides, self.branches, strict=True):
            assert isinstance(branch, ConvNormAct)
            finer = its_stride <= stride
            resampled = max_pool(source, stride // its_stride) if finer else Upsampled(source, size, "bilinear")
            branches.append(branch.pending(resampled))
        out: Tensor = self.fuse(*branches)
        return out


@register_decoder("unet3p")
class UNet3PlusDecoder(FullScaleDecoder):
    """Four stages of 5 × 64 channels; see the head of this file."""

    title = "UNet 3+"
    paper = "Huang et al. 2020, arXiv 2004.08790"
    summary = "full-scale skip connections: every stage sees all scales"
    published: ClassVar = {"plain": 26.97}

    head_kernel = 3

    def __init__(self, encoder: Encoder, style: ConvStyle, options: FullScaleOptions, deep_supervision: bool) -> None:
        super().__init__(encoder, style, options, deep_supervision)
        channels = list(encoder.channels)
        for level in reversed(range(len(channels) - 1)):
            stage = FullScaleStage(level, channels, encoder.strides, options.branch_channels, style)
            self.stages[f"d{level + 1}"] = stage
            channels[level] = options.branch_channels * len(channels)
        features = list(map(Feature, channels, encoder.strides))
        self.features = features if deep_supervision else features[:1]
        initialise(self)
