"""The costs of a network on this machine, measured in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

from unetzoo import plugins
from unetzoo.config import ModelConfig
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS
from unetzoo.errors import ConfigError, UnetzooError
from unetzoo.model import SegmentationModel


def measured(config: ModelConfig, size: int) -> tuple[float, float | None]:
    """Return time in milliseconds and memory in MiB of a network for one image, measured in a separate process.

    Raises:
        ConfigError: a part of the network is registered by the main program, which another process cannot import.
        UnetzooError: the process failed.
    """
    homes = plugins.homes_of({config.decoder: DECODERS[config.decoder], config.encoder: ENCODERS[config.encoder].build})
    problems = [
        f"{part} is registered by the main program, which the measuring process does not run: move it to a module, "
        "such as parts.py, and import that"
        for part, module in homes.items()
        if module == "__main__"
    ]
    if problems:
        raise ConfigError(f"cannot measure {config.name}", problems)
    code = "import sys; from unetzoo.costs.measuring import _measure; _measure(*sys.argv[1:])"
    arguments = [sys.executable, "-c", code, config.to_json(), str(size), *homes.values()]
    environment = plugins.environment_with(homes.values())
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise UnetzooError(f"measuring {config.name} failed: {done.stderr.strip().splitlines()[-1:]}")
    latency, peak = json.loads(done.stdout)
    return latency, peak


def _measure(config: str, size: str, *modules: str) -> None:
    """Print what :func:`measured` reads; runs in the child process, which imports the modules that register parts."""
    plugins.import_modules(modules)
    before = peak_memory()
    model = SegmentationModel(ModelConfig.from_json(config)).eval()
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
    """Return the peak resident bytes of this process. ``getrusage`` would keep the parent's peak across exec."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    (line,) = (line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
