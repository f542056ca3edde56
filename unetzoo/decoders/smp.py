"""The U-Net and UNet++ decoders of segmentation_models_pytorch ("smp"), whose models fit tensor for tensor.

Source: smp 0.6.0 (MIT), ``decoders/unet`` and ``decoders/unetplusplus``; rewritten here. From smp: widths given by
block, nearest up-sampling, a block at the image's size and a 3×3 head; UNet++'s inner nodes as wide as the encoder map
of their row; attention by scSE (Roy, Navab, Wachinger 2018, arXiv 1808.08127). Ours: images of any size (smp's UNet++
refuses sizes that are not divisible by 32), deep supervision, every norm, any encoder, and neither concatenations nor
wide up-sampled maps are built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from unetzoo.checks import LARGEST, one_of, whole
from unetzoo.decoders._base import Decoder, Feature, register_decoder
from unetzoo.encoders import Encoder, Options
from unetzoo.nn.convolutions import Source, Upsampled
from unetzoo.nn.layers import NORMS, ConvStyle, DoubleConv, Upsample, initialise
from unetzoo.nn.resampling import Size, resize

CHANNELS = (256, 128, 64, 32, 16)


@dataclass(frozen=True)
class SmpOptions(Options):
    """Options of the decoders of segmentation_models_pytorch.

    Attributes:
        decoder_channels: channels of each block, coarsest first. The decoder uses as many maps of the encoder as there
            are blocks: smp's ``encoder_depth`` is their number. The default is (256, 128, 64, 32, 16), or as many of
            them as the encoder has maps.
        decoder_norm: the decoder's norm where it is not the encoder's, as for smp's ``decoder_use_norm``: "batch",
            "group", "instance", "layer" or None; "auto" is ``norm``.
        upsampling: "nearest" or "bilinear".
        attention: "scse", which weighs channels and pixels before and after the convolutions of a block; None for none.
    """

    decoder_channels: tuple[int, ...] = CHANNELS
    decoder_norm: str | None = "auto"
    upsampling: str = "nearest"
    attention: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.decoder_channels, list):
            object.__setattr__(self, "decoder_channels", tuple(self.decoder_channels))  # as JSON has it

    def problems(self) -> list[str]:
        found = one_of("decoder_norm", self.decoder_norm, ("auto", *NORMS, None))
        found += one_of("upsampling", self.upsampling, ("nearest", "bilinear"))
        found += one_of("attention", self.attention, ("scse", None))
        given = self.decoder_channels
        if not isinstance(given, tuple) or any(whole("", width, 1, LARGEST) for width in given):
            found.append(f"decoder_channels={given!r:.100}: a list of whole numbers from 1 up is needed, one per block")
        return found


class ChannelsAndPixels(nn.Module):
    """Concurrent spatial and channel squeeze and excitation: x times (a factor a channel + a factor a pixel)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // 16)
        self.channels = nn.Sequential(nn.Conv2d(channels, narrow, 1), nn.ReLU(), nn.Conv2d(narrow, channels, 1))
        self.pixels = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        of_channels: Tensor = self.channels(x.mean(dim=(2, 3), keepdim=True)).sigmoid()
        of_pixels: Tensor = self.pixels(x).sigmoid()
        return x * (of_channels + of_pixels)


class SmpBlock(nn.Module):
    """Up-sample, concatenate [up, skip connections], double convolution; scSE before and after where asked.

    Args:
        below, skips: channels of the map that is up-sampled, and of all skip connections.
        width: channels of the output.
        scale: by which the map is up-sampled.
        options: the decoder's.
        style: bias and norm of the convolutions.
    """

    def __init__(self, below: int, skips: int, width: int, scale: int, options: SmpOptions, style: ConvStyle) -> None:
        super().__init__()
        self.up = Upsample(below, below, scale, options.upsampling, style.bias)
        self.conv = DoubleConv(below + skips, width, style)
        attentive = options.attention is not None
        # In the block without skip connections, smp has parameters for the first one, too, but never uses them.
        self.before = ChannelsAndPixels(below + skips) if attentive and skips else None
        self.after = ChannelsAndPixels(width) if attentive else None

    def forward(self, below: Tensor, size: Size, *skips: Tensor) -> Tensor:
        up: Tensor | Upsampled = self.up(below, size)
        sources: Sequence[Source] = (up, *skips)
        if self.before is not None:
            x = resize(up.x, up.size, up.mode) if isinstance(up, Upsampled) else up
            sources = (self.before(torch.cat((x, *skips), dim=1)),)
        out: Tensor = self.conv(*sources)
        return out if self.after is None else self.after(out)


