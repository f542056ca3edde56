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
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo.nn import gpu_resampling
from unetzoo.nn.gpu_resampling import Resample, Sampling
from unetzoo.nn.whole_maps import mixer_of

MODES = ("nearest", "bilinear", "bilinear_aligned")
SIZES = (((2, 3), (4, 6)), ((3, 2), (5, 7)), ((5, 4), (2, 3)), ((1, 1), (3, 4)), ((2, 1), (8, 5)))
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
CASES = {f"{mode}, {SIZES[i]}, {TAPS[j]}": (mode, SIZES[i], TAPS[j]) for mode in MODES for i, j in EACH}
OTHERS = ("bfloat16", "gradients of gradients", "several gradients at once", "a slice of channels", "channels first")


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


def of_others() -> dict[str, float]:
    sampling = Sampling((4, 6), "bilinear")
    x = torch.randn(1, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    y = Resample.apply(x, None, sampling)
    weight = torch.eye(3, dtype=torch.float64)[:, :, None, None]
    expected = plain(x, weight, (4, 6), "bilinear", 0) - torch.tensor([0.5, -1.0, 2.0])[:, None, None]
    many = torch.randn(5, *y.shape, dtype=torch.float64)
    batched = [torch.autograd.grad(z, x, many, is_grads_batched=True, retain_graph=True)[0] for z in (y, expected)]
    half = x.detach().bfloat16().float()
    narrow = [
        F.interpolate(half, size=(4, 6), mode="bilinear"),
        Resample.apply(half.bfloat16(), None, sampling).float(),
    ]
    wide = torch.randn(2, 7, 4, 6).contiguous(memory_format=torch.channels_last)[:, 2:5]
    from_slice, from_copy = (gpu_resampling.backward(z, (2, 3), sampling) for z in (wide, wide.clone()))
    tiny = torch.randn(1, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    again = Sampling((1, 3), "bilinear")
    checked = torch.autograd.gradgradcheck(lambda z: Resample.apply(z, None, again).pow(3), (tiny,))
    first = torch.autograd.grad(y, x, many[0].contiguous())[0], torch.autograd.grad(expected, x, many[0])[0]
    values = (difference(*narrow), 0.0 if checked else 1.0, difference(*batched))
    return dict(zip(OTHERS, (*values, difference(from_slice, from_copy), difference(*first)), strict=True))


def measured() -> dict[str, float]:
    torch.manual_seed(0)
    return {name: of_case(*case) for name, case in CASES.items()} | of_others()


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
    assert differences[name] <= (2**-7 if name == "bfloat16" else 1e-12)


@pytest.fixture
def fresh() -> Iterator[None]:
    gpu_resampling.available.cache_clear()
    yield
    gpu_resampling.available.cache_clear()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (
            {"side_effect": RuntimeError("Failed to find C compiler.\n  Set CC")},
            "RuntimeError: Failed to find C compiler. Set CC",
        ),
        ({"side_effect": lambda x, sampling: torch.zeros(1, 2, *sampling.size)}, "Their values are not those of torch"),
    ],
)
def test_where_triton_fails_torch_resamples_with_a_warning(forward: dict[str, Any], message: str) -> None:
    """It is tried once for each device, by its values."""
    cpu = torch.device("cpu")
    with mock.patch.object(gpu_resampling, "find_spec", return_value=object()):
        with (
            mock.patch.object(gpu_resampling, "forward", **forward) as tried,
            mock.patch.object(gpu_resampling, "backward", return_value=torch.zeros(1, 2, 3, 4)),
            pytest.warns(UserWarning, match=f"do not work on cpu, so torch resamples .*{message}"),
        ):
            assert not gpu_resampling.available(cpu)
        with warnings.catch_warnings(action="error"):
            assert not gpu_resampling.available(cpu)
        assert tried.call_count == 1


@pytest.mark.usefixtures("fresh")
def test_without_triton_torch_resamples() -> None:
    with mock.patch.object(gpu_resampling, "find_spec", return_value=None):
        assert not gpu_resampling.available(torch.device("cpu"))


def test_the_kernels_are_for_cuda_alone() -> None:
    assert not gpu_resampling.fits(torch.zeros(1, 2, 3, 4))
    assert not gpu_resampling.fits(torch.zeros(1, 2, 3, 4, device="meta"))


if __name__ == "__main__":
    print(json.dumps(measured()))
