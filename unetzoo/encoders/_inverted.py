"""Encoders of inverted residual blocks, as in MobileNets and EfficientNets: narrow maps, wide blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from unetzoo.encoders._base import Options
from unetzoo.encoders._features import FeaturesEncoder
from unetzoo.nn.layers import ConvStyle, add_biases, make_norm

MOMENTUM = 0.1
"""Momentum of batch norms, torch's default: the share of a running statistic that each training step replaces."""


class InvertedEncoder(FeaturesEncoder):
    """Maps of a torchvision network of inverted residuals; its batch norms have the family's epsilon.

    Their momentum is torch's 0.1 in all of them. Other norms replace them afterwards, because not all these networks
    have an argument ``norm_layer``; squeeze-excitation and stochastic depth are unchanged.
    """

    def __init__(
        self, in_channels: int, style: ConvStyle, options: Options, depth: int = 5, *, arch: str, cuts: Sequence[int]
    ) -> None:
        from torchvision import models

        super().__init__(getattr(models, arch)(weights=None), cuts[:depth], in_channels)
        if style.norm == "batch":
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    # MobileNetV3 has 0.01, for the hundreds of thousands of steps of ImageNet. After 275 steps, 6 % of
                    # a running variance would still be its initial 1, which is far more than the rest of it: the
                    # network would train well, but be wrong on every validation image.
                    module.momentum = MOMENTUM
            return
        for conv, norm in list(self.foldable()):
            channels = len(self.get_submodule(conv).get_parameter("weight"))
            self.set_submodule(norm, make_norm(style.norm, channels))
        if style.norm is None:
            _without_norm(self)


def _without_norm(encoder: nn.Module) -> None:
    """Initialise convolutions by fan-in, give each a bias, and start each residual branch at zero.

    torchvision uses fan-out, and for depth-wise convolutions that of an ordinary one: without norms, the output of the
    deepest block would vanish. The zero start, which keeps deep networks from exploding, is that of torchvision's
    ``zero_init_residual`` and of Fixup (arXiv 1901.09321).
    """
    add_biases(encoder)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for module in encoder.modules():
        if getattr(module, "use_res_connect", False):
            last = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)][-1]
            nn.init.zeros_(last.weight)
