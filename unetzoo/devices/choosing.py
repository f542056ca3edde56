"""Which device a computation runs on."""

from __future__ import annotations

import torch

from unetzoo.errors import ConfigError


def device_of(name: str | torch.device) -> torch.device:
    """Return the device of a name; "auto" is a GPU if there is one, else the CPU.

    Raises:
        ConfigError: there is no such name, or this machine has no such device.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device={name!r}: no such device; give auto, cpu, cuda, cuda:1, mps, …") from error
    if device.type == "cpu":
        return device
    here = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if here is not None else 0
    if here is None or here.type != device.type or (device.index or 0) >= count:
        found = "no GPU" if here is None else f"{count} of {here.type}"
        raise ConfigError(f"device={str(name)!r}: this machine has {found}; leave it out, or give another device")
    return device
