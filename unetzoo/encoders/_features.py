"""Encoders made of a torchvision network whose body is one sequence, ``network.features``, cut into stages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from unetzoo.encoders._base import Encoder


class FeaturesEncoder(Encoder):
    """The body of a torchvision network; each stage ends with the last map at its stride.

    Its modules are torchvision's, under their own names, so that an ImageNet file fits key for key. Channels and
    strides are derived from them: a subclass only has to make the network.

    Args:
        network: torchvision's complete network, made for three channels.
        cuts: for each requested map, finest first, the number in ``network.features`` at which the next stage begins.
            Modules after the last one are left out.
        in_channels: channels of the images.
    """

    image_convolution = "features.0.0"

    def __init__(self, network: nn.Module, cuts: Sequence[int], in_channels: int) -> None:
        super().__init__()
        whole = network.get_submodule("features")
        assert isinstance(whole, nn.Sequential)
        self.features = whole[: cuts[-1]]
        self.cuts = (0, *cuts)
        heads = [name for name, _ in network.named_children() if name != "features"]
        self.absent = (*heads, *(f"features.{number}" for number in range(cuts[-1], len(whole))))
        first = self.get_submodule("features.0.0")
        assert isinstance(first, nn.Conv2d)
        if in_channels != first.in_channels:
            self.set_submodule("features.0.0", self._first(first, in_channels))
        self.in_channels = in_channels
        self.channels = tuple(_width(stage) for stage in self.stages())
        self.strides = tuple(itertools.accumulate((_stride(stage) for stage in self.stages()), int.__mul__))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for number in range(len(self.channels)):
            maps.append(self.run(partial(self._stage, number), maps[-1] if maps else images))
        return maps

    def _stage(self, stage: int, x: Tensor) -> Tensor:
        for number in range(*self.cuts[stage : stage + 2]):
            x = self.features[number](x)
        return x

    def stages(self) -> list[Sequence[nn.Module]]:
        return [[self.features[number] for number in range(*cuts)] for cuts in itertools.pairwise(self.cuts)]

    def from_torchvision(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "0.0.weight" in state:  # the body alone, with numbers, as in torchvision's networks for segmentation
            state = {f"features.{name}": tensor for name, tensor in state.items()}
        absent = tuple(f"{name}." for name in self.absent)  # the classifier, and stages of a deeper encoder
        return {name: tensor for name, tensor in state.items() if not name.startswith(absent)}

    def foldable(self) -> Iterator[tuple[str, str]]:
        return convolutions_with_norms(self)

    def _first(self, conv: nn.Conv2d, in_channels: int) -> nn.Conv2d:
        """Return torchvision's first convolution for ``in_channels``."""
        shape = {"kernel_size": conv.kernel_size, "stride": conv.stride, "padding": conv.padding}
        new = nn.Conv2d(in_channels, conv.out_channels, bias=conv.bias is not None, **cast(Any, shape))
        self.draw(new.weight)
        if new.bias is not None:
            nn.init.zeros_(new.bias)
        return new

    @staticmethod
    def draw(weight: Tensor) -> None:
        """Initialise the weight of the first convolution as torchvision does in this family."""
        nn.init.kaiming_normal_(weight, mode="fan_out")


def convolutions_with_norms(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of convolutions and of the norms after them, which are in sequences in torchvision's blocks.

    These blocks cannot list them themselves: see :class:`unetzoo.nn.layers.Foldable`.
    """
    from torchvision.ops import Conv2dNormActivation

    for name, module in network.named_modules():
        if isinstance(module, Conv2dNormActivation):
            yield f"{name}.0", f"{name}.1"


def _width(stage: Sequence[nn.Module]) -> int:
    """Return the channels that a stage gives: those of its last layer that mixes channels."""
    layers = (layer for module in stage for layer in module.modules())
    return [len(layer.weight) for layer in layers if isinstance(layer, nn.Conv2d | nn.Linear)][-1]


def _stride(stage: Sequence[nn.Module]) -> int:
    """Return the factor by which a stage reduces the map: the product of the strides of its convolutions."""
    layers = (layer for module in stage for layer in module.modules())
    return math.prod(layer.stride[0] for layer in layers if isinstance(layer, nn.Conv2d))
