"""The performance of the zoo on a GPU: ``python examples/benchmarks/gpu.py --minutes 10 --out DIR``.

It needs one GPU, torch, torchvision, numpy and safetensors; ``fit`` is timed if Lightning is installed, too. These are
the parts, the most important first, each with its share of the time:

- networks: inference and training steps in float32 (TF32) and bfloat16, eager: the plain implementation, the same with
  images and weights channels last, the exact layers in each of their forms, regardless of the rule, and unetzoo itself.
- profile: the kernels in which a training step spends its time.
- layers: every convolution of several maps, up-sampled maps or pending norms that the zoo has at that size.
- kernels: unetzoo's resampling kernels, torch's, and a copy of as many bytes.
- equalities: comparison with the CPU in float64.
- predictor: tiles per second; fit: images per second, compared with the bare step.
- compiled: the same as networks, compiled.

``DIR/gpu.json`` is written again after each figure, so you can stop the program at any time. ``--device cpu --smoke``
runs everything in a minute, on small networks and images, as a test.
"""

from __future__ import annotations

import argparse
import copy
import csv
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from gpu_forms import LAST, OURS, Bench, infer, layers, networks, profile, step, works_of
from torch import Tensor, nn

import unetzoo
from unetzoo import drawing
from unetzoo.nn import gpu_resampling, whole_maps
from unetzoo.nn.gpu_resampling import Sampling

ACCELERATORS = {"cpu": "cpu", "cuda": "gpu"}


def equalities(bench: Bench) -> None:
    """Compare with the CPU in float64; every figure is the largest difference divided by the largest value."""
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        for name in bench.models:
            model = bench.model(name)
            compared(bench, name, model)
            if not bench.late:
                tiled(bench, name, model)
            bench.cleared()
    finally:
        torch.backends.cudnn.allow_tf32 = tf32


def compared(bench: Bench, name: str, model: unetzoo.SegmentationModel) -> None:
    """Compare logits, gradients and optimised copies."""
    batch = torch.randn(2, 3, 65, 96, generator=torch.Generator().manual_seed(0))
    there = batch.to(bench.device)
    exact = copy.deepcopy(model).cpu().double()
    expected = infer(exact.eval(), batch.double())
    for dtype, allowed in ((None, 1e-3), (torch.bfloat16, 0.2)):
        found = infer(unetzoo.optimize(model, dtype=dtype), there).cpu().double()
        add(bench, f"{name}, optimize, {dtype}", found, expected, allowed)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    for way, mine in (("", copy.deepcopy(model)), (", channels last", last)):
        there = there.contiguous(memory_format=torch.channels_last) if way else there
        # In float64: in float32 these gradients move by a hundredth if the images move by a millionth.
        step(exact.train(), batch.double(), False)
        step(mine.double().train(), there.double(), False)
        add(bench, f"{name}, gradients{way}", gradient(mine).cpu(), gradient(exact), 1e-6)
        step(mine.float(), there, True)
        add(bench, f"{name}, gradients{way}, autocast", gradient(mine).cpu(), gradient(exact), 1.0)


def gradient(model: nn.Module) -> Tensor:
    """Return all gradients as one vector of length 1."""
    found = torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])
    return found / found.norm()


def add(bench: Bench, what: str, found: Tensor, expected: Tensor, allowed: float) -> None:
    """Record a difference."""
    difference = float((found - expected).abs().max() / (expected.max() - expected.min()))
    bench.add("equalities", {"what": what, "difference": difference, "allowed": allowed})


