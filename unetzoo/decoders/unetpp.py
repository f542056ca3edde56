"""UNet++: nested, densely skip-connected decoders of every depth in one network.

Paper: Zhou et al. 2018, arXiv 1807.10165 (and 2019, arXiv 1912.05074, for pruning). Reference code: Keras, by
the authors. Node x_i_j (level i, finest 0; position j along the skip path) is a double convolution over
[x_i_0, …, x_i_(j-1), up(x_(i+1)_(j-1))], x_i_0 being the encoder's map i.

The paper's: the plain encoder at 32–512, transposed up-convolutions, 1×1 heads on x_0_1 … x_0_4, averaging and
pruning. The authors' own release for ResNets: rows of 32–256, nearest up-sampling, a full-resolution node of
16 channels and a 3×3 head. Ours: with deep supervision on a ResNet each x_0_j has such a node and head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from unetzoo.checks import LARGEST, one_of, whole
from unetzoo.decoders._base import Decoder, Feature, Pruned, register_decoder, widths as level_widths
from unetzoo.encoders import Encoder, Options
from unetzoo.nn.layers import Concat, ConvStyle, DoubleConv, Upsample, initialise
from unetzoo.nn.resampling import Size

MOST_LEVELS = 4


@dataclass(frozen=True)
class UNetPlusPlusOptions(Options):
    """Options of the UNet++ decoder.

    Attributes:
        levels: depth of the triangle, 1 to 4: x_0_levels is the output. What ``prune`` gives is this. The default is
            4, or as many as the encoder has maps for: one less than these.
        output: "last", or "average" of all heads, the paper's accurate mode (needs deep supervision).
        upsampling: "transpose", "nearest", "bilinear", or "bilinear_aligned", which is torch's ``align_corners=True``;
            None takes the authors' own: "transpose" on the plain encoder, "nearest" on others.
        base_width: channels of row 0, doubled each row; None takes the authors' own: those of the encoder where
            it is plain, otherwise 32, and no row wider than twice its map of the encoder.
    """

    levels: int = MOST_LEVELS
    output: str = "last"
    upsampling: str | None = None
    base_width: int | None = None

    def problems(self) -> list[str]:
        found = nested_problems(self.levels, self.output)
        found += one_of("upsampling", self.upsampling, (*Upsample.MODES, None))
        if self.base_width is not None:
            found += whole("base_width", self.base_width, 1, LARGEST)
        return found


def nested_problems(levels: object, output: object) -> list[str]:
    """Return what is wrong with the options of all nested decoders."""
    return whole("levels", levels, 1, MOST_LEVELS) + one_of("output", output, ("last", "average"))


class NestedDecoder(Decoder):
    """The triangle of nodes of UNet++ and its light form; a subclass makes the nodes and the ends."""

    nested = True
    levels: int
    nodes: nn.ModuleDict
    ends: nn.ModuleDict

    @classmethod
    def defaults(cls, maps: int) -> dict[str, Any]:
        return {"levels": min(MOST_LEVELS, maps - 1)}

    @classmethod
    def depth(cls, options: Any, maps: int) -> int:
        return int(options.levels) + 1

    @classmethod
    def problems(cls, options: Any, deep_supervision: bool, maps: int) -> list[str]:
        found = super().problems(options, deep_supervision, maps)
        if not whole("levels", options.levels, 1, MOST_LEVELS) and options.levels >= maps:
            needed = f"{options.levels + 1} maps are needed, and this encoder gives {maps}"
            found.append(f"levels={options.levels}: {needed}; use levels={maps - 1} or less")
        if options.output == "average" and not deep_supervision:
            found.append("output='average' averages the deep-supervision heads: add deep_supervision=True")
        return found

    def __init__(self, encoder: Encoder, style: ConvStyle, options: Any, deep_supervision: bool) -> None:
        super().__init__(encoder, style, options, deep_supervision)
        self.levels = self.prunable = options.levels
        self.averages_heads = options.output == "average"
        self.nodes = nn.ModuleDict()
        self.ends = nn.ModuleDict()

    def ended(self, deep: bool) -> list[int]:
        """Return the positions j whose x_0_j is an output: the main one first."""
        return [self.levels, *range(1, self.levels)] if deep else [self.levels]

    def forward(self, maps: list[Tensor], size: Size, deep: bool) -> list[Tensor]:
        rows = [[fine] for fine in maps]
        for j in range(1, self.levels + 1):
            for i in range(self.levels + 1 - j):
                rows[i].append(self.run(self.nodes[f"x_{i}_{j}"], *rows[i], rows[i + 1][j - 1]))
        return [
            self.run(self.ends[f"x_0_{j}"], rows[0][j], size) if self.ends else rows[0][j] for j in self.ended(deep)
        ]

    def tails(self, deep: bool) -> Sequence[nn.Module | None]:
        return [self.ends[f"x_0_{j}"] for j in self.ended(deep)] if self.ends else []

    def drop_training_parts(self) -> None:
        for j in self.ended(deep=True)[1:]:
            if f"x_0_{j}" in self.ends:
                del self.ends[f"x_0_{j}"]

    def pruned(self, options: Any, level: int) -> Pruned:
        return Pruned(replace(options, levels=level, output="last"), head=level if level < self.levels else 0)


class NestedNode(nn.Module):
    """Double convolution over the row so far and the up-sampled node below."""

    def __init__(self, row: int, below: int, width: int, scale: int, upsampling: str, style: ConvStyle) -> None:
        super().__init__()
        self.up = Upsample(below, width, scale, upsampling, style.bias)
        self.conv = Concat(DoubleConv(row + self.up.out_channels, width, style))

    def forward(self, *maps: Tensor) -> Tensor:
        *row, below = maps
        out: Tensor = self.conv(*row, self.up(below, row[0].shape[-2:]))
        return out


class FullSizeNode(nn.Module):
    """Double convolution, 32 → 16 by default, at the image's size after nearest up-sampling."""

    def __init__(self, in_channels: int, out_channels: int, scale: int, style: ConvStyle) -> None:
        super().__init__()
        self.up = Upsample(in_channels, in_channels, scale, "nearest", style.bias)
        self.conv = DoubleConv(in_channels, out_channels, style)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        out: Tensor = self.conv(self.up(x, size))
        return out


