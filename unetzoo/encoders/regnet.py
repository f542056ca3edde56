"""torchvision's RegNetYs as encoders.

Paper: Radosavovic et al. 2020, arXiv 2003.13678. Code: torchvision's own classes (BSD-3-Clause), unchanged and under
their own names, so that an ImageNet file fits key for key and every map equals torchvision's. Here: the classifier is
left out, depths and widths of the stages are in a table instead of being computed from the paper's parameters (which
needs tensors with values, and there are none on the meta device), and norms other than batch norm can take its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from unetzoo.encoders._base import Encoder, Options, register_encoder
from unetzoo.encoders._features import convolutions_with_norms
from unetzoo.nn.layers import ConvStyle, add_biases, make_norm


class RegNetEncoder(Encoder):
    """Five maps at strides 2, 4, 8, 16, 32: the stem's, of 32 channels, and those of the four stages of the trunk.

    Args:
        depths, widths: blocks and channels of each stage.
        group_width: channels of a group of the 3×3 convolutions.
    """

    image_convolution = "stem.0"

    def __init__(
        self,
        in_channels: int,
        style: ConvStyle,
        options: Options,
        depth: int = 5,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
        group_width: int,
    ) -> None:
        super().__init__()
        from torchvision.models.regnet import BlockParams, RegNet, SimpleStemIN

        norm = partial(make_norm, style.norm)
        count = len(depths)
        params = BlockParams([*depths], [*widths], [group_width] * count, [1.0] * count, [2] * count, se_ratio=0.25)
        # The stem is made for the channels here, as RegNet makes it for three; RegNet initialises its weight, whatever
        # their number.
        net = RegNet(params, stem_type=lambda _, *others: SimpleStemIN(in_channels, *others), norm_layer=norm)
        self.stem = net.stem
        self.trunk_output = nn.Sequential()
        for number in range(1, depth):
            self.trunk_output.add_module(f"block{number}", net.trunk_output.get_submodule(f"block{number}"))
        self.in_channels = in_channels
        self.channels = (32, *widths)[:depth]
        self.strides = (2, 4, 8, 16, 32)[:depth]
        if style.norm is None:
            _without_norm(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.run(self.stem, images)]
        for stage in self.trunk_output:
            maps.append(self.run(stage, maps[-1]))
        return maps

    def stages(self) -> list[Sequence[nn.Module]]:
        return [[self.stem], *([stage] for stage in self.trunk_output)]

    def from_torchvision(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        deeper = (f"trunk_output.block{number}." for number in range(len(self.channels), 5))
        absent = ("fc.", *deeper)
        return {name: tensor for name, tensor in state.items() if not name.startswith(absent)}

    def foldable(self) -> Iterator[tuple[str, str]]:
        return convolutions_with_norms(self)


def _without_norm(encoder: nn.Module) -> None:
    """Initialise convolutions by fan-in, give each a bias, and start each residual branch at zero.

    torchvision uses fan-out, and for grouped convolutions that of an ordinary one. The zero start, which keeps deep
    networks from exploding, is that of torchvision's ResNets with ``zero_init_residual`` and of Fixup (arXiv
    1901.09321).
    """
    from torchvision.models.regnet import ResBottleneckBlock

    add_biases(encoder)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for module in encoder.modules():
        if isinstance(module, ResBottleneckBlock):
            last = module.get_submodule("f.c.0")
            assert isinstance(last, nn.Conv2d)
            nn.init.zeros_(last.weight)


for _name, _title, _weights, _depths, _widths, _group_width in (
    ("regnet_y_1_6gf", "RegNetY-1.6GF", "RegNet_Y_1_6GF_Weights", (2, 6, 17, 2), (48, 120, 336, 888), 24),
    ("regnet_y_3_2gf", "RegNetY-3.2GF", "RegNet_Y_3_2GF_Weights", (2, 5, 13, 1), (72, 216, 576, 1512), 24),
):
    register_encoder(_name, title=_title, paper="Radosavovic et al. 2020, arXiv 2003.13678", weights=_weights)(
        partial(RegNetEncoder, depths=_depths, widths=_widths, group_width=_group_width)
    )
