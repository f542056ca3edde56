"""The effect of oneDNN's 1×1 convolutions: ``python examples/benchmarks/pointwise.py [NAME …] [--threads 1]``.

Each network's optimised copy is timed alternately unchanged, and with its 1×1 convolutions and linear layers computed
by torch. The table has the medians of the CPU time, and of the ratios over the rounds.
"""

import argparse
import copy
import time
from statistics import median

import torch
from torch import Tensor, nn

import unetzoo
from unetzoo.nn.pointwise import PointwiseConv, PointwiseLinear

PLAIN = {PointwiseConv: nn.Conv2d, PointwiseLinear: nn.Linear}
NAMES = ["resunet50", "unetpp_resnet50", "unet_efficientnet_b0", "unet_regnet_y_1_6gf", "unet_densenet121"]


def main() -> None:
    """Print a row of a table for each name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*NAMES, "unet_convnext_tiny"])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    images = torch.rand(2, 3, given.size, given.size)
    print("| | layers | by torch, ms | ours, ms | times as fast |\n| --- | ---: | ---: | ---: | ---: |")
    for name in given.names:
        ours = unetzoo.optimize(unetzoo.create(name))
        plain, layers = copy.deepcopy(ours), 0
        for module in plain.modules():
            if type(module) in PLAIN:
                module.__class__, layers = PLAIN[type(module)], layers + 1
        pairs = [(seconds(plain, images), seconds(ours, images)) for _ in range(given.rounds)]
        times = [f"{1000 * median(column):.0f}" for column in zip(*pairs, strict=True)]
        ratio = median(before / after for before, after in pairs)
        print(f"| `{name}` | {layers} | {' | '.join(times)} | {ratio:.2f} |", flush=True)


@torch.inference_mode()
def seconds(model: nn.Module, images: Tensor) -> float:
    """Return the CPU time of a call, after an untimed one."""
    model(images)
    begun = time.process_time()
    model(images)
    return time.process_time() - begun


if __name__ == "__main__":
    main()
