"""RegNets, DenseNet and ConvNeXts against torchvision's own networks, which have the same weights."""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import tried
from drawn import drawn, quick
from torch import Tensor, nn
from torch.export import Dim
from torchvision import models
from torchvision.models import densenet
from torchvision.models.feature_extraction import create_feature_extractor

import unetzoo
from unetzoo import WeightsError
from unetzoo.config import pair_problem
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS, Encoder
from unetzoo.nn.layers import ConvStyle
from unetzoo.nn.meta import on_meta
from unetzoo.prediction.reach import reach
from unetzoo.pretrained import IMAGENET_MEAN, IMAGENET_STD
from unetzoo.testing._running import norms_in

_TRUNK = ("stem", *(f"trunk_output.block{k}" for k in range(1, 5)))
_DENSE = ("features.relu0", *(f"features.transition{k}.relu" for k in range(1, 4)), "relu")
_NEXT = ("features.1", "features.3", "features.5", "features.7")
NODES = {
    "regnet_y_1_6gf": _TRUNK,
    "regnet_y_3_2gf": _TRUNK,
    "densenet121": _DENSE,
    "convnext_tiny": _NEXT,
    "convnext_small": _NEXT,
}
"""Encoder → where torchvision's network has its maps."""
SMALL = ("regnet_y_1_6gf", "densenet121", "convnext_tiny")
CLASSIFIERS = ("fc.", "classifier.")

every = pytest.mark.parametrize("name", tried(NODES, SMALL))


@functools.cache
def made(name: str) -> nn.Module:
    net = models.get_model(name, weights=None)
    net.load_state_dict({key: drawn(key, tensor, torch.float32) for key, tensor in net.state_dict().items()})
    return net.eval()


def theirs(name: str) -> nn.Module:
    """Return torchvision's network, in evaluation mode, with weights and statistics that are trivial nowhere."""
    return copy.deepcopy(made(name))


def ours(name: str, state: Mapping[str, Tensor], depth: int | None = None, channels: int = 3) -> Encoder:
    """Return the encoder, in evaluation mode, with torchvision's tensors."""
    spec = ENCODERS[name]
    with on_meta():
        encoder = spec.build(channels, ConvStyle(), spec.options(), spec.maps if depth is None else depth)
    encoder.load_state_dict(encoder.from_torchvision(state), assign=True)
    return encoder.eval()


