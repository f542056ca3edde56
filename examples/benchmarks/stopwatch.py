"""What a call takes: time, and memory at its peak."""

import time
from collections.abc import Callable
from pathlib import Path


def timed(run: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def peak(run: Callable[[], object]) -> int:
    """Return the peak KiB of the process in a call minus its memory before; only on Linux."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # reset the peak
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def resident(key: str) -> int:
    """Return a field of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))
