"""The convolution of several sources, against concatenation, ``interpolate``, norm and ReLU written out."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import unetzoo
from unetzoo import InputError
from unetzoo.nn import convolutions, resampling
from unetzoo.nn.convolutions import Activated, ConcatConv, Source, Upsampled
from unetzoo.nn.layers import NORMS, make_norm

pytestmark = pytest.mark.usefixtures("as_if_large")

MIXTURES = ("kept", "up", "activated", "kept+up", "up+kept", "activated+activated", "kept+up+kept+activated", "up+up")


class Case:
    """A convolution and its sources, of 3, 4, 5, … channels, and the plain way to compute it."""

    def __init__(self, kinds: str, norm: str | None = "batch", mode: str = "bilinear", bias: bool = True) -> None:
        torch.manual_seed(0)
        self.kinds, self.mode = kinds.split("+"), mode
        self.maps, self.norms = [], nn.ModuleList()
        for channels, kind in enumerate(self.kinds, start=3):
            size = (4, 5) if kind == "up" else (8, 9)
            self.maps.append(torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True))
            self.norms.append(make_norm(norm, channels).double() if kind == "activated" else nn.Identity())
        for parameter in self.norms.parameters():
            nn.init.normal_(parameter, mean=1.0)
        self.conv = ConcatConv(sum(x.shape[1] for x in self.maps), 6, 3, 1, bias).double()
        self.twin = copy.deepcopy(self.norms)

    def sources(self, maps: list[Tensor]) -> list[Source]:
        return [
            Upsampled(x, (8, 9), self.mode)
            if kind == "up"
            else Activated(x, norm, nn.ReLU(inplace=True))
            if kind == "activated"
            else x
            for x, kind, norm in zip(maps, self.kinds, self.norms, strict=True)
        ]

    def exact(self) -> Tensor:
        # Activated maps are given away.
        return self.conv(*self.sources([x * 1 for x in self.maps]))

    def plain(self) -> Tensor:
        joined = []
        for x, kind, norm in zip(self.maps, self.kinds, self.twin, strict=True):
            if kind == "up":
                x = F.interpolate(x, (8, 9), mode=self.mode, align_corners=False if self.mode == "bilinear" else None)
            joined.append(F.relu(norm(x)) if kind == "activated" else x)
        return F.conv2d(torch.cat(joined, dim=1), self.conv.weight, self.conv.bias, padding=1)

    def inputs(self, norms: nn.ModuleList) -> list[Tensor]:
        return [*self.maps, *self.conv.parameters(), *norms.parameters()]

    def train(self, mode: bool) -> None:
        self.norms.train(mode)
        self.twin.train(mode)


def assert_all_close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.fixture(params=[1, 96], ids=["mixed first", "plain"])
def rule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "MIXED_FIRST", request.param)
    monkeypatch.setattr(resampling, "MIXED_FIRST_ENLARGED", request.param)


@pytest.mark.usefixtures("rule")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kinds", MIXTURES)
def test_values_and_gradients(kinds: str, bias: bool) -> None:
    case = Case(kinds, bias=bias, mode="nearest" if bias else "bilinear")
    found, expected = case.exact(), case.plain()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    above = torch.randn_like(found)
    ours = torch.autograd.grad(found, case.inputs(case.norms), above)
    assert_all_close(ours, torch.autograd.grad(expected, case.inputs(case.twin), above))
    with torch.no_grad():
        case.train(False)
        torch.testing.assert_close(case.exact(), case.plain(), rtol=1e-12, atol=1e-12)


class Backward(TorchDispatchMode):
    """Counts how often each operator runs."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kinds", [kinds for kinds in MIXTURES if "+" in kinds])
