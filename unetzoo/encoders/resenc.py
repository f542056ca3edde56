"""ResEnc, nnU-Net's residual encoder: blocks of two 3×3 convolutions, halved by strided ones, from full resolution on.

Paper: Isensee et al. 2024, "nnU-Net Revisited", arXiv 2404.09556, whose ResEnc presets have these numbers of blocks;
the blocks are those of ResNet-D, He et al. 2018, arXiv 1812.01187. Reference code: dynamic_network_architectures
(Apache-2.0), ``ResidualEncoder`` of ``BasicBlockD``; rewritten here. With ``conv_bias=True``, as in nnU-Net, every map
equals its own, and with the U-Net decoder the complete network equals its ``ResidualEncoderUNet``.

Here: two dimensions, and as many of six stages as the decoder takes, where nnU-Net plans their number, and some
strides, by the size of its crops. Sizes are rounded up: at an odd border the strided convolution reads the zeros of
its own padding, and the shortcut's 2×2 mean is that of the pixels there are. nnU-Net's takes no such sizes. The small
form, of half the channels and fewer blocks, is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from unetzoo.checks import LARGEST, whole
from unetzoo.encoders._base import Encoder, Options, register_encoder
from unetzoo.nn.layers import ConvNormAct, ConvStyle, halve, initialise, make_activation, make_norm
from unetzoo.nn.layouts import settled

WIDEST = 512
"""Channels at which doubling ends, in two dimensions."""


@dataclass(frozen=True)
class ResEncOptions(Options):
    """Options of ResEnc.

    Attributes:
        base_features: channels of the finest map; each coarser one has twice as many, up to 512.
    """

    base_features: int = 32

    def problems(self) -> list[str]:
        return whole("base_features", self.base_features, 1, LARGEST)


@dataclass(frozen=True)
class ResEncSmallOptions(ResEncOptions):
    """Options of the small ResEnc.

    Attributes:
        base_features: channels of the finest map; each coarser one has twice as many, up to 512.
    """

    base_features: int = 16


class ResidualBlock(nn.Module):
    """``act(norm(conv(act(norm(conv(x))))) + shortcut(x))``, the first convolution at ``stride`` 1 or 2.

    The shortcut is x: halved by a 2×2 mean at stride 2, and through a 1×1 convolution and norm where channels change.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, style: ConvStyle) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=style.bias)
        self.norm1 = make_norm(style.norm, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=style.bias)
        self.norm2 = make_norm(style.norm, out_channels)
        self.act = make_activation(style.activation)
        self.widen: nn.Module = nn.Identity()
        if in_channels != out_channels:
            widened = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.widen = nn.Sequential(widened, make_norm(style.norm, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.widen(halve(x) if self.stride == 2 else x)
        x = self.act(self.norm1(self.conv1(x)))
        out: Tensor = self.act(self.norm2(self.conv2(x)) + shortcut)
        return out

    def foldable(self) -> list[tuple[str, str]]:
        return [("conv1", "norm1"), ("conv2", "norm2"), ("widen.0", "widen.1")]

    def start_as_shortcut(self) -> None:
        """Start the residual branch at zero, as nnU-Net does: by the scale of its norm, or by the convolution."""
        last = self.conv2 if isinstance(self.norm2, nn.Identity) else self.norm2
        nn.init.zeros_(last.get_parameter("weight"))


class ResEncEncoder(Encoder):
    """Up to six maps at strides 1, 2, 4, 8, 16, 32 with f, 2f, 4f, … channels, f = ``base_features``, up to 512."""

    symmetric = True
    image_convolution = "stem.conv"

    def __init__(
        self, in_channels: int, style: ConvStyle, options: ResEncOptions, depth: int = 6, *, blocks: Sequence[int]
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.channels = tuple(min(options.base_features * 2**level, WIDEST) for level in range(depth))
        self.strides = tuple(2**level for level in range(depth))
        self.stem = ConvNormAct(in_channels, self.channels[0], style)
        widths = (self.channels[0], *self.channels)
        self.levels = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(widths[level], widths[level + 1], 2 if level else 1, style),
                *(ResidualBlock(widths[level + 1], widths[level + 1], 1, style) for _ in range(1, blocks[level])),
            )
            for level in range(depth)
        )
        initialise(self)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.start_as_shortcut()

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        below: Tensor = self.run(self.stem, images)
        for number, level in enumerate(self.levels):
            assert isinstance(level, nn.Sequential)
            weight, pixels = level[0].get_parameter("conv2.weight"), below[:, 0].numel() // (4 if number else 1)
            below = settled(partial(self._level, level), below, weight, pixels)
            maps.append(below)
        return maps

    def _level(self, level: nn.Sequential, x: Tensor) -> Tensor:
        # Block by block, so that checkpointing holds the activations of one block at a time.
        for block in level:
            x = self.run(block, x)
        return x

    def stages(self) -> list[Sequence[nn.Module]]:
        first, *others = self.levels
        return [[self.stem, first], *([level] for level in others)]


for _name, _title, _options, _blocks in (
    ("resenc", "ResEnc", ResEncOptions, (1, 3, 4, 6, 6, 6)),
    ("resenc_small", "ResEnc small", ResEncSmallOptions, (1, 2, 2, 2, 2, 2)),
):
    register_encoder(
        _name,
        title=_title,
        paper="Isensee et al. 2024, arXiv 2404.09556",
        options=_options,
        maps=6,
        default_norm="instance",
        activation="leaky_relu",
        decoder_defaults={"convolutions": 1},
    )(partial(ResEncEncoder, blocks=_blocks))
