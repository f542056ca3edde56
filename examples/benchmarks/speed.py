"""How fast the zoo computes its networks: ``python examples/benchmarks/speed.py [--train] [--models NAME …]``.

Each network is compared with its plain implementation (``tests/reference.py``: every up-sampled map and every
concatenation is built), with the same weights, in the same process, alternately: A B C A B C. The table has medians,
the ratio of the plain one's time to each, its least and greatest value over ``--runs``, and the share of the roofline:
the remaining multiply-adds, divided by the throughput of a large 3×3 convolution measured in the same rounds. Peak
memory is that of a fresh process during one call, minus its memory with model and images ready. With one thread, times
are those of the processor, as other programs on the machine change them less. If segmentation_models_pytorch is
installed, its Unet and UnetPlusPlus on the same encoder are timed as well. These are other networks, so their sizes and
multiply-adds are given, too. For its own networks, ``smp_unet_…`` and ``smp_unetplusplus_…``, it is the plain
implementation.
"""

import argparse
import ctypes
import importlib.util
import json
import multiprocessing
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import stopwatch
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import unetzoo
import unetzoo.naming
from unetzoo.foreign.smp import LAYOUT

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from reference import reference_logits

MODELS = ("unet3p_resnet50", "unet3p", "unetpp_resnet50", "resunet50")
PLAIN, LAST, EAGER, FOLDED, HALF, COMPILED, SMP = (
    *("plain", "plain, channels last", "unetzoo", "optimize", "optimize, bf16", "optimize, bf16, compile", "smp"),
)


@dataclass(frozen=True)
class Result:
    """One way to compute one network: milliseconds a batch, and how they compare.

    Attributes:
        ratio: the time of the plain implementation divided by this one's.
        spread: its least and greatest value over the runs.
        roofline: time that the remaining multiply-adds would take at the measured throughput, divided by this time.
        difference: of the logits from the plain implementation's, relative to their spread; None for another network.
        peak_mib: None except on Linux.
    """

    model: str
    way: str
    size: int
    batch: int
    ms: float
    ratio: float
    spread: tuple[float, float]
    gmacs: float
    roofline: float
    difference: float | None
    peak_mib: float | None
    parameters: int


class Plain(nn.Module):
    """The plain implementation of a model, with its own weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return reference_logits(self.model, images)


KINDS = {"smp_unet": "Unet", "smp_unetplusplus": "UnetPlusPlus"}
"""Decoders here that are segmentation_models_pytorch's → its classes."""


def smp_itself(name: str) -> nn.Module | None:
    """Return segmentation_models_pytorch's own network if ``name`` is one of its, with its initial weights."""
    decoder, encoder = unetzoo.naming.index()[name]
    if decoder not in KINDS:
        return None
    import segmentation_models_pytorch as smp

    return getattr(smp, KINDS[decoder])(encoder, encoder_weights=None)


def same_weights(model: nn.Module, other: nn.Module) -> None:
    """Give ``model`` the weights of smp's network."""
    model.load_state_dict(LAYOUT.renamed(other.state_dict())[0])


def smp_twin(name: str) -> nn.Module | None:
    """Return segmentation_models_pytorch's network of the same kind on the same encoder."""
    with torch.device("meta"):
        config = unetzoo.create(name).config
    kinds = {"unet": "Unet", "unetpp": "UnetPlusPlus"}
    known = config.decoder in kinds and config.encoder != "plain"
    if not known or importlib.util.find_spec("segmentation_models_pytorch") is None:
        return None
    import segmentation_models_pytorch as smp

    return getattr(smp, kinds[config.decoder])(config.encoder, encoder_weights=None)


def ways(name: str, train: bool, device: str) -> list[str]:
    """Return the ways that are timed."""
    found = [PLAIN, LAST, EAGER] if train else [PLAIN, LAST, EAGER, FOLDED, HALF]
    if device == "cuda" and not train:
        found.append(COMPILED)
    return found + ([SMP] if smp_twin(name) is not None else [])


