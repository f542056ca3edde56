"""Gradients of convolutions by other ways than torch's: the same numbers, and gradients of gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet

from unetzoo.encoders._residual import make_lean
from unetzoo.nn.convolutions import ConcatConv
from unetzoo.nn.gradients import BLOCK, MANY, MANY_WIDE, weight_gradient
from unetzoo.nn.layers import Upsample
from unetzoo.nn.remaking import Convolution
from unetzoo.nn.transposed import FEWEST_PIXELS

ONEDNN = torch.backends.mkldnn.is_available()
needs_onednn = pytest.mark.skipif(not ONEDNN, reason="this torch was built without oneDNN")


@needs_onednn
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_of_a_weight_of_many_channels(layout: torch.memory_format, stride: int) -> None:
    """Against the definition in float64; and a convolution of its own is not computed for it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, MANY, 9, 7, generator=generator).contiguous(memory_format=layout)
    weight = torch.randn(24, MANY, 1, 1, generator=generator)
    grad = torch.randn(2, 24, *x[:, 0, ::stride, ::stride].shape[1:], generator=generator)
    expected = torch.einsum("nohw,nchw->oc", grad.double(), x[:, :, ::stride, ::stride].double())[:, :, None, None]
    with torch.no_grad():
        found = weight_gradient(grad, x, weight, (stride, stride))
        of_form = Convolution((stride, stride)).backward(grad, x, weight, (True, True, True))
    assert found is not None
    tolerance = 2e-6 * float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
    wide = [each.double().requires_grad_() for each in (x, weight, torch.zeros(24))]
    theirs = torch.autograd.grad(F.conv2d(*wide, stride=stride), wide, grad.double())
    for a, b in zip(of_form, theirs, strict=True):
        assert a is not None
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-6 * float(b.abs().max()))


def test_gradients_of_other_weights_are_left_to_the_convolution() -> None:
    x, weight = torch.ones(2, MANY, 8, 8), torch.ones(4, MANY, 1, 1)
    grad = torch.ones(2, 4, 8, 8)
    assert weight_gradient(grad, x, weight) is None  # as its own gradient may be asked for
    with torch.no_grad():
        assert weight_gradient(grad, x, weight) is not None or not ONEDNN
        assert weight_gradient(grad, x[:, :-1], weight[:, :-1]) is None
        assert weight_gradient(torch.ones(2, 4, 40, 40), torch.ones(2, MANY, 40, 40), weight) is None
        assert weight_gradient(grad.double(), x.double(), weight.double()) is None
        few = torch.ones(2, MANY_WIDE - 1, 8, 8)
        assert weight_gradient(grad, few, torch.ones(4, MANY_WIDE - 1, 3, 3), padding=(1, 1)) is None


@needs_onednn
@pytest.mark.parametrize("channels", [MANY_WIDE, BLOCK + 40])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3), (1, 1), (1, 1)), ((3, 3), (2, 2), (1, 1)), ((3, 2), (1, 2), (0, 1)), ((5, 1), (3, 1), (2, 0))],
)
def test_gradient_of_a_wide_kernel_of_many_channels(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], channels: int
) -> None:
    """Against autograd in float64, and in the layout of the weight, so that nothing copies it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, 9, 6, generator=generator).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(MANY_WIDE, channels, *kernel, generator=generator)
    form = Convolution(stride, padding)
    grad = torch.randn(form(x, weight).shape, generator=generator)
    wide = [each.double().requires_grad_() for each in (x, weight)]
    expected = torch.autograd.grad(F.conv2d(*wide, stride=stride, padding=padding), wide, grad.double())
    with torch.no_grad():
        product = weight_gradient(grad, x, weight, stride, padding)
        found = form.backward(grad, x, weight, (True, True, False))
    assert product is not None
    assert product.is_contiguous()
    for one, other in zip((*found[:2], product), (*expected, expected[1]), strict=True):
        assert one is not None
        torch.testing.assert_close(one.double(), other, rtol=0, atol=2e-6 * float(other.abs().max()))


def second_order(y: Tensor, tensors: list[Tensor], grad: Tensor) -> list[Tensor]:
    """Return first gradients, those of many at once, and gradients of the first ones."""
    first = torch.autograd.grad(y, tensors, grad, create_graph=True)
    many = torch.stack([grad, 2 * grad])
    batched = torch.autograd.grad(y, tensors, many, retain_graph=True, is_grads_batched=True)
    total = torch.stack([each.square().mean() for each in first]).sum()
    second = torch.autograd.grad(total, tensors[:2])  # no bias is in a gradient
    return [*first, *batched, *second]


def assert_same_gradients(
    function: Callable[..., Tensor], expected: Callable[..., Tensor], tensors: list[Tensor]
) -> str:
    """Compare with float64; return the name of the function that autograd has recorded."""
    tensors = [each.detach().requires_grad_() for each in tensors]
    wide = [each.detach().double().requires_grad_() for each in tensors]
    y, reference = function(*tensors), expected(*wide)
    torch.testing.assert_close(y.double(), reference, rtol=1e-5, atol=2e-6 * float(reference.detach().abs().max()))
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    assert y.grad_fn is not None
    name = y.grad_fn.name()
    once = torch.autograd.grad(y, tensors, grad, retain_graph=True)
    found = [*once, *second_order(y, tensors, grad)]
    theirs = second_order(reference, wide, grad.double())
    for one, other in zip(found, [*theirs[: len(wide)], *theirs], strict=True):
        most = float(other.detach().abs().max())
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=5e-6 * most)
    return name


@needs_onednn
@pytest.mark.parametrize(("height", "width", "padding"), [(50, 1, (1, 1)), (51, 3, (0, 0)), (1, 60, (1, 1))])
def test_gradient_where_windows_move_in_one_direction(height: int, width: int, padding: tuple[int, int]) -> None:
    """Of one image they then are an overlapping view, which oneDNN refuses."""
    x, weight = torch.randn(1, MANY_WIDE, height, width), torch.randn(MANY_WIDE, MANY_WIDE, 3, 3)
    grad = torch.randn(F.conv2d(x, weight, padding=padding).shape)
    with torch.no_grad():
        found = weight_gradient(grad, x, weight, padding=padding)
    wide = weight.double().requires_grad_()
    (expected,) = torch.autograd.grad(F.conv2d(x.double(), wide, padding=padding), wide, grad.double())
    assert found is not None
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6 * float(expected.abs().max()))


@needs_onednn
@pytest.mark.parametrize(("count", "side"), [(2, 4), (1, 12)])
@pytest.mark.parametrize("training", [True, False])
def test_second_gradients_of_a_block_with_few_pixels(count: int, side: int, training: bool) -> None:
    """oneDNN's product, by which its 1×1 convolutions are computed, has no derivative, and torch would only warn."""
    theirs = resnet.Bottleneck(256, 64).train(training).requires_grad_(False)
    ours = copy.deepcopy(theirs)
    make_lean(ours)
    x = torch.randn(count, 256, side, side).contiguous(memory_format=torch.channels_last)
    assert_same_gradients(ours, theirs.double(), [x])


