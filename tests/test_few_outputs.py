"""Convolutions to a few channels by their taps, against torch's own in float64; and that models use this way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import unetzoo
from unetzoo.nn.convolutions import Activated, ConcatConv, Source, Upsampled
from unetzoo.nn.few_outputs import few_output_gradients, few_outputs, gains

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
FORMS = [((3, 3), (1, 1)), ((3, 3), (0, 0)), ((1, 5), (0, 2)), ((2, 3), (1, 0))]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def check(found: Sequence[Tensor | None], expected: Sequence[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours is not None
        theirs = theirs.detach()
        torch.testing.assert_close(ours.detach().double(), theirs, rtol=0, atol=2e-6 * float(theirs.abs().max()))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("out", [1, 2])
@pytest.mark.parametrize(("kernel", "padding"), FORMS)
def test_values_and_gradients(
    kernel: tuple[int, int], padding: tuple[int, int], out: int, layout: torch.memory_format
) -> None:
    x, weight, bias = drawn(2, 24, 11, 13).contiguous(memory_format=layout), drawn(out, 24, *kernel), drawn(out)
    wide = [each.double().requires_grad_() for each in (x, weight, bias)]
    expected = F.conv2d(*wide, padding=padding)
    grad = drawn(*expected.shape)
    gradients = torch.autograd.grad(expected, wide, grad.double())
    check([few_outputs(x, weight, bias, padding)], [expected])
    check(few_output_gradients(grad, x, weight, padding, (True, True, True)), gradients)
    recorded = [each.requires_grad_() for each in (x, weight, bias)]
    check(torch.autograd.grad(few_outputs(*recorded, padding), recorded, grad), gradients)
    for number, gradient in enumerate(gradients):
        needed = [number == each for each in range(3)]
        found = few_output_gradients(grad, x.detach(), weight.detach(), padding, needed)
        assert [each is not None for each in found] == needed
        check([found[number]], [gradient])


class Weights(TorchDispatchMode):
    """Notes the weights of all convolutions, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        if "convolution" in str(func):
            self.shapes.update(tuple(x.shape) for x in args[1:3] if isinstance(x, Tensor) and x.ndim == 4)
        return func(*args, **(kwargs or {}))


@needs_onednn
@pytest.mark.parametrize("training", [True, False])
def test_a_head_is_computed_in_this_way(training: bool) -> None:
    """The head of UNet 3+, forward and backward: a convolution to 9 channels, none to one."""
    model = unetzoo.create("unet3p", base_channels=8, branch_channels=8).train(training)
    head = (1, 40, 3, 3)
    assert head in {tuple(parameter.shape) for parameter in model.parameters()}
    with Weights() as seen:
        model(drawn(2, 3, 64, 64)).sum().backward()
    assert head not in seen.shapes
    assert (9, 40, 1, 1) in seen.shapes


@needs_onednn
@pytest.mark.parametrize("kind", ["kept", "up", "activated"])
def test_gradients_of_gradients(kind: str) -> None:
    conv, x, norm = ConcatConv(16, 1, 3, 1, bias=True), drawn(2, 16, 40, 40).requires_grad_(), nn.BatchNorm2d(16)
    assert gains(x, conv.weight)
    results = []
    for dtype in (torch.float32, torch.float64):
        conv, norm, y = conv.to(dtype), norm.to(dtype).eval(), x.detach().to(dtype).requires_grad_()
        sources: dict[str, Source] = {
            "kept": y,
            "up": Upsampled(y, (50, 60), "nearest"),
            "activated": Activated(y * 1, norm, nn.ReLU()),
        }
        parameters = [y, *conv.parameters()]
        first = torch.autograd.grad(conv(sources[kind]).square().sum(), parameters, create_graph=True)
        total = torch.stack([each.square().sum() for each in first]).sum()
        results.append([*first, *torch.autograd.grad(total, parameters)])
    check(*results)


@needs_onednn
@pytest.mark.usefixtures("as_if_large")
def test_many_gradients_at_once() -> None:
    conv, x = ConcatConv(16, 1, 3, 1, bias=True), drawn(2, 16, 40, 40).requires_grad_()
    parameters = [x, *conv.parameters()]
    out = conv(Activated(x * 1, nn.BatchNorm2d(16).eval(), nn.ReLU()))
    grads = drawn(3, *out.shape)
    found = torch.autograd.grad(out, parameters, grads, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(out, parameters, grad, retain_graph=True) for grad in grads]
    check(found, [torch.stack(parts).double() for parts in zip(*each, strict=True)])


def test_what_does_not_gain_is_left_to_torch() -> None:
    x, weight = drawn(2, 64, 40, 40), drawn(1, 64, 3, 3)
    for images, kernel in ((x, drawn(1, 64, 1, 1)), (x, drawn(2, 64, 3, 3)), (x[:, :8], weight[:, :8])):
        assert not gains(images, kernel)
    for dtype in (torch.float64, torch.bfloat16):
        assert not gains(x.to(dtype), weight.to(dtype))
    assert not gains(x.to("meta"), weight.to("meta"))
