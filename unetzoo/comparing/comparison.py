"""Networks side by side: size, arithmetic and memory, counted without allocating a weight, and what they reached."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from unetzoo import information, zoo
from unetzoo.config import ModelConfig
from unetzoo.errors import ConfigError, UnetzooError
from unetzoo.model import SegmentationModel, on_meta
from unetzoo.registry import suggest
from unetzoo.trials import TrainingTrial, draw, read_trials

FORMATS = ("text", "md", "csv", "json")


@dataclass(frozen=True)
class ComparisonRow:
    """One network.

    Attributes:
        name, architecture, encoder: as in ``model_info``.
        parameters: number of them, with default options but the channels and classes asked for.
        published: millions of parameters in the published table; None where there is no such number, and for
            other options than those for which it stands.
        agrees: whether ``parameters``, rounded to two decimals, is ``published``.
        gflops: 10⁹ floating-point operations of its convolutions for one image, two a multiply-add.
        activation_mib: MiB that autograd keeps for one float32 image in training, weights not counted.
        latency_ms: milliseconds for one image on this machine's CPU, median; None unless measured.
        peak_mib: peak MiB of memory of a process that does it, over one that has only imported torch; None
            unless measured, on Linux.
        dice, iou: the best epoch's in validation; these and the following are None without results of a training.
        minutes: of the whole training, by the clock.
        training_mib: peak MiB of memory of the process that trained it, over what it held before; None off Linux too.
        times_resunet18: seconds of prediction on the CPU over those of ``resunet18``.
    """

    name: str
    architecture: str
    encoder: str
    parameters: int
    published: float | None
    agrees: bool | None
    gflops: float
    activation_mib: float
    latency_ms: float | None = None
    peak_mib: float | None = None
    dice: float | None = None
    iou: float | None = None
    minutes: float | None = None
    training_mib: float | None = None
    times_resunet18: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Rows, for images of ``size`` × ``size`` pixels. ``str()`` is the text table.

    Attributes:
        rows: one a network.
        size: of the images for which ``gflops`` and ``activation_mib`` are counted.
        trials: what those of the networks reached that were trained, in the order of the rows; with their curves.
    """

    rows: tuple[ComparisonRow, ...]
    size: int
    trials: tuple[TrainingTrial, ...] = ()

    def __str__(self) -> str:
        return self.render("text")

    def render(self, form: str) -> str:
        """Return the table as "text", "md" (Markdown), "csv" or "json".

        Raises:
            ConfigError: another form.
        """
        match form:
            case "text":
                return _aligned(self._cells(), " ")
            case "md":
                header, *rest = self._cells()
                rule = [":--" if i == 0 else "--:" for i in range(len(header))]
                return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rest)) + "\n"
            case "csv":
                text = io.StringIO()
                writer = csv.DictWriter(text, [field.name for field in fields(ComparisonRow)], lineterminator="\n")
                writer.writeheader()
                writer.writerows(map(asdict, self.rows))
                return text.getvalue()
            case "json":
                return json.dumps({"size": self.size, "models": [asdict(row) for row in self.rows]}, indent=2) + "\n"
        raise ConfigError(f"format {form!r}: one of {', '.join(FORMATS)} is needed{suggest(form, FORMATS)}")

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw to a file (.png, .svg, .pdf).

        With results of trainings: validation Dice over the minutes, a curve a network, and the best Dice over the peak
        memory of the training. Without: parameters against GFLOPs, one colour a family.

        Raises:
            ConfigError: matplotlib is not installed, does not know the ending, or the file cannot be written.
        """
        figure = require_plot(path)(figsize=(9, 6), layout="constrained")
        if self.trials:
            figure.set_size_inches(10, 5)
            draw(figure, self.trials)
        else:
            self._draw_costs(figure)
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise ConfigError(f"a plot cannot be written to {str(path)!r}: {error.strerror}") from error

    def _draw_costs(self, figure: Any) -> None:
        from matplotlib.ticker import LogLocator, NullLocator

        axes = figure.add_subplot()
        colours = {family: f"C{k}" for k, family in enumerate(dict.fromkeys(row.architecture for row in self.rows))}
        encoders = dict.fromkeys(row.encoder for row in self.rows)
        markers = dict(zip(encoders, itertools.cycle("os^vDPX*<>phd"), strict=False))
        for row in self.rows:
            point = (row.parameters / 1e6, row.gflops)
            axes.plot(*point, markers[row.encoder], color=colours[row.architecture], markersize=8)
        keys = [axes.plot([], [], "o", color=colour, label=family)[0] for family, colour in colours.items()]
        figure.legend(handles=keys, loc="outside right upper")
        keys = [axes.plot([], [], marker, color="grey", label=encoder)[0] for encoder, marker in markers.items()]
        figure.legend(handles=keys, loc="outside right lower")
        axes.set(
            xlabel="parameters (millions)",
            ylabel=f"GFLOPs for one {self.size} × {self.size} image",
            xscale="log",
            yscale="log",
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
            axis.set_minor_locator(NullLocator())
        axes.grid(which="both", lw=0.3)

    def _cells(self) -> list[list[str]]:
        measured = any(row.latency_ms is not None for row in self.rows)
        header = ["model", "parameters", "published", f"GFLOPs at {self.size}²", "training MiB"]
        reached = ["Dice", "IoU", "minutes", "MiB of the run", "prediction / resunet18"] if self.trials else []
        table = [header + (["ms", "peak MiB"] if measured else []) + reached]
        for row in self.rows:
            published = "–" if row.published is None else f"{row.published:.2f}M {'✓' if row.agrees else '✗'}"
            cells = [row.name, f"{row.parameters:,}", published, f"{row.gflops:.1f}", f"{row.activation_mib:.0f}"]
            if measured:
                cells += [_number(row.latency_ms), _number(row.peak_mib)]
            if self.trials:
                cells += [_number(row.dice, 4), _number(row.iou, 4), _number(row.minutes, 1)]
                cells += [_number(row.training_mib), _number(row.times_resunet18, 2)]
            table.append(cells)
        return table


def compare(
    models: str | Iterable[str] | None = None,
    *,
    exclude: str | Iterable[str] = (),
    size: int = 256,
    in_channels: int = 3,
    num_classes: int = 1,
    measure: bool = False,
    results: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Comparison:
    """Compare networks of the zoo, by name or wildcard.

    All but the measured columns and those of ``results`` is computed on the meta device: nothing is allocated, and
    it is the same on every machine. ``unet_valid`` is taken at the side that ``predict`` mirrors an image of ``size``
    to.

    Args:
        models, exclude: names or wildcards, as in ``list_models``; the order of ``models`` is kept. None: those in
            ``results``, in their order, or without results all of the zoo.
        size: height and width of the image in pixels.
        in_channels, num_classes: of all networks but those in ``results``, which are taken as they were trained.
        measure: also time one image on the CPU and weigh the memory, in a process of its own a network.
        results: a file of what networks reached in training, which ``unetzoo.train.run_trials`` writes; adds columns.
        progress: show a bar.

    Raises:
        ConfigError: a name or wildcard that fits nothing, or a wrong number.
        InputError: there is no such file of results, or another one.
    """
    if type(size) is not int or size < 1:
        raise ConfigError(f"size={size!r}: a whole number from 1 up is needed")
    trials = {} if results is None else {trial.name: trial for trial in read_trials(results)}
    names = _chosen(tuple(trials) or "*" if models is None else models, exclude)
    options: dict[str, Any] = {"in_channels": in_channels, "num_classes": num_classes}
    steps: Iterable[str] = names
    if progress:
        from huggingface_hub.utils.tqdm import tqdm

        steps = tqdm(names, unit="model", leave=False)  # type: ignore[no-untyped-call]
    rows = tuple(_row(name, size, options, measure, trials.get(name)) for name in steps)
    return Comparison(rows, size, tuple(trials[name] for name in names if name in trials))


def require_plot(path: str | os.PathLike[str]) -> type:
    """Return matplotlib's figure class, checked before any work is done.

    Raises:
        ConfigError: matplotlib is not installed, or does not know the file's ending.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigError("a plot needs matplotlib: pip install 'unetzoo[plot]'") from error
    known = FigureCanvasAgg.get_supported_filetypes()
    ending = Path(path).suffix.removeprefix(".")
    if ending not in known:
        raise ConfigError(f"a plot cannot be written to {str(path)!r}: endings are {', '.join(known)}")
    folder = Path(path).resolve().parent
    if not folder.is_dir():
        raise ConfigError(f"a plot cannot be written to {str(path)!r}: there is no folder {str(folder)!r}")
    figure: type = Figure
    return figure