def test_gradients_of_one_map_after_the_other(kinds: str, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on large maps: nothing is concatenated but the gradient of the weight, and the values are the same."""
    monkeypatch.setattr(convolutions, "FEWEST_PIXELS", {torch.float64: 1})
    monkeypatch.setattr(convolutions, "BLOCK", 1)
    case = Case(kinds, bias=bias)
    found, expected = case.exact(), case.plain()
    above = torch.randn_like(found)
    with Backward() as seen:
        ours = torch.autograd.grad(found, case.inputs(case.norms), above)
    assert seen.counts["convolution_backward"] == len(case.kinds)
    assert seen.counts["cat"] == 1
    assert_all_close(ours, torch.autograd.grad(expected, case.inputs(case.twin), above))
    for frozen in (case.maps[0], case.conv.weight):
        wanted = [x for x in case.inputs(case.norms) if x is not frozen]
        theirs = [x for x in case.inputs(case.twin) if x is not frozen]
        frozen.requires_grad_(False)
        ours = torch.autograd.grad(case.exact(), wanted, above)
        assert_all_close(ours, torch.autograd.grad(case.plain(), theirs, above))
        frozen.requires_grad_(True)


def test_no_gradient_of_the_complete_weight_is_made_for_a_part_of_it() -> None:
    """Of a weight in three parts: autograd's gradient of a slice would be as large as all of it, three times."""
    conv, coarse = ConcatConv(96 + 4 + 96, 8, 3, 1, bias=False), torch.randn(1, 96, 8, 8)
    out = conv(Upsampled(coarse, (16, 16)), torch.randn(1, 4, 16, 16), Upsampled(coarse, (16, 16)))
    with Backward() as seen:
        out.sum().backward()
    assert seen.counts["slice_backward"] == seen.counts["new_zeros"] == 0
    assert conv.weight.grad is not None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", [*NORMS, None])
def test_norms_are_applied_twice_and_counted_once(norm: str | None, training: bool) -> None:
    case = Case("kept+activated+activated", norm)
    case.train(training)
    found, expected = case.exact(), case.plain()
    above = torch.randn_like(found)
    ours = torch.autograd.grad(found, case.inputs(case.norms), above)
    assert_all_close(ours, torch.autograd.grad(expected, case.inputs(case.twin), above))
    for (name, a), b in zip(case.norms.named_buffers(), case.twin.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("kinds", ["kept+up", "activated+activated"])
def test_gradients_of_gradients(kinds: str) -> None:
    case = Case(kinds)
    case.train(False)
    results = []
    for form, norms in ((case.exact, case.norms), (case.plain, case.twin)):
        inputs = case.inputs(norms)
        first = torch.autograd.grad(form().square().sum(), inputs, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), inputs))
    assert_all_close(*results)


def kept_by(work: object) -> tuple[Tensor, dict[int, Tensor]]:
    kept: dict[int, Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.setdefault(tensor.untyped_storage().data_ptr(), tensor), lambda tensor: tensor
    ):
        return work(), kept


def test_only_the_sources_are_kept() -> None:
    case = Case("kept+up+activated")
    sources = case.sources(case.maps)
    _, kept = kept_by(lambda: case.conv(*sources))
    own = {tensor.untyped_storage().data_ptr() for tensor in case.inputs(case.norms)}
    besides = [tensor for key, tensor in kept.items() if key not in own]
    assert [x.shape for x in besides] == [(5,), (5,)]  # mean and deviation of each channel of the activated map
    assert {x.untyped_storage().data_ptr() for x in case.maps} <= set(kept)


def test_a_small_input_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """To compute it again would take a tenth of the time, and save next to nothing."""
    case = Case("kept+activated+activated")
    numbers = (3 + 4 + 5) * 8 * 9
    for small, kept_too in ((numbers - 1, False), (numbers, True)):
        monkeypatch.setattr(convolutions, "SMALL", small)
        _, kept = kept_by(case.exact)
        assert any(x.shape == (2, 12, 8, 9) for x in kept.values()) == kept_too
        found, expected = (form().square().sum() for form in (case.exact, case.plain))
        ours = torch.autograd.grad(found, case.inputs(case.norms))
        assert_all_close(ours, torch.autograd.grad(expected, case.inputs(case.twin)))


