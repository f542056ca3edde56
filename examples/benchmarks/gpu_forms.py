"""The measurements of networks and layers for ``gpu.py``, and the ways to compute them between which a rule chooses."""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

import unetzoo
from unetzoo.nn import convolutions, resampling, resizing, whole_maps
from unetzoo.nn.convolutions import Activated, ConcatConv, Source, Upsampled

MODELS = ("unet3p_resnet50", "unetpp_resnet50", "resunet50")
ROUNDS = 7


@dataclass(frozen=True)
class Way:
    """How a network is computed.

    On the CPU, networks have unetzoo's faster convolutions in each way; ``speed.py`` compares with plain ones there.

    Attributes:
        mixes: channels from which they are mixed before they are up-sampled; None: as the rule says.
        remakes: which inputs of convolutions are recomputed for backward, "all" or "none"; None: as the rule says.
        last: layout of images and weights: channels last; None: images as unetzoo has them, weights as they are.
        optimized: the copy that ``unetzoo.optimize`` makes.
        kernels: whether maps are resampled by unetzoo's kernels, not by torch's.
    """

    mixes: int | None = None
    remakes: str | None = None
    last: bool | None = None
    optimized: bool = False
    kernels: bool = True

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Compute in this way."""
        with contextlib.ExitStack() as stack:
            if self.mixes is not None:
                rule = partial(_mixes, self.mixes)
                stack.enter_context(mock.patch.object(resampling, "mixes", rule))
                stack.enter_context(mock.patch.object(convolutions, "mixes", rule))
            if self.remakes is not None:
                stack.enter_context(mock.patch.object(convolutions, "remakes", REMAKES[self.remakes]))
            if not self.kernels:
                for module in (resampling, resizing):
                    stack.enter_context(mock.patch.object(module, "fits", return_value=False))
            if self.last is not None:
                stack.enter_context(mock.patch("unetzoo.model._fast_layout", lambda x: x))
            yield

    @property
    def layout(self) -> torch.memory_format:
        """The memory format of images and weights."""
        return torch.channels_last if self.last else torch.contiguous_format


def _mixes(least: int, x: Tensor, weight: Tensor, *_: object, **__: object) -> bool:
    return x.shape[1] >= least and (max(weight.shape[2:]) > 1 or len(weight) <= x.shape[1])


NEVER, CPU, ALWAYS = 10**9, resampling.MIXED_FIRST, 1
REMAKES: dict[str, Callable[[Sequence[Source]], bool]] = {"all": lambda _: True, "none": lambda _: False}
PLAIN, LAST, OURS = "plain", "plain, channels last", "unetzoo"
KERNELS, MIXED = "never mixed first", "mixed first"
BASE = {PLAIN: Way(NEVER, "none", False, kernels=False), LAST: Way(NEVER, "none", True, kernels=False), OURS: Way()}
TRAINING = {
    **BASE,
    "unetzoo, weights channels last": Way(last=True),
    KERNELS: Way(NEVER, "none", True),
    MIXED: Way(CPU, "none", True),
    "mixed first, remade": Way(CPU, "all", True),
}
INFERENCE = {
    **BASE,
    KERNELS: Way(NEVER, None, True),
    MIXED: Way(CPU, None, True),
    "optimize": Way(optimized=True),
}


class Bench:
    """The measurements so far, the remaining time, and everything that all parts need."""

    def __init__(self, device: str, minutes: float, out: Path, smoke: bool) -> None:
        self.device, self.smoke, self.path = torch.device(device), smoke, out / "gpu.json"
        self.size, self.batches = (32, (2,)) if smoke else (512, (8, 1))
        self.models = ("unetpp_lite",) if smoke else MODELS
        self.options: dict[str, Any] = {"base_channels": 4, "branch_channels": 4, "levels": 1} if smoke else {}
        self.rounds = 1 if smoke else ROUNDS
        self.begun, self.seconds, self.deadline = time.perf_counter(), 60 * minutes, 0.0
        out.mkdir(parents=True, exist_ok=True)
        name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        self.found: dict[str, Any] = {
            "device": f"{name}; torch {torch.__version__}, unetzoo {unetzoo.__version__}; {time.strftime('%Y-%m-%d')}",
            "size": self.size,
            "seconds": {},
        }

    def part(self, name: str, share: float, work: Callable[[Bench], None]) -> None:
        """Run a part within its share of the time; an exception is recorded, and the next part follows."""
        begun = time.perf_counter()
        left = self.seconds - (begun - self.begun)
        self.deadline = begun + min(left, share * self.seconds)
        try:
            if left > 0:
                work(self)
        except Exception:
            self.add("errors", {"part": name, "error": traceback.format_exc()})
        self.found["seconds"][name] = round(time.perf_counter() - begun, 1)
        self.write()
        self.cleared()

    @property
    def late(self) -> bool:
        """Whether the part's time is over."""
        return time.perf_counter() > self.deadline

    def add(self, part: str, row: dict[str, Any]) -> None:
        """Record a figure."""
        self.found.setdefault(part, []).append(row)
        print(part, json.dumps(row), flush=True)
        self.write()

    def write(self) -> None:
        """Write all figures so far in one step."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.found, indent=1), encoding="utf-8")
        new.replace(self.path)

    def cleared(self) -> None:
        """Free memory."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def model(self, name: str) -> unetzoo.SegmentationModel:
        """Return a network, the same each time, on the device."""
        torch.manual_seed(0)
        model = unetzoo.create(name, **self.options)
        for module in model.modules():  # with the initial weights, logits have hardly any spread after this many layers
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.fill_(0.5)
        return model.to(self.device)

    def once(self, work: Callable[[], object]) -> float:
        """Return the seconds that a call takes."""
        self.wait()
        begun = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - begun

    def wait(self) -> None:
        """Wait until the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def in_turn(self, works: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
        """Return the median milliseconds of each, its least, and the MiB that it takes at its peak."""
        rows: dict[str, dict[str, float]] = {}
        for name, work in list(works.items()):
            try:
                self.once(work)
                rows[name] = {"mib": round(self.peak(work), 1)}
            except torch.OutOfMemoryError:
                del works[name]
                self.cleared()
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(rounds):
            for name, work in works.items():
                times[name].append(self.once(work) * 1e3)
        for name, its in times.items():
            rows[name] |= {"ms": round(median(its), 4), "least": round(min(its), 4)}
        return rows

    def peak(self, work: Callable[[], object]) -> float:
        """Return the peak MiB of a call above the memory in use before; 0 on the CPU."""
        if self.device.type != "cuda":
            return 0.0
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.once(work)
        return (torch.cuda.max_memory_allocated() - before) / 2**20


def step(model: nn.Module, batch: Tensor, half: bool) -> None:
    """Do a training step without its optimizer."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=half):
        logits = model(batch)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits, 0.5).float())
    loss.backward()


