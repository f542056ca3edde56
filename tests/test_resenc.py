"""ResEnc and nnU-Net's U-Net on it: against the formulas, written out here, and against nnU-Net's own code."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from drawn import fill
from torch import Tensor, nn
from torch.export import Dim, export

import unetzoo
from unetzoo.encoders.resenc import ResidualBlock
from unetzoo.nn.layers import halve
from unetzoo.nn.meta import on_meta

BLOCKS = {"resenc": (1, 3, 4, 6, 6, 6), "resenc_small": (1, 2, 2, 2, 2, 2)}
AUTHORS = {"conv_bias": True, "deep_supervision": True, "in_channels": 4, "num_classes": 3}
"""As nnU-Net builds it: with biases before norms too, and a head at each resolution."""


def make(name: str, **options: Any) -> unetzoo.SegmentationModel:
    with on_meta():
        model = unetzoo.create(name, **options)
    return fill(model, torch.float64).eval()


def images_of(model: unetzoo.SegmentationModel, *size: int) -> Tensor:
    shape = (2, model.config.in_channels, *size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def near(found: Tensor, expected: Tensor) -> bool:
    assert found.shape == expected.shape
    return float((found - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


# Written out


class Written:
    """The network as formulas over the tensors of a state dict."""

    def __init__(self, model: unetzoo.SegmentationModel) -> None:
        self.w = model.state_dict()
        self.norm = model.config.norm

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.w[f"{name}.weight"]
        return F.conv2d(x, weight, self.w.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2)

    def normed(self, name: str, x: Tensor) -> Tensor:
        if self.norm is None:
            return x
        if self.norm == "batch":
            mean, variance = (self.w[f"{name}.running_{key}"][:, None, None] for key in ("mean", "var"))
        else:
            mean = x.mean(dim=(2, 3), keepdim=True)
            variance = (x - mean).square().mean(dim=(2, 3), keepdim=True)
        gain, shift = (self.w[f"{name}.{key}"][:, None, None] for key in ("weight", "bias"))
        return (x - mean) / (variance + 1e-5).sqrt() * gain + shift

    @staticmethod
    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.01 * x)

    def once(self, name: str, x: Tensor) -> Tensor:
        return self.leaky(self.normed(f"{name}.norm", self.conv(f"{name}.conv", x)))

    def block(self, name: str, x: Tensor, stride: int) -> Tensor:
        shortcut = mean_of_pixels(x) if stride == 2 else x
        if f"{name}.widen.0.weight" in self.w:
            shortcut = self.normed(f"{name}.widen.1", self.conv(f"{name}.widen.0", shortcut))
        x = self.leaky(self.normed(f"{name}.norm1", self.conv(f"{name}.conv1", x, stride)))
        return self.leaky(self.normed(f"{name}.norm2", self.conv(f"{name}.conv2", x)) + shortcut)

    def maps(self, images: Tensor, blocks: tuple[int, ...]) -> Iterator[Tensor]:
        x = self.once("encoder.stem", images)
        for level, number in enumerate(blocks):
            for k in range(number):
                x = self.block(f"encoder.levels.{level}.{k}", x, 2 if level and not k else 1)
            yield x

    def heads(self, images: Tensor, blocks: tuple[int, ...]) -> list[Tensor]:
        """Return the logits of the U-Net's heads, finest first, each at its own resolution."""
        *skips, x = self.maps(images, blocks)
        found = []
        for step, skip in enumerate(reversed(skips)):
            up = F.conv_transpose2d(
                x, self.w[f"decoder.ups.{step}.conv.weight"], self.w.get(f"decoder.ups.{step}.conv.bias"), stride=2
            )
            x = torch.cat([up[..., : skip.shape[2], : skip.shape[3]], skip], dim=1)
            x = self.once(f"decoder.convs.{step}.body", x)
            number = len(skips) - 2 - step
            found.insert(0, self.conv("head.conv" if number < 0 else f"deep_heads.{number}.conv", x))
        return found


