"""Threads: how many processors a container allows, and the warning if torch uses more."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from drawn import quick

import unetzoo
from unetzoo.devices import threads

ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, min(2, ALL)),
        ({"cpu.max": "6400000 100000\n"}, min(64, ALL)),
        ({"cpu.max": "max 100000\n"}, ALL),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, ALL),
        ({"cpu.max": "?\n"}, ALL),
        ({}, ALL),
    ],
)
def test_the_quota_of_a_container_counts(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert threads.processors(tmp_path) == expected


def test_more_threads_than_processors_get_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = quick("unet", base_channels=4)
    threads._warn.cache_clear()
    monkeypatch.setattr(threads, "processors", lambda: 3)
    for count, warned in ((3, 0), (64, 1), (64, 0)):
        caplog.clear()
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        with caplog.at_level(logging.WARNING, "unetzoo"):
            unetzoo.Predictor(model, device="cpu")
        said = [record.getMessage() for record in caplog.records if "threads" in record.getMessage()]
        assert len(said) == warned
        assert not said or ("64 threads" in said[0] and "only use 3 of" in said[0] and "OMP_NUM_THREADS=3" in said[0])
    threads._warn.cache_clear()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to processors here")
def test_processors_that_a_process_is_not_bound_to_do_not_count() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from unetzoo.devices.threads import processors; print(processors())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"
