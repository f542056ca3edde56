"""Memory that is used again, rather than given back to the system and asked for anew."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM, _MMAP = -1, -3  # mallopt(3): M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_LARGE = 2**30
_UNUSED = 2**31 - 1
_OWN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def reuse_memory(*, all_of_it: bool = False) -> bool:
    """Have this process keep the memory that it frees for what it needs next; return whether that can be done.

    glibc gives each block of 32 MiB and more back to the system as soon as it is freed. Maps of a network are larger,
    are made and freed all the time, and the system has to clear each of their pages anew: a fifth of a training's time
    on the CPU. Blocks of up to 1 GiB are kept from then on, as other allocators do. It holds for the whole process, for
    good, so that programs call it, as the command line does, and the library does only where a training begins. Where
    the environment says otherwise, by one of glibc's own variables, nothing is changed; nor where it is not glibc that
    gives memory, as on macOS, on Windows and in Alpine.

    Args:
        all_of_it: however much is free; otherwise what is more than 2 GiB is given back.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _OWN):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(_MMAP, _LARGE), mallopt(_TRIM, -1 if all_of_it else _UNUSED)])
