"""Encoders of inverted residuals, as MobileNets and EfficientNets are made of: narrow maps, wide blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from unetzoo.encoders._base import Options
from unetzoo.encoders._features import FeaturesEncoder
from unetzoo.nn.layers import ConvStyle, add_biases, make_norm

MOMENTUM = 0.1
"""Of batch norms, torch's default: the share of a running statistic that each training step replaces."""


class InvertedEncoder(FeaturesEncoder):
    """Maps of a torchvision network of inverted residuals, its batch norms with the family's epsilon.

    Their momentum is torch's 0.1 in all of them. Other norms take their place (``norm_layer`` not being an argument of
    all these networks); squeeze-excitation and stochastic depth stay.
    """

    def __init__(
        self, in_channels: int, style: ConvStyle, options: Options, depth: int = 5, *, arch: str, cuts: Sequence[int]
    ) -> None:
        from torchvision import models

        super().__init__(getattr(models, arch)(weights=None), cuts[:depth], in_channels)
        if style.norm == "batch":
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    # MobileNetV3 has 0.01, for the hundreds of thousands of steps of ImageNet. After 275 steps 6 % of
                    # a running variance would still be the 1 it began with, which is far more than all the rest of
                    # it: the network trains well, and is wrong on every image that it is validated on.
                    module.momentum = MOMENTUM
            return
        for conv, norm in list(self.foldable()):
            channels = len(self.get_submodule(conv).get_parameter("weight"))
            self.set_submodule(norm, make_norm(style.norm, channels))
        if style.norm is None:
            _without_norm(self)


def _without_norm(encoder: nn.Module) -> None:
    """Draw convolutions by what each neuron reads, give each a bias, and start each residual branch at zero.

    torchvision draws them by how many read it, depth-wise ones as if all channels did: without a norm behind them
    nothing would come out of the deepest block. The zero start, so that depth does not explode, is that of
    torchvision's ``zero_init_residual`` and of Fixup (arXiv 1901.09321).
    """
    add_biases(encoder)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for module in encoder.modules():
        if getattr(module, "use_res_connect", False):
            last = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)][-1]
            nn.init.zeros_(last.weight)
