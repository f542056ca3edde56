"""torchvision's DenseNet-121 as an encoder.

Paper: Huang et al. 2016, arXiv 1608.06993. Code: torchvision's own classes (BSD-3-Clause) under their own names, so
that an ImageNet file fits key for key, those with torchvision's old names too, and every map equals torchvision's at
sizes that divide. Here: the classifier is left out, the average pools of the transitions round odd sizes up instead of
leaving out the last row and column (at the border they average over the pixels that there are), and norms other than
batch norm can take its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from unetzoo.encoders._base import Encoder, Options, register_encoder
from unetzoo.nn.layers import ConvStyle, add_biases, halve, make_norm


class DenseNetEncoder(Encoder):
    """Five maps at strides 2, 4, 8, 16, 32: the stem's, and those of the four dense blocks.

    A dense block gives features without norm, which every reader in the network normalises first. Each map is therefore
    taken after the norm and the ReLU that follow the block: those of the transition, and norm5 of the last one.
    Channels 64, 256, 512, 1024, 1024.
    """

    image_convolution = "features.conv0"

    def __init__(self, in_channels: int, style: ConvStyle, options: Options, depth: int = 5) -> None:
        super().__init__()
        from torchvision import models

        whole = models.densenet121(weights=None).features
        self.features = nn.Sequential()
        for name, module in whole.named_children():
            if name not in _absent(depth):
                self.features.add_module(name, module)
        if 1 < depth < 5:  # of the last transition only the norm and the ReLU belong to a map
            last = self.features.get_submodule(f"transition{depth - 1}")
            del last.conv, last.pool
        if in_channels != 3:
            conv0 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(conv0.weight)
            self.set_submodule("features.conv0", conv0)
        self.in_channels = in_channels
        self.channels = (64, 256, 512, 1024, 1024)[:depth]
        self.strides = (2, 4, 8, 16, 32)[:depth]
        if style.norm != "batch":
            _replace_norms(self, style.norm)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.run(self._stem, images)]
        for number in range(1, len(self.channels)):
            maps.append(self.run(partial(self._stage, number), maps[-1]))
        return maps

    def _stem(self, images: Tensor) -> Tensor:
        for part in self.stages()[0]:
            images = part(images)
        return images.relu_()

    def _stage(self, number: int, x: Tensor) -> Tensor:
        """Shrink the map above, and give that of dense block ``number``, from 1 up."""
        *before, block, norm = self.stages()[number]
        # A transition is its convolution, then a pool; below the stem there is a max-pool alone.
        x = halve(before[0](x)) if before else self.features.get_submodule("pool0")(x)
        out: Tensor = norm(block(x))
        return out.relu_()

    def stages(self) -> list[Sequence[nn.Module]]:
        part = self.features.get_submodule
        found: list[Sequence[nn.Module]] = [[part("conv0"), part("norm0")]]
        for number in range(1, len(self.channels)):
            before = [] if number == 1 else [part(f"transition{number - 1}.conv")]
            norm = part("norm5" if number == 4 else f"transition{number}.norm")
            found.append([*before, part(f"denseblock{number}"), norm])
        return found

    def from_torchvision(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        depth = len(self.channels)
        missing = (*_absent(depth), f"transition{depth - 1}.conv")
        absent = ("classifier.", *(f"features.{name}." for name in missing))
        renamed = {_OLD.sub(r"\1\2", name): tensor for name, tensor in state.items()}
        return {name: tensor for name, tensor in renamed.items() if not name.startswith(absent)}

    def foldable(self) -> Iterator[tuple[str, str]]:
        yield "features.conv0", "features.norm0"
        # Of each layer norm1, as the norms of transitions, comes before its convolution, with a ReLU between.
        from torchvision.models.densenet import _DenseLayer

        for name, module in self.named_modules():
            if type(module) is _DenseLayer:
                yield f"{name}.conv1", f"{name}.norm2"


_OLD = re.compile(r"^(features\.denseblock\d\.denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""Names "…denselayer1.norm.1.weight" of old torchvision: those of its ImageNet file, which its own loader renames."""


def _absent(depth: int) -> tuple[str, ...]:
    """Return the names of what an encoder of ``depth`` maps leaves out of torchvision's features, whole modules."""
    blocks = (f"denseblock{number}" for number in range(depth, 5))
    transitions = (f"transition{number}" for number in range(depth, 4))
    return (*blocks, *transitions, *(("norm5",) if depth < 5 else ()))


def _replace_norms(encoder: nn.Module, norm: str | None) -> None:
    """Replace batch norms by norms of another kind; without norms, each convolution gets a bias."""
    for owner in list(encoder.modules()):
        for name, module in owner.named_children():
            if isinstance(module, nn.BatchNorm2d):
                setattr(owner, name, make_norm(norm, module.num_features))
    if norm is None:
        add_biases(encoder)


register_encoder(
    "densenet121",
    title="DenseNet-121",
    paper="Huang et al. 2016, arXiv 1608.06993",
    weights="DenseNet121_Weights",
)(DenseNetEncoder)
