"""torchvision's ResNets, ResNeXts and wide ResNets as encoders.

Papers: He et al. 2015, arXiv 1512.03385; Xie et al. 2016, arXiv 1611.05431; Zagoruyko and Komodakis 2016,
arXiv 1605.07146. Code: torchvision's own classes (BSD-3-Clause), under their own names, so that an ImageNet file fits
key for key and every map equals torchvision's. Here: the classifier is left out, the stem can keep more resolution,
norms other than batch norm can take its place, and on the CPU blocks keep about half as much for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from unetzoo.checks import one_of
from unetzoo.encoders._base import Encoder, Options, register_encoder
from unetzoo.nn.layers import ConvStyle, make_norm
from unetzoo.nn.layouts import settled
from unetzoo.nn.packing import is_folded


@dataclass(frozen=True)
class ResNetOptions(Options):
    """Options of the ResNet encoders.

    Attributes:
        stem_stride: stride at which ``layer1`` works. 4: torchvision's; 2: without the max-pool; 1: ``conv1``
            at stride 1 as well, for small images and thin structures. The same weights fit all three.
    """

    stem_stride: int = 4

    def problems(self) -> list[str]:
        return one_of("stem_stride", self.stem_stride, (4, 2, 1))


class ResNetEncoder(Encoder):
    """Five maps: conv1-bn1-relu, then layer1 (after the max-pool), layer2, layer3, layer4.

    Strides 2, 4, 8, 16, 32; with ``stem_stride=2``: 2, 2, 4, 8, 16; with 1: 1, 1, 2, 4, 8. Channels 64, then
    64, 128, 256, 512 (ResNet-18, 34) or 256, 512, 1024, 2048 (the others).
    """

    image_convolution = "conv1"

    def __init__(
        self, in_channels: int, style: ConvStyle, options: ResNetOptions, depth: int = 5, *, arch: str
    ) -> None:
        super().__init__()
        from torchvision import models

        from unetzoo.encoders._residual import make_lean

        net: nn.Module = getattr(models, arch)(weights=None, norm_layer=partial(make_norm, style.norm))
        stem = options.stem_stride
        conv1 = net.get_submodule("conv1")
        assert isinstance(conv1, nn.Conv2d)
        self.conv1 = _stem(conv1, in_channels, stride=1 if stem == 1 else 2)
        self.bn1 = net.get_submodule("bn1")
        self.relu = net.get_submodule("relu")
        self.maxpool = net.get_submodule("maxpool") if stem == 4 else nn.Identity()
        for level in range(1, depth):
            self.add_module(f"layer{level}", net.get_submodule(f"layer{level}"))
        self.in_channels = in_channels
        self.channels = (64, *(_width(self.get_submodule(f"layer{level}")) for level in range(1, depth)))
        self.strides = (min(stem, 2), *(stem * 2**level for level in range(depth - 1)))
        if style.norm is None:
            _without_norm(self)
        make_lean(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.run(self._stem_map, images)]
        for number, (layer,) in enumerate(self.stages()[1:]):
            shrunk = self.strides[number + 1] // self.strides[number]
            below = self.maxpool(maps[-1]) if number == 0 else maps[-1]
            pixels = maps[-1][:, 0].numel() // shrunk**2
            maps.append(settled(partial(self.run, layer), below, _largest(layer), pixels))
        return maps

    def _stem_map(self, images: Tensor) -> Tensor:
        if is_folded(self.conv1, self.bn1) and type(self.relu) is nn.ReLU:
            out: Tensor = self.conv1(images, after=self.relu)
        else:
            out = self.relu(self.bn1(self.conv1(images)))
        return out

    def stages(self) -> list[Sequence[nn.Module]]:
        layers = [[self.get_submodule(f"layer{level}")] for level in range(1, len(self.channels))]
        return [[self.conv1, self.bn1], *layers]

    def from_torchvision(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "0.weight" in state:  # nn.Sequential(*network.children()), of which the last are often cut off
            named = ((name.partition("."), tensor) for name, tensor in state.items())
            state = {f"{_CHILDREN[k]}.{rest}": tensor for (k, _, rest), tensor in named if k in _CHILDREN}
        absent = ("fc.", *(f"layer{level}." for level in range(len(self.channels), 5)))  # the stages of a deeper one
        return {name: tensor for name, tensor in state.items() if not name.startswith(absent)}

    def foldable(self) -> Iterator[tuple[str, str]]:
        # torchvision's blocks cannot list them themselves: each norm follows the convolution with its number.
        from unetzoo.encoders._residual import LEAN

        yield "conv1", "bn1"
        for name, block in self.named_modules():
            if type(block) in (*LEAN, *LEAN.values()):
                yield from ((f"{name}.conv{k}", f"{name}.bn{k}") for k in (1, 2, 3) if hasattr(block, f"conv{k}"))
                if block.downsample is not None:
                    yield f"{name}.downsample.0", f"{name}.downsample.1"


_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4", "9": "fc"}
"""Number among torchvision's modules → name, of those with tensors."""