def test_a_mode_sees_convolutions() -> None:
    """Operators of its own would be missed by what counts multiply-adds."""
    x = torch.randn(2, MANY, 4, 4).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(8, MANY, 1, 1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = Convolution()(x, weight)
        Convolution().backward(out, x, weight, (True, True, False))
    assert counter.get_total_flops() == 3 * 2 * out.numel() * MANY


@needs_onednn
@pytest.mark.parametrize("biased", [True, False])
def test_a_convolution_whose_input_is_kept_has_the_same_backward_pass(biased: bool) -> None:
    """A second convolution at the bottom of a network: its input is small, and it has many weights."""
    layer = ConcatConv(MANY_WIDE, MANY_WIDE, 3, 1, bias=biased)
    x = torch.randn(2, MANY_WIDE, 5, 4).contiguous(memory_format=torch.channels_last)
    parameters = list(layer.parameters())

    def ours(x: Tensor, *own: Tensor) -> Tensor:
        names = [name for name, _ in layer.named_parameters()]
        found: Tensor = torch.func.functional_call(layer, dict(zip(names, own, strict=True)), (x,))
        return found

    name = assert_same_gradients(ours, lambda x, *own: F.conv2d(x, *own, padding=1), [x, *parameters])
    assert "Convolved" in name


@needs_onednn
@pytest.mark.parametrize(("channels", "out"), [(24, 7), (64, 32)])
@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("biased", [True, False])
def test_transposed_convolutions_have_the_backward_pass_of_1x1_ones(
    channels: int, out: int, scale: int, biased: bool
) -> None:
    layer = Upsample(channels, out, scale, "transpose", bias=biased)
    side = int(FEWEST_PIXELS**0.5)
    for rows, ours in ((side // 2 + 1, True), (side // 2 - 1, False)):
        x = torch.randn(2, channels, rows, side + 1).contiguous(memory_format=torch.channels_last)
        size = (scale * rows - 1, scale * (side + 1))

        def called(x: Tensor, *own: Tensor, size: tuple[int, int] = size) -> Tensor:
            names = [name for name, _ in layer.named_parameters()]
            found: Tensor = torch.func.functional_call(layer, dict(zip(names, own, strict=True)), (x, size))
            return found * 1

        def plain(x: Tensor, *own: Tensor, size: tuple[int, int] = size) -> Tensor:
            return F.conv_transpose2d(x, *own, stride=scale)[..., : size[0], :] * 1

        assert_same_gradients(called, plain, [x, *layer.parameters()])
        whole = layer._transposed(x)
        assert whole.grad_fn is not None
        assert ("_Transposed" in whole.grad_fn.name()) == ours


@needs_onednn
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # by torch itself
def test_what_others_look_at_is_left_to_torch() -> None:
    """A hook, another class, autocast, and derivatives in forward mode, which ours does not have."""
    layer = Upsample(16, 8, 2, "transpose", bias=True)
    x = torch.randn(2, 16, 40, 40)

    def name() -> str:
        out = layer._transposed(x)
        assert out.grad_fn is not None
        return out.grad_fn.name()

    assert "_Transposed" in name()
    seen: list[object] = []
    handle = layer.conv.register_forward_hook(lambda *args: seen.append(args))
    assert "_Transposed" not in name()
    assert len(seen) == 1
    handle.remove()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer._transposed(x).dtype == torch.bfloat16
    tangent = torch.randn_like(x)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        found = torch.autograd.forward_ad.unpack_dual(layer._transposed(dual)).tangent
    assert found is not None
    expected = F.conv_transpose2d(tangent, layer.conv.weight, stride=2)
    torch.testing.assert_close(found, expected)
    layer.conv.__class__ = type("Other", (nn.ConvTranspose2d,), {})
    assert "_Transposed" not in name()
