"""torchvision's ConvNeXt-T as an encoder: four maps, at strides 4, 8, 16 and 32.

Paper: Liu et al. 2022, arXiv 2201.03545. Code: torchvision's own class (BSD-3-Clause), whose stem, stages and
down-samplings are taken over under their own names, so that an ImageNet file fits key for key, and every map equals
torchvision's at sizes that 32 divides. Ours: the classifier is left out, and at other sizes zeros below and at the
right complete the last patch, where torchvision drops what is left over.

Layer norms are part of its blocks, so ``norm`` is the decoder's alone, and the weights go with any. A stride of 4
leaves no finer map than a quarter of the image: decoders go up the rest at the end.

In your own package: import this file, and ``unet_convnext_tiny`` and the others are there to create, pretrained too.
In unetzoo: put it into ``unetzoo/encoders/``. ``python examples/parts/convnext.py`` checks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetzoo.encoders import Encoder, Options, register_encoder
from unetzoo.nn.layers import ConvStyle


@register_encoder(
    "convnext_tiny",
    title="ConvNeXt-T",
    paper="Liu et al. 2022, arXiv 2201.03545",
    maps=4,
    own_norm="layer norm",
    weights="ConvNeXt_Tiny_Weights",
)
class ConvNeXtEncoder(Encoder):
    """Up to four maps of 96, 192, 384 and 768 channels: what torchvision gives behind ``features`` 1, 3, 5 and 7.

    ``features`` are in turn a convolution of patches with its norm, and a stage of blocks.
    """

    image_convolution = "features.0.0"

    def __init__(self, in_channels: int, style: ConvStyle, options: Options, depth: int = 4) -> None:
        super().__init__()
        from torchvision.models import convnext_tiny

        layers = convnext_tiny(weights=None).features[: 2 * depth]
        if in_channels != 3:
            stem = layers[0][0]
            layers[0][0] = nn.Conv2d(in_channels, stem.out_channels, stem.kernel_size, stem.stride)
            nn.init.trunc_normal_(layers[0][0].weight, std=0.02)  # as torchvision draws its own
            nn.init.zeros_(layers[0][0].bias)
        self.features = layers
        self.in_channels = in_channels
        self.channels = (96, 192, 384, 768)[:depth]
        self.strides = (4, 8, 16, 32)[:depth]

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for level in range(len(self.channels)):
            smaller = self.run(self._smaller, level, maps[-1] if maps else images)
            maps.append(self.run(self.features[2 * level + 1], smaller))
        return maps

    def _smaller(self, level: int, x: Tensor) -> Tensor:
        """Go to the size of a level: the stem has its norm behind the patches, a down-sampling before them."""
        first, second = self.features[2 * level]
        out: Tensor = second(first(whole_patches(x, 4))) if level == 0 else second(whole_patches(first(x), 2))
        return out

    def stages(self) -> list[Sequence[nn.Module]]:
        return [[self.features[2 * level], self.features[2 * level + 1]] for level in range(len(self.channels))]

    def from_torchvision(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        absent = ("classifier.", *(f"features.{number}." for number in range(2 * len(self.channels), 8)))
        return {name: tensor for name, tensor in state.items() if not name.startswith(absent)}


def whole_patches(x: Tensor, side: int) -> Tensor:
    """Return ``x`` (N, C, H, W) with zeros below and at the right, so that its last patch of ``side`` is whole."""
    if torch.compiler.is_exporting():
        # How much is missing is a question to a symbolic size. Zeros that make up no whole patch do nothing.
        return F.pad(x, (0, side - 1, 0, side - 1))
    below, right = -x.shape[-2] % side, -x.shape[-1] % side
    return F.pad(x, (0, right, 0, below)) if below or right else x


if __name__ == "__main__":
    import unetzoo

    unetzoo.testing.check_encoder("convnext_tiny")
    print(*unetzoo.list_models("*convnext_tiny"), sep="\n")
