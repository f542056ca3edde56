"""Attention U-Net: a U-Net whose skip connections are gated by the next coarser map.

Paper: Oktay et al. 2018, arXiv 1804.03999, sections 2.2 and 2.3. A gate weights each pixel of a skip connection x by

    α = sigmoid(ψ · relu(W_x x + W_g g + b_g) + b_ψ),

where g is the decoder's map one level down, and all W and ψ are 1×1 convolutions. α is computed on the grid of g and
resampled bilinearly to that of x. The finest skip connection is not gated, as its map does not yet represent content
(section 2.3). unetzoo has such gates itself, ``create("unet", attention=True)``: this file shows how to add a decoder.

Differences: two dimensions; W_x reads every second pixel (in the authors' code it is a 2×2 convolution at stride 2),
which rounds odd sizes up; half as many channels inside a gate as x has; no further convolution after it. Everything
else is as in ``unet``.

In your own package: import this file, and you can create ``attention_unet_resnet18`` and all the others. In unetzoo:
put it into ``unetzoo/decoders/``. ``python examples/parts/attention_unet.py`` checks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from unetzoo.decoders import register_decoder
from unetzoo.decoders.unet import UNetDecoder, UNetOptions
from unetzoo.encoders import Encoder
from unetzoo.nn.convolutions import Source
from unetzoo.nn.layers import ConvStyle, initialise
from unetzoo.nn.resampling import Size, resize


class AttentionGate(nn.Module):
    """Additive attention: weights the pixels of a skip connection by factors computed from it and the coarser map.

    Args:
        skip, coarse: channels of the skip connection and of the coarser map.
        scale: ratio of their strides.
    """

    def __init__(self, skip: int, coarse: int, scale: int) -> None:
        super().__init__()
        inside = max(1, skip // 2)
        # A kernel of 1 at stride 2 gives ceil(size / 2), the size of the coarser map, where a kernel of 2 would not.
        self.of_skip = nn.Conv2d(skip, inside, 1, stride=scale, bias=False)
        self.of_coarse = nn.Conv2d(coarse, inside, 1)
        self.act = nn.ReLU(inplace=True)
        self.weigh = nn.Conv2d(inside, 1, 1)

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        """Return ``skip`` (N, C, H, W), each pixel times its α; ``coarse`` is (N, C', ceil(H / scale), …)."""
        alpha = self.weigh(self.act(self.of_skip(skip) + self.of_coarse(coarse))).sigmoid()
        return skip * resize(alpha, skip.shape[-2:])


@register_decoder("attention_unet")
class AttentionUNetDecoder(UNetDecoder):
    """U-Net's steps, all except the last with a gated skip connection."""

    title = "Attention U-Net"
    paper = "Oktay et al. 2018, arXiv 1804.03999"
    summary = "U-Net with skip connections gated by attention"
    published: ClassVar = {}

    @classmethod
    def problems(cls, options: Any, deep_supervision: bool, maps: int) -> list[str]:
        found = super().problems(options, deep_supervision, maps)
        return [*found, "attention=True: these gates are always there; leave it out"] if options.attention else found

    def __init__(self, encoder: Encoder, style: ConvStyle, options: UNetOptions, deep_supervision: bool) -> None:
        super().__init__(encoder, style, options, deep_supervision)
        convolutions = ([m for m in conv.modules() if isinstance(m, nn.Conv2d)] for conv in self.convs)
        coarse = [encoder.channels[-1], *(last.out_channels for *_, last in convolutions)]
        self.gates = nn.ModuleList()
        for step, level in enumerate(reversed(range(1, len(encoder.channels) - 1))):
            scale = encoder.strides[level + 1] // encoder.strides[level]
            self.gates.append(AttentionGate(encoder.channels[level], coarse[step], scale))
        initialise(self.gates)

    def forward(self, maps: list[Tensor], size: Size, deep: bool) -> Sequence[Source]:
        features = [maps[-1]]
        for step, skip in enumerate(reversed(maps[:-1])):
            if step < len(self.gates):
                skip = self.run(self.gates[step], skip, features[-1])
            up = self.run(self.ups[step], features[-1], skip.shape[-2:])
            features.append(self.run(self.convs[step], up, skip))
        finest = features.pop()
        main = finest if self.last is None else self.run(self.last, finest, size)
        return [main, *reversed(features[1:])] if deep else [main]


if __name__ == "__main__":
    import unetzoo

    unetzoo.testing.check_decoder("attention_unet")
    print(*unetzoo.list_models("attention_unet*"), sep="\n")
