"""Convolutions of optimised copies: their values, weights packed once, and where torch's own are used."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from drawn import quick
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import unetzoo
from unetzoo.encoders._residual import Bottleneck
from unetzoo.nn import packing
from unetzoo.nn.convolutions import ConcatConv, Upsampled
from unetzoo.nn.few_outputs import has_few_outputs
from unetzoo.nn.packing import Form, PackedConv, PackedTranspose, Packs, convolved, pack

BF16 = torch.ops.mkldnn._is_mkldnn_bf16_supported() if packing._known() else False
DTYPES = [
    torch.float32,
    pytest.param(torch.bfloat16, marks=pytest.mark.skipif(not BF16, reason="no bfloat16 in this processor's oneDNN")),
]
needs_operators = pytest.mark.skipif(not packing._has_operators(), reason="this torch was built without oneDNN")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def off(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, in units of the expected map's spread."""
    assert found.shape == expected.shape
    return float((found.double() - expected).abs().max() / expected.std())


def check(found: Tensor, expected: Tensor) -> None:
    """Assert that they are the same but for the rounding of the type, which in bfloat16 has 8 bits."""
    assert found.shape == expected.shape
    step = 2**-7 if found.dtype == torch.bfloat16 else 1e-5
    assert ((found.double() - expected).abs() <= step * (expected.abs() + 3 * expected.std())).all()


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of all weights that are packed."""
    seen: list[torch.Size] = []
    own = packing._packed

    def counted(weight: Tensor, form: Form, shape: torch.Size) -> Tensor:
        seen.append(weight.shape)
        return own(weight, form, shape)

    monkeypatch.setattr(packing, "_packed", counted)
    return seen


# Values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", [9, 96], ids=["packed", "large"])
@pytest.mark.parametrize("after", [None, nn.ReLU(), nn.LeakyReLU(0.01)], ids=["linear", "relu", "leaky"])
@pytest.mark.parametrize(
    ("weight", "form"),
    [
        ((24, 16, 3, 3), Form(padding=(1, 1))),
        ((24, 16, 3, 3), Form()),
        ((24, 16, 1, 1), Form()),
        ((24, 16, 1, 1), Form(stride=(2, 2))),
        ((8, 16, 7, 7), Form(stride=(2, 2), padding=(3, 3))),
        ((24, 16, 3, 3), Form(padding=(2, 2), dilation=(2, 2))),
        ((24, 4, 3, 3), Form(padding=(1, 1), groups=4)),
        ((16, 1, 5, 5), Form(padding=(2, 2), groups=16)),
        ((5, 16, 3, 5), Form(padding=(1, 2))),
        ((1, 16, 3, 3), Form(padding=(1, 1))),
    ],
)
def test_values_are_those_of_the_definition(
    weight: tuple[int, ...], form: Form, after: nn.Module | None, side: int, dtype: torch.dtype
) -> None:
    x, kernel, bias = (
        drawn(2, 16, side, side + 2).to(dtype),
        drawn(*weight, seed=1).to(dtype),
        drawn(weight[0]).to(dtype),
    )
    expected = F.conv2d(x.double(), kernel.double(), bias.double(), *form)
    add = drawn(*expected.shape, seed=2).to(dtype)
    for added, spare in ((None, False), (add, False), (add, True)):
        given = None if added is None else added.clone()
        found = convolved(x, kernel, bias, form, Packs(), after, given, spare=spare)
        whole = expected if added is None else expected + add.double()
        check(found, whole if after is None else after(whole.clone()))
        assert found.dtype == dtype
        assert spare or added is None or torch.equal(given, added)


@needs_operators
def test_what_others_may_read_is_not_overwritten() -> None:
    """Of residual blocks: neither their input, nor the shortcut if a hook has seen it; else the sum takes its place."""
    encoder = unetzoo.optimize(quick("resunet50").eval()).network.encoder
    blocks = [module for module in encoder.modules() if isinstance(module, Bottleneck)]
    kept: list[tuple[Tensor, Tensor]] = []
    for block in blocks:
        block.register_forward_pre_hook(lambda module, given: kept.append((given[0], given[0].clone())))
    shortcuts = [block.downsample for block in blocks if block.downsample is not None]
    shortcuts[0][0].register_forward_hook(lambda module, given, out: kept.append((out, out.clone())))
    with torch.inference_mode():
        encoder(drawn(1, 3, 64, 64))
    assert len(kept) == len(blocks) + 1
    assert all(torch.equal(*pair) for pair in kept)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("out_channels", [1, 2])
@pytest.mark.parametrize(("kernel", "padding"), [((3, 3), (1, 1)), ((3, 3), (0, 0)), ((1, 5), (0, 2))])
def test_few_outputs_are_computed_by_taps(
    out_channels: int, kernel: tuple[int, int], padding: tuple[int, int], dtype: torch.dtype
) -> None:
    form = Form(padding=padding)
    x, weight, bias = drawn(2, 64, 11, 13).to(dtype), drawn(out_channels, 64, *kernel).to(dtype), drawn(out_channels)
    assert has_few_outputs(weight) == (out_channels * kernel[0] * kernel[1] <= 16)
    found = convolved(x, weight, bias.to(dtype), form, Packs(), nn.ReLU())
    expected = F.conv2d(x.double(), weight.double(), bias.to(dtype).double(), padding=padding).relu()
    check(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "out", "scale"), [(512, 24, 2), (16, 1, 2), (16, 3, 4), (32, 32, 2)])
def test_transposed_convolutions(channels: int, out: int, scale: int, dtype: torch.dtype) -> None:
    plain = nn.ConvTranspose2d(channels, out, scale, scale).requires_grad_(False).to(dtype)
    ours = nn.ModuleList([copy.deepcopy(plain)])
    pack(ours)
    assert type(ours[0]) is PackedTranspose
    x = drawn(2, channels, 5, 7).to(dtype)
    check(ours[0](x), plain.double()(x.double()))


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("channels", [8, 128])
def test_sources_that_are_resampled_and_added(mode: str, channels: int) -> None:
    conv = ConcatConv(channels + 16 + 8, 12, 3, 1, bias=True).requires_grad_(False)
    coarse, skip, fine = drawn(2, channels, 6, 8), drawn(2, 16, 12, 16), drawn(2, 8, 12, 16)
    sources = Upsampled(coarse, (12, 16), mode), skip, fine
    expected = F.conv2d(
        torch.cat((F.interpolate(coarse.double(), size=(12, 16), mode=mode), skip.double(), fine.double()), 1),
        conv.weight.double(), conv.bias.double(), padding=1,
    ).relu()  # fmt: skip
    pack(conv)
    conv.after = nn.ReLU()
    assert off(conv(*sources), expected) < 1e-5


# Packed once


@needs_operators
@pytest.mark.parametrize("name", ["resunet18", "unetpp_resnet18", "unet3p_resnet18", "unet_mobilenet_v3_large"])
def test_no_weight_is_packed_again(name: str, packings: list[torch.Size]) -> None:
    fast = unetzoo.optimize(quick(name).eval())
    images = drawn(1, 3, 64, 96)
    with torch.inference_mode():
        first = fast(images)
        assert len(packings) > 10
        packings.clear()
        assert torch.equal(fast(images), first)
        assert not packings
        # Another size may need another order; then it is known, and the first still is.
        other = fast(drawn(2, 3, 96, 64))
        packings.clear()
        assert torch.equal(fast(images), first)
        assert torch.equal(fast(drawn(2, 3, 96, 64)), other)
    assert not packings


@needs_operators
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "out", "side"), [(320, 576, 1), (512, 2048, 1), (96, 96, 3), (64, 576, 3)])
def test_each_size_gets_the_order_that_onednn_asks_for(channels: int, out: int, side: int, dtype: torch.dtype) -> None:
    """With a weight in another order, 8 × 7 pixels took 30 to 100 times as long as with their own."""
    weight, form, packs = drawn(out, channels, side, side).to(dtype), Form(padding=(side // 2, side // 2)), Packs()
    sizes = [(1, 8, 8), (1, 8, 7), (2, 9, 7), (1, 16, 16), (1, 17, 33), (1, 18, 34), (1, 20, 30), (1, 40, 40)]
    used = []
    for count, height, width in (*sizes, *sizes):
        shape = torch.Size((count, channels, height, width))
        (found,) = packs.of_size("", weight, shape, lambda shape=shape: iter([packing._packed(weight, form, shape)]))
        assert order(found) == order(packing._packed(weight, form, shape))
        used.append(found)
    different = {order(each) for each in used}
    assert len({id(each) for each in used}) == len(different)  # one copy of the weight for each order
    assert len(different) <= 3


@needs_operators
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_number_of_threads_gets_its_order(dtype: torch.dtype) -> None:
    """With weights packed for one thread, two took up to a fifth longer, and the reverse."""
    weights, form, shape = [(320, 576), (512, 2048), (2048, 576)], Form(), (8, 8)
    usual, different = torch.get_num_threads(), 0
    try:
        for channels, out in weights:
            weight, packs, size = drawn(out, channels, 1, 1).to(dtype), Packs(), torch.Size((1, channels, *shape))
            orders = set()
            for threads in (1, 2, 4, 1, 2, 4):
                torch.set_num_threads(threads)
                expected = packing._packed(weight, form, size)
                (found,) = packs.of_size("", weight, size, lambda expected=expected: iter([expected]))
                assert order(found) == order(expected)
                orders.add(order(found))
            different += len(orders) > 1
    finally:
        torch.set_num_threads(usual)
    if not different:
        pytest.skip("on this processor oneDNN's orders do not depend on the number of threads")


@needs_operators
def test_one_of_several_tensors_tells_whether_all_are_there() -> None:
    """For a size whose order is known, only the first is packed again."""
    weight, packs, made = drawn(64, 64, 1, 1), Packs(), []

    def make(size: torch.Size) -> Iterator[Tensor]:
        for number in range(4):
            made.append((tuple(size), number))
            yield packing._packed(weight, Form(), size)

    first, second = torch.Size((1, 64, 16, 16)), torch.Size((1, 64, 16, 32))
    kept = packs.of_size("", weight, first, lambda: make(first))
    assert len(kept) == 4
    assert packs.of_size("", weight, second, lambda: make(second)) is kept
    assert packs.of_size("", weight, second, lambda: make(second)) is kept
    assert made == [*((tuple(first), number) for number in range(4)), (tuple(second), 0)]


@needs_operators
def test_memory_does_not_grow_with_the_number_of_sizes() -> None:
    """Of most layers one order serves all sizes; where there are more, few are kept."""
    fast, held = unetzoo.optimize(quick("unetpp_resnet18").eval()), []
    with torch.inference_mode():
        for height in range(32, 256, 32):
            for width in (32, 96):
                fast(drawn(1, 3, height, width))
            packs = [found for module in fast.modules() if isinstance(found := getattr(module, "packs", None), Packs)]
            orders = [made for each in packs for key, made in each._made.items() if key[0][-1] == "orders"]
            held.append(sum(len(each) for each in orders))
    assert max(len(each) for each in orders) <= packing.MOST_ORDERS + 1
    assert held[-1] <= 1.5 * len(orders)


def order(packed: Tensor) -> bytes:
    return packing._order(packed)


@needs_operators
def test_weights_that_have_changed_are_packed_again() -> None:
    conv = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1)).requires_grad_(False)
    pack(conv)
    x = drawn(1, 16, 8, 8)
    for change in (
        lambda: conv[0].weight.mul_(2),
        lambda: conv.load_state_dict({"0.weight": drawn(8, 16, 3, 3), "0.bias": drawn(8)}),
        lambda: setattr(conv[0].weight, "data", drawn(8, 16, 3, 3, seed=5)),
        lambda: setattr(conv[0], "weight", nn.Parameter(drawn(8, 16, 3, 3, seed=6), requires_grad=False)),
        lambda: conv.double(),
        lambda: conv.float(),
    ):
        conv(x.to(conv[0].weight.dtype))
        change()
        weight, bias = conv[0].weight.double(), conv[0].bias.double()
        assert off(conv(x.to(conv[0].weight.dtype)), F.conv2d(x.double(), weight, bias, padding=1)) < 1e-5


@needs_operators
def test_packed_weights_are_not_copied(packings: list[torch.Size]) -> None:
    fast = unetzoo.optimize(quick("resunet18").eval())
    images = drawn(1, 3, 64, 64)
    with torch.no_grad():
        expected = fast(images)
        count, packings[:] = len(packings), []
        for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            assert torch.equal(twin(images), expected)
            assert len(packings) == count
            packings.clear()


@pytest.mark.parametrize("path", ["encoder.bn1", "layer1.0.bn1"])
def test_hooks_of_norms_that_were_merged_are_called(path: str) -> None:
    """They see the map that the norm would have given: what comes before the activation."""
    fast, seen = unetzoo.optimize(quick("resunet18").eval()), []
    images = drawn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = fast(images)
        (norm,) = (module for name, module in fast.named_modules() if name.endswith(path))
        norm.register_forward_hook(lambda module, given, out: seen.append(out.clone()))
        torch.testing.assert_close(fast(images), expected)
    assert len(seen) == 1
    assert float(seen[0].min()) < 0


@needs_operators
def test_threads_may_share_a_copy() -> None:
    fast = unetzoo.optimize(quick("unetpp_resnet18").eval())
    images = drawn(1, 3, 64, 64)

    def run(_: int) -> Tensor:
        with torch.inference_mode():
            return fast(images)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(run, range(16)))
    assert all(torch.equal(each, found[0]) for each in found)


# Where torch's own operators are used


@needs_operators
@pytest.mark.parametrize(("name", "left"), [("resunet18", 0), ("resunet50", 0), ("unetpp_resnet50", 1)])
def test_no_pass_is_left_for_activations(name: str, left: int) -> None:
    """But after a map that is resampled last, as the finest of UNet++, where no convolution could take it along."""
    fast, images = unetzoo.optimize(quick(name).eval()), drawn(1, 3, 64, 64)
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as seen:
        fast(images)
    called = {event.key: event.count for event in seen.key_averages()}
    assert called["mkldnn::_convolution_pointwise"] > 20
    assert called.get("aten::relu_", 0) + called.get("aten::relu", 0) == left
    assert "aten::mkldnn_convolution" not in called


@pytest.mark.filterwarnings("ignore:`torch.jit")  # deprecated, and what the programs elsewhere take
@needs_operators
def test_tools_see_plain_operators() -> None:
    model = quick("unetpp_resnet18").eval()
    fast, images = unetzoo.optimize(model), drawn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = fast(images)
        with FlopCounterMode(display=False) as counter:
            fast(images)
    assert "aten.convolution" in {str(name) for name in counter.get_flop_counts()["Global"]}
    exported = torch.export.export(fast, (images,))
    assert not any("mkldnn" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(images), expected, rtol=1e-4, atol=1e-4)
    traced = torch.jit.trace(fast, images, check_trace=False)
    assert "mkldnn" not in str(traced.inlined_graph)
    with torch.no_grad():
        torch.testing.assert_close(traced(images), expected, rtol=1e-4, atol=1e-4)


@needs_operators
def test_gradients_of_the_image_are_the_models() -> None:
    model = quick("resunet18").eval()
    fast, image = unetzoo.optimize(model), drawn(1, 3, 64, 64)
    with torch.no_grad():
        fast(image)
    grads = []
    for network in (model, fast):
        x = image.clone().requires_grad_()
        grads += torch.autograd.grad(network(x).sum(), x)
    assert off(grads[1], grads[0].double()) < 1e-4


def test_without_onednns_operators_torchs_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = quick("unet3p_resnet18").eval(), drawn(1, 3, 64, 64)
    monkeypatch.setattr(packing, "_known", lambda: False)
    with torch.inference_mode():
        assert off(unetzoo.optimize(model)(images), model(images).double()) < 1e-4


def test_only_plain_convolutions_are_packed() -> None:
    class Own(nn.Conv2d):
        pass

    others = [nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(4, 4, 3, padding="same"), Own(4, 4, 1)]
    transposed = [nn.ConvTranspose2d(4, 4, 3, stride=2), nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2)]
    network = nn.Sequential(*others, *transposed, nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 4, 2, stride=2))
    pack(network)
    kinds = [type(module) for module in network]
    assert kinds == [nn.Conv2d, nn.Conv2d, Own, nn.ConvTranspose2d, nn.ConvTranspose2d, PackedConv, PackedTranspose]
