"""The exact layers on a GPU, against the CPU in float64. Skipped where there is none."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import light
from reference import reference_logits

import unetzoo
from unetzoo.nn.resampling import resize, upsample_conv

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]

NAMES = ["unet", "unetpp_resnet18", "unet3p", "unet3p_resnet18", "unet3p_lite_resnet18"]


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep float32 convolutions from running in TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bilinear_aligned"])
@pytest.mark.parametrize(("small", "large"), [((8, 9), (16, 18)), ((5, 7), (80, 99)), ((1, 1), (33, 2))], ids=str)
def test_upsample_conv(mode: str, small: tuple[int, int], large: tuple[int, int]) -> None:
    x = torch.randn(2, 160, *small, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    inputs = (x.requires_grad_(), torch.randn(8, 160, 3, 3, dtype=torch.float64, requires_grad=True))
    there = [tensor.detach().cuda().requires_grad_() for tensor in inputs]
    expected = F.conv2d(resize(inputs[0], large, mode), inputs[1], padding=1)
    found = upsample_conv(*there, None, large, mode)
    torch.testing.assert_close(found.cpu(), expected)
    above = torch.randn_like(expected)
    theirs = torch.autograd.grad(expected, inputs, above)
    for a, b in zip(torch.autograd.grad(found, there, above.cuda()), theirs, strict=True):
        torch.testing.assert_close(a.cpu(), b)


@pytest.mark.parametrize("name", NAMES)
def test_networks(name: str) -> None:
    """Logits and gradients in float32, against the plain formulation on the CPU in float64."""
    model = unetzoo.create(name, **light(name)).train()
    plain, there = copy.deepcopy(model).double(), copy.deepcopy(model).cuda()
    images = torch.randn(2, 3, 40, 51)
    expected = reference_logits(plain, images.double())
    found = there(images.cuda())
    spread = float((expected.max() - expected.min()).detach())
    assert float((found.cpu() - expected).detach().abs().max()) <= 1e-4 * spread
    expected.square().mean().backward()
    found.square().mean().backward()
    for (key, a), b in zip(there.named_parameters(), plain.parameters(), strict=True):
        assert float((a.grad.cpu() - b.grad).abs().max()) <= 1e-2 * float(b.grad.abs().max()), key


# The compiler of torch 2.11 imports what torch itself calls deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_optimized(name: str, dtype: torch.dtype, compiled: bool) -> None:
    model = unetzoo.create(name, **light(name)).eval()
    images = torch.randn(2, 3, 40, 51)
    with torch.no_grad():
        expected = model(images)
        found = unetzoo.optimize(model.cuda(), dtype=dtype, compile=compiled)(images.cuda())
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 0.05}[dtype]
    assert float((found.cpu() - expected).abs().max()) <= tolerance * float(expected.max() - expected.min())


def test_memory_of_a_step() -> None:
    """A training step takes at most 60 % of the plain one's memory beside the weights."""
    peaks = []
    for plain in (True, False):
        model = unetzoo.create("unet3p_resnet50").cuda().train()
        images = torch.randn(2, 3, 256, 256, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        (reference_logits(model, images) if plain else model(images)).square().mean().backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        del model
    assert peaks[1] <= 0.6 * peaks[0]
