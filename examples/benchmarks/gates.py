"""The cost of attention gates: ``python examples/benchmarks/gates.py [NAME …] [--size 256] [--rounds 9]``.

Each U-Net is counted and timed without and with gates, alternately, on one core, for one image. The table has the
parameters, the GFLOPs (with two operations per multiply-add), and the median ratio of the times over the rounds.
"""

import argparse
from statistics import median

import torch
from stopwatch import timed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import unetzoo


def main() -> None:
    """Print a row of a table for each name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["unet", "resunet18", "resunet34", "resunet50", "unet_resenc"])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.rand(1, 3, given.size, given.size)
    print("| | parameters | with gates | GFLOPs | with gates | time |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in given.names:
        without, gated = (unetzoo.create(name, attention=attention).eval() for attention in (False, True))
        counts = [f"{sum(p.numel() for p in model.parameters()):,}" for model in (without, gated)]
        work = [f"{gflops(model, images):.1f}" for model in (without, gated)]
        ratio = median(seconds(gated, images) / seconds(without, images) for _ in range(given.rounds))
        print(f"| `{name}` | {' | '.join(counts)} | {' | '.join(work)} | × {ratio:.2f} |", flush=True)


def gflops(model: nn.Module, images: Tensor) -> float:
    """Return the arithmetic of a call, in billions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops() / 1e9


@torch.inference_mode()
def seconds(model: nn.Module, images: Tensor) -> float:
    """Return the time of a call, after an untimed one."""
    model(images)
    return timed(lambda: model(images))


if __name__ == "__main__":
    main()