def test_checkpoints_hold_nothing_of_it() -> None:
    case = Case("kept+up+activated")
    out, kept = kept_by(lambda: checkpoint(case.exact, use_reentrant=False))
    assert not any(tensor.numel() for tensor in kept.values())
    above = torch.randn_like(out)
    ours = torch.autograd.grad(out, case.inputs(case.norms), above)
    assert_all_close(ours, torch.autograd.grad(case.plain(), case.inputs(case.twin), above))


@pytest.mark.parametrize("norm", [*NORMS, None])
def test_autocast(norm: str | None) -> None:
    case = Case("kept+up+activated", norm)
    case.maps = [x.detach().float().requires_grad_() for x in case.maps]
    for module in (case.conv, case.norms, case.twin):
        module.float()
    results = []
    for form, norms in ((case.exact, case.norms), (case.plain, case.twin)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = form()
        gradients = torch.autograd.grad(out.float().square().mean(), case.inputs(norms))
        results.append((out, *gradients))
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        assert float((a - b).detach().abs().max()) <= 0.05 * float(b.detach().abs().max())


def test_frozen_sources_and_weights() -> None:
    case = Case("kept+up+activated")
    for frozen in case.inputs(case.norms):
        for tensor in (*case.inputs(case.norms), *case.inputs(case.twin)):
            tensor.requires_grad_(True)
        frozen.requires_grad_(False)
        wanted = [x for x in (*case.maps, *case.conv.parameters()) if x.requires_grad]
        found, expected = (torch.autograd.grad(form().square().sum(), wanted) for form in (case.exact, case.plain))
        assert_all_close(found, expected)


def test_without_gradients_nothing_that_is_not_given_away_is_overwritten() -> None:
    case = Case("kept+up+activated", norm=None)
    before = [x.detach().clone() for x in case.maps]
    with torch.no_grad():
        case.conv(*case.sources(case.maps))
    assert torch.equal(case.maps[0], before[0])
    assert torch.equal(case.maps[1], before[1])
    # With gradients not even those: autograd needs them.
    case = Case("kept+up+activated", norm=None)
    case.conv(*case.sources(case.maps)).sum().backward()
    assert torch.equal(case.maps[2], before[2])


def test_what_does_not_add_up_is_refused() -> None:
    conv = ConcatConv(7, 2, 3, 1, bias=False)
    x = torch.zeros(1, 3, 4, 4)
    for sources, message in (
        ((x,), r"sources of 3 channels: .*in_channels=7\b"),
        ((x, Upsampled(x, (8, 8))), r"sources of 3 \+ 3 channels"),
        ((x, x, x), r"sources of 3 \+ 3 \+ 3 channels"),
        ((), r"sources .*no channels: .*in_channels=7\b"),
        (([x, x],), r"Upsampled.*source.*\blist\b"),
        ((x, Upsampled(torch.zeros(1, 4, 2, 2), (4, 4), "bicubic")), "mode='bicubic'.*'bilinear_aligned'"),
    ):
        with pytest.raises(InputError, match=message):
            conv(*sources)


def test_functional_transforms() -> None:
    """Per-image gradients by torch.func: grad under vmap, against one image after the other."""
    torch.manual_seed(0)
    model = unetzoo.create("unet3p", base_channels=8, branch_channels=8, norm="group").eval()
    parameters = dict(model.named_parameters())
    images = torch.randn(3, 3, 17, 20)

    def loss(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (image[None],)).square().mean()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, images)
    for k, image in enumerate(images):
        expected = torch.autograd.grad(loss(parameters, image), tuple(parameters.values()))
        for name, gradient in zip(parameters, expected, strict=True):
            difference = float((found[name][k] - gradient).detach().abs().max())
            assert difference <= 1e-4 * float(gradient.abs().max()), name
