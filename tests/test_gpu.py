"""The exact layers on a GPU, against the CPU in float64. Skipped where there is none."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import light, never_waits
from PIL import Image
from reference import reference_logits
from torch import Tensor

import unetzoo
from unetzoo.nn import convolutions, gpu_resampling, resampling, resizing
from unetzoo.nn.convolutions import ConcatConv, Upsampled
from unetzoo.nn.resampling import mixed_first, resize
from unetzoo.nn.whole_maps import mixer_of
from unetzoo.prediction.strips import Tiles
from unetzoo.train.runs import Run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


class NanFrom(torch.nn.Module):
    """A loss that breaks at its fourth training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.seen += torch.is_grad_enabled()
        return logits.mean() * (math.nan if self.seen >= 4 else 1.0)


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
    found = mixed_first(*there, None, large, mode, 1)
    torch.testing.assert_close(found.cpu(), expected)
    above = torch.randn_like(expected)
    theirs = torch.autograd.grad(expected, inputs, above)
    for a, b in zip(torch.autograd.grad(found, there, above.cuda()), theirs, strict=True):
        torch.testing.assert_close(a.cpu(), b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("taps", "padding"), [((1, 1), 0), ((3, 3), 1), ((5, 3), 2), ((3, 3), 0)], ids=str)
@pytest.mark.parametrize(
    ("small", "large"),
    [((8, 9), (16, 18)), ((5, 7), (80, 99)), ((16, 3), (7, 3)), ((1, 1), (33, 5)), ((130, 6), (263, 48))],
    ids=str,
)
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bilinear_aligned"])
def test_kernels(
    mode: str, small: tuple[int, int], large: tuple[int, int], taps: tuple[int, int], padding: int, dtype: torch.dtype
) -> None:
    """Triton's kernels, and their adjoints, against the plain way in float64 on the CPU."""
    x = torch.randn(2, 20, *small).to(dtype).double()
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.randn(24, 20, *taps, dtype=torch.float64).to(dtype).double(), torch.randn(24).double()
    taken = F.conv2d(x, mixer_of(weight)).detach().to(dtype).double().requires_grad_()
    parts = taken.view(2, taps[1], taps[0], 24, *small)
    # The identity by its definition: each tap's part resampled, shifted over zeros, and added.
    expected = bias[:, None, None].to(dtype).double()
    up = [[F.pad(resize(parts[:, b, a], large, mode), [padding] * 4) for a in range(taps[0])] for b in range(taps[1])]
    rows, columns = (side + 2 * padding - tap + 1 for side, tap in zip(large, taps, strict=True))
    for b, a in itertools.product(range(taps[1]), range(taps[0])):
        expected = expected + up[b][a][..., a : a + rows, b : b + columns]
    there = taken.detach().to(dtype).cuda().contiguous(memory_format=torch.channels_last).requires_grad_()
    found = gpu_resampling.Resample.apply(
        there, bias.to(dtype).cuda(), gpu_resampling.Sampling(large, mode, taps, padding)
    )
    allowed = {torch.float64: 1e-10, torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert float((found.detach().cpu().double() - expected).detach().abs().max()) <= allowed * float(
        expected.detach().abs().max()
    )
    above = torch.randn_like(expected).to(dtype)
    (ours,) = torch.autograd.grad(found, there, above.cuda(), retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, taken, above.double())
    assert float((ours.cpu().double() - theirs).abs().max()) <= allowed * float(theirs.abs().max())
    (again,) = torch.autograd.grad(found, there, above.cuda())
    assert torch.equal(ours, again)  # torch's own adds in an order that changes


def test_kernels_are_used_and_differentiable_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "FEWEST", 0)
    assert gpu_resampling.available(torch.device("cuda", 0), torch.float64)
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, device="cuda").contiguous(memory_format=torch.channels_last)
    for mode in ("nearest", "bilinear", "bilinear_aligned"):
        assert "Resample" in str(resize(x.requires_grad_(), (5, 9), mode).grad_fn)
        assert torch.autograd.gradgradcheck(lambda y, mode=mode: resize(y, (5, 9), mode).pow(3), x)
    slices = torch.randn(2, 40, 6, 8, device="cuda").contiguous(memory_format=torch.channels_last)[:, 7:31]
    sampling = gpu_resampling.Sampling((6, 8), "bilinear")
    whole = gpu_resampling.backward(slices.contiguous(memory_format=torch.channels_last), (3, 4), sampling)
    assert torch.equal(gpu_resampling.backward(slices, (3, 4), sampling), whole)