class SmpDecoder(Decoder):
    """The base of both decoders: the options, and how many maps they use."""

    Options = SmpOptions
    head_kernel = 3

    @classmethod
    def defaults(cls, maps: int) -> dict[str, Any]:
        return {"decoder_channels": CHANNELS[:maps]}

    @classmethod
    def depth(cls, options: Any, maps: int) -> int:
        return len(options.decoder_channels)

    @classmethod
    def problems(cls, options: Any, deep_supervision: bool, maps: int) -> list[str]:
        found = super().problems(options, deep_supervision, maps)
        given, most = options.decoder_channels, min(maps, cls.most_maps)
        if isinstance(given, tuple) and not cls.fewest_maps <= len(given) <= most:
            found.append(
                f"decoder_channels={given!r:.100}: {cls.fewest_maps} to {most} numbers are needed, as this encoder "
                f"gives {maps} maps"
            )
        return found

    @staticmethod
    def style(shared: ConvStyle, options: SmpOptions) -> ConvStyle:
        """Return the decoder's own style; without a norm its convolutions have a bias."""
        if options.decoder_norm == "auto":
            return shared
        return replace(shared, norm=options.decoder_norm, bias=shared.bias or options.decoder_norm is None)


@register_decoder("smp_unet")
class SmpUNetDecoder(SmpDecoder):
    """A block for each map of the encoder, the last one at the image's size and without a skip connection."""

    title = "smp's U-Net"
    paper = "Ronneberger et al. 2015, arXiv 1505.04597"
    summary = "segmentation_models_pytorch's Unet: its models fit"

    def __init__(self, encoder: Encoder, style: ConvStyle, options: SmpOptions, deep_supervision: bool) -> None:
        super().__init__(encoder, style, options, deep_supervision)
        style, widths = self.style(style, options), options.decoder_channels
        below = (encoder.channels[-1], *widths)
        skips = (*reversed(encoder.channels[:-1]), 0)
        strides = (1, *encoder.strides)
        scales = [strides[level + 1] // strides[level] for level in reversed(range(len(widths)))]
        self.blocks = nn.ModuleList(
            SmpBlock(*numbers, options, style) for numbers in zip(below, skips, widths, scales, strict=False)
        )
        self.features = [Feature(widths[-1], 1)]
        if deep_supervision:
            self.features += map(Feature, reversed(widths[:-1]), encoder.strides[:-1])
        initialise(self)

    def forward(self, maps: list[Tensor], size: Size, deep: bool) -> Sequence[Source]:
        *finer, below = maps
        features: list[Tensor] = []
        for block, skip in zip(self.blocks, (*reversed(finer), None), strict=True):
            skips = () if skip is None else (skip,)
            below = self.run(block, below, size if skip is None else skip.shape[-2:], *skips)
            features.insert(0, below)
        return features if deep else features[:1]


@register_decoder("smp_unetplusplus")
class SmpUNetPlusPlusDecoder(SmpDecoder):
    """UNet++'s triangle of blocks, then a block at the image's size, under smp's names.

    Row r has the size of the encoder's map r + 2, counted from the coarsest. Its block x_k_r reads [up(x_k_(r-1)),
    x_(k+1)_r, …, x_r_r, the map]; for x_r_r the next coarser map is up-sampled. So x_0_r is the last of a row, whose
    width ``decoder_channels`` gives; the others are as wide as the map. The last row, of the image's size, is x_0.
    """

    title = "smp's UNet++"
    paper = "Zhou et al. 2018, arXiv 1807.10165"
    summary = "segmentation_models_pytorch's UnetPlusPlus: its models fit"
    nested = True

    def __init__(self, encoder: Encoder, style: ConvStyle, options: SmpOptions, deep_supervision: bool) -> None:
        super().__init__(encoder, style, options, deep_supervision)
        style, widths = self.style(style, options), options.decoder_channels
        *maps, coarsest = zip(encoder.channels, encoder.strides, strict=True)
        above = [coarsest]  # what is up-sampled into the row, the row above it, by number k: channels and stride
        self.blocks = nn.ModuleDict()
        for row, (channels, stride) in enumerate(reversed(maps)):
            for k in range(row + 1):
                below, coarser = above[k]
                width = widths[row] if k == 0 else channels
                skips = channels * (row - k + 1)
                self.blocks[f"x_{k}_{row}"] = SmpBlock(below, skips, width, coarser // stride, options, style)
            above = [(widths[row], stride), *[(channels, stride)] * (row + 1)]
        self.blocks[f"x_0_{len(maps)}"] = SmpBlock(*above[0][:1], 0, widths[-1], above[0][1], options, style)
        self.features = [Feature(widths[-1], 1)]
        if deep_supervision:
            self.features += [Feature(encoder.channels[0], encoder.strides[0])] * (len(maps) - 1)
        initialise(self)

    def forward(self, maps: list[Tensor], size: Size, deep: bool) -> Sequence[Source]:
        *finer, coarsest = maps
        above = [coarsest]
        for row, fine in enumerate(reversed(finer)):
            done = [fine]  # newest first
            for k in reversed(range(row + 1)):
                done.insert(0, self.run(self.blocks[f"x_{k}_{row}"], above[k], fine.shape[-2:], *done))
            above = done
        main = self.run(self.blocks[f"x_0_{len(finer)}"], above[0], size)
        return [main, *reversed(above[1:-1])] if deep else [main]