def infer(model: nn.Module, batch: Tensor) -> Tensor:
    """Return logits."""
    with torch.inference_mode():
        return model(batch)


def works_of(
    bench: Bench, name: str, train: bool, half: bool, count: int, only: Sequence[str] = (), compiled: bool = False
) -> dict[str, Callable[[], object]]:
    """Return way → a call of the network: of all ways, or of some, each with a network of its own if compiled."""
    model = bench.model(name).train(train)
    drawn = torch.randn(count, 3, bench.size, bench.size, generator=torch.Generator().manual_seed(0)).to(bench.device)
    works: dict[str, Callable[[], object]] = {}
    models: dict[object, nn.Module] = {}
    for title, way in (TRAINING if train else INFERENCE).items():
        if only and title not in only:
            continue
        key = (way.last, way.optimized, title if compiled else "")
        if key not in models:
            mine: nn.Module = copy.deepcopy(model)
            if way.optimized or (half and not train):
                mine = unetzoo.optimize(mine, dtype=torch.bfloat16 if half else None)
            models[key] = mine if way.last is None else mine.to(memory_format=way.layout)
            if compiled:
                models[key].compile(backend="eager" if bench.smoke else "inductor")
        batch = drawn.contiguous(memory_format=way.layout)

        def work(way: Way = way, mine: nn.Module = models[key], batch: Tensor = batch) -> object:
            with way.taken():
                return step(mine, batch, half) if train else infer(mine, batch)

        works[title] = work
    return works


def networks(bench: Bench) -> None:
    """Time whole networks."""
    kinds = [(count, train, half) for count in bench.batches for half in (True, False) for train in (True, False)]
    for count, train, half in kinds:
        for name in bench.models:
            if bench.late:
                return
            works = works_of(bench, name, train, half, count)
            rows = bench.in_turn(works, bench.rounds)
            about = {"model": name, "train": train, "dtype": "bfloat16" if half else "float32", "batch": count}
            for way, row in rows.items():
                bench.add("networks", {**about, "way": way, **row})
            del works
            bench.cleared()


def profile(bench: Bench) -> None:
    """Record where the time of training steps goes."""
    kinds = torch.profiler.ProfilerActivity
    activities = [kinds.CPU, kinds.CUDA] if bench.device.type == "cuda" else [kinds.CPU]
    for half in (True, False):
        for name in bench.models:
            works = works_of(bench, name, True, half, bench.batches[0])
            for way in (LAST, OURS):
                if bench.late:
                    return
                works[way]()
                with torch.profiler.profile(activities=activities) as found:
                    bench.once(works[way])
                on_device = [event for event in found.key_averages() if event.self_device_time_total > 0]
                events = sorted(on_device, key=lambda event: -event.self_device_time_total)
                kernels = [event for event in events if event.device_type != torch.autograd.DeviceType.CPU]
                row = {"model": name, "dtype": "bfloat16" if half else "float32", "way": way}
                row["ms"] = round(sum(event.self_device_time_total for event in kernels) / 1e3, 2)
                for kind, its in (("kernels", kernels), ("operators", [e for e in events if e not in kernels])):
                    row[kind] = [[e.key[:110], e.count, round(e.self_device_time_total / 1e3, 2)] for e in its[:15]]
                bench.add("profile", row)
            del works
            bench.cleared()