def mean_of_pixels(x: Tensor) -> Tensor:
    """Return the mean of each 2×2 pixels, or of those of them that there are."""
    found = x.new_empty(*x.shape[:2], -(-x.shape[2] // 2), -(-x.shape[3] // 2))
    for row, column in itertools.product(range(found.shape[2]), range(found.shape[3])):
        window = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        found[:, :, row, column] = window.mean(dim=(2, 3))
    return found


def at(size: torch.Size, logits: Tensor) -> Tensor:
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("name", ["resenc_small", pytest.param("resenc", marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm", ["instance", "batch", None])
def test_all_heads_follow_the_formulas(name: str, norm: str | None) -> None:
    model = make(f"unet_{name}", base_features=4, norm=norm, **AUTHORS)
    written = Written(model)
    for size in ((64, 96), (37, 51), (1, 1)):
        images = images_of(model, *size)
        with torch.no_grad():
            outputs = model.training_outputs(images)
            found, expected = [outputs.logits, *outputs.deep], written.heads(images, BLOCKS[name])
            assert len(found) == len(expected) == 5
            for ours, theirs in zip(found, expected, strict=True):
                assert near(ours, at(images.shape[2:], theirs))
            for ours, theirs in zip(model.encoder(images), written.maps(images, BLOCKS[name]), strict=True):
                assert near(ours, theirs)


@pytest.mark.parametrize(("decoder", "maps"), [("unet", 6), ("unetpp", 5), ("unet3p", 5), ("smp_unet", 5)])
def test_decoders_take_as_many_maps_as_they_can(decoder: str, maps: int) -> None:
    model = make(f"{decoder}_resenc_small", base_features=4)
    images = images_of(model, 33, 40)
    assert model.encoder.strides == (1, 2, 4, 8, 16, 32)[:maps]
    with torch.no_grad():
        for ours, theirs in zip(model.encoder(images), Written(model).maps(images, (1, 2, 2, 2, 2, 2)), strict=False):
            assert near(ours, theirs)
        assert model(images).shape == (2, 1, 33, 40)


# nnU-Net's own


def counts(name: str, **options: Any) -> int:
    with on_meta():
        return sum(parameter.numel() for parameter in unetzoo.create(name, **options).parameters())


def test_counts_are_those_of_nnu_net() -> None:
    """Of ``ResidualEncoderUNet`` of dynamic-network-architectures 0.4.4, which has unused heads where we have none."""
    assert counts("unet_resenc", **AUTHORS) == 71_818_447
    assert counts("unet_resenc", conv_bias=True, deep_supervision=True) == 71_816_165
    assert counts("unet_resenc_small", **AUTHORS) == 13_466_287
    unused = sum((channels + 1) * 3 for channels in (64, 128, 256, 512))
    assert counts("unet_resenc", **{**AUTHORS, "deep_supervision": False}) == 71_818_447 - unused


def their_name(ours: str) -> str:
    """Return the name in nnU-Net's network of one of our tensors, of five steps."""
    parts = ours.split(".")
    kind, last = parts[-2], parts[-1]
    match parts:
        case ["encoder", "stem", *_]:
            return f"encoder.stem.convs.0.{kind}.{last}"
        case ["encoder", "levels", level, block, "widen", *_]:
            return f"encoder.stages.{level}.blocks.{block}.skip.{1 if level != '0' else 0}.{WIDEN[kind]}.{last}"
        case ["encoder", "levels", level, block, *_]:
            return f"encoder.stages.{level}.blocks.{block}.conv{kind[-1]}.{kind[:-1]}.{last}"
        case ["decoder", "ups", step, *_]:
            return f"decoder.transpconvs.{step}.{last}"
        case ["decoder", "convs", step, *_]:
            return f"decoder.stages.{step}.convs.0.{kind}.{last}"
        case ["head", *_]:
            return f"decoder.seg_layers.4.{last}"
        case ["deep_heads", number, *_]:
            return f"decoder.seg_layers.{3 - int(number)}.{last}"
    raise AssertionError(ours)


WIDEN = {"0": "conv", "1": "norm"}


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize(
    ("name", "features"), [("resenc_small", 8), pytest.param("resenc", 32, marks=pytest.mark.slow)]
)
def test_logits_are_those_of_nnu_net(name: str, features: int, norm: str) -> None:
    """Of its own network with our weights, at each resolution; the test above holds the same without it."""
    theirs_of: Callable[..., nn.Module] = pytest.importorskip(
        "dynamic_network_architectures.architectures.unet",
        reason="nnU-Net's networks (dynamic-network-architectures) hold timm below 1.0.23, and are no part of dev",
    ).ResidualEncoderUNet
    model = make(f"unet_{name}", base_features=features, norm=norm, **AUTHORS)
    widths, strides = [min(512, features * 2**level) for level in range(6)], [1, 2, 2, 2, 2, 2]
    kind = nn.InstanceNorm2d if norm == "instance" else nn.BatchNorm2d
    theirs = theirs_of(
        4, 6, widths, nn.Conv2d, 3, strides, BLOCKS[name], 3, 1, conv_bias=True, norm_op=kind,
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    ).double().eval()  # fmt: skip
    ours = {their_name(key): tensor for key, tensor in model.state_dict().items()}
    assert ours.keys() == {*dict(theirs.named_parameters()), *(k for k, _ in theirs.named_buffers())}
    for key, tensor in itertools.chain(theirs.named_parameters(), theirs.named_buffers()):
        tensor.data.copy_(ours[key])
    images = images_of(model, 64, 96)
    with torch.no_grad():
        outputs = model.training_outputs(images)
        for found, expected in zip((outputs.logits, *outputs.deep), theirs(images), strict=True):
            assert near(found, at(images.shape[2:], expected))
        assert near(model(images), theirs(images)[0])


# What is ours


def test_a_window_over_the_border_is_the_mean_of_its_pixels() -> None:
    x = torch.arange(15.0, dtype=torch.float64).reshape(1, 1, 3, 5)
    expected = torch.tensor([[[[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]]]], dtype=torch.float64)
    assert torch.equal(halve(x), expected)
    assert torch.equal(halve(x), mean_of_pixels(x))
    one = torch.full((1, 1, 1, 1), 7.0)
    assert torch.equal(halve(one), one)

    class Halve(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return halve(x)

    free = ({2: Dim("height", min=3), 3: Dim("width", min=3)},)
    exported = export(Halve(), (torch.randn(1, 1, 6, 8),), dynamic_shapes=free).module()
    for size in ((6, 8), (5, 7), (3, 9)):
        images = torch.randn(1, 1, *size)
        torch.testing.assert_close(exported(images), halve(images))


def test_a_block_starts_as_its_shortcut() -> None:
    """As nnU-Net's: the scale of the last norm is zero, and without norm the last convolution."""
    for norm in ("instance", "batch", "layer", None):
        block = unetzoo.create("unet_resenc_small", norm=norm, base_features=4).encoder.levels[2][0]
        assert isinstance(block, ResidualBlock)
        x = torch.randn(2, 8, 10, 10)
        torch.testing.assert_close(block(x), F.leaky_relu(block.widen(F.avg_pool2d(x, 2)), 0.01))


def test_the_paper_sets_norm_activation_and_convolutions() -> None:
    with on_meta():
        paper, other = unetzoo.create("unet_resenc"), unetzoo.create("unet_resenc", norm="batch", convolutions=2)
        plain = unetzoo.create("unet")
    assert (paper.config.norm, paper.config.decoder_options.convolutions) == ("instance", 1)
    assert (other.config.norm, other.config.decoder_options.convolutions) == ("batch", 2)
    assert (plain.config.norm, plain.config.decoder_options.convolutions) == ("batch", 2)
    signature = unetzoo.model_info("unet_resenc").options
    assert (signature["norm"], signature["convolutions"]) == ("instance", 1)
    assert unetzoo.model_info("unet3p_resenc").options["norm"] == "instance"
    assert unetzoo.ModelConfig.from_json(other.config.to_json()) == other.config
    for model, kind in ((paper, nn.LeakyReLU), (plain, nn.ReLU)):
        found = [module for module in model.modules() if isinstance(module, nn.LeakyReLU | nn.ReLU)]
        assert found
        assert all(type(module) is kind for module in found)
    assert {module.negative_slope for module in paper.modules() if isinstance(module, nn.LeakyReLU)} == {0.01}


def test_the_name_is_refused_where_convolutions_are_unpadded() -> None:
    with pytest.raises(unetzoo.ConfigError, match="unet_valid needs an encoder of unpadded convolutions"):
        unetzoo.create("unet_valid_resenc")
    with pytest.raises(unetzoo.ConfigError, match="base_features=0"):
        unetzoo.create("unet_resenc", base_features=0)
    with pytest.raises(unetzoo.ConfigError, match="convolutions=3"):
        unetzoo.create("unet", convolutions=3)


def test_single_convolutions_on_any_encoder() -> None:
    model = make("resunet18", convolutions=1, num_classes=2, deep_supervision=True)
    images = images_of(model, 64, 50)
    w, written = model.state_dict(), Written(model)
    with torch.no_grad():
        maps = model.encoder(images)
        x = maps[-1]
        for step, skip in enumerate(reversed(maps[:-1])):
            up = F.conv_transpose2d(x, w[f"decoder.ups.{step}.conv.weight"], stride=2)
            x = torch.cat([up[..., : skip.shape[2], : skip.shape[3]], skip], dim=1)
            name = f"decoder.convs.{step}.body"
            x = F.relu(written.normed(f"{name}.norm", written.conv(f"{name}.conv", x)))
        up = F.conv_transpose2d(x, w["decoder.last.conv.weight"], w["decoder.last.conv.bias"], stride=2)
        assert near(model(images), written.conv("head.conv", up))
