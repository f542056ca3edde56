"""The resampling kernels for GPUs, run here by Triton's interpreter on the CPU, against torch's operators.

``test_gpu.py`` runs them on a GPU. The interpreter has to be chosen before Triton is imported, so this file runs itself
in a process of its own, which writes a figure for each case.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from reference import reference_logits
from torch import Tensor

import unetzoo
from unetzoo.nn import convolutions, gpu_resampling, resampling, resizing, whole_maps
from unetzoo.nn.gpu_resampling import Resample, Sampling
from unetzoo.nn.whole_maps import MODES, interpolate, mixer_of

SIZES = (((2, 3), (4, 6)), ((3, 2), (4, 5)), ((5, 4), (2, 3)), ((1, 1), (3, 4)), ((2, 1), (8, 5)))
TAPS = (((1, 1), 0), ((3, 3), 1), ((3, 3), 0), ((3, 2), 1))
EACH = [
    (0, 0),
    (0, 1),
    (0, 2),
    (1, 1),
    (2, 0),
    (2, 3),
    (3, 1),
    (4, 0),
    (4, 1),
]  # the interpreter takes a second for most
CASES = {
    f"{mode}, {SIZES[i]}, {TAPS[j]}": (mode, SIZES[i], TAPS[j])
    for mode in MODES
    for i, j in (EACH[1::3] if mode == "bilinear_aligned" else EACH)  # which is the same program with other positions
}


def plain(x: Tensor, weight: Tensor, size: tuple[int, int], mode: str, padding: int) -> Tensor:
    aligned = None if mode == "nearest" else mode == "bilinear_aligned"
    up = F.interpolate(x, size=size, mode=mode.removesuffix("_aligned"), align_corners=aligned)
    return F.conv2d(up, weight, torch.tensor([0.5, -1.0, 2.0], dtype=x.dtype), padding=padding)


def ours(x: Tensor, weight: Tensor, size: tuple[int, int], mode: str, padding: int) -> Tensor:
    height, width = weight.shape[2:]
    bias = torch.tensor([0.5, -1.0, 2.0], dtype=x.dtype)
    found: Tensor = Resample.apply(F.conv2d(x, mixer_of(weight)), bias, Sampling(size, mode, (height, width), padding))
    return found


def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def of_case(mode: str, sizes: tuple[tuple[int, int], tuple[int, int]], taps: tuple[tuple[int, int], int]) -> float:
    """Return the largest difference of values and gradients, as a share of the largest value."""
    (small, large), (kernel, padding) = sizes, taps
    x = (
        torch.randn(1 + (small == (3, 2)), 2, *small, dtype=torch.float64)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
    )
    weight = torch.randn(3, 2, *kernel, dtype=torch.float64, requires_grad=True)
    expected, found = (way(x, weight, large, mode, padding) for way in (plain, ours))
    above = torch.randn_like(expected)
    gradients = [torch.autograd.grad(y, (x, weight), above) for y in (found, expected)]
    return max(difference(found, expected), *(difference(*pair) for pair in zip(*gradients, strict=True)))


SAMPLING = Sampling((4, 6), "bilinear")


def drawn(channels: int = 3) -> Tensor:
    return torch.randn(1, channels, 2, 3, dtype=torch.float64, requires_grad=True)


def pair(x: Tensor) -> list[Tensor]:
    """Return what the kernel gives, and what torch's operators do."""
    return [Resample.apply(x, None, SAMPLING), gpu_resampling._by_operators(x, SAMPLING)]


def in_narrow_types() -> float:
    """Return how far values are off, in float16 above half a last place; to bfloat16 the interpreter cuts off."""
    x = drawn().detach()
    half = difference(pair(x.half())[0].double(), pair(x.half().double())[1]) - 2**-11
    found, exact = pair(x.bfloat16())[0], pair(x.bfloat16().double())[1]
    cut = (exact.float().view(torch.int32) & -(2**16)).view(torch.float32)
    return max(0.0, half, difference(found.double(), cut.double()))


def of_many_channels() -> float:
    x = drawn(130).detach()
    return difference(*pair(x))


def of_a_slice_of_channels() -> float:
    grad = torch.randn(2, 7, 4, 6).contiguous(memory_format=torch.channels_last)[:, 2:5]
    return difference(*(gpu_resampling.backward(each, (2, 3), SAMPLING) for each in (grad, grad.clone())))


