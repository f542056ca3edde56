"""What the exact layers save, counted: multiply-adds and the memory that autograd keeps, never seconds.

The plain formulation of each network is counted in the same way, on its own weights.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from reference import reference_logits
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import unetzoo

MIB = 2**20


def on_meta(name: str, train: bool) -> tuple[nn.Module, Tensor]:
    """Return a network of shapes alone, and two images of 256²."""
    with torch.device("meta"):
        return unetzoo.create(name).train(train), torch.empty(2, 3, 256, 256)


def multiply_adds(work: Callable[[], Tensor]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops() / 2


def kept(model: nn.Module, work: Callable[[], Tensor]) -> float:
    """Return MiB of the storages that autograd keeps, parameters and buffers not counted."""
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    storages = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return sum(x.untyped_storage().nbytes() for key, x in storages.items() if key not in own) / MIB


@pytest.mark.parametrize(
    ("name", "times_fewer", "allowed"),
    [
        ("unet3p_resnet50", 2.15, 59e9),
        pytest.param("unet3p", 1.80, 219e9, marks=pytest.mark.slow),
        ("unetpp_resnet50", 1.25, 32.5e9),
        ("resunet50", 1.0, 30.5e9),
        ("unet3p_lite_resnet50", 1.0, 33e9),
    ],
)
def test_multiply_adds_for_two_images(name: str, times_fewer: float, allowed: float) -> None:
    model, images = on_meta(name, train=False)
    ours, plain = multiply_adds(lambda: model(images)), multiply_adds(lambda: reference_logits(model, images))
    assert ours <= plain / times_fewer
    assert ours <= allowed


@pytest.mark.parametrize(
    ("name", "plain_mib", "share", "checkpointed"),
    [
        ("unet3p_resnet50", 981, 0.45, 0.20),
        pytest.param("unet3p", 2660, 0.40, 0.20, marks=pytest.mark.slow),
        ("unetpp_resnet50", 551, 0.60, 0.20),
        ("resunet50", 327, 0.65, 0.25),
    ],
)
def test_memory_kept_for_backward(name: str, plain_mib: float, share: float, checkpointed: float) -> None:
    """Of one step on two images; without our layers, the networks kept ``plain_mib``."""
    model, images = on_meta(name, train=True)
    plain = kept(model, lambda: reference_logits(model, images))
    assert plain == pytest.approx(plain_mib, rel=0.01)
    assert kept(model, lambda: model(images)) <= share * plain
    model.gradient_checkpointing()
    assert kept(model, lambda: model(images)) <= checkpointed * plain


def test_meta_keeps_what_a_real_step_keeps() -> None:
    """What is counted above on shapes is what the CPU does."""
    sizes = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            model, images = unetzoo.create("unet3p_resnet18").train(), torch.zeros(2, 3, 64, 64)
            sizes.append(kept(model, lambda m=model, x=images: m(x)))
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-6)


@pytest.mark.parametrize(("kind", "share"), [("Unet", 0.72), ("UnetPlusPlus", 0.55)])
def test_memory_kept_for_backward_against_smp(kind: str, share: float) -> None:
    """Of one step on two images, on smp's own network: what its own code keeps, and ours."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    model, images = on_meta(f"smp_{kind.lower()}_resnet34", train=True)
    with torch.device("meta"):
        theirs = getattr(smp, kind)("resnet34", encoder_weights=None).train()
    assert kept(model, lambda: model(images)) <= share * kept(theirs, lambda: theirs(images))
