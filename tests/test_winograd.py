"""3×3 convolutions by Winograd's algorithm: the matrices of the paper, and the definition in float64."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from drawn import quick
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

import unetzoo
from unetzoo.nn import packing, winograd, winograd_tiles
from unetzoo.nn.convolutions import ConcatConv
from unetzoo.nn.packing import PackedConv, pack
from unetzoo.nn.remaking import Convolution
from unetzoo.nn.winograd import Ways, by_points, gains, input_gradient, kernel_gradient, ways_in_training
from unetzoo.nn.winograd_tiles import (
    Blocks,
    GradientTransform,
    InputTransform,
    OutputTransform,
    kernel_of_points,
    points_of_kernel,
)

pytestmark = pytest.mark.skipif(not packing._has_operators(), reason="this torch was built without oneDNN")

# Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), equation 10, for rows as for columns.
BT = torch.tensor([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], dtype=torch.float64)
G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
AT = torch.tensor([[1, 1, 1, 0], [0, 1, -1, -1]], dtype=torch.float64)

SIZES = [(2, 8, 8), (3, 5, 7), (1, 1, 9), (2, 2, 2), (5, 3, 1), (1, 6, 300)]
"""Images, and pixels down and across: even, odd, of a single line, and of several blocks across."""
PADDINGS = [(1, 1), (0, 0), (2, 2), (0, 1), (2, 1)]
FITTING = [(size, (a, b)) for size in SIZES for a, b in PADDINGS if min(size[1] + 2 * a, size[2] + 2 * b) >= 3]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).float()


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def check(found: Tensor | None, expected: Tensor, terms: Tensor) -> None:
    """Assert that they differ by rounding alone: by 4 units of the last place of the sum of all terms' sizes."""
    assert found is not None
    assert found.shape == expected.shape
    assert float((found.double() - expected).abs().max()) <= 4 * torch.finfo(torch.float32).eps * float(terms.max())


@pytest.fixture(params=["one block", "many blocks", "kernel in oneDNN's order"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the ways to share tiles out and to multiply."""
    if request.param != "one block":
        monkeypatch.setattr(winograd_tiles, "BLOCK", 64)
        monkeypatch.setattr(winograd_tiles, "FEWEST", 3)
        monkeypatch.setattr(winograd_tiles, "WIDEST", 40)
        monkeypatch.setattr(winograd, "MANY", 3 if request.param == "many blocks" else 0)
    return str(request.param)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Take these ways for small layers, too; the names of those that are taken."""
    for name in ("WORK", "CHANNELS", "CHANNELS_OF_THREADS", "CHANNELS_OF_KERNEL", "FEWEST_TILES"):
        monkeypatch.setattr(winograd, name, 1)
    monkeypatch.setattr(winograd, "FEWEST_KEPT", 1)
    taken: list[str] = []

    def counted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: object, **kwargs: object) -> Tensor:
            taken.append(function.__name__)
            return function(*args, **kwargs)

        return call

    for function in (by_points, input_gradient, kernel_gradient):
        monkeypatch.setattr(winograd, function.__name__, counted(function))
    return taken


def transformed(kind: type[InputTransform], blocks: Blocks, x: Tensor) -> Tensor:
    """Return the points (4, 4, N, rows, columns, C) of the first block of ``x`` (N, H, W, C)."""
    points = torch.empty(4, 4, *blocks.shape, x.shape[-1])
    transform = kind(blocks, points.unbind())
    transform.move(x, (0, 0, 0))
    for row in range(4):
        transform.write(row)
    return points


def test_points_are_those_of_the_paper() -> None:
    """A tile, a kernel, a gradient and an output, each by the matrices in float64."""
    x, weight, grad = drawn(1, 4, 4, 5), drawn(3, 5, 3, 3, seed=1), drawn(1, 2, 2, 3, seed=2)
    blocks = Blocks.of(1, 2, 2, 8)
    points = transformed(InputTransform, blocks, x)
    expected = torch.einsum("ir,jc,rcd->ijd", BT, BT, x[0].double())
    torch.testing.assert_close(points[:, :, 0, 0, 0].double(), expected, rtol=0, atol=1e-6)

    kernel = points_of_kernel(weight).view(4, 4, 3, 5)
    expected = torch.einsum("ir,jc,odrc->ijod", G, G, weight.double())
    torch.testing.assert_close(kernel.double(), expected, rtol=0, atol=1e-6)

    of_grad = transformed(GradientTransform, blocks, grad)
    spread = torch.einsum("ri,cj,rco->ijo", AT, AT, grad[0].double())
    of_kernel = torch.einsum("ijo,ijd->ijod", spread, torch.einsum("ir,jc,rcd->ijd", BT, BT, x[0].double()))
    product = torch.einsum("ijo,ijd->ijod", of_grad[:, :, 0, 0, 0], points[:, :, 0, 0, 0]).flatten(0, 1)
    expected = torch.einsum("ir,jc,ijod->odrc", G, G, of_kernel)
    torch.testing.assert_close(kernel_of_points(product).double(), expected, rtol=0, atol=1e-5)

    outputs, out = OutputTransform(blocks, 3), torch.empty(1, 2, 2, 3)
    products = drawn(4, 4, 1, 1, 1, 3, seed=3)
    for row in range(4):
        outputs.read(row, products[row].clone().unbind())
    outputs.write(out)
    expected = torch.einsum("ri,cj,ijo->rco", AT, AT, products[:, :, 0, 0, 0].double())
    torch.testing.assert_close(out[0].double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "padding"), FITTING)