def of_expanded_gradients() -> float:
    x = drawn()
    return difference(*(torch.autograd.grad(y.sum(), x)[0] for y in pair(x)))


def of_a_bias_with_gaps() -> float:
    bias = torch.arange(6.0, dtype=torch.float64)[::2]
    found = Resample.apply(drawn() * 0, bias, SAMPLING)
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        Resample.apply(drawn(), bias[:2], SAMPLING)
    return float((found - bias[:, None, None]).detach().abs().max())


def of_several_gradients_at_once() -> float:
    x = drawn()
    many = torch.randn(5, 1, 3, 4, 6, dtype=torch.float64)
    first = [torch.autograd.grad(y, x, many, is_grads_batched=True, retain_graph=True)[0] for y in pair(x)]
    slopes = [torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)[0] for y in pair(x)]
    each = torch.randn(5, *x.shape, dtype=torch.float64)
    second = [torch.autograd.grad(slope, x, each, is_grads_batched=True)[0] for slope in slopes]
    return max(difference(*first), difference(*second))


def of_gradients_of_gradients() -> float:
    x = drawn()
    slopes = [torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)[0] for y in pair(x)]
    return difference(*(torch.autograd.grad(slope.pow(2).sum(), x)[0] for slope in slopes))


def of_a_network() -> float:
    """Return the difference of logits and gradients of a network whose layers all use the kernels."""
    model = unetzoo.create("unetpp", base_channels=2, levels=2, upsampling="bilinear").double().train()
    images = torch.randn(1, 3, 9, 6, dtype=torch.float64)
    calls = mock.Mock(side_effect=gpu_resampling.forward)
    with (
        mock.patch.object(resizing, "fits", return_value=True),
        mock.patch.object(resampling, "fits", return_value=True),
        mock.patch.object(convolutions, "mixes", side_effect=lambda x, *_, **__: x.shape[2] > 3),
        mock.patch.object(resizing, "FEWEST", 0),
        mock.patch.object(gpu_resampling, "forward", calls),
    ):
        found = model(images)
        ours = torch.autograd.grad(found.pow(2).sum(), [*model.parameters()])
    assert {call.args[1].taps for call in calls.call_args_list} == {(1, 1), (3, 3)}
    expected = reference_logits(model, images)
    theirs = torch.autograd.grad(expected.pow(2).sum(), [*model.parameters()])
    whole = [torch.cat([each.flatten() for each in gradients]) for gradients in (ours, theirs)]
    return max(difference(found, expected), difference(*whole))


OTHERS = {
    each.__name__: each
    for each in (
        in_narrow_types, of_many_channels, of_a_slice_of_channels, of_expanded_gradients, of_a_bias_with_gaps,
        of_several_gradients_at_once, of_gradients_of_gradients, of_a_network,
    )
}  # fmt: skip


def measured() -> dict[str, float]:
    torch.manual_seed(0)
    return {name: of_case(*case) for name, case in CASES.items()} | {name: other() for name, other in OTHERS.items()}


@pytest.fixture(scope="module")
def differences() -> dict[str, float]:
    """Run the kernels in a process in which Triton interprets them."""
    if find_spec("triton") is None:
        pytest.skip("torch brings Triton on Linux alone")
    import subprocess

    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", [*CASES, *OTHERS])
def test_the_kernels_resample_as_torch_does(name: str, differences: dict[str, float]) -> None:
    assert differences[name] <= 2e-12


@pytest.mark.parametrize(
    ("capability", "dtype"), [(75, "fp16"), (80, "bf16"), (90, "bf16"), (90, "fp64"), (120, "fp32")], ids=str
)
@pytest.mark.parametrize("name", ["resample", "adjoint"])
def test_the_kernels_compile_for_gpus(
    name: str, capability: int, dtype: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For those of other generations, too; maps are read and written 16 bytes at a time."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    triton = pytest.importorskip("triton", reason="torch brings Triton on Linux alone")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from unetzoo.nn import gpu_kernels

    kernel, adds = getattr(gpu_kernels, name), "fp64" if dtype == "fp64" else "fp32"
    constants = {"row_taps": 3, "column_taps": 3, "linear": True, "biased": True, "most_rows": 4, "most_columns": 4}
    constants |= {"wide": 8, "deep": 64, "dtype": getattr(triton.language, f"float{adds[2:]}")}
    signature, aligned = {}, {}
    for number, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
            continue
        kinds = {"x": dtype, "grad": dtype, "out": dtype, "bias": dtype, "part": adds, "low": "i32", "first": "i32"}
        kind = kinds.get(argument.split("_")[-1])
        signature[argument] = "i32" if kind is None else f"*{kind}"
        if argument not in gpu_kernels.SIZES:
            aligned[number,] = [["tt.divisibility", 16]]
    places = {(kernel.arg_names.index(key),): value for key, value in constants.items() if key in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=aligned)
    options = {"num_warps": gpu_resampling.WARPS}
    program = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]
    vector = ".v2.b64" if dtype == "fp64" else ".v4.b32"
    assert program.count(f"ld.global{vector}") >= (36 if name == "resample" else 1)
    assert program.count(f"st.global{vector}") >= 1


