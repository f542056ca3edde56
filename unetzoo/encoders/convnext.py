"""torchvision's ConvNeXts as encoders.

Paper: Liu et al. 2022, arXiv 2201.03545. Code: torchvision's own classes (BSD-3-Clause) under their own names, so that
an ImageNet file fits key for key and every map equals torchvision's at sizes that divide. Here: the classifier is left
out, with the norm that belongs to it, and the stem and the down-sampling convolutions, whose kernel is their stride,
round sizes up: zeros are added at the lower right, where torchvision leaves out the last rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from unetzoo.encoders._base import Options, register_encoder
from unetzoo.encoders._features import FeaturesEncoder
from unetzoo.nn.layers import ConvStyle, pad_up


@dataclass(frozen=True)
class ConvNeXtOptions(Options):
    """Options of the ConvNeXt encoders.

    Attributes:
        stochastic_depth: probability, from 0 to less than 1, that the last block is skipped for an image in training;
            for the blocks before, it grows evenly from 0. None takes torchvision's: 0.1 for the tiny one, 0.4 for the
            small one.
    """

    stochastic_depth: float | None = None

    def problems(self) -> list[str]:
        rate = self.stochastic_depth
        if rate is None or (type(rate) in (int, float) and 0 <= rate < 1):
            return []
        return [f"stochastic_depth={rate!r}: a probability from 0 to less than 1 is needed, or None"]


class ConvNeXtEncoder(FeaturesEncoder):
    """Four maps at strides 4, 8, 16, 32, of 96, 192, 384 and 768 channels: those of the four stages."""

    def __init__(
        self, in_channels: int, style: ConvStyle, options: ConvNeXtOptions, depth: int = 4, *, arch: str
    ) -> None:
        from torchvision import models

        rate = options.stochastic_depth
        given = {} if rate is None else {"stochastic_depth_prob": rate}
        super().__init__(getattr(models, arch)(weights=None, **given), (2, 4, 6, 8)[:depth], in_channels)

    def _stage(self, stage: int, x: Tensor) -> Tensor:
        entrance, blocks = super().stages()[stage]
        for layer in entrance.children():
            x = layer(pad_up(x, layer.stride[0]) if isinstance(layer, nn.Conv2d) else x)
        out: Tensor = blocks(x)
        return out

    @staticmethod
    def draw(weight: Tensor) -> None:
        nn.init.trunc_normal_(weight, std=0.02)


for _arch, _title, _weights in (
    ("convnext_tiny", "ConvNeXt-Tiny", "ConvNeXt_Tiny_Weights"),
    ("convnext_small", "ConvNeXt-Small", "ConvNeXt_Small_Weights"),
):
    register_encoder(
        _arch,
        title=_title,
        paper="Liu et al. 2022, arXiv 2201.03545",
        options=ConvNeXtOptions,
        maps=4,
        own_norm="layer norm",
        weights=_weights,
    )(partial(ConvNeXtEncoder, arch=_arch))