@pytest.fixture(params=["rule", "kernels", "mixed first"])
def formulation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute as the rule says, which at these sizes is the plain way; or resample by kernels; or mix first, too."""
    if request.param != "rule":
        monkeypatch.setattr(resizing, "FEWEST", 0)
    if request.param == "mixed first":
        for module in (resampling, convolutions):
            monkeypatch.setattr(module, "mixes", lambda x, weight, *_, **__: len(weight) <= x.shape[1])
        monkeypatch.setattr(convolutions, "remakes", lambda sources: True)


@pytest.mark.usefixtures("formulation")
@pytest.mark.parametrize("name", NAMES)
def test_networks(name: str) -> None:
    """Logits in float32 and gradients in float64, against the plain formulation on the CPU in float64.

    In float32 gradients of networks are no measure: they move by a hundredth if the images move by a millionth.
    """
    model = unetzoo.create(name, **light(name)).train()
    images = torch.randn(2, 3, 40, 51)
    plain = copy.deepcopy(model).double()
    expected = reference_logits(plain, images.double())
    spread = float((expected.max() - expected.min()).detach())
    found = copy.deepcopy(model).cuda()(images.cuda())
    assert float((found.cpu() - expected).detach().abs().max()) <= 1e-4 * spread
    there = copy.deepcopy(model).double().cuda()
    expected.square().mean().backward()
    there(images.double().cuda()).square().mean().backward()
    for (key, a), b in zip(there.named_parameters(), plain.parameters(), strict=True):
        assert float((a.grad.cpu() - b.grad).abs().max()) <= 1e-6 * float(b.grad.abs().max()), key


@pytest.mark.usefixtures("formulation")
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_autocast(mode: str) -> None:
    """A layer under autocast gives what the plain way gives under it, and gradients of the parameters' type."""
    conv = ConcatConv(12 + 160, 8, 3, 1, bias=True).cuda()
    maps = [torch.randn(2, 12, 24, 30, device="cuda"), torch.randn(2, 160, 6, 7, device="cuda")]
    inputs = [*(x.contiguous(memory_format=torch.channels_last).requires_grad_() for x in maps), *conv.parameters()]
    results = []
    for exact in (True, False):
        with torch.autocast("cuda", torch.bfloat16):
            if exact:
                out = conv(inputs[0], Upsampled(inputs[1], (24, 30), mode))
            else:
                joined = torch.cat((inputs[0], resize(inputs[1], (24, 30), mode)), dim=1)
                out = F.conv2d(joined, conv.weight, conv.bias, padding=1)
        assert out.dtype == torch.bfloat16
        results.append((out, *torch.autograd.grad(out.float().square().sum(), inputs)))
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        assert float((a.detach().float() - b.detach().float()).norm() / b.detach().float().norm()) <= 0.02


def test_maps_too_large_for_channels_last() -> None:
    """Of 2**31 numbers or more, which torch resamples with their channels first alone."""
    x = torch.ones(1, 64, 8, 8, dtype=torch.bfloat16, device="cuda").contiguous(memory_format=torch.channels_last)
    found = resize(x, (5800, 5800))
    assert found.numel() >= 2**31
    assert bool((found[0, 63] == 1).all())


