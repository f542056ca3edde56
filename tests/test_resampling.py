"""Resample-then-convolve, against ``interpolate`` and ``conv2d`` one after the other."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.export import Dim
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from unetzoo.nn import resampling, resizing, whole_maps
from unetzoo.nn.gpu_costs import BY_KERNELS, BY_TORCH
from unetzoo.nn.resampling import upsample_conv

MODES = ("bilinear", "bilinear_aligned", "nearest")


@pytest.fixture(autouse=True)
def mixed_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mix first whatever the channels: few of them are quicker to test."""
    monkeypatch.setattr(resampling, "MIXED_FIRST", 1)
    monkeypatch.setattr(resampling, "MIXED_FIRST_ENLARGED", 1)


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, size: tuple[int, int], mode: str, padding: int = 1) -> Tensor:
    aligned = None if mode == "nearest" else mode == "bilinear_aligned"
    up = F.interpolate(x, size=size, mode=mode.removesuffix("_aligned"), align_corners=aligned)
    return F.conv2d(up, weight, bias, padding=padding)


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype)


def drawn_map(batch: int, channels: int, height: int, width: int) -> Tensor:
    # Of float64, torch rounds nearest positions in float32 with the channels last and more than three, as those of all
    # other types; else in float64. Layers that mix channels first have more, and maps have their channels last.
    x = drawn(batch, channels, height, width)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def assert_exact(form: object, x: Tensor, size: tuple[int, int], kernel: int, padding: int, mode: str) -> None:
    """Demand values and all gradients to be the plain way's, to 1e-10 of the largest."""
    weight, bias = drawn(3, x.shape[1], kernel, kernel).requires_grad_(), drawn(3).requires_grad_()
    expected = plain(x, weight, bias, size, mode, padding)
    found = form(x, weight, bias, size, mode, padding)
    above = torch.randn_like(expected)
    inputs = (x, weight, bias)
    gradients = torch.autograd.grad(found, inputs, above), torch.autograd.grad(expected, inputs, above)
    for ours, theirs in zip((found, *gradients[0]), (expected, *gradients[1]), strict=True):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).detach().abs().max()) <= 1e-10 * max(1, float(theirs.detach().abs().max()))


def in_whole_maps(*arguments: object) -> Tensor:
    """What a GPU computes."""
    return OnGpu.apply(*arguments)


class OnGpu(torch.autograd.Function):
    """The function of devices other than the CPU, on the CPU."""

    @staticmethod
    def forward(ctx: object, x: Tensor, weight: Tensor, bias: Tensor, *how: object) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = how
        return whole_maps.whole_maps(x, weight, bias, *how)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor | None, ...]:
        found = whole_maps.whole_map_gradients(grad, *ctx.saved_tensors, ctx.needs_input_grad[:2], *ctx.how)
        return (*found, grad.sum(dim=(0, 2, 3)), None, None, None)