@dataclass(frozen=True)
class Shape:
    """A convolution of the zoo: its sources as (kind, channels, height, width, mode), its size and output."""

    sources: tuple[tuple[str, int, int, int, str], ...]
    size: tuple[int, int]
    out: int
    kernel: int


def shapes(bench: Bench) -> dict[Shape, str]:
    """Return the convolutions with a choice of how to compute them → a network that has it."""
    found: dict[Shape, str] = {}
    name = ""

    def noted(self: ConcatConv, *sources: Source) -> Tensor:
        size = next((s.size if isinstance(s, Upsampled) else convolutions._tensor(s).shape[2:] for s in sources), ())
        kinds = tuple(
            (type(s).__name__, *convolutions._tensor(s).shape[1:], s.mode if isinstance(s, Upsampled) else "")
            for s in sources
        )
        if len(sources) > 1 or not isinstance(sources[0], Tensor):
            found.setdefault(Shape(kinds, tuple(size), self.out_channels, self.kernel_size[0]), name)
        return forward(self, *sources)

    forward = ConcatConv.forward
    more = () if bench.smoke else ("unetpp_lite_resnet50", "unet3p_lite_resnet50", "unet3p", "unetpp", "unet")
    with mock.patch.object(ConcatConv, "forward", noted), torch.device("meta"):
        for name in (*bench.models, *more):
            unetzoo.create(name, **bench.options)(torch.empty(1, 3, bench.size, bench.size))
    return found


def layer(bench: Bench, shape: Shape, way: Way, train: bool, half: bool) -> Callable[[], object]:
    """Return a call of a convolution."""
    torch.manual_seed(0)
    count = bench.batches[0]
    conv = ConcatConv(sum(s[1] for s in shape.sources), shape.out, shape.kernel, shape.kernel // 2, bias=False)
    conv.to(bench.device, memory_format=way.layout)
    dtype = torch.bfloat16 if half else torch.float32
    sources: list[Source] = []
    for kind, channels, height, width, mode in shape.sources:
        x = torch.randn(count, channels, height, width, device=bench.device, dtype=dtype)
        x = x.contiguous(memory_format=way.layout).requires_grad_(train)
        norm = nn.BatchNorm2d(channels).to(bench.device)
        made = {"Tensor": x, "Upsampled": Upsampled(x, shape.size, mode or "bilinear")}
        sources.append(made.get(kind, Activated(x, norm, nn.ReLU(inplace=True))))
    above = torch.randn(count, shape.out, *shape.size, device=bench.device, dtype=dtype)
    above = above.contiguous(memory_format=way.layout)

    def work() -> None:
        with (
            way.taken(),
            torch.set_grad_enabled(train),
            torch.autocast(bench.device.type, torch.bfloat16, enabled=half),
        ):
            out = plain(conv, sources) if way in (BASE[PLAIN], BASE[LAST]) else conv(*sources)
        if train:
            out.backward(above)

    return work


def plain(conv: ConcatConv, sources: Sequence[Source]) -> Tensor:
    """Return what ``conv`` does, by torch's own operators: its classes have faster ways to convolve, too."""
    maps = [convolutions._made(source, convolutions._tensor(source)) for source in sources]
    return functional.conv2d(torch.cat(maps, dim=1), conv.weight, conv.bias, padding=conv.padding)


def layers(bench: Bench) -> None:
    """Time each convolution in the ways that differ for it."""
    for half in (True, False):
        for shape, name in shapes(bench).items():
            if bench.batches[0] * sum(s[1] for s in shape.sources) * math.prod(shape.size) >= whole_maps.MOST:
                continue  # the plain way cannot be computed channels last
            ways = {LAST: BASE[LAST], OURS: Way(last=True)}
            if any(kind == "Upsampled" for kind, *_ in shape.sources):
                ways |= {KERNELS: Way(NEVER, "none", True), MIXED: Way(ALWAYS, "none", True)}
            row: dict[str, Any] = {"dtype": "bfloat16" if half else "float32", "model": name, **vars(shape)}
            for train in (False, True):
                if bench.late:
                    return
                works = {title: layer(bench, shape, way, train, half) for title, way in ways.items()}
                rows = bench.in_turn(works, min(5, bench.rounds))
                row["training" if train else "inference"] = {way: (its["ms"], its["mib"]) for way, its in rows.items()}
                del works
            bench.add("layers", row)
            bench.cleared()