def some_images(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


# Maps


@every
def test_maps_are_torchvision_s_to_the_bit(name: str) -> None:
    net = theirs(name)
    maps = create_feature_extractor(net, list(NODES[name]))
    with torch.no_grad():
        for size in ((64, 96), *([(37, 51), (1, 1)] if name.startswith("regnet") else [])):
            assert_equal(ours(name, net.state_dict())(some_images(*size)), list(maps(some_images(*size)).values()))


def padded(x: Tensor, step: int) -> Tensor:
    """Return x on a canvas of zeros whose sides ``step`` divides."""
    canvas = x.new_zeros(*x.shape[:2], *(step * -(-side // step) for side in x.shape[2:]))
    canvas[..., : x.shape[2], : x.shape[3]] = x
    return canvas


@pytest.mark.parametrize("name", tried(["convnext_tiny", "convnext_small"], SMALL))
def test_convnexts_see_odd_images_as_padded_by_zeros(name: str) -> None:
    net = theirs(name)
    maps = create_feature_extractor(net, list(NODES[name]))
    encoder = ours(name, net.state_dict())
    with torch.no_grad():  # where only the stem has something to round
        expected = list(maps(padded(some_images(30, 61), 4)).values())
        assert_equal(encoder(some_images(30, 61)), expected)
        net, encoder = net.double(), encoder.double()
        for size in ((37, 51), (1, 1)):  # and where all have
            images = some_images(*size).double()
            for found, wanted in zip(encoder(images), convnext_maps(net, images), strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def convnext_maps(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Run torchvision's modules one after another, each patch convolution on what is padded by zeros."""
    found = []
    for number, part in enumerate(net.features):
        if number % 2:
            x = part(x)
            found.append(x)
        elif number == 0:
            x = part[1](part[0](padded(x, 4)))
        else:
            x = part[1](padded(part[0](x), 2))
    return found


class MeanOfPixels(nn.Module):
    """2×2 average-pool by its definition: the sum of the pixels that a window has, over their number."""

    def forward(self, x: Tensor) -> Tensor:
        sums, counts = (F.avg_pool2d(padded(each, 2), 2) * 4 for each in (x, torch.ones_like(x)))
        return sums / counts


def test_densenet_averages_over_the_pixels_there_are() -> None:
    net = theirs("densenet121").double()
    encoder = ours("densenet121", net.state_dict()).double()
    for number in range(1, 4):
        net.features.get_submodule(f"transition{number}").pool = MeanOfPixels()
    maps = create_feature_extractor(net, list(_DENSE), tracer_kwargs={"leaf_modules": [MeanOfPixels]})
    with torch.no_grad():
        for size in ((37, 51), (1, 1)):
            images = some_images(*size).double()
            for found, expected in zip(encoder(images), maps(images).values(), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", unetzoo.list_encoders())
def test_a_tenth_of_each_statistic_is_new_with_each_step(name: str) -> None:
    """Slower ones lag behind the weights of a training from scratch, whose network is then wrong on every image."""
    with on_meta():
        model = unetzoo.create(f"unet3p_lite_{name}" if name != "plain" else "unet")
    assert {module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)} <= {0.1}


def test_a_step_changes_weights_and_statistics_as_torchvision_s() -> None:
    """In training mode, with and without recomputed activations."""
    images = some_images(32, 64)
    for name in ("regnet_y_1_6gf", "densenet121"):
        net = theirs(name)
        states = []
        for checkpointed in (False, True):
            encoder = ours(name, copy.deepcopy(net.state_dict()), depth=3).train()
            encoder.gradient_checkpointing = checkpointed
            encoder(images)[-1].square().mean().backward()
            states.append(encoder)
        maps = create_feature_extractor(net.train(), [NODES[name][2]])
        maps(images)[NODES[name][2]].square().mean().backward()
        for encoder in states:
            for key, parameter in encoder.named_parameters():
                if parameter.grad is not None:
                    torch.testing.assert_close(parameter.grad, net.get_parameter(key).grad, rtol=1e-3, atol=1e-6)
            for key, buffer in encoder.named_buffers():
                torch.testing.assert_close(buffer, net.get_buffer(key), rtol=1e-5, atol=1e-6)


# Weights


@every
def test_a_file_of_torchvision_fits(name: str, tmp_path: Path) -> None:
    net = theirs(name)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    expected = {key: tensor for key, tensor in net.state_dict().items() if not key.startswith(CLASSIFIERS)}
    model = unetzoo.create(f"unetpp_lite_{name}", pretrained=tmp_path / "net.pth")
    found = model.encoder.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    classifier = sum(p.numel() for key, p in net.named_parameters() if key.startswith(CLASSIFIERS))
    whole = sum(p.numel() for p in net.parameters())
    assert sum(p.numel() for p in model.encoder.parameters()) == whole - classifier


@pytest.mark.parametrize("name", SMALL)
def test_a_file_fits_shallow_encoders_and_other_channels(name: str, tmp_path: Path) -> None:
    net = theirs(name)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    model = unetzoo.create(f"unetpp_lite_{name}", levels=2, in_channels=4, pretrained=tmp_path / "net.pth")
    first = f"{model.encoder.image_convolution}.weight"
    state, known = model.encoder.state_dict(), net.state_dict()
    assert len(model.encoder.channels) == 3
    assert all(torch.equal(tensor, known[key]) for key, tensor in state.items() if key != first)
    torch.testing.assert_close(state[first], known[first][:, [0, 1, 2, 0]] * 3 / 4)


def old_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict as DenseNets had it before names were forbidden to have dots: that of their ImageNet file."""
    found = {}
    for key, tensor in state.items():
        if not key.endswith("num_batches_tracked"):
            for part in ("norm1", "norm2", "conv1", "conv2"):
                key = key.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.") if "denselayer" in key else key
            found[key] = tensor
    return found


@pytest.fixture
def old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Tensor]]:
    """Put a file with such names into torch's cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was touched"))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state = old_names(theirs("densenet121").state_dict())
    torch.save(state, folder / "raw")
    name = f"densenet121-{hashlib.sha256((folder / 'raw').read_bytes()).hexdigest()[:8]}.pth"
    (folder / "raw").rename(folder / name)
    monkeypatch.setattr(models.DenseNet121_Weights.IMAGENET1K_V1.value, "url", f"http://127.0.0.1:9/{name}")
    return lambda: dict(state)


def test_old_names_of_densenets_are_renamed_as_by_torchvision(old_file: Callable[[], dict[str, Tensor]]) -> None:
    assert "features.denseblock1.denselayer1.norm.1.weight" in old_file()
    net = models.densenet121(weights=None)
    # Counters of batches, which such a file lacks, torch adds to a state dict of a version before it had them.
    stub: Any = SimpleNamespace(get_state_dict=lambda **_: old_file())
    net.load_state_dict = lambda state: nn.Module.load_state_dict(net, state, strict=False)  # type: ignore[method-assign]
    densenet._load_state_dict(net, stub, progress=False)
    model = unetzoo.create("unetpp_lite_densenet121", pretrained=True)
    for key, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[key]), key
    assert model.config.mean == tuple(models.DenseNet121_Weights.DEFAULT.transforms().mean)


@pytest.mark.parametrize("name", [name for name, spec in ENCODERS.items() if spec.weights is not None])
def test_images_are_normalised_as_torchvision_says(name: str) -> None:
    for member in getattr(models, ENCODERS[name].weights or ""):
        preset = member.transforms()
        assert (tuple(preset.mean), tuple(preset.std)) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.slow
def test_another_member_s_file_is_named(tmp_path: Path) -> None:
    torch.save(theirs("convnext_small").state_dict(), tmp_path / "small.pth")
    with pytest.raises(WeightsError, match="holds a ConvNeXt-Small, which is for 'unet_convnext_small'"):
        unetzoo.create("unet_convnext_tiny", pretrained=tmp_path / "small.pth")


# In the zoo


@pytest.mark.parametrize("decoder", [name for name in DECODERS if name != "unet_valid"])
@pytest.mark.parametrize("name", tried(SMALL, ["convnext_tiny"]))
def test_every_decoder_stands_on_it(name: str, decoder: str) -> None:
    assert pair_problem(decoder, name) is None
    with on_meta():
        model = unetzoo.create(f"{decoder}_{name}", deep_supervision=True, num_classes=2)
        outputs = model.training_outputs(torch.empty(2, 3, 37, 51, device="meta"))
    assert len(model.encoder.channels) == ENCODERS[name].maps
    assert len(outputs.deep) >= 2
    assert all(logits.shape == (2, 2, 37, 51) for logits in (outputs.logits, *outputs.deep))


@pytest.mark.parametrize("norm", ["group", "instance", "layer", None])
@pytest.mark.parametrize("name", ["regnet_y_1_6gf", "densenet121"])
def test_other_norms_take_the_place_of_batch_norms(name: str, norm: str | None) -> None:
    model = unetzoo.create(f"unetpp_lite_{name}", levels=1, norm=norm)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    if norm is None:
        assert not norms_in(model)
        assert all(module.bias is not None for module in model.modules() if isinstance(module, nn.Conv2d))
    logits = model(some_images(33, 40))
    logits.square().mean().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_convnexts_keep_their_own_norm() -> None:
    with on_meta():
        states = [unetzoo.create("unet_convnext_tiny", norm=norm).encoder for norm in ("batch", "group", None)]
    assert len({str(encoder) for encoder in states}) == 1
    assert unetzoo.model_info("unet_convnext_tiny").options["norm"] == "batch"


def test_convnexts_leave_out_blocks_by_chance_as_said() -> None:
    for name, rate, given in (("tiny", 0.1, {}), ("small", 0.4, {}), ("small", 0.2, {"stochastic_depth": 0.2})):
        with on_meta():
            encoder = unetzoo.create(f"unet_convnext_{name}", **given).encoder
        rates = [module.p for module in encoder.modules() if type(module).__name__ == "StochasticDepth"]
        assert rates == pytest.approx([rate * k / (len(rates) - 1) for k in range(len(rates))])
    with pytest.raises(unetzoo.ConfigError, match=r"stochastic_depth=1\.5: a probability"):
        unetzoo.create("unet_convnext_tiny", stochastic_depth=1.5)


def test_scales_and_norms_of_convnexts_get_no_decay() -> None:
    with on_meta():
        model = unetzoo.create("unet_convnext_tiny")
    groups = {group["name"]: group for group in unetzoo.param_groups(model, 1e-3, weight_decay=0.05)}
    decayed = {id(parameter) for parameter in groups["encoder"]["params"]}
    kinds = (nn.Conv2d, nn.Linear)
    weights = {id(module.weight) for module in model.encoder.modules() if isinstance(module, kinds)}
    assert decayed == weights
    assert groups["encoder, no decay"]["weight_decay"] == 0


@pytest.mark.parametrize(("name", "left"), [("regnet_y_1_6gf", 0), ("densenet121", 58 + 4), ("convnext_tiny", 0)])
def test_norms_behind_convolutions_are_folded(name: str, left: int) -> None:
    """Of a DenseNet those stay that come before one: one a layer, of a transition, and the last."""
    model = quick(f"unetpp_lite_{name}").eval()
    optimized = unetzoo.optimize(model)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in optimized.modules()) == left
    with torch.no_grad():
        expected = model(some_images(37, 51))
        wrong = (optimized(some_images(37, 51)) - expected).abs().max()
    assert wrong <= 1e-4 * (expected.max() - expected.min())


def test_squeeze_excitation_looks_at_the_whole_image() -> None:
    """Tiles have no full overlap then; the others look as far as their 3×3 and 7×7 convolutions."""
    with on_meta():
        configs = {name: unetzoo.create(f"unetpp_lite_{name}", levels=1).config for name in SMALL}
    assert reach(configs["regnet_y_1_6gf"]) is None
    # Maps at 4 and 8: 3 blocks of 3 pixels at each, what up-sampling and two 3×3 convolutions look at comes on top.
    found = reach(configs["convnext_tiny"])
    assert found is not None
    assert found >= 3 * 3 * 4 + 3 * 3 * 8
    assert reach(configs["densenet121"]) is not None


def exported(encoder: Encoder) -> Callable[[Tensor], list[Tensor]]:
    free = ({0: Dim("batch"), 2: Dim("height", min=9), 3: Dim("width", min=9)},)
    program: Any = torch.export.export(encoder, (some_images(36, 44),), dynamic_shapes=free)
    return program.module()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "depth"), [("convnext_tiny", 2), ("densenet121", 3)])
def test_what_rounds_up_is_exported_with_free_sizes(name: str, depth: int) -> None:
    encoder = ours(name, theirs(name).state_dict(), depth)
    run = exported(encoder)
    with torch.no_grad():
        for size in ((33, 50), (47, 9)):
            for found, expected in zip(run(some_images(*size)), encoder(some_images(*size)), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_convnext_layer_scales_do_not_decay() -> None:
    model = unetzoo.create("unet_convnext_tiny")
    groups = unetzoo.param_groups(model, 1e-3, weight_decay=0.05)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    scales = [p for name, p in model.named_parameters() if name.endswith("layer_scale")]
    assert len(scales) == 3 + 3 + 9 + 3
    assert {decay[id(scale)] for scale in scales} == {0}
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.ConvTranspose2d)]
    assert {decay[id(weight)] for weight in weights} == {0.05}


def test_convnext_is_told_apart_by_its_norm() -> None:
    info = unetzoo.model_info("unetpp_convnext_tiny")
    assert info.options["levels"] == 3
    assert info.strides == (4, 8, 16, 32)
    assert "decoder only: ConvNeXt-Tiny always has its own layer norm" in info.meanings["norm"]
    assert "unet_valid_convnext_tiny" not in unetzoo.list_models()
