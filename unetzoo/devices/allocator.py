"""Reuse of freed memory, instead of returning it to the system and requesting it again."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM, _MMAP = -1, -3  # mallopt(3): M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_LARGE = 2**30
_UNUSED = 2**31 - 1
_OWN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def reuse_memory(*, all_of_it: bool = False) -> bool:
    """Let this process keep the memory that it frees and use it again; return whether this is possible.

    glibc returns each block of 32 MiB or more to the system as soon as it is freed. The maps of a network are larger,
    and are created and freed all the time; the system has to clear their pages each time, which takes a fifth of the
    time of a training on the CPU. After this call, blocks of up to 1 GiB are kept, as other allocators do. The setting
    holds for the complete process and cannot be undone. So programs call this, as the command line does; the library
    itself does so only when a training begins. Nothing is changed if one of glibc's own environment variables sets
    this already, or if the allocator is not glibc's, as on macOS, Windows and Alpine.

    Args:
        all_of_it: keep all free memory; otherwise free memory beyond 2 GiB is returned.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _OWN):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(_MMAP, _LARGE), mallopt(_TRIM, -1 if all_of_it else _UNUSED)])
