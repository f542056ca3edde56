"""Networks trained one after the other with the same settings, to be compared."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
import torchvision

from unetzoo import __version__, folding, naming, plugins, zoo
from unetzoo.comparing import comparison
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS
from unetzoo.errors import ConfigError, TrainingError
from unetzoo.files.writing import write_file
from unetzoo.losses import LOSSES
from unetzoo.model import SegmentationModel
from unetzoo.saving import records, weights
from unetzoo.train.runs import CONFIG
from unetzoo.train.timing import TIMES
from unetzoo.trials import Epoch, TrainingTrial, read_trials, write_trials

RESULTS = "results.json"
SETTINGS = "settings.json"
TRIAL = "trial.json"
REFERENCE = "resunet18"
SIDE, ROUNDS = 512, 5
"""Side of the image whose prediction is timed, and how often it is timed."""


def run_trials(
    models: str | Iterable[str],
    arguments: Sequence[str],
    out: str | os.PathLike[str],
    *,
    exclude: str | Iterable[str] = (),
    imports: Iterable[str] = (),
) -> Path:
    """Train networks one after the other, each in its own process, and write the results of each.

    They all have the same settings: data, split, crops, augmentation, epochs, learning rate, random seed. A second
    call continues: networks that are done are not trained again, and one that was stopped is resumed from its
    checkpoint. Printed is what ``unetzoo train`` prints, and an estimate of the time left, from the GFLOPs of each.

    Args:
        models, exclude: names or wildcards, as in ``list_models``; the order of ``models`` is kept.
        arguments: of ``unetzoo train``, such as ``["--data", "nuclei", "--epochs", "8", "--crop-size", "128"]``.
        out: folder of the runs, made if missing. In it, a folder for each network contains its run, and ``trial.json``
            once it is done; ``results.json`` contains all that are done so far.
        imports: modules to import first, here and where the networks are trained. Modules that registered the parts
            of ``models``, or the losses that ``arguments`` name, are always imported there.

    Returns:
        ``results.json``: for ``unetzoo.compare(results=…)``.

    Raises:
        ConfigError: a name that matches no network, an argument that trials may not set, a folder whose trials have
            other settings, or a part that the main program registers, so that no other process can import it.
        TrainingError: a training failed, and printed why; the trials before it are kept.
        WriteError: a file cannot be written.
    """
    imports = tuple(imports)
    plugins.import_modules(imports)
    rows = comparison.compare(models, exclude=exclude).rows
    out = Path(out)
    homes = _homes([row.name for row in rows], arguments)
    _begin(out, arguments, [row.name for row in rows], homes)
    modules = list(dict.fromkeys([*imports, *homes.values()]))
    todo = {row.name: row.gflops for row in rows if not (out / row.name / TRIAL).is_file()}
    done, start, whole = 0.0, time.monotonic(), sum(todo.values())
    for name, gflops in todo.items():
        left = f"; about {(time.monotonic() - start) * (whole - done) / done / 60:.0f} minutes are left" if done else ""
        _say(f"{name}: {len(rows) - len(todo) + list(todo).index(name) + 1} of {len(rows)}{left}")
        _train(out / name, name, arguments, modules)
        write_trials([_trial(out / name, name, arguments)], out / name / TRIAL)
        _collect(out)
        done += gflops
    return _collect(out)


def _collect(out: Path) -> Path:
    """Write the results of all networks that are done, including those of earlier calls."""
    found = [out / name / TRIAL for name in naming.list_models() if (out / name / TRIAL).is_file()]
    write_trials([trial for path in found for trial in read_trials(path)], out / RESULTS)
    return out / RESULTS


def _homes(names: Iterable[str], arguments: Sequence[str]) -> dict[str, str]:
    """Return part → module, for all parts that the trials need and that were registered outside of unetzoo."""
    makers: dict[str, object] = {}
    for name in names:
        if name in naming.PRESETS:
            makers[name] = naming.PRESETS[name]
        else:
            decoder, encoder = naming.index()[name]
            makers |= {decoder: DECODERS[decoder], encoder: ENCODERS[encoder].build}
    words = set(re.findall(r"\w+", " ".join(arguments)))
    makers |= {name: loss.make for name, loss in LOSSES.items() if name in words}
    return plugins.homes_of(makers)


def _begin(out: Path, arguments: Sequence[str], names: Sequence[str], homes: Mapping[str, str]) -> None:
    """Make the folder, or check that its contents were begun with the same settings."""
    given = [argument.partition("=")[0] for argument in arguments]
    own = ("--model", "--model.name", "--out", "--resume", "--suggest", "--print-config")
    problems = [
        f"{argument}: leave it out; all networks have the same settings" for argument in given if argument in own
    ]
    if not {"--data", "--data.folder", "--config"} & set(given):
        problems.append("--data FOLDER is needed")
    problems += [
        f"{part} is registered by the main program, which the training processes do not run: move it to a module, "
        "such as parts.py, and import that"
        for part, module in homes.items()
        if module == "__main__"
    ]
    path, text = out / SETTINGS, json.dumps(list(arguments))
    if path.is_file():
        before = path.read_text(encoding="utf-8")
        if before != text:
            problems.append(f"{out} was begun with {before}, not with {text}; give another folder")
    else:
        problems += [f"{out / name} exists already; give another folder" for name in names if (out / name).exists()]
    if problems:
        raise ConfigError("cannot try networks", problems)
    write_file(path, text)


def _train(folder: Path, name: str, arguments: Sequence[str], modules: Sequence[str]) -> None:
    """Train a network in its own process, or resume its training."""
    given = ["--model", name, "--out", str(folder), *arguments, "--trainer.callbacks+=unetzoo.train.Clock"]
    if (folder / CONFIG).is_file():
        given = ["--resume", str(folder), *(flag for flag in ("--quiet", "--json") if flag in arguments)]
    given += [f"--import={module}" for module in modules]
    command, environment = [sys.executable, "-m", "unetzoo", "train", *given], plugins.environment_with(modules)
    status = _status(command, environment)
    if status != 0:
        raise TrainingError(
            f"{name}: the training failed with exit status {status}, for the reason above; fix it, and make "
            "the same call to continue"
        )


def _status(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command, and return its exit status."""
    with _ended_together() as started, subprocess.Popen(command, env=environment) as training:
        try:
            started()
            training.communicate()
        except BaseException:
            training.kill()
            raise
    return training.returncode


