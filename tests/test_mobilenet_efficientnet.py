"""MobileNetV3 and EfficientNets: torchvision's own maps, files and norms, under decoders of widths that suit them."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from pathlib import Path

import pytest
import torch
from conftest import light, tried
from drawn import fill, quick
from reference import DECODERS, LAST, intermediate_maps, reference_outputs
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import SqueezeExcitation, StochasticDepth

import unetzoo
from unetzoo import ConfigError, WeightsError
from unetzoo.encoders import ENCODERS
from unetzoo.nn.layers import InstanceNorm2d, LayerNorm2d
from unetzoo.prediction.reach import reach

pytestmark = pytest.mark.usefixtures("encoders_built_once")

SMALL = ("mobilenet_v3_large", "efficientnet_b0")
EXPANSIONS = {"efficientnet_b0": "features.8.", "efficientnet_b3": "features.8.", "efficientnet_v2_s": "features.7."}
"""The 1×1 convolution in front of the classifier, where it is left out with it."""


def theirs_of(arch: str) -> nn.Module:
    """Return torchvision's whole network, its weights and statistics drawn."""
    with torch.device("meta"):
        network = models.get_model(arch, weights=None)
    return fill(network, torch.float32)


def ours_of(arch: str, depth: int = 5) -> unetzoo.Encoder:
    with unetzoo.model.on_meta():
        return unetzoo.create(f"unetpp_{arch}", levels=depth - 1).encoder


def kept(network: nn.Module, arch: str) -> dict[str, Tensor]:
    """Return what of a whole network's tensors is an encoder's: all but the classifier, and the expansion to it."""
    left = ("classifier.", *([EXPANSIONS[arch]] if arch in EXPANSIONS else []))
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(left)}


def last_at_their_strides(network: nn.Module, arch: str) -> list[str]:
    """Return the module of ``features`` that gives the last map of each size, found by running the network."""
    names = [f"features.{k}" for k in range(len(network.features)) if f"features.{k}." != EXPANSIONS.get(arch)]
    maps = intermediate_maps(network, names, lambda: network(torch.zeros(2, 3, 64, 64)))
    return list({seen.shape[-1]: name for name, seen in zip(names, maps, strict=True)}.values())


# What is torchvision's


@pytest.mark.parametrize("arch", tried(LAST, SMALL))
def test_maps_are_torchvisions_bit_for_bit(arch: str) -> None:
    """In evaluation and in training, by the family's own epsilon and stochastic depth; the momentum is torch's 0.1."""
    theirs = theirs_of(arch).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    names = last_at_their_strides(theirs, arch)
    ours = ours_of(arch)
    ours.load_state_dict({name: tensor.clone() for name, tensor in kept(theirs, arch).items()}, assign=True)
    for training, size in itertools.product((False, True), ((64, 96), (47, 61), (1, 33))):
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
        theirs.train(training)
        ours.train(training)
        with torch.no_grad():
            torch.manual_seed(5)
            expected = intermediate_maps(theirs, names, functools.partial(theirs, images))
            torch.manual_seed(5)
            found = ours(images)
        assert len(found) == len(expected) == 5
        assert all(map(torch.equal, found, expected))
        for each, channels, stride in zip(found, ours.channels, (2, 4, 8, 16, 32), strict=True):
            assert each.shape == (2, channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
    after = theirs.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in ours.state_dict().items())
    assert int(after["features.0.1.num_batches_tracked"]) == 7 + 3


@pytest.mark.parametrize("arch", LAST)
def test_parameters_are_torchvisions_less_the_classifiers(arch: str) -> None:
    with torch.device("meta"):
        theirs = models.get_model(arch, weights=None)
    left = sum(p.numel() for p in theirs.classifier.parameters())
    if arch in EXPANSIONS:
        left += sum(p.numel() for p in theirs.get_submodule(EXPANSIONS[arch][:-1]).parameters())
    published = models.get_model_weights(arch).DEFAULT.meta["num_params"]
    assert sum(p.numel() for p in ours_of(arch).parameters()) == published - left


@pytest.mark.parametrize("name", [name for name, spec in ENCODERS.items() if spec.weights is not None])
def test_all_weights_are_for_images_normalised_as_the_config_says(name: str) -> None:
    for member in getattr(models, ENCODERS[name].weights):
        preset = member.transforms()
        assert preset.mean == [0.485, 0.456, 0.406]
        assert preset.std == [0.229, 0.224, 0.225]


# Files


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    return theirs_of("mobilenet_v3_large")