sides = st.integers(1, 70)


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return a map's size and the one it is resampled to: by a power of two, cut by up to a pixel, or any."""
    small = draw(sides), draw(sides)
    if draw(st.booleans()):
        scale = draw(st.sampled_from([1, 2, 4, 8, 16, 32]))
        small = tuple(min(side, max(2, 256 // scale)) for side in small)  # large ones take all the time there is
        return small, tuple(max(1, side * scale - draw(st.integers(0, 1))) for side in small)
    return small, (draw(sides), draw(sides))


@pytest.mark.parametrize("form", [upsample_conv, whole_maps.by_taps, in_whole_maps])
@given(
    sizes=cases(),
    channels=st.integers(2, 6),
    batch=st.integers(1, 3),
    kernel=st.sampled_from([(3, 1), (3, 1), (3, 0), (1, 0), (5, 2), (3, 2)]),
    mode=st.sampled_from(MODES),
)
@settings(max_examples=40, deadline=None)
def test_values_and_gradients_are_exact(form, sizes, channels, batch, kernel, mode) -> None:
    small, large = sizes
    if min(large) + 2 * kernel[1] < kernel[0]:
        return
    x = drawn_map(batch, max(4, channels) if mode == "nearest" else channels, *small)
    assert_exact(form, x, large, *kernel, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("small", "large"),
    [
        ((70, 150), (140, 300)),
        ((129, 5), (257, 9)),
        ((5, 9), (160, 288)),
        ((40, 70), (37, 300)),
        ((1, 1), (200, 190)),
        ((160, 6), (305, 141)),
    ],
    ids=str,
)
def test_tiles_meet(mode: str, small: tuple[int, int], large: tuple[int, int]) -> None:
    """Outputs of several tiles in both directions."""
    assert any(side > tile for side, tile in zip(large, resampling.TILE, strict=True))
    assert_exact(upsample_conv, drawn_map(2, 4, *small), large, 3, 1, mode)


def test_batches_are_cut_as_well() -> None:
    """Small maps share a tile with others of the batch: 40 of 16 × 16 take two."""
    assert_exact(upsample_conv, drawn_map(40, 3, 8, 8), (16, 16), 3, 1, "bilinear")


@pytest.mark.parametrize("mode", MODES)
def test_gradients_by_differences(mode: str) -> None:
    x, weight, bias = drawn_map(1, 2, 3, 4), drawn(2, 2, 3, 3).requires_grad_(), drawn(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: upsample_conv(*inputs, (6, 7), mode), (x, weight, bias))
    assert torch.autograd.gradgradcheck(lambda *inputs: upsample_conv(*inputs, (6, 7), mode), (x, weight, bias))


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_gradients_of_one_alone(needed: tuple[bool, bool]) -> None:
    x, weight = drawn_map(2, 3, 5, 6).detach().requires_grad_(needed[0]), drawn(4, 3, 3, 3).requires_grad_(needed[1])
    wanted = x if needed[0] else weight
    found, expected = (
        torch.autograd.grad(form(x, weight, None, (10, 11), "bilinear").square().sum(), wanted)[0]
        for form in (upsample_conv, plain)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)], ids=str
)
@pytest.mark.parametrize("mode", MODES)
def test_narrower_types(dtype: torch.dtype, tolerance: float, mode: str) -> None:
    """Against the plain way in float64 on the same rounded numbers: no worse than a few roundings."""
    x, weight, bias = drawn_map(2, 160, 12, 9).detach().to(dtype), drawn(8, 160, 3, 3).to(dtype), drawn(8).to(dtype)
    expected = plain(x.double(), weight.double(), bias.double(), (24, 17), mode)
    found = upsample_conv(x, weight, bias, (24, 17), mode)
    assert found.dtype == dtype
    assert float((found.double() - expected).abs().max()) <= tolerance * float(expected.max() - expected.min())


def test_autocast() -> None:
    x, weight = drawn(2, 32, 8, 8, dtype=torch.float32).requires_grad_(), drawn(4, 32, 3, 3, dtype=torch.float32)
    weight.requires_grad_()
    expected = plain(x, weight, None, (16, 16), "bilinear")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = upsample_conv(x, weight, None, (16, 16))
    assert found.dtype == torch.bfloat16
    spread = float((expected.max() - expected.min()).detach())
    assert float((found - expected).detach().abs().max()) <= 3e-2 * spread
    above = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(y, (x, weight), above.to(y.dtype)) for y in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.float32
        assert float((a - b).abs().max()) <= 3e-2 * float(b.max() - b.min())


@pytest.mark.parametrize("mode", [MODES[0], *(pytest.param(mode, marks=pytest.mark.slow) for mode in MODES[1:])])
def test_compiles_whole(mode: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(upsample_conv, fullgraph=True, backend="aot_eager", dynamic=True)
    weight = drawn(3, 4, 3, 3).requires_grad_()
    for small, large in (((5, 6), (10, 11)), ((7, 4), (28, 16)), ((9, 9), (18, 18))):
        x = drawn_map(2, 4, *small)
        found, expected = compiled(x, weight, None, large, mode), plain(x, weight, None, large, mode)
        torch.testing.assert_close(found, expected)
        above = torch.randn_like(expected)
        for a, b in zip(*(torch.autograd.grad(y, (x, weight), above) for y in (found, expected)), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("mode", MODES)
def test_exports_with_free_sizes(mode: str) -> None:
    class Part(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor, skip: Tensor) -> Tensor:
            return upsample_conv(x, weight, None, skip.shape[-2:], mode)

    weight = drawn(3, 4, 3, 3)
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    example = (drawn(2, 4, 5, 6), weight, drawn(2, 1, 10, 11))
    exported = torch.export.export(Part(), example, dynamic_shapes=(free, None, free)).module()
    for small, large in (((5, 6), (10, 11)), ((3, 9), (23, 40))):
        x = drawn(3, 4, *small)
        torch.testing.assert_close(exported(x, weight, drawn(3, 1, *large)), plain(x, weight, None, large, mode))


def test_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few channels the plain way; a kernel of 1 first where it takes channels away."""
    monkeypatch.undo()
    assert not resampling.mixes_first(95, 64, (3, 3))
    assert resampling.mixes_first(96, 64, (3, 3))
    assert resampling.mixes_first(8, 8, (1, 1))
    assert not resampling.mixes_first(8, 9, (1, 1))
    for channels, kernel, out in ((95, 3, 2), (96, 3, 2), (8, 1, 8), (8, 1, 9)):
        x, weight, bias = drawn_map(1, channels, 4, 5), drawn(out, channels, kernel, kernel), drawn(out)
        found = upsample_conv(x, weight, bias, (9, 10), "bilinear", padding=kernel // 2)
        torch.testing.assert_close(found, plain(x, weight, bias, (9, 10), "bilinear", kernel // 2))


@pytest.mark.parametrize(
    ("channels", "size", "first"),
    [(64, (20, 28), True), (64, (17, 27), True), (63, (20, 28), False), (64, (10, 14), False), (96, (10, 14), True)],
)
def test_of_maps_that_are_enlarged_more_fewer_channels_are_mixed_first(
    channels: int, size: tuple[int, int], first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By 4, also at sizes that 4 does not divide, 64 channels are enough; not for a kernel of 1 that adds channels."""
    monkeypatch.undo()
    x = torch.empty(2, channels, 5, 7)
    assert resampling.mixes(x, torch.empty(8, channels, 3, 3), size, "bilinear", 1) == first
    assert not resampling.mixes(x, torch.empty(channels + 1, channels, 1, 1), size, "bilinear", 0)


MEASURED = {
    "gpu_h100_2026-11-27": (BY_TORCH, "plain, channels last", ("mixed, remade", "mixed")),
    "gpu_h200_2026-11-29": (BY_KERNELS, "never mixed first", ("mixed first", "mixed first")),
}
"""File of measurements → the costs fitted to it, and its names of what the rule chooses from: not mixed, and mixed
first in inference and in training."""


def measured(file: str) -> Iterator[tuple[tuple[bool, bool], dict[str, Any], float, float, float]]:
    """Yield what was measured on a GPU of each layer with one up-sampled map, in inference and in training.

    That is the key of its costs, its case, and the milliseconds of the plain way, without mixing first, and with it.
    """
    _, unmixed, mixed = MEASURED[file]
    for row in json.loads((ROOT / "docs" / "measured" / f"{file}.json").read_text(encoding="utf-8"))["layers"]:
        up = [source for source in row["sources"] if source[0] == "Upsampled"]
        for train, name in enumerate(("inference", "training")):
            if len(up) == 1:
                case = {
                    "channels": up[0][1],
                    "out_channels": row["out"],
                    "pixels": 8 * math.prod(row["size"]),
                    "scale": row["size"][0] / up[0][2],
                    "joined": len(row["sources"]) > 1,
                }
                times = (row[name][way][0] for way in ("plain, channels last", unmixed, mixed[train]))
                yield ((bool(train), row["dtype"] == "bfloat16"), case, *times)


@pytest.mark.parametrize("file", MEASURED)
def test_the_rule_on_cuda_loses_on_no_layer_that_was_measured(file: str) -> None:
    """By 3 % at the most; where mixing first wins by a third or more it is what the rule takes."""
    taken = 0
    for key, case, plain_ms, unmixed_ms, mixed_ms in measured(file):
        mixes = MEASURED[file][0][key].gain(**case) > 0
        taken += mixes
        if mixes:
            assert mixed_ms <= 1.03 * plain_ms, (key, case)
        else:
            assert mixed_ms > unmixed_ms / 1.5, (key, case)
            if case["channels"] * case["pixels"] > resizing.FEWEST:  # or it is the plain way
                assert unmixed_ms <= 1.03 * plain_ms, (key, case)
    assert taken >= 20


def test_the_rule_follows_what_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's kernels or unetzoo's, at a layer for which the two differ."""

    class OnGpu(NamedTuple):
        shape: tuple[int, ...] = (8, 320, 128, 128)
        device: torch.device = torch.device("cuda")
        dtype: torch.dtype = torch.float32
        requires_grad: bool = False

        def __len__(self) -> int:
            return self.shape[0]

    found = []
    for fits in (False, True):
        monkeypatch.setattr(resampling, "fits", lambda x, size, fits=fits: fits)
        found.append(resampling.mixes(OnGpu(), torch.empty(64, 320, 3, 3), (256, 256), "bilinear", 1))
    assert found == [False, True]


def test_the_rule_on_other_devices_looks_at_channels_alone() -> None:
    weight = torch.empty(64, 2048, 3, 3)
    assert resampling.mixes(torch.empty(1, 2048, 1, 1), weight, (2, 2), "bilinear", 1)
    coarse = torch.empty(1, 2048, 1, 1, device="meta")
    assert resampling.mixes(coarse, weight, (2, 2), "bilinear", 1, joined=True)


def test_nothing_but_the_coarse_map_and_the_weight_is_kept() -> None:
    kept: list[Tensor] = []
    x, weight = drawn_map(1, 8, 4, 4), drawn(2, 8, 3, 3).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        upsample_conv(x, weight, None, (64, 64))
    assert {t.untyped_storage().data_ptr() for t in kept} == {t.untyped_storage().data_ptr() for t in (x, weight)}


class Largest(TorchDispatchMode):
    """Notes the sizes of the memory of tensors, and counts the multiply-adds of convolutions and matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[int] = set()
        self.multiply_adds = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.sizes.add(out.untyped_storage().nbytes())
        if func in (torch.ops.aten.mm.out, torch.ops.aten.bmm.default, torch.ops.aten.mm.default):
            self.multiply_adds += out.numel() * args[0].shape[-1]
        elif func is torch.ops.aten.convolution.default:
            self.multiply_adds += out.numel() * math.prod(args[1].shape[1:])
        return out


def test_work_a_pixel_is_the_same_at_every_size() -> None:
    """Multiply-adds an output pixel, and what is held beside the output, from 128² to 1024²."""
    weight = torch.randn(16, 32, 3, 3)
    work, held = [], []
    for side in (64, 128, 512):
        x = torch.randn(1, 32, side, side)
        upsample_conv(x, weight, None, (2 * side, 2 * side))  # matrices are made once
        with Largest() as seen:
            out = upsample_conv(x, weight, None, (2 * side, 2 * side))
        work.append(seen.multiply_adds / out[0, 0].numel())
        held.append(max(seen.sizes - {x.untyped_storage().nbytes(), out.untyped_storage().nbytes()}))
    assert max(work) <= 1.1 * min(work)
    assert held[2] <= 1.1 * held[0]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("channels", "out", "height", "width"), [(5, 7, 4, 6), (12, 3, 1, 5), (1, 1, 1, 1)])
def test_doubled_maps_of_few_channels_by_phases(
    channels: int, out: int, height: int, width: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "MIXED_FIRST", 96)
    size = (2 * height, 2 * width)
    x, weight = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, channels, height, width), (out, channels, 3, 3))
    )
    shift = torch.randn(out, dtype=torch.float64, requires_grad=True) if bias else None
    given = [x, weight] if shift is None else [x, weight, shift]
    found = upsample_conv(x, weight, shift, size, "nearest")
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, shift, padding=1)
    grad = torch.randn_like(plain)
    for ours, theirs in zip(
        (found, *torch.autograd.grad(found, given, grad)),
        (plain, *torch.autograd.grad(plain, given, grad, retain_graph=True)),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        upsample_conv(x, weight, shift, size, "nearest")
    assert counter.get_total_flops() == 2 * 2 * (height + 1) * (width + 1) * 4 * out * channels * 4
    frozen = torch.autograd.grad(upsample_conv(x, weight.detach(), None, size, "nearest"), x, grad)
    assert torch.allclose(frozen[0], torch.autograd.grad(plain, x, grad)[0], rtol=1e-12, atol=1e-12)


def test_phases_have_second_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "MIXED_FIRST", 96)
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((1, 2, 2, 1), (2, 2, 3, 3)))
    assert torch.autograd.gradgradcheck(lambda *given: upsample_conv(*given, None, (4, 2), "nearest"), (x, weight))