@contextlib.contextmanager
def _ended_together() -> Iterator[Callable[[], None]]:
    """Let SIGTERM end the training too, as Ctrl-C does: if left running, it would write where the next call writes.

    A signal that comes while the process is being started waits for the call of what is yielded: until then, nobody
    knows the process that has to be ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    asked: list[int] = []
    known: list[bool] = []

    def ended(number: int, _: object) -> None:
        asked.append(number)
        if known:
            sys.exit(128 + number)

    def started() -> None:
        known.append(True)
        if asked:
            sys.exit(128 + asked[0])

    before = signal.signal(signal.SIGTERM, ended)
    try:
        yield started
    finally:
        signal.signal(signal.SIGTERM, before)


def _trial(folder: Path, name: str, arguments: Sequence[str]) -> TrainingTrial:
    """Return the results of a finished run."""
    scores, times = (
        list(csv.DictReader((folder / file).read_text(encoding="utf-8").splitlines()))
        for file in ("metrics.csv", TIMES)
    )
    curve = tuple(
        Epoch(
            int(clock["epoch"]),
            round(float(clock["seconds"]) / 60, 4),
            *(float(row[key]) if row.get(key) else None for key in ("dice", "iou")),
        )
        for row, clock in zip(scores, times, strict=True)
    )
    model = weights.load(folder / records.BEST_FILE)
    seconds, ratio = prediction_time(model)
    peak = times[-1]["peak_mib"]
    return TrainingTrial(
        name=name,
        settings=tuple(arguments),
        curve=curve,
        peak_mib=float(peak) if peak else None,
        seconds_per_megapixel=seconds,
        times_resunet18=ratio,
        versions={
            "unetzoo": __version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
        },
        machine=f"{_processor()}, {torch.get_num_threads()} threads",
        config=model.config,
    )


def prediction_time(model: SegmentationModel) -> tuple[float, float]:
    """Return CPU seconds per megapixel, and their ratio to those of ``resunet18``.

    Both networks are optimized, and take turns to predict one image of 512 × 512. The seconds and the ratio are
    medians. The first turn is not counted.
    """
    config = model.config
    other = zoo.create(REFERENCE, in_channels=config.in_channels, num_classes=config.num_classes, task=config.task)
    calls = []
    for network in (model, other):
        side = network.decoder.input_side(SIDE)
        calls.append((folding.optimize(network), torch.randn(1, config.in_channels, side, side)))
    times: list[tuple[float, ...]] = []
    with torch.no_grad():
        for _ in range(1 + ROUNDS):
            taken = []
            for call, image in calls:
                start = time.perf_counter()
                call(image)
                taken.append(time.perf_counter() - start)
            times.append(tuple(taken))
    own = median(taken for taken, _ in times[1:])
    return own / (SIDE**2 / 1e6), median(taken / reference for taken, reference in times[1:])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - between the output of the training runs
