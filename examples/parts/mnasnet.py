"""torchvision's MNASNet 0.5 as an encoder: five maps, at strides 2, 4, 8, 16 and 32.

Paper: Tan et al. 2018, arXiv 1807.11626. Code: torchvision's own class (BSD-3-Clause), whose layers are used
under their own names, so that an ImageNet file fits key for key, and every map equals torchvision's, at any size.
Difference: the classifier and the last convolution, which belongs to it, are left out.

torchvision creates the batch norms itself, so no other norm is possible.

In your own package: import this file, and you can create ``unet_mnasnet0_5`` and the others, also pretrained.
In unetzoo: put it into ``unetzoo/encoders/``. ``python examples/parts/mnasnet.py`` checks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from unetzoo.encoders import Encoder, Options, register_encoder
from unetzoo.nn.layers import ConvStyle

ENDS = (8, 9, 10, 12, 14)
"""For each map, the index of torchvision's layer at which the next stage begins."""


@register_encoder(
    "mnasnet0_5",
    title="MNASNet 0.5",
    paper="Tan et al. 2018, arXiv 1807.11626",
    norms=("batch",),
    weights="MNASNet0_5_Weights",
)
class MNASNetEncoder(Encoder):
    """Up to five maps of 8, 16, 24, 48 and 160 channels: torchvision's outputs of ``layers`` 7, 8, 9, 11 and 13."""

    image_convolution = "layers.0"

    def __init__(self, in_channels: int, style: ConvStyle, options: Options, depth: int = 5) -> None:
        super().__init__()
        from torchvision.models import mnasnet0_5

        self.layers = mnasnet0_5(weights=None).layers[: ENDS[depth - 1]]
        if in_channels != 3:
            first = self.layers[0]
            self.layers[0] = nn.Conv2d(in_channels, first.out_channels, 3, stride=2, padding=1, bias=False)
            nn.init.kaiming_normal_(self.layers[0].weight, mode="fan_out")  # as torchvision initialises its own
        self.in_channels = in_channels
        self.channels = (8, 16, 24, 48, 160)[:depth]
        self.strides = (2, 4, 8, 16, 32)[:depth]

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for stage in self.stages():
            maps.append(self.run(nn.Sequential(*stage), maps[-1] if maps else images))
        return maps

    def stages(self) -> list[Sequence[nn.Module]]:
        ends = ENDS[: len(self.channels)]
        return [list(self.layers[start:end]) for start, end in zip((0, *ends), ends, strict=False)]

    def from_torchvision(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        last = ENDS[len(self.channels) - 1]
        absent = ("classifier.", *(f"layers.{number}." for number in range(last, 17)))
        return {name: tensor for name, tensor in state.items() if not name.startswith(absent)}


if __name__ == "__main__":
    import unetzoo

    unetzoo.testing.check_encoder("mnasnet0_5")
    print(*unetzoo.list_models("*mnasnet0_5"), sep="\n")