def _stem(conv1: nn.Conv2d, in_channels: int, stride: int) -> nn.Conv2d:
    """Return torchvision's first convolution for ``in_channels``, at ``stride``."""
    if in_channels != conv1.in_channels:
        conv1 = nn.Conv2d(in_channels, conv1.out_channels, 7, padding=3, bias=False)
        nn.init.kaiming_normal_(conv1.weight, mode="fan_out", nonlinearity="relu")
    conv1.stride = (stride, stride)
    return conv1


def _width(layer: nn.Module) -> int:
    """Return the channels that a layer of residual blocks gives: those of its last convolution."""
    return [module for module in layer.modules() if isinstance(module, nn.Conv2d)][-1].out_channels


def _largest(layer: nn.Module) -> Tensor:
    """Return the weight with most numbers of a layer of residual blocks: of their 3×3 convolutions, if not grouped."""
    return max((module.weight for module in layer.modules() if isinstance(module, nn.Conv2d)), key=Tensor.numel)


def _without_norm(encoder: nn.Module) -> None:
    """Give each convolution a bias, and start each residual branch at zero, which keeps deep networks from exploding.

    The zero start is that of torchvision's ``zero_init_residual`` and of Fixup (arXiv 1901.09321).
    """
    from torchvision.models.resnet import BasicBlock, Bottleneck

    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight
            module.bias = nn.Parameter(torch.zeros(module.out_channels, device=weight.device, dtype=weight.dtype))
        if isinstance(module, BasicBlock):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, Bottleneck):
            nn.init.zeros_(module.conv3.weight)


def _resunet_names(size: int, decoder: str) -> tuple[str, ...]:
    """Name the pairs of ResNet-``size``: "ResUNet" is the field's word for U-Net on one of them."""
    usual = f"{decoder}_resnet{size}"
    return (f"resunet{size}", usual) if decoder == "unet" else (usual,)


_RESNET = "He et al. 2015, arXiv 1512.03385"
_RESNEXT = "Xie et al. 2016, arXiv 1611.05431"
_WIDE = "Zagoruyko and Komodakis 2016, arXiv 1605.07146"

for _size in (18, 34, 50, 101, 152):
    register_encoder(
        f"resnet{_size}",
        title=f"ResNet-{_size}",
        paper=_RESNET,
        options=ResNetOptions,
        names=partial(_resunet_names, _size),
        weights=f"ResNet{_size}_Weights",
    )(partial(ResNetEncoder, arch=f"resnet{_size}"))

for _arch, _title, _paper, _weights in (
    ("resnext50_32x4d", "ResNeXt-50 32×4d", _RESNEXT, "ResNeXt50_32X4D_Weights"),
    ("resnext101_32x8d", "ResNeXt-101 32×8d", _RESNEXT, "ResNeXt101_32X8D_Weights"),
    ("resnext101_64x4d", "ResNeXt-101 64×4d", _RESNEXT, "ResNeXt101_64X4D_Weights"),
    ("wide_resnet50_2", "Wide ResNet-50-2", _WIDE, "Wide_ResNet50_2_Weights"),
    ("wide_resnet101_2", "Wide ResNet-101-2", _WIDE, "Wide_ResNet101_2_Weights"),
):
    register_encoder(_arch, title=_title, paper=_paper, options=ResNetOptions, weights=_weights)(
        partial(ResNetEncoder, arch=_arch)
    )