def _chosen(models: str | Iterable[str], exclude: str | Iterable[str]) -> list[str]:
    chosen: dict[str, None] = {}
    problems = []
    for pattern in (models,) if isinstance(models, str) else models:
        found = zoo.list_models(pattern)
        if not found:
            problems.append(_unknown(pattern))
        chosen.update(dict.fromkeys(found))
    left = set(zoo.list_models(tuple(chosen), exclude=exclude))
    if not left and not problems:
        problems.append("nothing is left to compare")
    if problems:
        raise ConfigError("cannot compare", problems)
    return [name for name in chosen if name in left]


def _unknown(pattern: str) -> str:
    if pattern in zoo.list_models(pretrained=True):
        return f"{pattern!r} is a trained model, no network of the zoo: 'unetzoo info {pattern}' tells of it"
    return f"{pattern!r} fits no model{suggest(pattern, zoo.names())}"


def _row(name: str, size: int, options: dict[str, Any], measure: bool, trial: TrainingTrial | None) -> ComparisonRow:
    with on_meta():
        default = zoo.create(name)
        if trial is not None:
            model = SegmentationModel(trial.config)
        elif options == {"in_channels": 3, "num_classes": 1}:
            model = default
        else:
            model = zoo.create(name, **options)
    row = row_of(model, information.info_of(name, default), size)
    if trial is not None:
        row = replace(
            row,
            dice=trial.best.dice,
            iou=trial.best.iou,
            minutes=trial.minutes,
            training_mib=trial.peak_mib,
            times_resunet18=trial.times_resunet18,
        )
    if measure:
        latency, peak = _measured(model.config, size)
        row = replace(row, latency_ms=latency, peak_mib=peak)
    return row


