"""Frozen stages, parameter groups, gradient checkpointing."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import flags, light
from drawn import quick
from torch import nn

import unetzoo

NAMES = [
    *("unet", "unetpp", "unet3p_lite", "resunet18", "unet3p_resnet18", "unetpp_lite_resnet18"),
    "unet_efficientnet_b0",  # which has stochastic depth
]


def step(model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    model(torch.randn(2, 3, 48, 48)).square().mean().backward()
    optimiser.step()


@pytest.mark.parametrize("stages", [None, 0, 1, 3, 5])
@pytest.mark.parametrize("name", ["unet", "resunet18"])
def test_frozen_stages_keep_weights_and_statistics(name: str, stages: int | None) -> None:
    model = quick(name, **light(name))
    model.freeze_encoder(stages)
    before = copy.deepcopy(model.state_dict())
    model.train()
    for module in model.modules():
        module.train(module.training)  # a second train() must not thaw
    model.train()
    step(model, torch.optim.SGD(unetzoo.param_groups(model, 0.1)))
    frozen = 5 if stages is None else stages
    prefixes = [f"encoder.levels.{k}." for k in range(5)]
    if name == "resunet18":
        prefixes = [("encoder.conv1.", "encoder.bn1."), *(f"encoder.layer{k}." for k in range(1, 5))]
    for key, tensor in model.state_dict().items():
        if key.endswith("weight") or "running" in key or "tracked" in key:
            still = any(key.startswith(prefix) for prefix in prefixes[:frozen])
            assert torch.equal(tensor, before[key]) == still, key


def test_thawing() -> None:
    model = unetzoo.create("resunet18")
    model.freeze_encoder()
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    model.eval()
    model.freeze_encoder(0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.train().modules())


def test_param_groups_hold_each_parameter_once_at_its_rate() -> None:
    model = unetzoo.create("unet3p_resnet18", norm="group", conv_bias=True)
    groups = unetzoo.param_groups(model, 1e-3, encoder_lr=1e-4, weight_decay=0.05)
    by_name = {group["name"]: group for group in groups}
    assert set(by_name) == {"encoder", "encoder, no decay", "decoder", "decoder, no decay"}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [names[id(parameter)] for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(names.values())
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["lr"] == (1e-4 if name.startswith("encoder.") else 1e-3)
            is_weight = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Conv2d | nn.ConvTranspose2d)
            assert group["weight_decay"] == (0.05 if is_weight and name.endswith("weight") else 0)
    torch.optim.AdamW(groups)
    model.freeze_encoder()
    assert {group["name"] for group in unetzoo.param_groups(model, 1e-3)} == {"decoder", "decoder, no decay"}
    assert {group["lr"] for group in unetzoo.param_groups(unetzoo.create("unet", base_channels=2), 2)} == {2}


class Odd(nn.Module):
    """Parameters of every kind of owner and shape, those that decay named so."""

    def __init__(self) -> None:
        super().__init__()
        self.decays_depthwise = nn.Conv2d(1, 1, 3, bias=False)
        self.decays_to_one = nn.Conv2d(8, 1, 1, bias=False)
        self.decays_up = nn.ConvTranspose2d(1, 8, 1, bias=False)
        self.decays_linear = nn.Linear(1, 8, bias=False)
        self.decays_table = nn.Parameter(torch.ones(4, 8))
        self.scale = nn.Parameter(torch.ones(8, 1, 1))  # ConvNeXt's layer_scale
        self.shift = nn.Parameter(torch.ones(1, 8, 1, 1))
        self.gain = nn.Parameter(torch.ones(()))
        self.norm = nn.LayerNorm((8, 4, 4))
        self.groups = nn.GroupNorm(2, 8)


def test_scales_by_channel_do_not_decay() -> None:
    model = unetzoo.create("unet", base_channels=2)
    model.decoder.odd = Odd()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying = {
        names[id(parameter)]
        for group in unetzoo.param_groups(model, 1e-3, weight_decay=0.1)
        for parameter in group["params"]
        if group["weight_decay"]
    }
    odd = {name for name in names.values() if ".odd." in name}
    assert {name for name in odd if name in decaying} == {name for name in odd if ".decays_" in name}
    assert len(odd) == 5 + 3 + 4


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_changes_memory_alone(name: str) -> None:
    options = {**light(name), **flags(name), "num_classes": 2}
    plain = quick(name, **options).train()
    saving = copy.deepcopy(plain)
    saving.gradient_checkpointing()
    images = torch.randn(2, 3, 48, 40)
    sizes = []
    for model in (plain, saving):
        torch.manual_seed(1)
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = model.training_outputs(images)
        for parameter in model.parameters():
            kept.pop(parameter.data_ptr(), None)
        sizes.append(sum(kept.values()))
        sum(o.square().mean() for o in (outputs.logits, *outputs.deep, outputs.presence)).backward()
    assert sizes[1] < 0.5 * sizes[0]
    for (key, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-8, msg=key)
    for (key, a), b in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(a, b), key


def test_checkpointing_switches_off_again() -> None:
    model = unetzoo.create("unet", base_channels=2)
    model.gradient_checkpointing()
    model.gradient_checkpointing(False)
    logits = model(torch.randn(2, 3, 32, 32))
    assert "Checkpoint" not in type(logits.grad_fn).__name__
    assert not model.encoder.gradient_checkpointing
    assert not model.decoder.gradient_checkpointing
