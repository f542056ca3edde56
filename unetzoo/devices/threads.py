"""The number of threads with which torch computes, compared with the processors that this process may use."""

from __future__ import annotations

import functools
import logging
import math
import os
from pathlib import Path

import torch

_logger = logging.getLogger(__name__)


def warn_of_threads() -> None:
    """Warn, once, if torch computes with more threads than there are processors: they wait for each other.

    torch counts the processors of the machine, not those that a container or a scheduler allows.
    """
    _warn(torch.get_num_threads(), processors())


@functools.cache
def _warn(threads: int, available: int) -> None:
    if threads > available:
        _logger.warning(
            "torch computes with %d threads, but this process may only use %d of the processors, so threads wait for "
            "each other: set OMP_NUM_THREADS=%d",
            threads,
            available,
            available,
        )


def processors(system: Path = Path("/")) -> int:
    """Return how many processors this process may use: by its affinity, and by the quota of its container.

    Args:
        system: the root of the file system.
    """
    known = os.process_cpu_count() if hasattr(os, "process_cpu_count") else None  # Python 3.13
    affinity = known or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota = _quota(system / "sys/fs/cgroup")
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def _quota(group: Path) -> float | None:
    """Return the processors that the control group allows, of version 2 or 1; None if it does not limit them."""
    try:
        if (group / "cpu.max").is_file():
            most, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        else:
            of = group / "cpu"
            most, period = ((of / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period"))
        return None if most == "max" or int(most) < 0 else int(most) / int(period)
    except (OSError, ValueError):  # not Linux, or no control groups
        return None