def row_of(model: SegmentationModel, info: information.ModelInfo, size: int) -> ComparisonRow:
    """Return the row of ``model``, which may be on meta; ``info`` tells of its name."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    published = info.published if parameters == info.parameters else None
    flops, saved = count(model.train(), model.decoder.input_side(size))
    return ComparisonRow(
        name=info.name,
        architecture=info.architecture,
        encoder=info.encoder,
        parameters=parameters,
        published=published,
        agrees=None if published is None else round(parameters / 1e6, 2) == published,
        gflops=flops / 1e9,
        activation_mib=saved / 2**20,
    )


def count(model: SegmentationModel, side: int) -> tuple[float, float]:
    """Return FLOPs, and bytes that autograd keeps, for one image of ``side`` × ``side`` in training.

    Counted on two images and halved, as batch norm cannot train on a single pixel. ``model`` may be on meta.
    """
    weight = model.head.conv.weight
    images = torch.empty(2, model.config.in_channels, side, side, dtype=weight.dtype, device=weight.device)
    own = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            kept.setdefault(_storage(tensor), tensor)
        return tensor

    quick = _QuickNorms() if weight.is_meta else contextlib.nullcontext()  # type: ignore[no-untyped-call]
    saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as counter, saving, quick:
        model.training_outputs(images)
    saved = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return counter.get_total_flops() / 2, saved / 2


class _QuickNorms(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers batch norms on meta at once: torch would go through a reference in Python, most of the time here."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.native_batch_norm.default:
            statistics = args[0].new_empty(args[0].shape[1])
            return torch.empty_like(args[0]), statistics, torch.empty_like(statistics)
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _measured(config: ModelConfig, size: int) -> tuple[float, float | None]:
    """Return milliseconds and MiB of a network on one image, from a process of its own."""
    code = "import sys; from unetzoo.comparing.comparison import _measure; _measure(*sys.argv[1:])"
    arguments = [sys.executable, "-c", code, config.to_json(), str(size)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnetzooError(f"measuring {config.name} failed: {done.stderr.strip().splitlines()[-1:]}")
    latency, peak = json.loads(done.stdout)
    return latency, peak


def _measure(config: str, size: str) -> None:
    """Print what :func:`_measured` reads; runs in the child."""
    before = peak_memory()
    model = zoo.from_config(ModelConfig.from_json(config)).eval()
    side = model.decoder.input_side(int(size))
    images = torch.randn(1, model.config.in_channels, side, side)
    times = []
    with torch.no_grad():
        for _ in range(5):
            start = time.perf_counter()
            model(images)
            times.append(time.perf_counter() - start)
    after = peak_memory()
    memory = None if after is None or before is None else (after - before) / 2**20
    sys.stdout.write(json.dumps([1e3 * median(times[1:]), memory]))


def peak_memory() -> int | None:
    """Return this process's peak resident bytes. Not ``getrusage``: that keeps the parent's peak over exec."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    (line,) = (line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _aligned(table: Sequence[Sequence[str]], gap: str) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = (
        (gap * 2).join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    )
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
