"""What has to be imported before a widget is opened, and what must not be, for the process to live."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

_MAPS = Path("/proc/self/maps")


def import_torchvision() -> None:
    """Import torchvision, with triton hidden where a second LLVM would end the process.

    torchvision imports torch's compiler, and that imports triton, whose LLVM and that of Mesa do not bear each other:
    where OpenGL is drawn by the processor, as on a remote desktop, and triton comes second, the process crashes.
    """
    if "triton" not in sys.modules and draws_with_llvm():
        # None here is how Python itself knows a module that must not be imported. torch does without: nothing that
        # the plugin does is compiled.
        sys.modules["triton"] = None  # type: ignore[assignment]
    importlib.import_module("torchvision")


def draws_with_llvm(maps: Path = _MAPS) -> bool:
    """Return whether an LLVM that is shared, as Mesa's is, is in this process; False where nothing tells.

    Args:
        maps: the libraries of the process, as Linux lists them; triton is for Linux alone.
    """
    try:
        return "libLLVM" in maps.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
