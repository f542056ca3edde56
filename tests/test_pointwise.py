"""1×1 convolutions and linear layers by oneDNN: which library computes what, and that the numbers are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from drawn import quick
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import unetzoo
from unetzoo.nn.packing import pack
from unetzoo.nn.pointwise import FEWEST, free_dilation, make_pointwise

ONEDNN = torch.backends.mkldnn.is_available()
needs_onednn = pytest.mark.skipif(not ONEDNN, reason="this torch was built without oneDNN")
LIBRARIES = {
    "aten::_slow_conv2d_forward": "BLAS",
    "aten::addmm": "BLAS",
    "aten::mkldnn_convolution": "oneDNN",
    "mkldnn::_convolution_pointwise": "oneDNN",
    "mkldnn::_linear_pointwise": "oneDNN",
    "aten::slow_conv_dilated2d": "a loop",
}
MATRICES = ("aten::addmm", "mkldnn::_linear_pointwise")


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pointwise_by(module: nn.Module, images: Tensor) -> Counter[str]:
    """Return how many 1×1 convolutions and linear layers each library computed, by torch's profiler."""
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        module(images)
    by: Counter[str] = Counter()
    for event in seen.key_averages(group_by_input_shape=True):
        shapes = event.input_shapes
        if event.key in LIBRARIES and (event.key in MATRICES or shapes[1][2:] == [1, 1]):
            by[LIBRARIES[event.key]] += event.count
    return by


@needs_onednn
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["unet_mobilenet_v3_large", "unet_convnext_tiny"])
def test_all_of_a_copy_are_computed_by_onednn(name: str) -> None:
    """But a head of one channel. With one thread, torch by itself takes BLAS, and for what is small a loop."""
    model = quick(name).eval()
    images = torch.randn(2, 3, 128, 128)
    before, after = pointwise_by(model, images), pointwise_by(unetzoo.optimize(model), images)
    assert before["BLAS"] > after["BLAS"] + 15
    assert after["BLAS"] <= 1
    assert after["oneDNN"] >= before["BLAS"] - 1
    assert not after["a loop"]
    assert not pointwise_by(unetzoo.optimize(model), images[:1, :, :32, :32])["a loop"]


@needs_onednn
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(("channels", "out"), [(7, 5), (64, 64), (96, 384), (3, 1)])
def test_numbers_are_those_of_the_definition(channels: int, out: int, last: bool) -> None:
    generator = torch.Generator().manual_seed(channels)
    conv, linear = nn.Conv2d(channels, out, 1), nn.Linear(channels, out)
    x = torch.randn(2, channels, 57, 61, generator=generator)
    pair = nn.ModuleList([conv, linear]).requires_grad_(False)
    pack(pair)
    make_pointwise(pair)
    x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    by_hand = torch.einsum("nchw,oc->nohw", x.double(), conv.weight[:, :, 0, 0].double()) + conv.bias[:, None, None]
    torch.testing.assert_close(conv(x).double(), by_hand, rtol=1e-5, atol=1e-5)
    rows = x.permute(0, 2, 3, 1)
    by_hand = rows.double() @ linear.weight.double().T + linear.bias
    torch.testing.assert_close(linear(rows).double(), by_hand, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(linear(rows[0, 0]).double(), by_hand[0, 0], rtol=1e-5, atol=1e-5)
    assert linear(rows[:0]).shape == (0, 57, 61, out)


@needs_onednn
@pytest.mark.usefixtures("one_thread")
def test_where_a_dilation_is_no_help_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 1, 1)
    assert free_dilation(x, weight) == 2
    assert free_dilation(x, torch.randn(64, 64, 3, 3)) == 1
    assert free_dilation(x, weight[: FEWEST - 1]) == 1
    assert free_dilation(x[:, :16].contiguous(), weight[:16, :16]) == 1  # channels first, and few
    assert free_dilation(x[:1], weight) == 1  # a small map of one image
    assert free_dilation(x.double(), weight.double()) == 1
    torch.set_num_threads(2)
    assert free_dilation(x, weight) == 1
    torch.set_num_threads(1)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert free_dilation(x, weight) == 1


def test_what_exports_take_apart_has_no_dilation() -> None:
    model = quick("resunet18").eval()
    exported = torch.export.export(unetzoo.optimize(model), (torch.randn(1, 3, 64, 64),))
    convolutions = [node for node in exported.graph.nodes if "conv2d" in str(node.target)]
    assert convolutions
    assert not any(node.args[5:6] == ([2, 2],) for node in convolutions)


@pytest.mark.usefixtures("one_thread")
def test_gradients_of_mixed_maps_are_those_of_the_plain_way() -> None:
    from unetzoo.nn.resampling import upsample_conv

    x = torch.randn(1, 128, 8, 9).requires_grad_()
    weight = torch.randn(8, 128, 3, 3).requires_grad_()
    found = torch.autograd.grad(upsample_conv(x, weight, None, (16, 18), "bilinear", 1).square().sum(), (x, weight))
    doubled = [tensor.detach().double().requires_grad_() for tensor in (x, weight)]
    wide = F.interpolate(doubled[0], (16, 18), mode="bilinear")
    expected = torch.autograd.grad(F.conv2d(wide, doubled[1], padding=1).square().sum(), doubled)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
