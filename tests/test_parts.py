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
def mnasnet(registries: None) -> str:
    if "mnasnet0_5" not in ENCODERS:  # else it is in the tree
        runpy.run_path(str(PARTS / "mnasnet.py"))
    return "mnasnet0_5"


@pytest.fixture
def attention(registries: None) -> str:
    if "attention_unet" not in DECODERS:
        runpy.run_path(str(PARTS / "attention_unet.py"))
    return "attention_unet"


@pytest.fixture
def trunk() -> nn.Module:
    """torchvision's own network, none of whose norms is the identity."""
    net = torchvision.models.mnasnet0_5(weights=None).eval()
    for name, tensor in net.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            nn.init.uniform_(tensor, 0.2, 0.8)
    return net


@pytest.mark.slow  # by default test_docs checks the encoder of the guide
def test_mnasnet_keeps_the_contract(mnasnet: str) -> None:
    check_encoder(mnasnet)


@pytest.mark.slow  # by default test_docs checks the decoder of the guide
def test_attention_unet_keeps_the_contract(attention: str) -> None:
    check_decoder(attention)


def test_mnasnet_maps_are_torchvisions_bit_for_bit(mnasnet: str, trunk: nn.Module) -> None:
    encoder = unetzoo.create("unet_mnasnet0_5").encoder.eval()
    encoder.load_state_dict(encoder.from_torchvision(trunk.state_dict()))
    names = ["layers.7", "layers.8", "layers.9", "layers.11", "layers.13"]
    for size in ((64, 64), (32, 96), (37, 51)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = intermediate_maps(trunk, names, functools.partial(trunk, images))
            found = encoder(images)
        assert len(found) == 5
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("in_channels", [3, 2])
def test_mnasnet_takes_torchvisions_file(in_channels: int, mnasnet: str, trunk: nn.Module, tmp_path: Path) -> None:
    torch.save(trunk.state_dict(), tmp_path / "mnasnet.pth")
    model = unetzoo.create("unetpp_mnasnet0_5", pretrained=tmp_path / "mnasnet.pth", levels=2, in_channels=in_channels)
    state = model.encoder.state_dict()
    assert {int(name.split(".")[1]) for name in state} == {0, 1, 3, 4, 6, 7, 8, 9}  # 2 and 5 are activations
    for name, tensor in state.items():
        expected = trunk.state_dict()[name]
        if name == "layers.0.weight" and in_channels == 2:
            expected = expected[:, :2] * 1.5
        assert torch.equal(tensor, expected), name


def test_mnasnet_has_batch_norms_alone(mnasnet: str) -> None:
    info = unetzoo.model_info("unetpp_mnasnet0_5")
    assert info.strides == (2, 4, 8, 16, 32)
    assert "MNASNet 0.5 takes 'batch'" in info.meanings["norm"]
    with pytest.raises(unetzoo.ConfigError, match=r"norm='group'.*with MNASNet 0\.5"):
        unetzoo.create("unet_mnasnet0_5", norm="group")
    assert "unet_valid_mnasnet0_5" not in unetzoo.list_models()


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
    assert runpy.run_path(str(PARTS / "in_the_tree.py"))["run"]("attention_unet,mnasnet", *QUICK) == 0


@pytest.mark.slow
@pytest.mark.parametrize("part", ["attention_unet", "mnasnet"])
def test_a_part_in_the_tree_leaves_all_tests_green(part: str) -> None:
    assert runpy.run_path(str(PARTS / "in_the_tree.py"))["run"](part, "-q") == 0