def tiled(bench: Bench, name: str, model: unetzoo.SegmentationModel) -> None:
    """Compare a prediction in tiles, several at a time, with that of the CPU one by one."""
    image = drawing.draw_nuclei(3 * bench.size // 2, 2 * bench.size)[0]
    how = {"tile": bench.size // 2 if not bench.smoke else 32, "overlap": 0.25}
    there = unetzoo.Predictor(copy.deepcopy(model), device=bench.device, batch_size=5, **how)(image)
    here = unetzoo.Predictor(copy.deepcopy(model).cpu(), device="cpu", **how)(image)
    add(bench, f"{name}, tiles", torch.as_tensor(there.probabilities), torch.as_tensor(here.probabilities), 1e-3)


def kernels(bench: Bench) -> None:
    """Time ten calls each of the resampling kernels, of torch's operators, and of a copy that moves as many bytes."""
    count, side = (1, 8) if bench.smoke else (8, 256)
    cases = [(320, "bilinear", 2, 1), (320, "bilinear", 8, 1), (64, "nearest", 2, 1), (64, "bilinear", 2, 3)]
    for dtype, (channels, mode, scale, taps) in itertools.product((torch.bfloat16, torch.float32), cases):
        if bench.late:
            return
        coarse = (count, channels * taps**2, side // scale, side // scale)
        x, grad = (
            torch.randn(shape, device=bench.device, dtype=dtype).contiguous(memory_format=torch.channels_last)
            for shape in (coarse, (count, channels, side, side))
        )
        sampling, moved = Sampling((side, side), mode, (taps, taps), taps // 2), (x.nbytes + grad.nbytes) // 2
        bytes_from, bytes_to = (torch.empty(moved, dtype=torch.uint8, device=bench.device) for _ in range(2))
        works: dict[str, Callable[[], object]] = {"copy": lambda f=bytes_from, t=bytes_to: t.copy_(f)}
        how = (sampling.size, mode, sampling.taps, sampling.padding)
        by_torch = (
            whole_maps.taps_summed if taps > 1 else lambda x, size, mode, *_: whole_maps.interpolate(x, size, mode)
        )
        works["torch"] = lambda x=x, f=by_torch, how=how: f(x, *how)
        y = by_torch(x.requires_grad_(), *how)
        works["torch, backward"] = lambda y=y, x=x, g=grad: torch.autograd.grad(y, x, g, retain_graph=True)
        x = x.detach()
        if gpu_resampling.fits(x, sampling.size):
            works["unetzoo"] = lambda x=x, s=sampling: gpu_resampling.forward(x, s)
            works["unetzoo, backward"] = lambda g=grad, c=coarse, s=sampling: gpu_resampling.backward(g, c[2:], s)
        ten = {name: lambda work=work: [work() for _ in range(10)] for name, work in works.items()}
        rows = {name: round(row["least"] / 10, 4) for name, row in bench.in_turn(ten, bench.rounds).items()}
        about = {"dtype": str(dtype), "maps": count, "channels": channels, "mode": mode, "scale": scale, "taps": taps}
        bench.add("kernels", {**about, "ms": rows})


def predictor(bench: Bench) -> None:
    """Count tiles per second, with and without the Predictor."""
    side, tile = (64, 32) if bench.smoke else (4096, 512)
    drawn, _ = drawing.draw_nuclei(min(side, 512), min(side, 512))
    image = drawn.repeat(1, side // drawn.shape[1], side // drawn.shape[2])
    for name in bench.models:
        for dtype in (torch.bfloat16, torch.float32):
            if bench.late:
                return
            network = unetzoo.optimize(bench.model(name), dtype=dtype)
            batch = torch.randn(16 if not bench.smoke else 2, 3, tile, tile, device=bench.device)
            predict = unetzoo.Predictor(network, device=bench.device, tile=tile, overlap=0.0)
            works = {"bare": lambda n=network, b=batch: infer(n, b), "Predictor": lambda p=predict: p(image)}
            rows = bench.in_turn(works, min(3, bench.rounds))
            counts = {"bare": len(batch), "Predictor": (side // tile) ** 2}
            row = {way: round(counts[way] / its["ms"] * 1e3, 1) for way, its in rows.items()}
            bench.add("predictor", {"model": name, "dtype": str(dtype), "tiles a second": row})
            bench.cleared()


def fit(bench: Bench) -> None:
    """Count images per second of ``fit``, from its second epoch on, and of the bare step."""
    from PIL import Image

    name, count, side, batch = (bench.models[0], 10, 32, 2) if bench.smoke else ("resunet18", 512, 256, 16)
    images = torch.randn(batch, 3, side, side, device=bench.device)
    model = bench.model(name).train()
    optimizer = torch.optim.AdamW(model.parameters())

    def bare() -> None:
        step(model, images, True)
        optimizer.step()

    bare_ms = bench.in_turn({"bare": bare}, bench.rounds)["bare"]["ms"]
    with tempfile.TemporaryDirectory() as folder:
        pairs = [drawing.draw_nuclei(side, side, seed=seed) for seed in range(min(count, 32))]
        for number in range(count):
            image, mask = pairs[number % len(pairs)]
            for kind, pixels in (("images", image.permute(1, 2, 0)), ("masks", 255 * mask.to(torch.uint8))):
                (Path(folder) / "data" / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.contiguous().numpy()).save(Path(folder) / "data" / kind / f"{number:04}.png")
        settings = {"trainer.precision": "bf16-mixed", "trainer.accelerator": ACCELERATORS[bench.device.type]}
        settings |= {f"model.options.{key}": value for key, value in bench.options.items()}
        settings["trainer.max_time"] = f"00:00:00:{round(min(59, max(5, bench.deadline - time.perf_counter()))):02}"
        if bench.smoke:
            settings["data.workers"] = 0
        settings["trainer.callbacks"] = [{"class_path": "unetzoo.train.Clock"}]
        unetzoo.fit(
            name, data=f"{folder}/data", out=f"{folder}/run", epochs=2 if bench.smoke else 40, batch_size=batch,
            crop_size=side, quiet=True, settings=settings,
        )  # fmt: skip
        with (Path(folder) / "run" / "times.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        first, last = rows[0], rows[-1]
    epochs = int(last["epoch"]) - int(first["epoch"])
    each = (float(last["seconds"]) - float(first["seconds"])) / epochs
    names = ("training", "waiting", "validation")
    seconds = {"all": each} | {name: sum(float(row[name]) for row in rows[1:]) / epochs for name in names}
    seconds["kept and shown"] = each - seconds["training"] - seconds["validation"]
    seconds = {name: round(its, 3) for name, its in seconds.items()}
    row = {"model": name, "side": side, "batch": batch, "bare step, images a second": round(batch / bare_ms * 1e3, 1)}
    row |= {"fit, images a second": round(0.8 * count / each, 1), "epochs": int(last["epoch"])}
    bench.add("fit", {**row, "seconds an epoch": seconds})


def compiled(bench: Bench) -> None:
    """Time compiled networks in bfloat16, starting with those that compile fastest: inference, few layers."""
    for train in (False,) if bench.smoke else (False, True):
        for name in reversed(bench.models):
            for way in (LAST, OURS):
                if bench.late:
                    return
                torch.compiler.reset()
                begun = time.perf_counter()
                works = works_of(bench, name, train, True, bench.batches[0], (way,), compiled=True)
                (row,) = bench.in_turn(works, bench.rounds).values()
                about = {"model": name, "train": train, "dtype": "bfloat16", "batch": bench.batches[0], "way": way}
                bench.add("compiled", {**about, **row, "seconds": round(time.perf_counter() - begun, 1)})
                del works
                bench.cleared()


PARTS: dict[str, tuple[float, Callable[[Bench], None]]] = {
    "networks": (0.38, networks),
    "profile": (0.07, profile),
    "layers": (0.17, layers),
    "kernels": (0.03, kernels),
    "equalities": (0.05, equalities),
    "predictor": (0.05, predictor),
    "fit": (0.09, fit),
    "compiled": (1.0, compiled),
}


def main() -> None:
    """Measure all parts, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="time for all of it")
    parser.add_argument("--out", required=True, type=Path, help="folder for gpu.json")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--parts", nargs="+", default=[*PARTS], choices=[*PARTS], metavar="PART")
    parser.add_argument("--smoke", action="store_true", help="small networks and images, to try the program itself")
    arguments = parser.parse_args()
    bench = Bench(arguments.device, arguments.minutes, arguments.out, arguments.smoke)
    for name in arguments.parts:
        bench.part(name, *PARTS[name])


if __name__ == "__main__":
    main()
