"""The parts under examples/parts: right by their papers, and the zoo's own as soon as their file is in its tree."""

from __future__ import annotations

import functools
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import ROOT
from reference import intermediate_maps
from torch import nn

import unetzoo
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS
from unetzoo.testing import check_decoder, check_encoder

PARTS = ROOT / "examples" / "parts"
pytestmark = pytest.mark.usefixtures("registries")


@pytest.fixture
def convnext(registries: None) -> str:
    if "convnext_tiny" not in ENCODERS:  # else it is in the tree
        runpy.run_path(str(PARTS / "convnext.py"))
    return "convnext_tiny"


@pytest.fixture
def attention(registries: None) -> str:
    if "attention_unet" not in DECODERS:
        runpy.run_path(str(PARTS / "attention_unet.py"))
    return "attention_unet"


@pytest.fixture
def trunk() -> nn.Module:
    """torchvision's own network, none of whose layer scales is next to nothing."""
    net = torchvision.models.convnext_tiny(weights=None).eval()
    for name, parameter in net.named_parameters():
        if name.endswith("layer_scale"):
            nn.init.uniform_(parameter, 0.2, 0.8)
    return net


@pytest.mark.slow  # by default test_docs checks the encoder of the guide
def test_convnext_keeps_the_contract(convnext: str) -> None:
    check_encoder(convnext)


@pytest.mark.slow  # by default test_docs checks the decoder of the guide
def test_attention_unet_keeps_the_contract(attention: str) -> None:
    check_decoder(attention)


def test_convnext_maps_are_torchvisions_bit_for_bit(convnext: str, trunk: nn.Module) -> None:
    encoder = unetzoo.create("unet_convnext_tiny").encoder.eval()
    encoder.load_state_dict(encoder.from_torchvision(trunk.state_dict()))
    names = ["features.1", "features.3", "features.5", "features.7"]
    for size in ((64, 64), (32, 96)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = intermediate_maps(trunk, names, functools.partial(trunk, images))
            found = encoder(images)
        assert len(found) == 4
        assert all(map(torch.equal, found, expected))
    images = torch.randn(1, 3, 37, 50)
    with torch.no_grad():
        whole = F.pad(images, (0, 2, 0, 3))  # the next sizes that 4 divides: 40 and 52
        (expected,) = intermediate_maps(trunk, names[:1], functools.partial(trunk, whole))
        assert torch.equal(encoder(images)[0], expected)


@pytest.mark.parametrize("in_channels", [3, 2])
def test_convnext_takes_torchvisions_file(in_channels: int, convnext: str, trunk: nn.Module, tmp_path: Path) -> None:
    torch.save(trunk.state_dict(), tmp_path / "convnext_tiny.pth")
    model = unetzoo.create(
        "unetpp_convnext_tiny",
        pretrained=tmp_path / "convnext_tiny.pth",
        norm="group",
        levels=2,
        in_channels=in_channels,
    )
    state = model.encoder.state_dict()
    assert {name.split(".")[1] for name in state} == {"0", "1", "2", "3", "4", "5"}
    for name, tensor in state.items():
        expected = trunk.state_dict()[name]
        if name == "features.0.0.weight" and in_channels == 2:
            expected = expected[:, :2] * 1.5
        assert torch.equal(tensor, expected), name
    kinds = {type(module).__name__ for module in model.decoder.modules() if "Norm" in type(module).__name__}
    assert kinds == {"ConvNormAct", "GroupNorm"}


def test_convnext_layer_scales_do_not_decay(convnext: str) -> None:
    model = unetzoo.create("unet_convnext_tiny")
    groups = unetzoo.param_groups(model, 1e-3, weight_decay=0.05)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    scales = [p for name, p in model.named_parameters() if name.endswith("layer_scale")]
    assert len(scales) == 3 + 3 + 9 + 3
    assert {decay[id(scale)] for scale in scales} == {0}
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.ConvTranspose2d)]
    assert {decay[id(weight)] for weight in weights} == {0.05}


def test_convnext_is_told_apart_by_its_norm(convnext: str) -> None:
    info = unetzoo.model_info("unetpp_convnext_tiny")
    assert info.options["levels"] == 3
    assert info.strides == (4, 8, 16, 32)
    assert "decoder's alone: ConvNeXt-T always has its own layer norm" in info.meanings["norm"]
    assert "unet_valid_convnext_tiny" not in unetzoo.list_models()


def test_a_gate_follows_the_formula(attention: str) -> None:
    """α = sigmoid(ψ · relu(W_x x + W_g g + b_g) + b_ψ), on the grid of g, resampled to x."""
    model = unetzoo.create("attention_unet_resnet18").eval()
    gate = model.decoder.gates[1]
    skip, coarse = torch.randn(2, 128, 5, 7), torch.randn(2, gate.of_coarse.in_channels, 3, 4)
    of_x, of_g, psi = (layer.weight[:, :, 0, 0] for layer in (gate.of_skip, gate.of_coarse, gate.weigh))
    with torch.no_grad():
        inside = torch.einsum("oc,nchw->nohw", of_x, skip[:, :, ::2, ::2])
        inside = inside + torch.einsum("oc,nchw->nohw", of_g, coarse) + gate.of_coarse.bias[:, None, None]
        alpha = 1 / (1 + torch.exp(-torch.einsum("oc,nchw->nohw", psi, inside.clamp(min=0)) - gate.weigh.bias))
        expected = skip * F.interpolate(alpha, (5, 7), mode="bilinear")
        torch.testing.assert_close(gate(skip, coarse), expected)
        assert alpha.std() > 0.01


def test_the_gates_of_the_zoo_are_not_added_to_it(attention: str) -> None:
    assert len(unetzoo.create("attention_unet", base_channels=4, convolutions=1).decoder.gates) == 3
    with pytest.raises(unetzoo.ConfigError, match="attention=True: these gates are always there"):
        unetzoo.create("attention_unet", attention=True)


def test_open_gates_leave_a_plain_unet(attention: str) -> None:
    """With every α at 1 the network is U-Net, whose tensors it has under the same names."""
    model, plain = (unetzoo.create(name, base_channels=4).eval() for name in ("attention_unet", "unet"))
    assert len(model.decoder.gates) == 3  # the finest skip connection is not gated
    for gate in model.decoder.gates:
        nn.init.constant_(gate.weigh.bias, 100)
    own = model.state_dict()
    plain.load_state_dict({name: own[name] for name in plain.state_dict()})
    images = torch.randn(2, 3, 37, 51)
    with torch.no_grad():
        torch.testing.assert_close(model(images), plain(images))
        for gate in model.decoder.gates:
            nn.init.constant_(gate.weigh.bias, -2)
        assert not torch.allclose(model(images), plain(images), atol=1e-2)


QUICK = ("-n0", "-q", "tests/test_zoo.py", "tests/test_house.py", "-k", "not any_combination and not light")


@pytest.mark.slow
def test_parts_in_the_tree_leave_the_tests_green() -> None:
    assert runpy.run_path(str(PARTS / "in_the_tree.py"))["run"]("attention_unet,convnext", *QUICK) == 0


@pytest.mark.slow
@pytest.mark.parametrize("part", ["attention_unet", "convnext"])
def test_a_part_in_the_tree_leaves_all_tests_green(part: str) -> None:
    assert runpy.run_path(str(PARTS / "in_the_tree.py"))["run"](part, "-q") == 0
