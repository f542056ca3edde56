"""Each layer of the zoo and its plain form on the CPU: ``python examples/benchmarks/layers.py [--threads 1]``.

A layer is a convolution of several maps, of up-sampled maps, or after a pending norm, as in decoders: all that the
networks below have at this size, each once. It is timed alternately in unetzoo's form and by torch's own operators with
images and weights channels last, forward and with backward, in float32. The table has medians of the CPU time and of
the ratios over the rounds: above 1, the layer is faster than its plain form. The last lines count how many are slower.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from gpu_forms import BASE, LAST, Bench, Shape, Way, layer, shapes

from unetzoo.devices import reuse_memory

NETWORKS = (
    *("unet", "unetpp", "unet3p", "resunet18", "resunet50", "unetpp_resnet50", "unet3p_resnet50"),
    *("unet3p_lite_resnet18", "unetpp_lite_resnet50", "smp_unet_resnet34", "smp_unetplusplus_resnet34"),
    *("unet_efficientnet_b0", "unet3p_mobilenet_v3_large", "unet_resenc_small"),
)
ALLOWED = 0.97
"""A layer may be 3 % slower than its plain form, as times vary by this much."""


def main() -> None:
    """Print a row of a table for each layer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    reuse_memory(all_of_it=True)  # as in training
    bench = Bench("cpu", 0, Path(), smoke=False)
    bench.size, bench.batches, bench.models = given.size, (given.batch,), tuple(given.networks)
    print("| layer | of | forward, ms | times as fast | with backward, ms | times as fast |")
    print("| :-- | :-- | ---: | ---: | ---: | ---: |")
    ratios: list[tuple[float, float]] = []
    for shape, name in shapes(bench).items():
        pair = [compared(bench, shape, train, given.rounds) for train in (False, True)]
        ratios.append((pair[0][1], pair[1][1]))
        cells = " | ".join(f"{ms:.1f} | {ratio:.2f}" for ms, ratio in pair)
        print(f"| {text_of(shape)} | `{name}` | {cells} |", flush=True)
    for title, column in zip(("forward", "with backward"), zip(*ratios, strict=True), strict=True):
        slower = sum(ratio < ALLOWED for ratio in column)
        print(f"\n{title}: {len(column)} layers, {slower} slower by more than 3 %; the least is {min(column):.2f}")


def compared(bench: Bench, shape: Shape, train: bool, rounds: int) -> tuple[float, float]:
    """Return the milliseconds of a layer, and how many times as fast as its plain form it is."""
    plain, ours = (layer(bench, shape, way, train, False) for way in (BASE[LAST], Way(last=True)))
    pairs = [(milliseconds(plain), milliseconds(ours)) for _ in range(rounds + 1)][1:]
    return median(its for _, its in pairs), median(its / other for its, other in pairs)


def milliseconds(work: Callable[[], object]) -> float:
    """Return the CPU time of a call; short calls are repeated until they take a hundredth of a second."""
    begun, calls = time.process_time(), 0
    while calls == 0 or time.process_time() - begun < 0.01:
        work()
        calls += 1
    return 1e3 * (time.process_time() - begun) / calls


def text_of(shape: Shape) -> str:
    """Return a layer as text, such as "64 + 128 ×2 → 64, 256²"."""
    parts = []
    for kind, channels, height, _, mode in shape.sources:
        up = f" ×{shape.size[0] // height}{' nearest' if mode == 'nearest' else ''}" if kind == "Upsampled" else ""
        parts.append(f"{channels}{up}{' after a norm' if kind == 'Activated' else ''}")
    return f"{' + '.join(parts)} → {shape.out}, {shape.kernel}×{shape.kernel} at {shape.size[0]}²"


if __name__ == "__main__":
    main()
