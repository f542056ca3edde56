"""What optimised copies gain by our convolutions: ``python examples/benchmarks/packing.py [NAME …] [--threads 1]``.

Each network's optimised copy is timed alternately with torch's own convolutions, and with those of
``unetzoo.nn.packing``: packed weights, fused passes, Winograd's algorithm, oneDNN's 1×1 convolutions. The table has the
medians of the CPU time, and of the ratios over the rounds, in float32 and in bfloat16.
"""

import argparse
import time
from statistics import median

import torch
from torch import Tensor, nn

import unetzoo
from unetzoo.nn import packing, pointwise

NAMES = ["resunet50", "unetpp_resnet50", "unet3p_resnet50", "unet_efficientnet_b0", "unet_regnet_y_1_6gf"]


def main() -> None:
    """Print a row of a table for each name and type."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*NAMES, "unet_densenet121", "unet_convnext_tiny"])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    images = torch.rand(2, 3, given.size, given.size)
    print("| | dtype | by torch, ms | ours, ms | times as fast |\n| --- | --- | ---: | ---: | ---: |")
    for name in given.names:
        for dtype in (torch.float32, torch.bfloat16):
            copy = unetzoo.optimize(unetzoo.create(name), dtype=dtype)
            pairs = [(by_torch(copy, images), seconds(copy, images)) for _ in range(given.rounds)]
            times = [f"{1000 * median(column):.0f}" for column in zip(*pairs, strict=True)]
            ratio = median(before / after for before, after in pairs)
            print(f"| `{name}` | {str(dtype)[6:]} | {' | '.join(times)} | {ratio:.2f} |", flush=True)


def by_torch(copy: nn.Module, images: Tensor) -> float:
    """Return the CPU time of a call in which torch chooses how 1×1 convolutions, and all others, are computed."""
    packable, by_onednn = packing.packable, pointwise.by_onednn
    packing.packable, pointwise.by_onednn = (lambda *_: False), (lambda *_: False)
    try:
        return seconds(copy, images)
    finally:
        packing.packable, pointwise.by_onednn = packable, by_onednn


@torch.inference_mode()
def seconds(copy: nn.Module, images: Tensor) -> float:
    """Return the CPU time of a call, after an untimed one."""
    copy(images)
    begun = time.process_time()
    copy(images)
    return time.process_time() - begun


if __name__ == "__main__":
    main()