@register_decoder("unetpp")
class UNetPlusPlusDecoder(NestedDecoder):
    """Full triangle of 10 nodes at ``levels=4``; see the head of this file."""

    title = "UNet++"
    paper = "Zhou et al. 2018, arXiv 1807.10165"
    summary = "nested decoders of every depth, densely connected; prunable"
    Options = UNetPlusPlusOptions
    encoder_defaults: ClassVar = {"base_channels": 32}
    published: ClassVar = {"plain": 9.04}

    def __init__(
        self, encoder: Encoder, style: ConvStyle, options: UNetPlusPlusOptions, deep_supervision: bool
    ) -> None:
        super().__init__(encoder, style, options, deep_supervision)
        upsampling = options.upsampling or ("transpose" if encoder.symmetric else "nearest")
        base = options.base_width or (encoder.channels[0] if encoder.symmetric else None)
        widths = [base * 2**level for level in range(self.levels)] if base else level_widths(encoder, 32, self.levels)
        for j in range(1, self.levels + 1):
            for i in range(self.levels + 1 - j):
                row = encoder.channels[i] + (j - 1) * widths[i]
                below = encoder.channels[i + 1] if j == 1 else widths[i + 1]
                scale = encoder.strides[i + 1] // encoder.strides[i]
                self.nodes[f"x_{i}_{j}"] = NestedNode(row, below, widths[i], scale, upsampling, style)
        channels = widths[0]
        if not encoder.symmetric:
            channels, self.head_kernel = max(1, widths[0] // 2), 3
            for j in self.ended(deep_supervision):
                self.ends[f"x_0_{j}"] = FullSizeNode(widths[0], channels, encoder.strides[0], style)
        self.features = [Feature(channels, 1) for _ in self.ended(deep_supervision)]
        initialise(self)