def test_convolution_and_gradients_are_those_of_the_definition(
    size: tuple[int, int, int], padding: tuple[int, int], way: str
) -> None:
    images, height, width = size
    x, weight, bias = last(drawn(images, 5, height, width)), drawn(7, 5, 3, 3, seed=1), drawn(7, seed=2)
    wide = [each.double().requires_grad_() for each in (x, weight, bias)]
    expected = F.conv2d(*wide, padding=padding)
    grad = last(drawn(*expected.shape, seed=3))
    for_x, for_weight, _ = torch.autograd.grad(expected, wide, grad.double())
    sizes = [each.detach().abs().requires_grad_() for each in wide]
    terms = F.conv2d(*sizes, padding=padding)
    terms_of_x, terms_of_weight, _ = torch.autograd.grad(terms, sizes, grad.double().abs())
    with torch.no_grad():
        found = by_points(x, weight, bias, padding)
        assert found.is_contiguous(memory_format=torch.channels_last)
        check(found, expected, terms)
        check(input_gradient(grad, weight, padding), for_x, terms_of_x)
        check(kernel_gradient(grad, x, padding), for_weight, terms_of_weight)


def test_layouts_of_what_is_given_do_not_matter() -> None:
    """Maps with channels first, parts of larger ones, and a gradient that is one number for all pixels."""
    wide, weight = drawn(2, 9, 8, 9), drawn(4, 5, 3, 3, seed=1)
    ones = torch.ones(()).expand(2, 4, 8, 9)
    for x in (wide[:, 2:7], last(wide)[:, 2:7]):
        torch.testing.assert_close(by_points(x, weight), F.conv2d(x, weight, padding=1), rtol=0, atol=1e-5)
        given = [x.detach().clone().requires_grad_(), weight.clone().requires_grad_()]
        expected = torch.autograd.grad(F.conv2d(*given, padding=1).sum(), given)
        torch.testing.assert_close(input_gradient(ones, weight, (1, 1)), expected[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(kernel_gradient(ones, x, (1, 1)), expected[1], rtol=0, atol=1e-4)


def test_no_pixel_reaches_further_than_the_kernel(way: str) -> None:
    """A pixel that is no number makes 3×3 of the output so, wherever it is in its tile."""
    weight = drawn(4, 3, 3, 3, seed=1)
    for row in range(7):
        for column in range(6):
            x = last(drawn(1, 3, 7, 6))
            x[0, 1, row, column] = torch.nan
            assert torch.equal(by_points(x, weight).isnan(), F.conv2d(x, weight, padding=1).isnan())


def test_rounding_is_no_worse_than_that_of_torch() -> None:
    """Mean square of the errors of sums over 512 channels, of positive maps as after a ReLU."""
    x, weight = last(drawn(1, 512, 16, 16).relu()), drawn(64, 512, 3, 3, seed=1)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    ours, theirs = (
        (y.double() - exact).square().mean() for y in (by_points(x, weight), F.conv2d(x, weight, padding=1))
    )
    assert float(ours) <= float(theirs)


def test_where_it_is_the_faster_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """By channels, tiles and threads; and never where a derivative, another program or another type needs more."""
    x, weight = last(torch.ones(2, 256, 32, 32)), torch.ones(256, 256, 3, 3)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert ways_in_training(x, weight, (1, 1)) == Ways(True, True, True)
        assert gains(x, weight, (1, 1))
        assert not gains(last(x[:, :, :8, :8]), weight, (1, 1))
        few = last(torch.ones(2, 64, 128, 128)), torch.ones(64, 64, 3, 3)
        assert ways_in_training(*few, (1, 1)) == Ways(False, False, True)
        assert ways_in_training(last(few[0][..., :32, :32]), few[1], (1, 1)) == Ways()
        narrow = last(torch.ones(2, 256, 64, 64)), torch.ones(64, 256, 3, 3)
        assert gains(*narrow, (1, 1))
        for channels, own in ((96, False), (100, True)):
            assert gains(last(torch.ones(2, channels, 64, 64)), torch.ones(channels, channels, 3, 3), (1, 1)) == own
        small = last(torch.ones(2, 512, 12, 12)), torch.ones(512, 512, 3, 3)  # 72 tiles
        assert not gains(*small, (1, 1))
        assert gains(*small, (1, 1), kept=True)
        torch.set_num_threads(2)
        assert not gains(*narrow, (1, 1))
        assert ways_in_training(*few, (1, 1)) == Ways()
        assert ways_in_training(x, weight, (1, 1)) == Ways(True, True, True)
    finally:
        torch.set_num_threads(before)
    assert not gains(x.double(), weight.double(), (1, 1))
    assert not gains(x.bfloat16(), weight.bfloat16(), (1, 1))
    assert not gains(x, weight[..., :1], (1, 1))
    assert not gains(x.contiguous(), weight, (1, 1))
    assert not gains(x, weight.requires_grad_(), (1, 1))
    with torch.no_grad():
        assert gains(x, weight, (1, 1))
        with FlopCounterMode(display=False):
            assert not gains(x, weight, (1, 1))
        assert not any(Convolution((2, 2), (1, 1))._ways(x, weight))
        monkeypatch.setattr("unetzoo.nn.pointwise.has_onednn", lambda: False)
        assert not gains(x, weight, (1, 1))


def test_a_layer_trains_as_before(always: list[str]) -> None:
    """Values, gradients, those of a bias alone, gradients of gradients, and a tangent, against float64."""
    conv = ConcatConv(6, 8, 3, padding=1, bias=True)
    exact = copy.deepcopy(conv).double()
    x = last(drawn(2, 6, 9, 8)).requires_grad_()
    parameters, wide = [x, *conv.parameters()], [x.detach().double().requires_grad_(), *exact.parameters()]
    out, expected = conv(x), exact(wide[0])
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)
    found = torch.autograd.grad(out.square().sum(), parameters, create_graph=True)
    theirs = torch.autograd.grad(expected.square().sum(), wide, create_graph=True)
    once = torch.autograd.grad(conv(x).square().sum(), parameters)
    assert {"by_points", "input_gradient", "kernel_gradient"} <= set(always)
    for a, b, c in zip(found, theirs, once, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(c.double(), b, rtol=1e-5, atol=1e-4)
    twice = torch.autograd.grad(sum(y.square().sum() for y in found), parameters)
    theirs = torch.autograd.grad(sum(y.square().sum() for y in theirs), wide)
    for a, b in zip(twice, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-2)
    conv.weight.requires_grad_(False)
    (of_bias,) = torch.autograd.grad(conv(x.detach()).sum(), [conv.bias])
    torch.testing.assert_close(of_bias, torch.full((8,), 2.0 * 9 * 8))
    with torch.no_grad(), warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own scripts
        dual = forward_ad.make_dual(x.detach(), torch.ones_like(x))
        tangent = forward_ad.unpack_dual(conv(dual)).tangent
        torch.testing.assert_close(tangent, F.conv2d(torch.ones_like(x), conv.weight, padding=1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("after", [None, nn.ReLU(), nn.LeakyReLU(0.1)])
@pytest.mark.parametrize("added", [False, True])
def test_an_optimised_layer(after: nn.Module | None, added: bool, always: list[str]) -> None:
    """With sum and activation, at changing sizes and numbers of threads; a new weight is noticed, a copy is its own."""
    conv = nn.Conv2d(6, 8, 3, padding=1)
    packed = copy.deepcopy(conv)
    pack(packed)
    assert isinstance(packed, PackedConv)
    threads = torch.get_num_threads()
    try:
        for number, (height, width) in enumerate([(9, 8), (40, 6), (9, 8), (33, 300)]):
            torch.set_num_threads(1 + number % 2)
            with torch.no_grad():
                for one in (conv, packed):
                    one.weight[0, 0, 0, 0] = number
                x = last(drawn(3, 6, height, width, seed=number))
                expected = conv(x)
                add = drawn(*expected.shape, seed=9) if added else None
                expected = expected if add is None else expected + add
                expected = expected if after is None else after(expected)
                found = [one(x, add, after) for one in (packed, copy.deepcopy(packed))]
            for one in found:
                torch.testing.assert_close(one, expected, rtol=0, atol=2e-5)
    finally:
        torch.set_num_threads(threads)
    assert always == ["by_points"] * 8


@pytest.mark.parametrize("name", ["resunet18", "unetpp_resnet18", "unet3p_resnet18", "unet"])
def test_networks_compute_and_learn_the_same(name: str, always: list[str]) -> None:
    """Logits, gradients, and logits of an optimised copy, against the same network in float64."""
    model = quick(name, num_classes=2).eval()
    exact = copy.deepcopy(model).double()
    x = drawn(2, 3, 64, 64)
    with torch.no_grad():
        expected = exact(x.double())
        spread = float(expected.std())
        optimised = unetzoo.optimize(model)
        for one in (model, optimised):
            assert float((one(x).double() - expected).abs().max()) < 2e-4 * spread
    assert "by_points" in always
    always.clear()
    model(x).square().mean().backward()
    exact(x.double()).square().mean().backward()
    assert {"by_points", "input_gradient", "kernel_gradient"} <= set(always)
    for (key, a), b in zip(model.named_parameters(), exact.parameters(), strict=True):
        if b.grad is not None and float(b.grad.abs().max()):
            assert a.grad is not None
            assert float((a.grad.double() - b.grad).norm() / b.grad.norm()) < 1e-3, key


def test_nothing_depends_on_what_a_program_has_made_usual(always: list[str]) -> None:
    """Types and devices of new tensors, and a backward pass in autocast, which rounds products."""
    conv = ConcatConv(6, 8, 3, padding=1, bias=True)
    x = last(drawn(2, 6, 9, 8)).requires_grad_()
    expected = torch.autograd.grad(conv(x).square().sum(), [x, *conv.parameters()])
    packed = copy.deepcopy(nn.Sequential(nn.Conv2d(6, 8, 3, padding=1))).requires_grad_(False)
    pack(packed)
    of_copy = packed(x.detach())
    usual = torch.get_default_dtype()
    for dtype, device in ((torch.float64, "cpu"), (torch.float32, "meta")):
        always.clear()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                found = torch.autograd.grad(conv(x).square().sum(), [x, *conv.parameters()])
                again = packed(x.detach())
        finally:
            torch.set_default_dtype(usual)
        assert {"by_points", "input_gradient", "kernel_gradient"} <= set(always)
        assert all(map(torch.equal, found, expected))
        assert torch.equal(again, of_copy)
    out = conv(x).square().sum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(out, [x, *conv.parameters()])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_what_torch_refuses_is_refused(always: list[str]) -> None:
    """A wrong number of channels, and a bias of another type or size."""
    form, weight = Convolution(padding=(1, 1)), drawn(8, 6, 3, 3)
    for channels, bias in ((1, None), (6, torch.zeros(8).double()), (6, torch.zeros(1))):
        with pytest.raises(RuntimeError, match=r"channels|bias"):
            form(last(drawn(2, channels, 9, 8)), weight, bias)
    assert not always


def test_points_of_a_kernel_are_made_for_some_channels_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which needs less memory, and gives what the definition does in float64."""
    x, weight, grad = last(drawn(2, 80, 8, 8)), drawn(150, 80, 3, 3, seed=1), last(drawn(2, 150, 8, 8, seed=2))
    wide = [each.double().requires_grad_() for each in (x, weight)]
    expected = F.conv2d(*wide, padding=1)
    wanted = [expected.detach(), *torch.autograd.grad(expected, wide, grad.double())]
    made: list[int] = []

    def counted(kernel: Tensor, turned: bool = False, row: int | None = None) -> Tensor:
        made.append(kernel.shape[int(turned)])
        return points_of_kernel(kernel, turned, row)

    def counted_back(points: Tensor) -> Tensor:
        made.append(points.shape[1])
        return kernel_of_points(points)

    monkeypatch.setattr(winograd, "MOST_AT_ONCE", 1)
    monkeypatch.setattr(winograd, "points_of_kernel", counted)
    monkeypatch.setattr(winograd, "kernel_of_points", counted_back)
    found = by_points(x, weight), input_gradient(grad, weight, (1, 1)), kernel_gradient(grad, x, (1, 1))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-6 * float(b.abs().max()))
    assert made == [64, 64, 22, 64, 16, 64, 64, 22]


def test_what_is_too_large_or_no_number(way: str) -> None:
    """As the documentation says: a sum of four pixels overflows, and a pixel reaches all taps of its channel alone."""
    x, weight = last(torch.full((1, 3, 8, 8), 1e38)), torch.full((4, 3, 3, 3), 1e-3)
    assert F.conv2d(x, weight, padding=1).isfinite().all()
    assert not by_points(x, weight).isfinite().all()
    grad = last(drawn(1, 4, 8, 8))
    x = last(drawn(1, 3, 8, 8))
    x[0, 1, 0, 0] = torch.nan
    broken = kernel_gradient(grad, x, (1, 1)).isnan()
    assert broken[:, 1].all()
    assert not broken[:, [0, 2]].any()


def test_only_float32_joins_maps_for_it() -> None:
    """Not bfloat16, in which maps are faster one by one."""
    weight = torch.ones(256, 512, 3, 3)
    assert winograd.joins(torch.ones(1, 256, 128, 128), weight)
    assert not winograd.joins(torch.ones(1, 256, 128, 128).bfloat16(), weight.bfloat16())
    with FlopCounterMode(display=False):
        assert not winograd.joins(torch.ones(1, 256, 128, 128), weight)


def test_traces_and_exports_have_torchs_convolution(always: list[str]) -> None:
    conv = ConcatConv(6, 8, 3, padding=1, bias=True).eval()
    x = last(drawn(2, 6, 8, 8))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.jit.trace: that it is old, and sees Python's decisions once
        traced = torch.jit.trace(conv, x)
        exported = torch.export.export(conv, (x,))
        for one in (traced, exported.module()):
            torch.testing.assert_close(one(x), conv(x), rtol=0, atol=1e-5)
    assert "aten::_convolution" in str(traced.inlined_graph)
    assert "aten.conv2d.default" in {str(node.target) for node in exported.graph.nodes}
    assert "by_points" in always  # by the layer itself, beside them
