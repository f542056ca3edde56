"""3×3 convolutions by Winograd's algorithm against oneDNN's: ``python examples/benchmarks/three_by_three.py``.

Each part of a layer is timed alternately in both ways, with channels last. The table has the ratios of the medians:
above 1, Winograd's algorithm is faster. Its last column says where ``unetzoo.nn.winograd`` uses it with this number of
threads: in optimised copies, forward, for the gradient of the input, and for that of the kernel.
"""

import argparse
import functools
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo.devices import reuse_memory
from unetzoo.nn import winograd

LAYERS = [
    *((1, 320, 320, 128), (2, 320, 320, 64), (2, 512, 512, 16), (2, 1536, 512, 16), (2, 768, 256, 32)),
    *((2, 256, 256, 32), (2, 256, 256, 16), (2, 384, 128, 64), (2, 128, 128, 64), (2, 128, 128, 32)),
    *((2, 320, 64, 64), (2, 128, 64, 128), (2, 64, 64, 128), (2, 64, 64, 64), (2, 32, 32, 128)),
]
"""Images, channels in and out, and the side of the map."""


def main() -> None:
    """Print a row of a table for each layer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    reuse_memory()
    print("| layer | optimised | forward | gradient of input | of kernel | used for |\n|:--|--:|--:|--:|--:|:--|")
    for images, channels, out_channels, side in LAYERS:
        x = torch.randn(images, channels, side, side).contiguous(memory_format=torch.channels_last)
        grad = torch.randn(images, out_channels, side, side).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(out_channels, channels, 3, 3)
        ratios = [f"{ratio(theirs, ours, given.rounds):.2f}" for theirs, ours in parts(x, weight, grad)]
        name = f"{channels} → {out_channels}, {images} × {side}²"
        print(f"| {name} | {' | '.join(ratios)} | {used(x, weight)} |", flush=True)


def parts(x: Tensor, weight: Tensor, grad: Tensor) -> list[tuple[Callable[[], object], Callable[[], object]]]:
    """Return oneDNN's way and ours: in an optimised copy, forward, and for both gradients."""
    ones = (1, 1)
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, ones, ones, ones, 1, list(x.shape))
    kept = functools.cache(lambda size: [*winograd.packed_points(weight, size)])

    def backward(mask: list[bool]) -> object:
        return torch.ops.aten.convolution_backward(grad, x, weight, None, ones, ones, ones, False, (0, 0), 1, mask)

    pointwise = torch.ops.mkldnn._convolution_pointwise
    return [
        (partial(pointwise, x, packed, None, ones, ones, ones, 1, "none", [], ""), partial(convolved, x, weight, kept)),
        (partial(F.conv2d, x, weight, padding=1), partial(convolved, x, weight)),
        (partial(backward, [True, False, False]), partial(winograd.input_gradient, grad, weight, ones)),
        (partial(backward, [False, True, False]), partial(winograd.kernel_gradient, grad, x, ones)),
    ]


def convolved(x: Tensor, weight: Tensor, packed: winograd.Packed | None = None) -> Tensor:
    """Return the convolution by points."""
    return winograd.by_points(x, weight, packed=packed)


def used(x: Tensor, weight: Tensor) -> str:
    """Return for which of the four parts unetzoo takes its own way."""
    chosen = winograd.gains(x, weight, (1, 1), kept=True), *winograd.ways_in_training(x, weight, (1, 1))
    names = ("optimised", "forward", "input", "kernel")
    return ", ".join(name for name, own in zip(names, chosen, strict=True) if own) or "–"


@torch.no_grad()
def ratio(theirs: Callable[[], object], ours: Callable[[], object], rounds: int) -> float:
    """Return how many times as long theirs takes: CPU time with one thread, wall-clock time with several."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for call, column in zip((theirs, ours), times, strict=True):
            begun = clock()
            call()
            if number:  # the first call is not counted
                column.append(clock() - begun)
    return median(times[0]) / median(times[1])


if __name__ == "__main__":
    main()
