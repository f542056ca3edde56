"""Memory that is used again: the system counts the pages that it has to clear."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from drawn import quick

import unetzoo

GLIBC = sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
pytestmark = pytest.mark.skipif(not GLIBC, reason="glibc's allocator is Linux's, and not Alpine's")
BLOCKS = """
import resource, sys, torch
def pages(mib):  # MiB that the system clears for a block
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(mib * 2**18)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun) * resource.getpagesize() / 2**20
def again(mib):
    return min(pages(mib) for _ in range(8))
"""


def said(code: str, **environment: str) -> list[float]:
    """Run code in a Python of its own; return the numbers that it prints."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS + code], capture_output=True, text=True, check=True, env={**own, **environment}
    )
    return [float(word) for word in done.stdout.split("\n")[-2].split()]


def test_a_block_that_is_freed_is_used_again() -> None:
    code = "import unetzoo.prediction; from unetzoo.devices import reuse_memory; "  # imports alone change nothing
    code += "before = again(64); done = reuse_memory(); "
    before, done, after, large = said(code + "print(before, int(done), again(64), pages(1100))")
    assert before == pytest.approx(64, rel=0.1)  # each page of the block anew: by huge pages it would be fewer
    assert done == 1
    assert after < 1
    assert large == pytest.approx(1100, rel=0.1)  # given back


def test_where_the_environment_says_otherwise_nothing_is_changed() -> None:
    code = "from unetzoo.devices import reuse_memory; print(int(reuse_memory()), again(64))"
    done, pages = said(code, MALLOC_MMAP_THRESHOLD_=str(2**20))
    assert done == 0
    assert pages == pytest.approx(64, rel=0.1)


@pytest.mark.parametrize("command", ["predict", pytest.param("train", marks=pytest.mark.slow)])
def test_commands_use_memory_again(command: str, tmp_path: Path) -> None:
    from unetzoo.drawing import write_shapes

    write_shapes(tmp_path / "shapes", 6, size=(32, 32))
    unetzoo.save(quick("unet", base_channels=4, num_classes=5), tmp_path / "it.safetensors")
    words = {
        "predict": ["it.safetensors", "shapes", "--out", "masks"],
        "train": ["--model", "unet", "--model.options.base_channels", "4", "--data", "shapes", "--out", "run",
                  "--steps", "1", "--crop-size", "32", "--data.workers", "0", "--trainer.accelerator", "cpu",
                  "--task", "multiclass", "--num-classes", "5"],
    }[command]  # fmt: skip
    code = f"""
import os
os.chdir({str(tmp_path)!r})
from unetzoo.cli import main
assert main({[command, *words]!r}) == 0
print(again(64))
"""
    (pages,) = said(code)
    assert pages < 1
