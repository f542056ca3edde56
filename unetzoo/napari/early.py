"""What must be imported before a widget is opened, and what must not be, or else the process may crash."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

_MAPS = Path("/proc/self/maps")


def import_torchvision() -> None:
    """Import torchvision, with triton hidden if a second LLVM would crash the process.

    torchvision imports torch's compiler, which imports triton, whose LLVM conflicts with that of Mesa. If OpenGL is
    rendered by the processor, as on a remote desktop, and triton is loaded second, the process crashes.
    """
    if "triton" not in sys.modules and draws_with_llvm():
        # In Python, None here means that a module must not be imported. torch works without it: the plugin compiles
        # nothing.
        sys.modules["triton"] = None  # type: ignore[assignment]
    importlib.import_module("torchvision")


def draws_with_llvm(maps: Path = _MAPS) -> bool:
    """Return whether a shared LLVM library, such as Mesa's, is in this process; False if this is not known.

    Args:
        maps: the libraries of the process, as Linux lists them; triton is for Linux only.
    """
    try:
        return "libLLVM" in maps.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
