"""U-Net, padded, on the plain encoder or on a pretrained one ("ResUNet").

Paper: Ronneberger, Fischer, Brox 2015, arXiv 1505.04597, figure 1. Here: padded convolutions, so that logits
have the image's size, and batch norm. On other encoders, whose finest map is coarser than the image, one more
transposed convolution ends the decoder, whose levels are 64, 128, 256 and 512 channels wide, or twice as wide as their
skip connection where that is less. "ResUNet" means U-Net on a ResNet, not arXiv 1711.10684. On a plain encoder
whose deepest map is no wider than the one above it (``doublings=3``), and without transposed convolutions, each
double convolution ends as wide as the next skip connection: so are many public bilinear U-Nets.

With ``attention=True`` it is Attention U-Net (Oktay et al. 2018, arXiv 1804.03999): see ``unetzoo/nn/gates.py``.
The finest skip connection has no gate, as in the authors' own network. With ``convolutions=1``, the default on
ResEnc, it is nnU-Net's decoder for residual encoders (arXiv 2404.09556).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from unetzoo.checks import flag, one_of
from unetzoo.decoders._base import Decoder, Feature, register_decoder, widths as level_widths
from unetzoo.encoders import Encoder, Options
from unetzoo.nn.convolutions import Source
from unetzoo.nn.gates import AttentionGate
from unetzoo.nn.layers import Concat, ConvNormAct, ConvStyle, DoubleConv, Upsample, initialise
from unetzoo.nn.resampling import Size


@dataclass(frozen=True)
class UNetOptions(Options):
    """Options of the U-Net decoder.

    Attributes:
        upsampling: "transpose" (the paper's up-convolution), "nearest", "bilinear", or "bilinear_aligned", which is
            torch's ``align_corners=True``.
        convolutions: 3×3 convolutions of each step, 2 (the paper's) or 1 (nnU-Net's on a residual encoder).
        attention: whether attention gates, of Attention U-Net, weigh all skip connections but the finest.
    """

    upsampling: str = "transpose"
    convolutions: int = 2
    attention: bool = False

    def problems(self) -> list[str]:
        found = one_of("upsampling", self.upsampling, Upsample.MODES)
        return found + one_of("convolutions", self.convolutions, (2, 1)) + flag("attention", self.attention)


@register_decoder("unet")
class UNetDecoder(Decoder):
    """Per step: up-sample ×2, concatenate [up, skip connection, gated if asked], double convolution."""

    title = "U-Net"
    paper = "Ronneberger et al. 2015, arXiv 1505.04597"
    summary = "one path up, one skip connection a level"
    Options = UNetOptions
    most_maps = 8  # any number would work; nnU-Net uses this many for crops of 512 pixels
    published: ClassVar = {
        "plain": 31.04,
        "resnet18": 20.78,
        "resnet34": 30.89,
        "resnet50": 40.90,
        "resnet101": 59.89,
        "resnet152": 75.54,
    }

    @classmethod
    def problems(cls, options: Any, deep_supervision: bool, maps: int) -> list[str]:
        found = super().problems(options, deep_supervision, maps)
        if options.attention is True and maps < 3:
            found.append(
                f"attention=True: the finest skip connection has no gate, and with {maps} maps there is no other"
            )
        return found

    def __init__(self, encoder: Encoder, style: ConvStyle, options: UNetOptions, deep_supervision: bool) -> None:
        super().__init__(encoder, style, options, deep_supervision)
        steps = range(len(encoder.channels) - 1)
        widths = list(encoder.channels[:-1]) if encoder.symmetric else level_widths(encoder, 64, len(steps))
        middles = list(widths)
        coarse = encoder.channels[-1]
        if encoder.symmetric and coarse == widths[-1] and options.upsampling != "transpose":
            # The up-sampled map must be as wide as the skip connection it meets; up-sampling cannot narrow it here.
            widths = [widths[0], *widths[:-1]]
        self.ups, self.convs, self.gates = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level in reversed(steps):
            scale = encoder.strides[level + 1] // encoder.strides[level]
            if options.attention and level:
                self.gates.append(AttentionGate(encoder.channels[level], coarse, scale))
            up = Upsample(coarse, widths[level], scale, options.upsampling, style.bias)
            self.ups.append(up)
            fused = up.out_channels + encoder.channels[level]
            if options.convolutions == 1:
                self.convs.append(Concat(ConvNormAct(fused, widths[level], style)))
            else:
                self.convs.append(Concat(DoubleConv(fused, widths[level], style, middles[level])))
            coarse = widths[level]
        self.last: Upsample | None = None
        self.features = [Feature(widths[0], 1)]
        if not encoder.symmetric:
            self.last = Upsample(widths[0], widths[0] // 2, encoder.strides[0], options.upsampling, bias=True)
            self.features = [Feature(self.last.out_channels, 1)]
        if deep_supervision:
            self.features += map(Feature, widths[1:], encoder.strides[1:])
        initialise(self)
        for gate in self.gates:
            assert isinstance(gate, AttentionGate)
            gate.open()

    def forward(self, maps: list[Tensor], size: Size, deep: bool) -> Sequence[Source]:
        features = [maps[-1]]
        for step, (up, conv, skip) in enumerate(zip(self.ups, self.convs, reversed(maps[:-1]), strict=True)):
            below = features[-1]
            gated = self.run(self.gates[step], skip, below) if step < len(self.gates) else skip
            features.append(self.run(conv, self.run(up, below, skip.shape[-2:]), gated))
        finest = features.pop()
        main = finest if self.last is None else self.run(self.last, finest, size)
        return [main, *reversed(features[1:])] if deep else [main]

    def tails(self, deep: bool) -> Sequence[nn.Module | None]:
        return [self.last]