@pytest.fixture(scope="module")
def checkpoint(theirs: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the weights as torchvision does, with the hash in the name."""
    file = tmp_path_factory.mktemp("weights") / "raw"
    torch.save(theirs.state_dict(), file)
    return file.rename(file.with_name(f"mobilenet_v3_large-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"))


def test_files_of_torchvision_fit_key_for_key(checkpoint: Path, theirs: nn.Module) -> None:
    model = unetzoo.create("unet_mobilenet_v3_large", pretrained=checkpoint)
    found, expected = model.encoder.state_dict(), kept(theirs, "mobilenet_v3_large")
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert model.config.mean == (0.485, 0.456, 0.406)
    shallow = unetzoo.create("unetpp_mobilenet_v3_large", levels=1, pretrained=checkpoint).encoder.state_dict()
    first = {name: tensor for name, tensor in expected.items() if name.split(".")[1] in "0123"}
    assert list(shallow) == [name for name in first if name.startswith(tuple(f"features.{k}." for k in range(4)))]
    assert all(torch.equal(tensor, first[name]) for name, tensor in shallow.items())


@pytest.mark.parametrize("arch", [arch for arch in LAST if arch != "mobilenet_v3_large"])
def test_names_are_torchvisions(arch: str) -> None:
    with torch.device("meta"):
        expected = kept(models.get_model(arch, weights=None), arch)
    found = ours_of(arch).state_dict()
    assert {name: tensor.shape for name, tensor in found.items()} == {k: v.shape for k, v in expected.items()}
    assert list(ours_of(arch).from_torchvision(expected)) == list(found)


def test_weights_come_from_torch_s_cache(
    checkpoint: Path, theirs: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / checkpoint.name).write_bytes(checkpoint.read_bytes())
    weights = models.MobileNet_V3_Large_Weights.IMAGENET1K_V2  # torchvision's default
    monkeypatch.setattr(weights.value, "url", f"http://127.0.0.1:9/{checkpoint.name}")
    model = unetzoo.create("unet3p_lite_mobilenet_v3_large", pretrained=True)
    assert torch.equal(model.encoder.features[16][0].weight, theirs.features[16][0].weight)
    with pytest.raises(WeightsError, match="not in torch's cache"):
        unetzoo.create("unet3p_lite_mobilenet_v3_large", pretrained="IMAGENET1K_V1")


def test_the_body_is_found_by_its_numbers(theirs: nn.Module, tmp_path: Path) -> None:
    """As in torchvision's own network for segmentation, and in sequences made of its modules."""
    segmenter = models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    body = theirs.features.state_dict()
    files = {
        "body": body,
        "sequence": nn.Sequential(*theirs.children()).state_dict(),
        "segmenter": {**segmenter.state_dict(), **{f"backbone.{name}": tensor for name, tensor in body.items()}},
    }
    assert files["segmenter"].keys() == segmenter.state_dict().keys()
    expected = kept(theirs, "mobilenet_v3_large")
    for name, state in files.items():
        torch.save(state, tmp_path / f"{name}.pth")
        model = unetzoo.create("unet3p_lite_mobilenet_v3_large", pretrained=tmp_path / f"{name}.pth")
        assert all(torch.equal(tensor, expected[key]) for key, tensor in model.encoder.state_dict().items())


def test_weights_of_another_network_are_refused_by_its_name(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds a MobileNetV3-Large, which is for 'unet_mobilenet_v3_large'"):
        unetzoo.create("unet_efficientnet_b0", pretrained=checkpoint)
    torch.save(theirs_of("efficientnet_b0").state_dict(), tmp_path / "b0.pth")
    with pytest.raises(WeightsError, match=r"holds an EfficientNet-B0, which is for 'unet_efficientnet_b0'"):
        unetzoo.create("unet_mobilenet_v3_large", pretrained=tmp_path / "b0.pth")


@pytest.mark.parametrize("channels", [1, 5])
def test_other_channels(checkpoint: Path, theirs: nn.Module, channels: int) -> None:
    model = unetzoo.create("unetpp_mobilenet_v3_large", levels=1, pretrained=checkpoint, in_channels=channels)
    rgb = theirs.features[0][0].weight
    expected = rgb.sum(1, keepdim=True) if channels == 1 else rgb[:, [0, 1, 2, 0, 1]] * 3 / 5
    torch.testing.assert_close(model.encoder.features[0][0].weight, expected)


@pytest.mark.usefixtures("torch_s_draws")
@pytest.mark.parametrize("arch", SMALL)
def test_the_first_convolution_of_other_channels_is_drawn_as_torchvision_draws_it(arch: str) -> None:
    ours = unetzoo.create(f"unetpp_{arch}", levels=1, in_channels=200).encoder.features[0][0]
    first = models.get_model(arch, weights=None).features[0][0]
    assert ours.weight.shape == (first.out_channels, 200, 3, 3)
    assert (ours.stride, ours.padding, ours.bias) == (first.stride, first.padding, first.bias)
    assert float(ours.weight.detach().std()) == pytest.approx(math.sqrt(2 / (first.out_channels * 9)), rel=0.03)


# Norms


@pytest.mark.parametrize("norm", ["group", "instance", "layer", None])
@pytest.mark.parametrize("arch", SMALL)
def test_other_norms_take_the_place_of_all_batch_norms(arch: str, norm: str | None) -> None:
    kinds = {"group": nn.GroupNorm, "instance": InstanceNorm2d, "layer": LayerNorm2d, None: nn.Identity}
    encoder = unetzoo.create(f"unet3p_lite_{arch}", norm=norm).encoder
    with torch.device("meta"):
        plain = models.get_model(arch, weights=None).features[: len(encoder.features)]
    for name, module in plain.named_modules():
        found = encoder.features.get_submodule(name)
        if isinstance(module, nn.BatchNorm2d):
            assert type(found) is kinds[norm], name
        if isinstance(module, SqueezeExcitation | StochasticDepth):
            assert type(found) is type(module), name
        if isinstance(module, nn.Conv2d):
            assert (found.bias is None) == (module.bias is None and norm is not None), name
    with torch.no_grad():  # drawn as with batch norms, the deepest map would have a spread of 1e-9 or less without any
        maps = encoder.eval()(torch.randn(2, 3, 64, 64))
    assert all(1e-4 < float(each.std()) < 10 for each in maps)


def test_stochastic_depth_is_of_training_alone() -> None:
    encoder = quick("unetpp_efficientnet_b0", levels=3).encoder
    images = torch.randn(4, 3, 48, 48)
    with torch.no_grad():
        assert not torch.equal(encoder(images)[-1], encoder(images)[-1])
        encoder.eval()
        assert torch.equal(encoder(images)[-1], encoder(images)[-1])
    encoder.freeze(4)
    assert not any(module.training for module in encoder.features.modules())


@pytest.mark.parametrize("arch", SMALL)
def test_only_weights_of_convolutions_decay(arch: str) -> None:
    with unetzoo.model.on_meta():
        model = unetzoo.create(f"unet_{arch}")
    names = {id(parameter): name for name, parameter in model.encoder.named_parameters()}
    groups = {group["name"]: group for group in unetzoo.param_groups(model, 1e-3, weight_decay=0.1)}
    decaying = {names[id(parameter)] for parameter in groups["encoder"]["params"]}
    convolutions = [name for name, module in model.encoder.named_modules() if isinstance(module, nn.Conv2d)]
    assert decaying == {f"{name}.weight" for name in convolutions}
    assert groups["encoder"]["weight_decay"] == 0.1
    assert groups["encoder, no decay"]["weight_decay"] == 0
    assert {names[id(p)] for p in groups["encoder, no decay"]["params"]} == set(names.values()) - decaying


# Under decoders


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("arch", SMALL)
def test_every_decoder_follows_its_formulas(decoder: str, arch: str) -> None:
    name = f"{decoder}_{arch}"
    with unetzoo.model.on_meta():
        model = unetzoo.create(name, deep_supervision=True, **light(name))
    fill(model).eval()
    images = torch.randn(1, 3, 33, 47, dtype=torch.float64)
    with torch.no_grad():
        outputs = model.training_outputs(images)
        for found, expected in zip([outputs.logits, *outputs.deep], reference_outputs(model, images), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))


def test_levels_are_at_most_twice_as_wide_as_their_skip_connection() -> None:
    assert ours_of("mobilenet_v3_large").channels == (16, 24, 40, 112, 960)
    with unetzoo.model.on_meta():
        unet = unetzoo.create("unet_mobilenet_v3_large", deep_supervision=True)
        nested = unetzoo.create("unetpp_mobilenet_v3_large").decoder.nodes
        asked = unetzoo.create("unetpp_mobilenet_v3_large", base_width=32).decoder.nodes
        wide = unetzoo.create("unet_efficientnet_v2_s", norm="group").decoder
    assert [feature.channels for feature in unet.decoder.features] == [16, 48, 80, 224]
    assert [conv.body[1].conv.out_channels for conv in unet.decoder.convs] == [224, 80, 48, 32]
    assert [nested[f"x_{i}_1"].conv.body[1].conv.out_channels for i in range(4)] == [32, 48, 80, 224]
    assert [asked[f"x_{i}_1"].conv.body[1].conv.out_channels for i in range(4)] == [32, 64, 128, 256]
    assert [conv.body[1].norm.num_groups for conv in wide.convs] == [32, 32, 32, 24]
    assert [conv.body[1].conv.out_channels for conv in wide.convs] == [320, 128, 96, 48]


def test_squeeze_excitation_looks_at_the_whole_image() -> None:
    model = quick("unetpp_mobilenet_v3_large", levels=2)
    assert reach(model.config) is None
    assert reach(unetzoo.create("unetpp_mobilenet_v3_large", levels=1).config) is not None  # no block has it there
    with pytest.raises(ConfigError, match="squeeze-excitation"):
        unetzoo.Predictor(model, overlap="full", device="cpu")(torch.zeros(3, 40, 40, dtype=torch.uint8))
