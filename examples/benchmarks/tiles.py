"""How fast images are segmented in tiles: ``python examples/benchmarks/tiles.py [--models NAME …] [--side 2048]``.

Three ways run alternately, with the same network (from ``unetzoo.optimize``), on the same tiles, in the same process:
only the network on the tiles; ``unetzoo.Predictor``; and MONAI's ``sliding_window_inference`` with its Gaussian
blending, if MONAI is installed. The table has medians, and the throughput as a share of that of the network alone.
MONAI chooses its own windows, so its time is also given per window. Peak memory is that of a fresh process, minus its
memory with network and image ready.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from statistics import median

import torch
from stopwatch import peak, timed
from torch import Tensor

import unetzoo
from unetzoo import drawing, images

OVERLAP = 0.25
WAYS = ("bare tiles", "Predictor", "MONAI")


def ways(name: str, side: int, tile: int) -> dict[str, tuple[Callable[[], object], Callable[[], int]]]:
    """Return way → what computes it, and what counts its tiles."""
    torch.manual_seed(0)
    network = unetzoo.optimize(unetzoo.create(name).eval())
    image = drawing.draw_nuclei(256, 256)[0].repeat(1, side // 256, side // 256)
    predictor = unetzoo.Predictor(network, tile=tile, overlap=OVERLAP)
    from unetzoo.prediction.inputs import LoadedImage

    grid = predictor.grid(LoadedImage(image))
    batch = images.prepare(image, network.config)

    def bare() -> None:
        with torch.inference_mode():
            for y in grid.down.starts:
                for x in grid.across.starts:
                    network(batch[..., y : y + tile, x : x + tile])

    found = {WAYS[0]: (bare, lambda: grid.count), WAYS[1]: (lambda: predictor(image), lambda: grid.count)}
    try:
        from monai.inferers import sliding_window_inference
    except ModuleNotFoundError:
        return found
    windows = 0

    def counted(windows_of_image: Tensor) -> Tensor:
        nonlocal windows
        windows += 1
        logits: Tensor = network(windows_of_image)
        return logits

    def monai() -> object:
        nonlocal windows
        windows = 0
        with torch.inference_mode():
            return sliding_window_inference(batch, (tile, tile), 1, counted, OVERLAP, "gaussian").sigmoid()

    return {**found, WAYS[2]: (monai, lambda: windows)}


def peak_mib(way: str, name: str, side: int, tile: int) -> float:
    """Return the peak MiB of a fresh process minus its memory when everything is ready; only on Linux."""
    run, _ = ways(name, side, tile)[way]
    return peak(run) / 1024


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resunet18", "unet3p_resnet18"])
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| network | way | tiles | s | a tile, ms | throughput of bare tiles | peak MiB |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for name in options.models:
        found = ways(name, options.side, options.tile)
        for run, _ in found.values():
            run()
        times = {way: [] for way in found}
        for _ in range(options.rounds):
            for way, (run, _) in found.items():
                times[way].append(timed(run))
        first = median(times[WAYS[0]]) / found[WAYS[0]][1]()
        for way, (_, count) in found.items():
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
                weight = fresh.submit(peak_mib, way, name, options.side, options.tile).result()
            seconds, each = median(times[way]), median(times[way]) / count()
            cells = (name, way, count(), f"{seconds:.2f}", f"{1000 * each:.0f}", f"{first / each:.1%}", f"{weight:.0f}")
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
