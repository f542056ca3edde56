"""The time and memory until a saved model is ready: ``python examples/benchmarks/loading.py [NAME]``.

Times are medians over alternating rounds, with the files in the page cache. Memory (only on Linux) is the peak of the
private memory of a fresh process until the model is ready, before any forward pass, minus its memory after all imports.
Pages of a mapped file count as soon as they are touched. VmHWM, the peak of the resident set, is a cross-check.
"""

import contextlib
import functools
import gc
import importlib.util
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import safetensors.torch
from torch import nn

import unetzoo
from unetzoo.config import ModelConfig
from unetzoo.files.tensors import read_header
from unetzoo.model import build_on_meta
from unetzoo.nn.meta import on_meta

ROUNDS = 9
LOAD, TOUCH, VERIFY, COPY, SMP = "load", "load, touch every page", "load, verify=True", "create, copy", "smp"
held = []  # in the processes whose memory is measured


def ready(way: str, name: str, folder: Path) -> nn.Module:
    """Return the model that is saved in ``folder``."""
    if way == SMP:
        import segmentation_models_pytorch as smp

        with contextlib.redirect_stdout(None):
            return smp.from_pretrained(folder / SMP)
    file = folder / "model.safetensors"
    model = unetzoo.create(name) if way == COPY else unetzoo.load(file, verify=way == VERIFY)
    if way == COPY:
        model.load_state_dict(safetensors.torch.load_file(file))
    if way == TOUCH:
        for tensor in model.state_dict().values():
            tensor.flatten()[:: 4096 // tensor.element_size()].sum()
    return model


def prepare(way: str) -> int:
    """Import what is imported on first use; return the number of this process."""
    with on_meta():
        unetzoo.create("resunet18")
        if way == SMP:
            importlib.import_module("segmentation_models_pytorch").Unet("resnet18", encoder_weights=None)
    gc.collect()
    return os.getpid()


def hold(way: str, name: str, folder: Path) -> None:
    """Keep the model until this process ends."""
    held.append(ready(way, name, folder))


def peaks(way: str, name: str, folder: Path) -> tuple[float, float]:
    """Return the MB of private and of resident memory that a model takes at the peak, in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        process = Path(f"/proc/{pool.submit(prepare, way).result()}")

        def megabytes(account: str, fields: str) -> float:
            text = (process / account).read_text(encoding="utf-8")
            return sum(int(kib) * 1024e-6 for kib in re.findall(rf"(?:{fields}):\s+(\d+) kB", text))

        (process / "clear_refs").write_text("5", encoding="utf-8")  # resets the resident peak
        resident, private = megabytes("status", "VmHWM"), [megabytes("smaps_rollup", "Private_Clean|Private_Dirty")]
        job = pool.submit(hold, way, name, folder)
        while len(private) < 2 or not job.done():
            time.sleep(0.001)
            private.append(megabytes("smaps_rollup", "Private_Clean|Private_Dirty"))
        job.result()
        private.append(megabytes("smaps_rollup", "Private_Clean|Private_Dirty"))
        return max(private) - private[0], megabytes("status", "VmHWM") - resident


def seconds(calls: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Return the time of each call in each round, with every second round in reverse, after a warm-up round."""
    times: dict[str, list[float]] = {what: [] for what in calls}
    for turn in range(rounds + 1):
        for what in list(calls)[:: -1 if turn % 2 else 1]:
            gc.collect()
            start = time.perf_counter()
            result = calls[what]()
            times[what].append(time.perf_counter() - start)
            del result
    return {what: found[1:] for what, found in times.items()}


def row(what: str, times: list[float], base: list[float]) -> str:
    """Return a line of median, least, most, and the ratio to the median of ``base``."""
    spread = f"{1e3 * median(times):7.1f} ms ({1e3 * min(times):.0f} – {1e3 * max(times):.0f})"
    return f"{what:32}{spread:26}{median(times) / median(base):7.3f}"


def compare_ways(ways: list[str], name: str, folder: Path) -> None:
    """Print time and memory of each way."""
    times = seconds({way: functools.partial(ready, way, name, folder) for way in ways})
    gc.collect()  # pages that this process maps would not be private to the others
    print(f"{'':32}{'median (least – most)':26}{'× copy':>7}{'private peak':>15}{'× file':>8}{'VmHWM':>10}")
    for way in ways:
        print(row(way, times[way], times[COPY]), end="", flush=True)
        if Path("/proc/self/smaps_rollup").exists():
            size = (folder / (SMP if way == SMP else ".") / "model.safetensors").stat().st_size / 1e6
            private, resident = map(median, zip(*(peaks(way, name, folder) for _ in range(3)), strict=True))
            print(f"{private:12.1f} MB{private / size:8.3f}{resident:7.0f} MB", end="")
        print()


def profile(file: Path) -> None:
    """Print where the time of ``load`` goes: each step alone, as a share of the total."""
    opened = read_header(file)
    config, state = ModelConfig.from_json(opened.metadata["unetzoo_config"]), opened.tensors()
    steps = {
        LOAD: functools.partial(unetzoo.load, file),
        "  modules built on meta": functools.partial(build_on_meta, config),
        "  header read, tensors mapped": lambda: read_header(file).tensors(),
        "  tensors assigned": functools.partial(build_on_meta(config).load_state_dict, state, assign=True),
    }
    times = seconds(steps, 3 * ROUNDS)
    for step in steps:
        print(row(step, times[step], times[LOAD]))


def compare_saves(model: nn.Module, file: Path) -> None:
    """Print the cost of a digest, of a search for NaN and of flushing to disk, each with a new file."""
    theirs = "safetensors.torch.save_file"
    times: dict[str, list[float]] = {"unetzoo.save": [], theirs: []}
    for what in [*times] * ROUNDS:
        start = time.perf_counter()
        safetensors.torch.save_file(model.state_dict(), file) if what == theirs else unetzoo.save(model, file)
        times[what].append(time.perf_counter() - start)
        file.unlink()
    for what, found in times.items():
        print(row(what, found, times[theirs]))


def main(name: str = "resunet152") -> None:
    """Compare all ways for one name of the zoo."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, model, ways = Path(temporary), unetzoo.create(name), [LOAD, TOUCH, VERIFY, COPY]
        unetzoo.save(model, folder / "model.safetensors")
        print(f"{name}: {(folder / 'model.safetensors').stat().st_size / 1e6:.1f} MB")
        if name != "resunet152":
            print("smp is compared with resunet152 alone")
        elif importlib.util.find_spec("segmentation_models_pytorch"):
            import segmentation_models_pytorch as smp

            smp.Unet("resnet152", encoder_weights=None, classes=1).save_pretrained(folder / SMP)
            print(f"smp.Unet('resnet152'): {(folder / SMP / 'model.safetensors').stat().st_size / 1e6:.1f} MB")
            ways.append(SMP)
        else:
            print("smp is not installed: pip install segmentation-models-pytorch")
        compare_ways(ways, name, folder)
        profile(folder / "model.safetensors")
        compare_saves(model, folder / "new.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
