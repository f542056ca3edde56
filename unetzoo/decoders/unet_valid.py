"""The U-Net of the 2015 paper to the letter: unpadded convolutions, no norm, cropped skip connections.

Paper: Ronneberger, Fischer, Brox 2015, arXiv 1505.04597, figure 1. 572 × 572 pixels in, 388 × 388 out. Images
of any other size than 16 k + 60 leave an odd map before some max-pool, whose crop is then off centre: they are
refused. ``model.predict`` takes any size, by the paper's overlap-tile strategy (figure 2): it mirrors the border.
"""

from __future__ import annotations

from torch import Tensor, nn

from unetzoo.decoders._base import Decoder, Feature, register_decoder
from unetzoo.encoders import Encoder, Options
from unetzoo.nn.layers import Concat, ConvStyle, DoubleConv, Upsample, initialise
from unetzoo.nn.resampling import Size


def valid_size(least: int) -> int:
    """Return the smallest valid side from ``least`` up."""
    return 16 * max(8, -(-(least - 60) // 16)) + 60


@register_decoder("unet_valid")
class UNetValidDecoder(Decoder):
    """Per step: up-convolution 2×2, concatenate [up, cropped skip connection], double unpadded convolution."""

    title = "U-Net (2015, unpadded)"
    paper = "Ronneberger et al. 2015, arXiv 1505.04597"
    summary = "the paper's own network: logits are 184 pixels smaller than the image"
    default_norm = None
    border = 92
    supervisable = False
    fewest_maps = 5  # the border is that of five levels

    def __init__(self, encoder: Encoder, style: ConvStyle, options: Options, deep_supervision: bool) -> None:
        super().__init__(encoder, style, options, deep_supervision)
        self.ups, self.convs = nn.ModuleList(), nn.ModuleList()
        coarse = encoder.channels[-1]
        for width in reversed(encoder.channels[:-1]):
            self.ups.append(Upsample(coarse, width, 2, "transpose", style.bias))
            self.convs.append(Concat(DoubleConv(2 * width, width, style)))
            coarse = width
        self.features = [Feature(encoder.channels[0], 1)]
        initialise(self)

    def forward(self, maps: list[Tensor], size: Size, deep: bool) -> list[Tensor]:
        x = maps[-1]
        for up, conv, skip in zip(self.ups, self.convs, reversed(maps[:-1]), strict=True):
            x = self.run(up, x, (2 * x.shape[-2], 2 * x.shape[-1]))
            x = self.run(conv, x, _centre(skip, x.shape[-2:]))
        return [x]

    def input_side(self, side: int) -> int:
        return valid_size(side + 2 * self.border)

    def size_problem(self, height: int, width: int) -> str | None:
        if valid_size(height) == height and valid_size(width) == width:
            return None
        advice = []
        for name, side in (("height", height), ("width", width)):
            above = valid_size(side)
            if above != side:
                near = f"{above - 16} or {above}" if above - 16 >= valid_size(0) else f"{above}"
                advice.append(f"{name} {near} instead of {side}")
        return (
            f"unet_valid takes sides of 16 k + 60 from {valid_size(0)} up: {' and '.join(advice)}, "
            "or model.predict(images), which mirrors the border of images of any size"
        )


def _centre(x: Tensor, size: Size) -> Tensor:
    """Cut the centre of height and width ``size`` out of ``x``: crops of 4, 16, 40 and 88 on each side."""
    top, left = (x.shape[-2] - size[-2]) // 2, (x.shape[-1] - size[-1]) // 2
    return x[..., top : top + size[-2], left : left + size[-1]]
