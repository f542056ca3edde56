"""The effect of reusing freed memory: ``python examples/benchmarks/allocator.py [--threads 1] [--rounds 3]``.

Each job runs in separate processes, alternately with and without ``unetzoo.devices.reuse_memory``: a training step,
and the prediction of an image by the optimised copy. The table has the medians of the CPU seconds, and the peak memory
of the processes in MiB.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median

JOBS = {
    "train `resunet18`, 8 × 256²": ("resunet18", True, 8, 256),
    "train `unet`, 2 × 256²": ("unet", True, 2, 256),
    "predict `resunet18`, 1024²": ("resunet18", False, 1, 1024),
    "predict `unet`, 512²": ("unet", False, 1, 512),
    "predict `unet3p_resnet50`, 512²": ("unet3p_resnet50", False, 1, 512),
}


def main() -> None:
    """Print a row of a table for each job; or run one of them, and print its time and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--job", nargs=2, metavar=("NAME", "REUSE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        print(json.dumps(measured(given.job[0], given.job[1] == "True", given.threads)))
        return
    print("| | s | with memory used again | times as fast | peak MiB | with it |")
    print("| :-- | --: | --: | --: | --: | --: |")
    for name in JOBS:
        rounds = [[told(name, reuse, given.threads) for reuse in (False, True)] for _ in range(given.rounds)]
        before, after = zip(*rounds, strict=True)
        seconds = [median(row[0] for row in way) for way in (before, after)]
        ratio = median(one[0] / other[0] for one, other in rounds)
        peaks = [f"{median(row[1] for row in way):.0f}" for way in (before, after)]
        print(f"| {name} | {seconds[0]:.2f} | {seconds[1]:.2f} | {ratio:.2f} | {' | '.join(peaks)} |", flush=True)


def told(name: str, reuse: bool, threads: int) -> tuple[float, float]:
    """Return the time and memory of a job in a separate process."""
    command = [sys.executable, __file__, "--threads", str(threads), "--job", name, str(reuse)]
    seconds, peak = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return seconds, peak


def measured(name: str, reuse: bool, threads: int) -> tuple[float, float]:
    """Return the smallest of three CPU times, in seconds, and the peak memory of the process in MiB."""
    import torch

    import unetzoo
    from unetzoo.devices import reuse_memory

    torch.set_num_threads(threads)
    if reuse:
        reuse_memory(all_of_it=True)
    network, train, count, side = JOBS[name]
    model = unetzoo.create(network)
    images = torch.rand(count, 3, side, side)
    copy = None if train else unetzoo.optimize(model)

    def job() -> None:
        if copy is None:
            model(images).square().mean().backward()
        else:
            with torch.inference_mode():
                copy(images)

    job()
    times = []
    for _ in range(3):
        begun = time.process_time()
        job()
        times.append(time.process_time() - begun)
    return min(times), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
