"""The layers, against torch's own operators and closed forms."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

import unetzoo
from unetzoo.nn import layers
from unetzoo.nn.convolutions import Upsampled
from unetzoo.nn.layers import ConvStyle, DoubleConv, make_norm
from unetzoo.nn.layouts import settled
from unetzoo.nn.norming import normed
from unetzoo.nn.resampling import resize
from unetzoo.pretrained import adapt_input_conv

sides = st.integers(1, 40)


@given(height=sides, width=sides, scale=st.sampled_from([1, 2, 4, 8, 16]))
@settings(max_examples=60, deadline=None)
def test_pooling_rounds_up_and_sees_every_pixel(height: int, width: int, scale: int) -> None:
    x = torch.randn(2, 3, height, width)
    pooled = layers.max_pool(x, scale)
    for i in range(-(-height // scale)):
        for j in range(-(-width // scale)):
            window = x[:, :, i * scale : (i + 1) * scale, j * scale : (j + 1) * scale]
            assert torch.equal(pooled[:, :, i, j], window.amax((2, 3)))
    assert pooled.shape[2:] == (-(-height // scale), -(-width // scale))


@given(height=sides, width=sides, scale=st.sampled_from([2, 4, 8, 16]))
@settings(max_examples=60, deadline=None)
def test_what_export_sees_equals_the_operators(height: int, width: int, scale: int) -> None:
    x = torch.randn(1, 2, height, width)
    size = (-(-height // scale), -(-width // scale))
    up = torch.randn(1, 2, 2 * size[0], 2 * size[1])
    eager = layers.max_pool(x, scale), layers.adaptive_max_pool(x, size, scale), layers.crop(up, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_exporting", lambda: True)
        exported = layers.max_pool(x, scale), layers.adaptive_max_pool(x, size, scale), layers.crop(up, size)
    assert torch.equal(eager[1], F.adaptive_max_pool2d(x, size))
    for a, b in zip(eager, exported, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_instance_norm(size: tuple[int, int]) -> None:
    norm = layers.InstanceNorm2d(4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(3, 4, *size)
    centred = x - x.mean((2, 3), keepdim=True)
    expected = centred / (centred.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
    expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected, rtol=1e-5, atol=1e-4)
    if size != (1, 1):
        torch.testing.assert_close(norm(x), F.instance_norm(x, weight=norm.weight, bias=norm.bias))


def test_layer_norm_is_torchvision_s() -> None:
    from torchvision.models.convnext import LayerNorm2d

    ours, theirs = layers.LayerNorm2d(6, eps=1e-6), LayerNorm2d(6, eps=1e-6)
    nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 5, 3)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(1, 1), (2, 1), (3, 1), (16, 8), (32, 16), (64, 32), (320, 32), (2048, 32), (96, 32), (37, 1)],
)
def test_group_count(channels: int, groups: int) -> None:
    assert layers.group_count(channels) == groups


def test_input_policies() -> None:
    weight = torch.randn(5, 3, 7, 7)
    red, green, blue = weight.unbind(1)
    repeated = torch.stack([red, green, blue, red, green], 1)
    torch.testing.assert_close(adapt_input_conv(weight, 5, "repeat"), repeated * 3 / 5)
    torch.testing.assert_close(adapt_input_conv(weight, 2, "repeat"), torch.stack([red, green], 1) * 3 / 2)
    mean = (red + green + blue) / 3
    torch.testing.assert_close(adapt_input_conv(weight, 2, "mean"), torch.stack([mean, mean], 1))
    torch.testing.assert_close(adapt_input_conv(weight, 1, "sum"), (3 * mean)[:, None])
    kept = adapt_input_conv(weight, 13, "keep_rgb")
    assert torch.equal(kept[:, :3], weight)
    assert kept[:, 3:].std().item() == pytest.approx((2 / (5 * 49)) ** 0.5, rel=0.1)
    assert torch.equal(adapt_input_conv(weight, 2, "keep_rgb"), weight[:, :2])


@pytest.mark.parametrize("channels", [1, 4, 6, 13])
def test_sum_and_repeat_answer_grey_images_as_rgb_did(channels: int) -> None:
    weight = torch.randn(4, 3, 7, 7, dtype=torch.float64)
    grey = torch.randn(1, 1, 20, 20, dtype=torch.float64)
    expected = F.conv2d(grey.repeat(1, 3, 1, 1), weight)
    for policy in ("sum", "repeat") if channels % 3 == 0 else ("sum",):
        adapted = adapt_input_conv(weight, channels, policy)
        torch.testing.assert_close(F.conv2d(grey.repeat(1, channels, 1, 1), adapted), expected)


@pytest.mark.parametrize(
    ("mode", "size"), [("transpose", (7, 9)), ("nearest", (7, 9)), ("bilinear", (8, 10)), ("bilinear_aligned", (8, 10))]
)
def test_upsampling(mode: str, size: tuple[int, int]) -> None:
    up = layers.Upsample(6, 4, 2, mode, bias=True)
    x = torch.randn(2, 6, 4, 5)
    if mode == "transpose":
        expected = F.conv_transpose2d(x, up.conv.weight, up.conv.bias, stride=2)[:, :, :7, :9]
    elif mode == "nearest":
        expected = x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :7, :9]
    else:
        expected = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=mode == "bilinear_aligned")(x)
    found = up(x, size)
    if isinstance(found, Upsampled):
        found = resize(found.x, found.size, found.mode)
    torch.testing.assert_close(found, expected)
    assert up.out_channels == expected.shape[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_norm_in_inference_is_written_over_its_input(dtype: torch.dtype) -> None:
    norm = make_norm("batch", 5).to(dtype).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 2)
    x = torch.randn(2, 5, 6, 7, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = norm(x)
        found = normed(norm, x)
    assert found.data_ptr() == x.data_ptr()
    assert torch.allclose(found, expected, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("why", ["training", "gradient", "hook", "half", "instance norm"])
def test_a_norm_that_cannot_be_written_over_its_input_is_called(why: str) -> None:
    norm = make_norm("instance" if why == "instance norm" else "batch", 5).train(why == "training")
    x = torch.randn(2, 5, 6, 7)
    seen: list[Tensor] = []
    if why == "hook":
        norm.register_forward_hook(lambda *given: seen.append(given[1][0]))
    if why == "half":
        norm, x = norm.bfloat16(), x.bfloat16()
    before = x.clone()
    with torch.set_grad_enabled(why == "gradient"):
        found = normed(norm, x)
        expected = copy.deepcopy(norm)(x)
    assert torch.equal(x, before)
    assert torch.equal(found, expected)
    assert not seen or seen[0] is x


def test_what_a_hook_keeps_of_a_convolution_is_not_written_over() -> None:
    layer = DoubleConv(3, 3, ConvStyle()).eval()
    kept: list[Tensor] = []
    for part in layer:
        part.conv.register_forward_hook(lambda *given: kept.append(given[2]))
    with torch.no_grad():
        x = torch.randn(1, 3, 8, 8)
        layer(x)
        first = F.conv2d(x, layer[0].conv.weight, padding=1)
        expected = first, F.conv2d(layer[0].norm(first).relu(), layer[1].conv.weight, padding=1)
    for found, right in zip(kept, expected, strict=True):
        torch.testing.assert_close(found, right)


@pytest.mark.parametrize(("side", "usual"), [(8, True), (32, False)])
def test_layers_with_more_weights_than_pixels_are_computed_in_the_usual_layout(side: int, usual: bool) -> None:
    x = torch.randn(1, 64, side, side).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3)
    seen: list[Tensor] = []

    def part(given: Tensor) -> Tensor:
        seen.append(given)
        return F.conv2d(given, weight, padding=1)

    expected = settled(part, x, weight)  # with gradients, as it lies
    with torch.no_grad():
        found = settled(part, x, weight)
        settled(part, x, weight.contiguous(memory_format=torch.channels_last))  # as optimize lays it out
        settled(part, x.contiguous(), weight)
    assert [given is x for given in seen] == [True, not usual, True, False]
    assert seen[1].is_contiguous() is usual
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_resnet_gives_its_maps_with_the_channels_last() -> None:
    """Whichever way it computes them: what is transposed or concatenated next would be slower otherwise."""
    encoder = unetzoo.create("unet_resnet18").eval().double().encoder
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected, found = (encoder(x) for x in (images, images.contiguous(memory_format=torch.channels_last)))
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in found)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-10)
