"""The free memory of a device, and the error when it is too little."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from unetzoo.errors import InputError, TrainingError


def free_memory(device: torch.device) -> int | None:
    """Return the bytes of free memory on a device, None if this is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        table = Path("/proc/meminfo").read_text(encoding="utf-8")
        (line,) = (line for line in table.splitlines() if line.startswith("MemAvailable:"))
    except (OSError, ValueError):  # not Linux, or a very old one
        return None
    here = int(line.split()[1]) * 1024
    group = Path("/sys/fs/cgroup")  # a container may have less memory than the machine
    try:
        most, taken = ((group / f"memory.{name}").read_text(encoding="utf-8").strip() for name in ("max", "current"))
    except OSError:
        return here
    return here if most == "max" else max(0, min(here, int(most) - int(taken)))


@contextlib.contextmanager
def in_memory(error: type[InputError | TrainingError], fix: str) -> Iterator[None]:
    """Turn the exceptions for too little memory, of a GPU or of the machine, into one error that names the fix.

    Raises:
        InputError, TrainingError: whichever ``error`` is.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as raised:
        if not _is_out_of_memory(raised):
            raise
        said = " ".join(str(raised).split())
        raise error(f"out of memory{f' ({said:.160})' if said else ''}: {fix}") from raised


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Return whether the error means too little memory; only CUDA has an exception class for this."""
    words = ("DefaultCPUAllocator", "out of memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in words)
