"""Add parts of this folder to the zoo, in a copy: ``python examples/parts/in_the_tree.py NAME[,NAME…] [TESTS]``.

The checkout is copied to a temporary folder. Each part is added to ``unetzoo/decoders/`` or ``unetzoo/encoders/`` of
the copy; no other file is changed. Then the tests run there: all of them, or those that follow the names, as arguments
of pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PARTS = Path(__file__).resolve().parent
ROOT = PARTS.parent.parent
UNNEEDED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "_build", "generated", "build", "dist")


def place(parts: str, folder: Path) -> Path:
    """Copy the checkout into ``folder``, with the parts added to its modules; return the copy."""
    copy = folder / "checkout"
    shutil.copytree(ROOT, copy, ignore=UNNEEDED)
    for part in parts.split(","):
        source = PARTS / f"{part}.py"
        room = "decoders" if "@register_decoder" in source.read_text(encoding="utf-8") else "encoders"
        shutil.copy(source, copy / "unetzoo" / room)
    if (ROOT.parent / "shared").is_dir():  # real images next to the checkout, which some tests use
        (folder / "shared").symlink_to(ROOT.parent / "shared")
    return copy


def run(parts: str, *arguments: str) -> int:
    """Run pytest in a copy that has the parts in its tree; return its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        copy = place(parts, Path(folder))
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=copy, env=environment).returncode


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
