"""Which device a computation runs on, and what to do where its memory is too small."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from unetzoo.errors import ConfigError, InputError, TrainingError


def device_of(name: str | torch.device) -> torch.device:
    """Return the device of a name; "auto" is a GPU if there is one, else the CPU.

    Raises:
        ConfigError: no such name, or this machine has no such device.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device={name!r}: auto, cpu, cuda, cuda:1, mps, … are known") from error
    if device.type == "cpu":
        return device
    here = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if here is not None else 0
    if here is None or here.type != device.type or (device.index or 0) >= count:
        found = "no GPU" if here is None else f"{count} of {here.type}"
        raise ConfigError(f"device={str(name)!r}: this machine has {found}; leave it out, or give another")
    return device


@contextlib.contextmanager
def in_memory(error: type[InputError | TrainingError], fix: str) -> Iterator[None]:
    """Turn what is raised where memory runs out, of a GPU or of the machine, into one error that names what helps.

    Raises:
        InputError, TrainingError: as ``error`` says.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as raised:
        if not _is_out_of_memory(raised):
            raise
        said = " ".join(str(raised).split())
        raise error(f"out of memory{f' ({said:.160})' if said else ''}: {fix}") from raised


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Return whether it is the want of memory, for which only CUDA has an error of its own."""
    words = ("DefaultCPUAllocator", "out of memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in words)