@pytest.mark.parametrize("name", NAMES)
def test_steps_under_autocast(name: str) -> None:
    model = unetzoo.create(name, **light(name)).cuda().train()
    with torch.autocast("cuda", torch.bfloat16):
        model(torch.randn(2, 3, 40, 51, device="cuda")).float().square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_tiles() -> None:
    """A prediction in tiles, several at a time, is the CPU's."""
    model = unetzoo.create("unetpp_resnet18", **light("unetpp_resnet18"))
    image = torch.randint(0, 256, (3, 150, 210), dtype=torch.uint8)
    found, expected = (
        unetzoo.Predictor(copy.deepcopy(model), device=device, tile=64, batch_size=count)(image).probabilities
        for device, count in (("cuda", 5), ("cpu", 1))
    )
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        *((kind, {}) for kind in ("uint8", "rows of pixels", "grey", "missing")),
        *(("missing", how) for how in ({"tta": "flips"}, {"merge": "logits"}, {"blend": "linear", "overlap": 0.5})),
    ],
    ids=str,
)
def test_strips(kind: str, how: dict[str, Any]) -> None:
    """Many rows of tiles, several of them computed together, read one strip late: of an ensemble, as on the CPU."""
    models = [unetzoo.create(name, **light(name), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3)) for name in NAMES[:2]]
    image: Any = torch.randint(0, 256, (3, 300, 150), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = image[:1] if kind == "grey" else image.permute(1, 2, 0).numpy() if kind == "rows of pixels" else image
    if kind == "missing":
        image = image / 255
        image[:, 60:200, 50:100] = math.nan
        image[0, 250:] = math.nan
    expected = unetzoo.Predictor(copy.deepcopy(models), device="cpu", tile=64, **how)(image)
    for count in (1, 16):
        found = unetzoo.Predictor(copy.deepcopy(models), device="cuda", tile=64, batch_size=count, **how)(image)
        assert not found.probabilities.is_pinned()
        torch.testing.assert_close(found.probabilities, expected.probabilities, rtol=0, atol=1e-3)
        assert (found.missing is None) == (kind != "missing")
        if found.missing is not None:
            assert torch.equal(found.missing, expected.missing)


def test_strips_of_many_images() -> None:
    """Pinned memory is used again, and never while it is read or written: the same image is the same each time."""
    predictor = unetzoo.Predictor(unetzoo.create("resunet18"), device="cuda", tile=64, overlap=0.0, batch_size=16)
    images = [torch.rand(3, 640, 512, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    expected = [predictor(image).probabilities for image in images]
    for _ in range(5):
        for image, before in zip(images, expected, strict=True):
            torch.testing.assert_close(predictor(image).probabilities, before, rtol=0, atol=1e-3)


def test_one_strip_waits_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """What asks for the work of a strip waits for nothing: any synchronisation in it is an error."""
    predictor = unetzoo.Predictor(
        unetzoo.create("unet", **light("unet")), device="cuda", tile=64, overlap=0.0, batch_size=4
    )
    image = torch.rand(3, 512, 250)
    predictor(image)  # what torch does once
    add = Tiles.add

    def strict(*given: Any) -> None:
        with never_waits():
            add(*given)

    monkeypatch.setattr(Tiles, "add", strict)
    assert predictor(image).probabilities.shape == (1, 512, 250)


def test_an_overflow_in_one_strip_is_said() -> None:
    model = unetzoo.create("unet", **light("unet"))
    next(model.parameters()).data.mul_(1e20)
    image = torch.rand(3, 512, 128)
    image[:, 200:210, 20:40] = 1e30
    with pytest.raises(unetzoo.InputError, match="not finite"):
        unetzoo.Predictor(model, device="cuda", tile=64, overlap=0.0, batch_size=2)(image)


def test_a_loss_that_is_not_finite_is_said_of_its_batch(tmp_path: Path) -> None:
    """It is read one step late, and names its own batch; nothing of it is kept."""
    pytest.importorskip("pytorch_lightning")
    pytest.importorskip("jsonargparse")
    for seed in range(12):
        image, mask = unetzoo.drawing.draw_nuclei(32, 32, seed=seed)
        for kind, pixels in (("images", image.permute(1, 2, 0)), ("masks", 255 * mask.to(torch.uint8))):
            (tmp_path / "data" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.contiguous().numpy()).save(tmp_path / "data" / kind / f"{seed:02}.png")
    settings = {"model.options.base_channels": 4, "data.workers": 0, "trainer.limit_train_batches": 3}
    with pytest.raises(unetzoo.TrainingError, match="the loss is nan in epoch 2, batch 1, of these images"):
        unetzoo.fit(
            "unet", data=tmp_path / "data", out=tmp_path / "run", epochs=3, batch_size=2, quiet=True, settings=settings,
            loss=f"dice + {__name__}.NanFrom",
        )  # fmt: skip
    assert len(Run(tmp_path / "run").history) == 1


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