def prepare(name: str, way: str, train: bool, device: str) -> nn.Module:
    """Return what is called with images."""
    torch.manual_seed(0)
    model, theirs = smp_twin(name) if way == SMP else unetzoo.create(name), smp_itself(name)
    if theirs is not None:
        same_weights(model, theirs)
        model = theirs if way in (PLAIN, LAST) else model
    model = model.to(device).train(train)
    for module in model.modules():  # with the initial weights, logits have hardly any spread after this many layers
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(0.5)
    if way in (PLAIN, LAST):
        model = model.to(memory_format=torch.channels_last) if way == LAST else model
        return Plain(model) if theirs is None else model
    if way in (FOLDED, HALF, COMPILED):
        half = None if way == FOLDED else torch.bfloat16
        return unetzoo.optimize(model, dtype=half, compile=way == COMPILED)
    return model


def call(model: nn.Module, images: Tensor, train: bool) -> Tensor:
    """Return logits, after a backward pass if ``train``."""
    if not train:
        with torch.inference_mode():
            return model(images)
    model.zero_grad(set_to_none=True)
    logits = model(images)
    nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 0.5)).backward()
    return logits.detach()


def draw(size: int, batch: int, way: str, device: str) -> Tensor:
    """Return random images, the same each time."""
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    return images.contiguous(memory_format=torch.channels_last) if way == LAST else images


def seconds(work: Callable[[], object], device: str) -> float:
    """Return the time that ``work`` takes."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def probe(dtype: torch.dtype, device: str) -> tuple[Callable[[], object], float]:
    """Return a large convolution in its fastest form on this machine, and its multiply-adds."""
    images = torch.randn(2, 320, 128, 128, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(320, 320, 3, 3, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return lambda: torch.conv2d(images, weight, padding=1), images.numel() * weight[0].numel()


def multiply_adds(model: nn.Module, size: int, batch: int, device: str) -> float:
    """Return the multiply-adds of the convolutions of one forward pass, counted on it."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(draw(size, batch, "", device))
    counts = counter.get_flop_counts()["Global"]
    return sum(flops for kernel, flops in counts.items() if "conv" in str(kernel)) / 2


def peak(name: str, way: str, size: int, batch: int, train: bool, device: str) -> float | None:
    """Return the MiB of one call in addition to model and images, in this process, which has done nothing before."""
    model, images = prepare(name, way, train, device), draw(size, batch, way, device)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call(model, images, train)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not Path("/proc/self/status").is_file():
        return None
    call(model, images, train)
    ctypes.CDLL(None).malloc_trim(0)  # memory freed after building the model would hide that of the call
    return stopwatch.peak(lambda: call(model, images, train)) / 2**10


