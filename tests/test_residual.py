"""torchvision's residual blocks as the encoders compute them, against torchvision's own ``forward``."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import resnet

import unetzoo
from unetzoo.encoders import ENCODERS, Encoder
from unetzoo.encoders._residual import LEAN, make_lean
from unetzoo.nn.layers import ConvStyle
from unetzoo.nn.remaking import NormAgain

THEIRS = {ours: theirs for theirs, ours in LEAN.items()}
NAMES = ("resnet18", "resnet50", "resnext50_32x4d", pytest.param("wide_resnet50_2", marks=pytest.mark.slow))


def theirs(module: nn.Module) -> nn.Module:
    """Return a copy of ``module`` whose blocks are torchvision's own."""
    twin = copy.deepcopy(module)
    for block in twin.modules():
        block.__class__ = THEIRS.get(type(block), type(block))
    return twin


def drawn(module: nn.Module) -> nn.Module:
    """Give the norms of ``module`` numbers that are trivial nowhere."""
    generator = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module


def encoder(name: str, dtype: torch.dtype = torch.float64, depth: int = 5) -> Encoder:
    torch.manual_seed(0)
    spec = ENCODERS[name]
    return drawn(spec.build(3, ConvStyle(), spec.options(), depth)).to(dtype)


def block(kind: type = resnet.Bottleneck, downsample: bool = False, **options: int) -> nn.Module:
    """Return a small block in double precision."""
    torch.manual_seed(0)
    channels = 4 * kind.expansion
    shortcut = None
    if downsample:
        conv = nn.Conv2d(6, channels, 1, options.get("stride", 1), bias=False)
        shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels))
    net = nn.Sequential(kind(6 if downsample else channels, 4, downsample=shortcut, **options))
    make_lean(net)
    return drawn(net.double())[0]


def image(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).to(dtype)


def step(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return maps, gradients and statistics of one step with a random gradient above each map."""
    x = x.clone().requires_grad_()
    maps = network(x)
    maps = maps if isinstance(maps, list) else [maps]
    generator = torch.Generator().manual_seed(3)
    aboves = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in maps]
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(maps, [x, *parameters.values()], aboves)
    return {
        **{f"map {k}": y.detach() for k, y in enumerate(maps)},
        **dict(zip(["gradient of images", *parameters], found, strict=True)),
        **{f"{name} afterwards": buffer.clone() for name, buffer in network.named_buffers()},
    }


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        difference = (found[name].double() - wanted.double()).abs().max()
        assert float(difference) <= tolerance * max(float(wanted.double().abs().max()), 1e-30), name


def assert_as_theirs(ours: nn.Module, x: Tensor, tolerance: float) -> None:
    twin = theirs(ours)
    assert_close(step(ours, x), step(twin, x), tolerance)


def is_lean(y: Tensor) -> bool:
    return type(y.grad_fn).__name__ == "_RemadeBlockBackward"


# Values, gradients, statistics


def prepared(name: str, mode: str) -> Encoder:
    ours = encoder(name)
    ours.train(mode != "eval")
    if mode == "frozen":
        ours.freeze(3)
    return ours


@pytest.mark.parametrize("mode", ["train", "eval", "frozen"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_equals_torchvision_s(name: str, mode: str) -> None:
    x = image(2, 3, 35, 50)
    maps = prepared(name, mode)(x)
    assert all(is_lean(y) for y in maps[3 if mode == "frozen" else 1 :])
    assert_as_theirs(prepared(name, mode), x, 1e-10)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_step_in_single_precision(name: str, layout: torch.memory_format) -> None:
    """Ours differs from double precision by rounding, at most three times as much as torchvision's does."""
    ours = encoder(name, torch.float32).train()
    twin, exact = theirs(ours), theirs(encoder(name)).train()
    x = image(2, 3, 96, 64)
    expected = step(exact, x)
    x = x.float().contiguous(memory_format=layout)
    found, wanted = step(ours, x), step(twin, x)
    for key, value in expected.items():
        scale = float(value.double().abs().max())
        off, usual = (float((each[key].double() - value).abs().max()) for each in (found, wanted))
        assert off <= 3 * usual + 1e-5 * scale, key


BLOCKS = {
    "basic": lambda: block(resnet.BasicBlock),
    "basic, strided": lambda: block(resnet.BasicBlock, downsample=True, stride=2),
    "bottleneck": block,
    "bottleneck, wider": lambda: block(downsample=True),
    "bottleneck, strided": lambda: block(downsample=True, stride=2),
    "bottleneck, grouped": lambda: block(groups=4, base_width=64),
}
every = pytest.mark.parametrize("kind", BLOCKS)


def channels(net: nn.Module) -> int:
    return net.conv1.in_channels


@pytest.mark.parametrize("training", [True, False])
@every
def test_each_block_with_each_tensor_frozen(kind: str, training: bool) -> None:
    net = BLOCKS[kind]().train(training)
    x = image(2, channels(net), 5, 6)
    assert is_lean(net(x))
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(False)
        assert_as_theirs(net, x, 1e-10)
        if "bn1" not in name:
            parameter.requires_grad_(True)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    assert_as_theirs(net, x, 1e-10)


@pytest.mark.parametrize("training", [True, False])
@every
def test_gradients_of_gradients(kind: str, training: bool) -> None:
    net = BLOCKS[kind]().train(training)
    x = image(2, channels(net), 3, 4).requires_grad_()
    results = []
    for each in (net, theirs(net)):
        inputs = [x, *each.parameters()]
        first = torch.autograd.grad(each(x).square().sum(), inputs, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), inputs))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_gradients_of_gradients_by_differences() -> None:
    net = block(resnet.BasicBlock).eval().requires_grad_(False)
    x = image(1, channels(net), 2, 2).requires_grad_()
    assert is_lean(net(x))
    assert torch.autograd.gradcheck(net, (x,))
    assert torch.autograd.gradgradcheck(net, (x,))