@pytest.mark.parametrize("sizes", [(160, 305), (6, 141), (8, 164), (294, 129), (7, 14)], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_positions_are_torch_s(mode: str, sizes: tuple[int, int]) -> None:
    """For "nearest" those of float32, which differ from exact ones by a pixel at some of these sizes."""
    source, target = sizes
    found = whole_maps.positions(source, target, mode)
    ramp = torch.arange(source, dtype=torch.float32).view(1, 1, -1, 1).expand(1, 2, source, 2)
    resized = interpolate(ramp.contiguous(memory_format=torch.channels_last), (target, 2), mode)[0, 0, :, 0]
    torch.testing.assert_close(found.float(), resized, rtol=0 if mode == "nearest" else 1e-4, atol=0)


def forget() -> None:
    gpu_resampling._fault.cache_clear()
    gpu_resampling._WARNED.clear()


@pytest.fixture
def fresh() -> Iterator[None]:
    """Let a test be the first that tries the kernels, and leave nothing of it."""
    forget()
    yield
    forget()


FAILURES = {
    "raises": ({"side_effect": RuntimeError("No C compiler.\n  Set CC")}, "RuntimeError: No C compiler. Set CC"),
    "wrong": ({"return_value": torch.full((1, 2, 5, 7), -9.0)}, "Their values are not those of torch"),
}


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("how", FAILURES)
def test_where_triton_fails_torch_resamples_with_a_warning(how: str) -> None:
    """It is tried once for each device and type, and says so once, also where warnings are errors."""
    forward, message = FAILURES[how]
    cpu = torch.device("cpu")
    with (
        mock.patch.object(gpu_resampling, "_has_triton", return_value=True),
        mock.patch.object(gpu_resampling, "forward", **forward) as tried,
        mock.patch.object(gpu_resampling, "backward", return_value=torch.zeros(1, 8, 2, 3)),
    ):
        with pytest.warns(UserWarning, match=f"do not work on cpu for torch.float32, so torch resamples .*{message}"):
            assert not gpu_resampling.available(cpu, torch.float32)
        assert not gpu_resampling.available(cpu, torch.float32)
        assert tried.call_count == 1
        with pytest.raises(UserWarning, match="bfloat16"), warnings.catch_warnings(action="error"):
            gpu_resampling.available(cpu, torch.bfloat16)
        assert not gpu_resampling.available(cpu, torch.bfloat16)


@pytest.mark.usefixtures("fresh")
def test_memory_that_runs_out_says_nothing_about_triton() -> None:
    full = mock.patch.object(gpu_resampling, "forward", side_effect=torch.OutOfMemoryError)
    with full as tried, mock.patch.object(gpu_resampling, "_has_triton", return_value=True):
        for _ in range(2):
            with pytest.raises(torch.OutOfMemoryError):
                gpu_resampling.available(torch.device("cpu"), torch.float32)
    assert tried.call_count == 2


def test_without_triton_torch_resamples() -> None:
    """In silence: where there is none, torch's compiler has none either."""
    gpu_resampling._has_triton.cache_clear()
    with mock.patch.object(gpu_resampling, "find_spec", return_value=None):
        assert not gpu_resampling.available(torch.device("cpu"), torch.float32)
    gpu_resampling._has_triton.cache_clear()


def test_the_kernels_are_for_cuda_alone() -> None:
    assert not gpu_resampling.fits(torch.zeros(1, 2, 3, 4), (6, 8))
    assert not gpu_resampling.fits(torch.zeros(1, 2, 3, 4, device="meta"), (6, 8))


if __name__ == "__main__":
    print(json.dumps(measured()))