def in_child(*arguments: object) -> float | None:
    """Return what :func:`peak` gives in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak, *arguments).result()


def measure(name: str, size: int, batch: int, train: bool, device: str, rounds: int, runs: int) -> list[Result]:
    """Time all ways of ``name`` in turn."""
    models = {way: prepare(name, way, train, device) for way in ways(name, train, device)}
    images = {way: draw(size, batch, way, device) for way in models}
    logits = {way: call(model, images[way], train) for way, model in models.items()}
    times: dict[object, list[float]] = {way: [] for way in models}
    probes = {dtype: probe(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    for convolve, _ in probes.values():
        convolve()
    for _ in range(rounds * runs):
        for dtype, (convolve, _) in probes.items():
            times.setdefault(dtype, []).append(seconds(convolve, device))
        for way, model in models.items():
            times[way].append(seconds(lambda m=model, w=way: call(m, images[w], train), device))
    results = []
    expected = logits[PLAIN]
    for way, model in models.items():
        dtype = torch.bfloat16 if way in (HALF, COMPILED) else torch.float32
        counted = model.eval() if way != COMPILED else models[HALF]
        macs = multiply_adds(counted, size, batch, device) * (3 if train else 1)
        throughput = probes[dtype][1] / median(times[dtype])
        of_runs = [slice(start, start + rounds) for start in range(0, rounds * runs, rounds)]
        ratios = [median(times[PLAIN][run]) / median(times[way][run]) for run in of_runs]
        difference = float((logits[way] - expected).abs().max() / (expected.max() - expected.min()))
        results.append(
            Result(
                model=name,
                way=way,
                size=size,
                batch=batch,
                ms=median(times[way]) * 1e3,
                ratio=median(times[PLAIN]) / median(times[way]),
                spread=(min(ratios), max(ratios)),
                gmacs=macs / 1e9,
                roofline=macs / throughput / median(times[way]),
                difference=None if way == SMP else difference,
                peak_mib=in_child(name, way, size, batch, train, device),
                parameters=sum(parameter.numel() for parameter in model.parameters()),
            )
        )
    return results


def table(results: list[Result]) -> str:
    """Return a Markdown table."""
    lines = [
        "| network | batch × side | | ms | ratio | spread | GMAC | roofline | difference | peak MiB | parameters |",
        "|:--|:--|:--|--:|--:|:-:|--:|--:|--:|--:|--:|",
    ]
    for r in results:
        cells = (
            *(r.model, f"{r.batch} × {r.size}²", r.way, f"{r.ms:.0f}", f"{r.ratio:.2f}"),
            *(f"{r.spread[0]:.2f}–{r.spread[1]:.2f}", f"{r.gmacs:.1f}"),
            *(f"{r.roofline:.0%}", "" if r.difference is None else f"{r.difference:.0e}"),
            *("" if r.peak_mib is None else f"{r.peak_mib:.0f}", f"{r.parameters / 1e6:.2f} M"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(results: list[Result], path: str) -> None:
    """Draw a bar for each row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 0.32 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    colours = {way: f"C{k}" for k, way in enumerate(dict.fromkeys(r.way for r in results))}
    for row, r in enumerate(results):
        axes.barh(row, r.ratio, color=colours[r.way])
        axes.text(r.ratio, row, f" {r.ms:.0f} ms", va="center", fontsize=8)
    axes.set_yticks(range(len(results)), [f"{r.model}, {r.batch} × {r.size}²: {r.way}" for r in results], fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as the plain formulation")
    axes.margins(x=0.12)
    figure.savefig(path)


def machine(device: str) -> str:
    """Return what the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        cpu = next(
            (line.split(": ")[1] for line in info.read_text(encoding="utf-8").splitlines() if "model name" in line), cpu
        )
    name = torch.cuda.get_device_name() if device == "cuda" else f"{cpu}, {torch.get_num_threads()} threads"
    return f"{name}; torch {torch.__version__}, unetzoo {unetzoo.__version__}; {time.strftime('%Y-%m-%d')}"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME")
    parser.add_argument("--size", nargs="+", type=int, default=[256], help="sides of the images")
    parser.add_argument("--batch", nargs="+", type=int, default=[2], help="batch sizes")
    parser.add_argument("--train", action="store_true", help="forward and backward instead of inference")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=7, help="number of times that each is timed")
    parser.add_argument("--runs", type=int, default=1, help="repetitions of the rounds, whose spread is shown")
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    parser.add_argument("--plot", metavar="FILE", help="draw a bar chart (.png, .svg)")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.runs < 1:
        parser.error("--rounds, --runs: 1 or more is needed")
    of_smp = [name for name in arguments.models if unetzoo.naming.index()[unetzoo.naming.resolve(name)][0] in KINDS]
    if of_smp and importlib.util.find_spec("segmentation_models_pytorch") is None:
        parser.error(f"{', '.join(of_smp)}: compared with smp itself: pip install segmentation-models-pytorch")
    print(f"{machine(arguments.device)}; {'training step' if arguments.train else 'inference'}", flush=True)
    results = []
    for name in arguments.models:
        for size in arguments.size:
            for batch in arguments.batch:
                how = arguments.train, arguments.device, arguments.rounds, arguments.runs
                results += measure(name, size, batch, *how)
                print(f"{name}, {batch} × {size}²: done", file=sys.stderr, flush=True)
    print(table(results))
    if arguments.json:
        measured = {"machine": machine(arguments.device), "train": arguments.train}
        Path(arguments.json).write_text(
            json.dumps({**measured, "results": [asdict(r) for r in results]}, indent=2), encoding="utf-8"
        )
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