def test_many_gradients_at_once() -> None:
    net = block().train()
    x = image(2, 16, 3, 4).requires_grad_()
    y = net(x)
    aboves = torch.randn(3, *y.shape, dtype=y.dtype)
    (found,) = torch.autograd.grad(y, x, aboves, is_grads_batched=True)
    y = theirs(net)(x)
    for above, gradient in zip(aboves, found, strict=True):
        (expected,) = torch.autograd.grad(y, x, above, retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)


def test_sums_that_cancel() -> None:
    """Gradients above a block that are a hundred times as large as they vary, of which the norm takes the mean away."""
    net = drawn(nn.Sequential(resnet.Bottleneck(256, 64)))
    make_lean(net)
    x = image(2, 256, 16, 16).abs() + 3
    above = image(2, 256, 16, 16) * 0.01 + 1
    results = []
    for each, dtype in ((theirs(net).double(), torch.float64), (theirs(net), torch.float32), (net, torch.float32)):
        y = each(x.to(dtype))
        results.append(torch.autograd.grad(y, [*each.parameters()], above.to(dtype)))
    assert is_lean(y)
    for exact, usual, found in zip(*results, strict=True):
        rounding = float((usual - exact).abs().max())
        assert float((found - exact).abs().max()) <= 10 * rounding + 1e-6 * float(exact.abs().max())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_autocast(name: str) -> None:
    ours = encoder(name, torch.float32).train()
    results = []
    for each in (ours, theirs(ours)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            maps = each(image(2, 3, 64, 64, dtype=torch.float32))
        assert [y.dtype for y in maps] == [torch.bfloat16] * 5
        gradients = torch.autograd.grad(maps[4].float().square().mean(), [*each.parameters()])
        results.append([*maps, *gradients])
    assert is_lean(results[0][4])
    for found, expected in zip(*results, strict=True):
        assert found.dtype == expected.dtype
        assert float((found - expected).detach().abs().max()) <= 0.02 * float(expected.detach().abs().max())


def test_gradient_checkpointing() -> None:
    ours = encoder("resnet50").train()
    twin = theirs(ours)
    ours.gradient_checkpointing = True
    assert_close(step(ours, image(2, 3, 64, 64)), step(twin, image(2, 3, 64, 64)), 1e-10)


# What is kept


def kept(work: Callable[[], object], parameters: Iterator[Tensor]) -> int:
    """Return the bytes of the storages that autograd keeps, but for ``parameters``."""
    own = {tensor.untyped_storage().data_ptr() for tensor in parameters}
    storages: dict[int, Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: storages.setdefault(x.untyped_storage().data_ptr(), x), lambda x: x
    ):
        held = work()
    assert held is not None
    return sum(x.untyped_storage().nbytes() for key, x in storages.items() if key not in own)


def test_kept_bytes_of_a_bottleneck() -> None:
    """Of x and the result, of the outputs of the narrow convolutions, and of two numbers a channel for each norm."""
    net = nn.Sequential(resnet.Bottleneck(256, 64))
    make_lean(net)
    x = torch.randn(2, 256, 8, 8).requires_grad_()
    pixels, numbers = 2 * 8 * 8, 2 * (64 + 64 + 256)
    assert kept(lambda: net(x), net.parameters()) == 4 * (pixels * (256 + 64 + 64 + 256) + numbers)
    wide = nn.Sequential(resnet.Bottleneck(1024, 256))  # whose last convolution would cost too much to pass by
    make_lean(wide)
    x = torch.randn(2, 1024, 8, 8).requires_grad_()
    assert kept(lambda: wide(x), wide.parameters()) == 4 * (pixels * (1024 + 256 + 256 + 1024 + 1024) + 4 * numbers)


def test_kept_bytes_of_a_basic_block() -> None:
    net = nn.Sequential(resnet.BasicBlock(64, 64))
    make_lean(net)
    x = torch.randn(2, 64, 8, 8).requires_grad_()
    assert kept(lambda: net(x), net.parameters()) == 4 * (2 * 8 * 8 * 4 * 64 + 4 * 64)


@pytest.mark.parametrize("spoilt", ["x", "y", "conv2.weight", "bn3.weight"])
def test_what_is_overwritten_is_refused(spoilt: str) -> None:
    net = block().train()
    x = image(2, 16, 3, 4).requires_grad_() * 1
    y = net(x)
    with torch.no_grad():
        ({"x": x, "y": y}.get(spoilt) if len(spoilt) == 1 else net.get_parameter(spoilt)).mul_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# Where torchvision's own forward is taken


def test_hooks_see_the_same_maps() -> None:
    net = block(downsample=True).train()
    for path in ("conv1", "bn2", "relu", "downsample", "downsample.0", "conv3"):
        seen: list[list[Tensor]] = []
        for each in (copy.deepcopy(net), theirs(net)):
            maps: list[Tensor] = []
            each.get_submodule(path).register_forward_hook(
                lambda _m, i, o, maps=maps: maps.extend((i[0].clone(), o.clone()))
            )
            if "conv" in path:  # torch refuses one before a ReLU that works in place
                each.get_submodule(path).register_full_backward_hook(lambda _m, i, o, maps=maps: maps.extend(o))
            each(image(2, 6, 5, 5).requires_grad_()).sum().backward()
            seen.append(maps)
        assert len(seen[0]) == len(seen[1]) >= 2
        for found, expected in zip(*seen, strict=True):
            torch.testing.assert_close(found, expected)


def test_other_parts_are_used_as_they_are() -> None:
    """A norm, a convolution or an activation of another kind, and one that has a weight computed from others."""
    x = image(2, 16, 5, 5)
    for change in (
        lambda net: setattr(net, "bn2", nn.GroupNorm(2, 4).double()),
        lambda net: setattr(net, "conv2", nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)).double()),
        lambda net: setattr(net, "relu", nn.SiLU()),
        lambda net: torch.nn.utils.parametrizations.weight_norm(net.conv1),
        lambda net: setattr(net.bn3, "momentum", None),
        lambda net: setattr(net, "bn1", nn.BatchNorm2d(4, track_running_stats=False).double()),
        lambda net: setattr(net.conv3, "forward", lambda y: net.conv3._conv_forward(2 * y, net.conv3.weight, None)),
    ):
        net = block().train()
        change(net)
        twin = theirs(net)
        if "forward" in vars(net.conv3):
            twin.conv3.forward = lambda y, conv=twin.conv3: conv._conv_forward(2 * y, conv.weight, None)
        assert not is_lean(net(x))
        net.load_state_dict(twin.state_dict())
        assert_close(step(net, x), step(twin, x), 1e-12)
        with torch.no_grad():
            for mode in (True, False):
                torch.testing.assert_close(net.train(mode)(x), twin.train(mode)(x), rtol=1e-9, atol=1e-9)


