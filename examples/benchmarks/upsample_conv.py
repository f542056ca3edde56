"""Resample-then-convolve alone: ``python examples/benchmarks/upsample_conv.py``.

Prints from where on it is faster to mix channels first (the rule of ``unetzoo.nn.resampling.mixes_first``), and the
cost of an output pixel for small to large maps, in time and in memory. Times are medians of alternating rounds.
"""

import ctypes
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from statistics import median

import torch
import torch.nn.functional as F
from stopwatch import peak, timed
from torch import Tensor

from unetzoo.nn import resampling

ROUNDS = 5


def plain(x: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample, then convolve."""
    return F.conv2d(resampling.resize(x, size), weight, padding=1)


def mixed(x: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the same, with channels mixed first regardless of the rule."""
    resampling.MIXED_FIRST = 1
    return resampling.upsample_conv(x, weight, None, size)


def drawn(channels: int, out: int, coarse: int, dtype: torch.dtype, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Return a map and a weight."""
    x = torch.randn(batch, channels, coarse, coarse, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return x, torch.randn(out, channels, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)


def in_turn(*works: Callable[[], object]) -> list[float]:
    """Return the median seconds of each."""
    times: list[list[float]] = [[] for _ in works]
    for work in works:
        work()
    for _ in range(ROUNDS):
        for work, its in zip(works, times, strict=True):
            its.append(timed(work))
    return [median(its) for its in times]


def ratio(channels: int, out: int, scale: int, dtype: torch.dtype, train: bool) -> float:
    """Return the plain way's time over ours, for a map of 128² after up-sampling."""
    x, weight = drawn(channels, out, 128 // scale, dtype)
    for tensor in (x, weight):
        tensor.requires_grad_(train)
    above = torch.randn(2, out, 128, 128, dtype=dtype).contiguous(memory_format=torch.channels_last)

    def run(form: Callable[..., Tensor]) -> None:
        y = form(x, weight, (128, 128))
        if train:
            y.backward(above)

    slow, fast = in_turn(lambda: run(plain), lambda: run(mixed))
    return slow / fast


def peak_bytes(side: int) -> float:
    """Return the peak bytes per output pixel of one call, including the output."""
    x, weight = drawn(320, 64, side // 2, torch.float32, batch=1)
    with torch.inference_mode():
        mixed(x[:, :, :64, :64], weight, (128, 128))  # libraries allocate their own memory at the first call
        ctypes.CDLL(None).malloc_trim(0)
        return peak(lambda: mixed(x, weight, (side, side))) * 1024 / side**2


def main() -> None:
    """Measure and print."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("Times as fast as the plain way, 64 channels out, 2 × 128² after up-sampling:\n")
    print("| channels in | ×2 | ×2, training | ×2, bf16 | ×4 | ×4, training | ×8 | ×8, training |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|")
    kinds = ((2, torch.float32, False), (2, torch.float32, True), (2, torch.bfloat16, False))
    kinds += tuple((scale, torch.float32, train) for scale in (4, 8) for train in (False, True))
    for channels in (16, 32, 64, 96, 128, 192, 320, 512, 1024):
        ratios = [ratio(channels, 64, *kind) for kind in kinds]
        print(f"| {channels} | {' | '.join(f'{value:.2f}' for value in ratios)} |", flush=True)
    print("\n320 → 64 channels, ×2, one image:\n")
    print("| side | ns a pixel, plain | ns a pixel, ours | bytes a pixel at the peak, ours |")
    print("|--:|--:|--:|--:|")
    sides = (128, 256, 512, 1024, 2048)
    inputs = {side: drawn(320, 64, side // 2, torch.float32, batch=1) for side in sides}
    with torch.inference_mode():
        works = [lambda form=form, s=s: form(*inputs[s], (s, s)) for s in sides for form in (plain, mixed)]
        times = in_turn(*works)
    for side, slow, fast in zip(sides, times[::2], times[1::2], strict=True):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            held = pool.submit(peak_bytes, side).result()
        print(f"| {side} | {slow / side**2 * 1e9:.0f} | {fast / side**2 * 1e9:.0f} | {held:.0f} |", flush=True)


if __name__ == "__main__":
    main()