def test_a_single_number_has_no_deviation() -> None:
    net = block().train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        net(image(1, 16, 1, 1))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # by torch itself
def test_derivatives_in_forward_mode() -> None:
    net = block().eval()
    x, tangent = image(1, 16, 3, 3), image(1, 16, 3, 3) + 1
    results = []
    for each in (net, theirs(net)):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, tangent)
            results.append(torch.autograd.forward_ad.unpack_dual(each(dual)).tangent)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(("kind", "again"), [(resnet.BasicBlock, 1), (resnet.Bottleneck, 2)])
def test_nothing_is_normalised_again_that_backward_does_not_read(
    kind: type, again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inputs of all convolutions but the first, each once."""
    calls = []
    own = NormAgain.again
    monkeypatch.setattr(NormAgain, "again", lambda *arguments: (calls.append(1), own(*arguments))[1])
    net = block(kind).train()
    net(image(2, net.conv1.in_channels, 9, 11).requires_grad_()).sum().backward()
    assert len(calls) == again


# Names, files


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_names_kinds_and_pickles(name: str) -> None:
    ours, net = encoder(name, torch.float32).eval(), getattr(models, name)()
    assert set(ours.state_dict()) == {key for key in net.state_dict() if not key.startswith("fc.")}
    kind = resnet.BasicBlock if name == "resnet18" else resnet.Bottleneck
    assert all(isinstance(each, kind) for each in ours.get_submodule("layer2"))
    x = image(1, 3, 64, 64, dtype=torch.float32)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(twin.get_submodule("layer1.0")) is LEAN[kind]
        torch.testing.assert_close(twin(x)[4], ours(x)[4], rtol=0, atol=0)


def test_without_norms_it_is_torchvision_s() -> None:
    model = unetzoo.create("resunet18", norm=None).train()
    assert not any(is_lean(y) for y in model.encoder(image(1, 3, 64, 64, dtype=torch.float32)))
