"""Saving is all or nothing: processes are killed, disks fill up, folders are locked, and the old file or the new stays.

The default run kills 200 times, in well under a minute. The longer form, of 4,000 kills::

    pytest -m slow tests/test_writing.py
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import needs_dev_full

import unetzoo
from unetzoo.errors import WeightsError, WriteError
from unetzoo.files import tensors, writing
from unetzoo.files.writing import folder_made, make_folder, replacing, write_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals, modes, links and FIFOs are POSIX's")

OLD, NEW = b"the old content, " * 1000, b"and the new one, " * 3000
NOBODY = 65534
"""A user who owns nothing."""


def write(path: Path, content: bytes) -> None:
    with replacing(path) as stream:
        stream.write(content)


def run_child(script: str, *arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """Start Python on a script; its arguments are in ``sys.argv[1:]``."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def outcome(child: subprocess.Popen[bytes], seconds: float = 60) -> tuple[int, str, str]:
    """Return exit status, output and errors of a child; one that hangs is killed, and fails the test."""
    try:
        out, err = child.communicate(timeout=seconds)
    finally:
        child.kill()
        child.wait()
    return child.returncode, out.decode(), err.decode()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# In one call


@pytest.mark.parametrize("content", [b"\0\xff\n", "Zellkörper 模\n", ""], ids=["bytes", "text", "nothing"])
def test_a_file_is_written_with_its_folder(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "new" / "deep" / "a.txt"
    for _ in range(2):
        write_file(path, content)
        assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode("utf-8"))
        assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("folder", ["file", "file/below", "nul\0character", "d" * 256], ids=lambda name: name[:10])
def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_bytes(OLD)
    for work in (lambda: make_folder(tmp_path / folder), lambda: write_file(tmp_path / folder / "a", NEW)):
        with pytest.raises(WriteError) as caught:
            work()
        assert isinstance(caught.value, OSError)
        assert isinstance(caught.value, unetzoo.UnetzooError)
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == OLD


# Killed at random points

SERVER = '''
"""Forks a saver for each line "path<TAB>size": importing once makes a kill cost milliseconds."""
import os, sys
kind = sys.argv[1]
if kind == "bytes":
    from unetzoo.files.writing import replacing

    def saver(size):
        def save(k, path):
            content = k.to_bytes(8, "little") * (size * (1 + k % 2) // 8)
            with replacing(path) as stream:
                for at in range(0, len(content), 1 << 20):
                    stream.write(content[at : at + (1 << 20)])
        return save
else:
    import torch, unetzoo
    torch.set_num_threads(1)

    def saver(size):
        torch.manual_seed(0)
        model = unetzoo.create("unetpp", levels=1, norm=None, base_channels=size).requires_grad_(False)
        unetzoo.save(model, sys.argv[2])  # imports what the children would import otherwise, each anew
        def save(k, path):
            model.head.conv.bias.fill_(k)
            unetzoo.save(model, path)
        return save

savers = {}
os.write(1, b"ready\\n")
for line in sys.stdin:
    path, size = line.rstrip("\\n").split("\\t")
    savers.setdefault(size, saver(int(size)))
    child = os.fork()
    if not child:
        k = 0
        while True:
            k += 1
            savers[size](k, path)
            os.write(1, f"saved {k}\\n".encode())
    os.write(1, f"pid {child}\\n".encode())
    os.waitpid(child, 0)
    os.write(1, b"reaped\\n")
'''


class Killer:
    """Lets forked children save to a path again and again, and kills each at a random point."""

    def __init__(self, kind: str, beside: Path) -> None:
        self.server = run_child(SERVER, kind, beside)
        self.random = random.Random(0)
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.server.stdout is not None
        line = self.server.stdout.readline().decode().rstrip("\n")
        assert line, self.server.stderr and self.server.stderr.read().decode()
        return line

    def kill_one(self, path: Path, size: int, longest: float, *, writing: bool = False) -> int:
        """Return the number of the last save that the killed process knew to be finished, 0 for none.

        Args:
            path, size: of what is saved.
            longest: seconds after which the process is killed at the latest.
            writing: count them from when there is a temporary file, not from the start.
        """
        assert self.server.stdin is not None
        self.server.stdin.write(f"{path}\t{size}\n".encode())
        self.server.stdin.flush()
        saved = 0
        while not (line := self._line()).startswith("pid "):
            saved = int(line.removeprefix("saved "))
        deadline = time.monotonic() + 5
        while writing and len(names(path.parent)) == 1 and time.monotonic() < deadline:
            pass
        time.sleep(self.random.uniform(0, longest))
        os.kill(int(line.removeprefix("pid ")), signal.SIGKILL)
        while (line := self._line()) != "reaped":
            saved = int(line.removeprefix("saved "))
        return saved


@contextlib.contextmanager
def killing(kind: str, beside: Path) -> Iterator[Killer]:
    killer = Killer(kind, beside)
    try:
        yield killer
    finally:
        outcome(killer.server)


def numbered(k: int, size: int) -> bytes:
    """Return the content that save number k writes: no part of it fits into that of another save."""
    return k.to_bytes(8, "little") * (size * (1 + k % 2) // 8)


def kill_saves_of_bytes(folder: Path, kills: dict[int, int]) -> None:
    landed = {}
    with killing("bytes", folder) as killer:
        for size, count in kills.items():
            path = folder / f"{size}.bin"
            before = time.perf_counter()
            write(path, numbered(0, size))
            longest = 0.005 + 4 * (time.perf_counter() - before)
            landed[size] = tried = 0
            # On a busy machine few of them hit: then more are tried, from when a save has begun.
            while tried < count or (landed[size] < count / 4 and tried < 8 * count):
                tried += 1
                saved = killer.kill_one(path, size, longest, writing=tried > count)
                left = names(folder)
                landed[size] += len(left) == 2
                assert len(left) <= 2
                content = path.read_bytes()
                k = int.from_bytes(content[:8], "little")
                # What was saved is there, or else what was being saved: nothing older, and no mixture.
                assert k in (saved, saved + 1)
                assert content == numbered(k, size)
                write(path, numbered(0, size))
                assert names(folder) == [path.name]
                assert path.read_bytes() == numbered(0, size)
            path.unlink()
    assert all(landed[size] >= count / 4 for size, count in kills.items()), f"too few kills hit a save: {landed}"


def test_a_killed_save_leaves_one_complete_content_and_the_next_save_cleans_up(tmp_path: Path) -> None:
    kill_saves_of_bytes(tmp_path, {4096: 50, 65_536: 50, 1 << 20: 30, 6_000_000: 20, 24 << 20: 10})


@pytest.mark.slow
def test_thousands_of_kills_lose_nothing(tmp_path: Path) -> None:
    kill_saves_of_bytes(tmp_path, {4096: 1500, 65_536: 1500, 1 << 20: 600, 6_000_000: 200, 48 << 20: 50})


def kill_saves_of_models(folder: Path, kills: dict[int, int]) -> None:
    work, beside = folder / "work", folder / "beside"
    work.mkdir()
    beside.mkdir()
    landed = 0
    with killing("model", beside / "first.safetensors") as killer:
        for size, count in kills.items():
            torch.manual_seed(0)
            model = unetzoo.create("unetpp", levels=1, norm=None, base_channels=size).requires_grad_(False)
            path = work / f"{size}.safetensors"
            model.head.conv.bias.fill_(0)
            unetzoo.save(model, path)
            before = time.perf_counter()
            unetzoo.save(model, path)
            took = time.perf_counter() - before
            for number in range(count):
                # Most of the time goes into checking the model, not into writing it: half of the kills aim at that.
                aimed = number % 2 == 1
                saved = killer.kill_one(path, size, took / 8 if aimed else 3 * took, writing=aimed)
                landed += len(names(work)) == 2
                assert unetzoo.verify(path).bytes == path.stat().st_size
                k = int(unetzoo.load(path).head.conv.bias.item())
                assert k in (saved, saved + 1)
                model.head.conv.bias.fill_(k)
                unetzoo.save(model, beside / path.name)
                assert path.read_bytes() == (beside / path.name).read_bytes()
                model.head.conv.bias.fill_(0)
                unetzoo.save(model, path)
                assert names(work) == [path.name]
                assert unetzoo.load(path, verify=True).head.conv.bias.item() == 0
            path.unlink()
    assert landed >= sum(kills.values()) / 5, f"too few kills hit a save: {landed}"


@pytest.mark.usefixtures("torch_s_draws")  # as the process that is killed draws them
def test_a_model_whose_save_is_killed_loads_and_verifies_as_one_of_the_two(tmp_path: Path) -> None:
    kill_saves_of_models(tmp_path, {4: 10, 40: 7, 150: 3})


@pytest.mark.usefixtures("torch_s_draws")  # as the process that is killed draws them
@pytest.mark.slow
def test_models_survive_hundreds_of_kills(tmp_path: Path) -> None:
    kill_saves_of_models(tmp_path, {4: 200, 40: 150, 250: 50})


# What another process left, or still writes

HOLDER = """
import os, sys
from unetzoo.files.writing import replacing
os.umask(int(sys.argv[3], 8))
with replacing(sys.argv[1]) as stream:
    stream.write(sys.argv[2].encode())
    stream.flush()
    os.write(1, b"writing\\n")
    assert sys.stdin.readline() == "go on\\n"
"""


def holder(path: Path, content: bytes, umask: int = 0o022) -> subprocess.Popen[bytes]:
    """Start a process that stands in the middle of saving to ``path``."""
    child = run_child(HOLDER, path, content.decode(), f"{umask:o}")
    assert child.stdout is not None
    assert child.stdout.readline() == b"writing\n"
    return child


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_what_a_killed_save_left_goes_with_the_next_save(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(OLD)
    child = holder(path, b"half", umask)
    assert len(names(tmp_path)) == 2
    child.kill()
    outcome(child)
    assert len(names(tmp_path)) == 2
    assert path.read_bytes() == OLD
    write(path, NEW)
    assert names(tmp_path) == ["model.bin"]
    assert path.read_bytes() == NEW


def test_what_was_left_does_not_lend_its_mode_or_its_content(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    child = holder(path, b"longer than what follows" * 100, 0o077)
    child.kill()
    outcome(child)
    (left,) = tmp_path.iterdir()
    assert stat.S_IMODE(left.stat().st_mode) == 0o600
    write(path, b"short")
    assert path.read_bytes() == b"short"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~current_umask()


def test_a_living_writer_is_waited_for_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(OLD)
    child = holder(path, b"of the first")
    (temporary,) = set(tmp_path.iterdir()) - {path}
    before = temporary.stat()
    saver = threading.Thread(target=write, args=(path, b"of the second"), daemon=True)
    saver.start()
    saver.join(0.5)
    assert saver.is_alive()
    assert os.path.samestat(temporary.stat(), before)
    assert path.read_bytes() == OLD
    assert child.stdin is not None
    child.stdin.write(b"go on\n")
    child.stdin.flush()
    saver.join(20)
    assert not saver.is_alive()
    assert outcome(child) == (0, "", "")
    assert path.read_bytes() == b"of the second"
    assert names(tmp_path) == ["model.bin"]


def test_a_writer_that_waits_goes_on_when_the_first_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    child = holder(path, b"of the first")
    saver = threading.Thread(target=write, args=(path, b"of the second"), daemon=True)
    saver.start()
    saver.join(0.2)
    assert saver.is_alive()
    child.kill()
    outcome(child)
    saver.join(20)
    assert not saver.is_alive()
    assert path.read_bytes() == b"of the second"
    assert names(tmp_path) == ["model.bin"]


WRITER = """
import sys
from unetzoo.files.writing import replacing
path, own, rounds, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
for k in range(rounds):
    content = (own * 1_000_000 + k).to_bytes(8, "little") * (size * (1 + own) // 8)
    with replacing(path) as stream:
        stream.write(content[: len(content) // 2])
        stream.write(content[len(content) // 2 :])
"""


@pytest.mark.parametrize(("rounds", "size"), [(120, 4096), (60, 1 << 20)])
def test_processes_that_save_to_one_path_at_once_all_succeed_and_never_mix(
    tmp_path: Path, rounds: int, size: int
) -> None:
    path = tmp_path / "model.bin"
    children = [run_child(WRITER, path, own, rounds, size) for own in range(3)]
    looks, seen = 0, set()
    while any(child.poll() is None for child in children):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            assert looks == 0
            continue
        looks += 1
        own = int.from_bytes(content[:8], "little") // 1_000_000
        seen.add(own)
        assert len(content) == size * (1 + own)
        assert content == content[:8] * (len(content) // 8)
    assert [outcome(child) for child in children] == [(0, "", "")] * 3
    assert looks > 50
    assert len(seen) >= 2, "they did not save at the same time"
    assert names(tmp_path) == ["model.bin"]
    assert int.from_bytes(path.read_bytes()[:8], "little") % 1_000_000 == rounds - 1


def test_threads_that_save_to_one_path_at_once_all_succeed_and_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(unetzoo.create("unet", base_channels=1))
    complete = []
    for k, model in enumerate(models):
        unetzoo.save(model, tmp_path / f"{k}.safetensors")
        complete.append((tmp_path / f"{k}.safetensors").read_bytes())
    problems: list[BaseException] = []

    def save_often(model: torch.nn.Module) -> None:
        try:
            for _ in range(15):
                unetzoo.save(model, path)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=save_often, args=(model,), daemon=True) for model in models]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            assert path.read_bytes() in complete
    assert not problems
    assert path.read_bytes() in complete
    assert len(names(tmp_path)) == 4


def test_where_files_cannot_be_locked_a_half_written_file_never_takes_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network file systems without a lock server answer ENOLCK: two writers may fail there, but must not mix."""
    import fcntl

    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    path = tmp_path / "model.bin"
    path.write_bytes(OLD)
    first, second = replacing(path), replacing(path)
    with contextlib.suppress(WriteError):
        one = first.__enter__()
        one.write(b"1" * 100_000)
        two = second.__enter__()
        two.write(b"2" * 50_000)
        two.flush()
        with contextlib.suppress(WriteError):
            first.__exit__(None, None, None)
        assert path.read_bytes() in (OLD, b"1" * 100_000)
        two.write(b"2" * 50_000)
        with contextlib.suppress(WriteError):
            second.__exit__(None, None, None)
    assert path.read_bytes() in (OLD, b"1" * 100_000, b"2" * 100_000)


# What is raised inside


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, ZeroDivisionError])
@pytest.mark.parametrize("written", [0, 10, 3_000_000])
def test_an_exception_inside_the_block_leaves_the_old_file_alone(
    tmp_path: Path, raised: type[BaseException], written: int
) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(OLD)
    before = path.stat()

    def break_off() -> None:
        with replacing(path) as stream:
            stream.write(bytes(written))
            raise raised

    with pytest.raises(raised):
        break_off()
    assert path.read_bytes() == OLD
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino
    assert names(tmp_path) == ["model.bin"]


def test_an_exception_inside_the_block_leaves_no_file_where_none_was(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "model.bin"):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


INTERRUPTED = """
import os, signal, sys
from unetzoo.files.writing import replacing
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for what they put into the background
os.write(1, b"begun\\n")
k = 0
while True:
    k += 1
    content = k.to_bytes(8, "little") * 250_000
    with replacing(sys.argv[1]) as stream:
        stream.write(content)
"""


def test_control_c_at_any_point_of_saving_leaves_a_complete_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    chance = random.Random(1)
    for _ in range(12):
        write(path, bytes(2_000_000))
        child = run_child(INTERRUPTED, path)
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        time.sleep(chance.uniform(0, 0.05))
        child.send_signal(signal.SIGINT)
        status, _, errors = outcome(child)
        assert status in (-signal.SIGINT, 130)
        assert "KeyboardInterrupt" in errors
        content = path.read_bytes()
        assert content == content[:8] * 250_000
        write(path, OLD)
        assert names(tmp_path) == ["model.bin"]


def test_a_model_whose_save_breaks_off_half_way_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    model = unetzoo.create("unet", base_channels=1)
    unetzoo.save(model, path)
    old = path.read_bytes()
    calls = []
    real = tensors._bytes

    def break_off(tensor: torch.Tensor) -> memoryview:
        calls.append(tensor)
        if len(calls) == 60:
            raise KeyboardInterrupt
        return real(tensor)

    monkeypatch.setattr(tensors, "_bytes", break_off)
    with pytest.raises(KeyboardInterrupt):
        unetzoo.save(unetzoo.create("unet", base_channels=1), path)
    assert path.read_bytes() == old
    assert names(tmp_path) == ["model.safetensors"]


# The order of things, and modes


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="what an open file holds is read in /proc/self/fd")
def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    torch.manual_seed(0)
    model = unetzoo.create("unet", base_channels=1)
    unetzoo.save(model, tmp_path / "expected.safetensors")
    expected = (tmp_path / "expected.safetensors").read_bytes()
    path.write_bytes(OLD)
    events: list[tuple[str, int, bytes]] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle: Any) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        info = os.fstat(number)
        if stat.S_ISDIR(info.st_mode):
            events.append(("fsync of a folder", info.st_ino, path.read_bytes()))
        else:
            events.append(("fsync", info.st_ino, Path(f"/proc/self/fd/{number}").readlink().read_bytes()))
        real_fsync(handle)

    def replace(source: Any, target: Any, **options: Any) -> None:
        events.append(("replace", Path(source).stat().st_ino, Path(source).read_bytes()))
        assert path.read_bytes() == OLD
        assert Path(target) == path.resolve()
        real_replace(source, target, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "rename", replace)
    unetzoo.save(model, path)
    inode = path.stat().st_ino
    assert events == [
        ("fsync", inode, expected),
        ("replace", inode, expected),
        ("fsync of a folder", tmp_path.stat().st_ino, expected),
    ]


def test_nothing_is_replaced_if_the_disk_does_not_take_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(OLD)

    def fails(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(WriteError, match="Input/output error"):
        write(path, NEW)
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["model.bin"]


def test_an_error_after_the_replacing_does_not_claim_that_the_file_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(OLD)
    real = os.fsync

    def fails_for_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        real(handle)

    monkeypatch.setattr(os, "fsync", fails_for_folders)
    with pytest.raises(WriteError, match="Input/output error") as caught:
        write(path, NEW)
    assert path.read_bytes() == NEW
    assert "as it was" not in str(caught.value)


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.fixture
def umask() -> Iterator[None]:
    kept = current_umask()
    yield
    os.umask(kept)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o027, 0o077, 0o137], ids="{:03o}".format)
@pytest.mark.parametrize("before", [None, 0o600, 0o644, 0o666], ids=str)
def test_a_saved_file_has_the_mode_of_any_new_file(tmp_path: Path, mask: int, before: int | None) -> None:
    path = tmp_path / "model.safetensors"
    if before is not None:
        path.write_bytes(OLD)
        path.chmod(before)
    os.umask(mask)
    (tmp_path / "ordinary").write_bytes(b"")
    unetzoo.save(unetzoo.create("unetpp", base_channels=1, levels=1), path)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode) == 0o666 & ~mask


def test_a_hard_link_to_the_old_file_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(OLD)
    (tmp_path / "kept.bin").hardlink_to(path)
    write(path, NEW)
    assert (tmp_path / "kept.bin").read_bytes() == OLD
    assert path.read_bytes() == NEW


def test_whoever_has_the_old_file_open_reads_it_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(OLD)
    with path.open("rb") as stream:
        assert stream.read(10) == OLD[:10]
        write(path, NEW)
        assert stream.read() == OLD[10:]


# Links


@pytest.mark.parametrize("kind", ["relative", "absolute", "chain", "from another folder", "through a folder"])
@pytest.mark.parametrize("dangling", [False, True], ids=["", "dangling"])
def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path, kind: str, dangling: bool) -> None:
    store, shown = tmp_path / "store", tmp_path / "shown"
    store.mkdir()
    shown.mkdir()
    target = store / "model.safetensors"
    link = shown / "link.safetensors"
    links = [link]
    match kind:
        case "relative":
            link = store / "link.safetensors"
            links = [link]
            link.symlink_to("model.safetensors")
        case "absolute":
            link.symlink_to(target)
        case "chain":
            middle = shown / "middle.safetensors"
            middle.symlink_to("../store/model.safetensors")
            link.symlink_to("middle.safetensors")
            links = [link, middle]
        case "from another folder":
            link.symlink_to("../store/model.safetensors")
        case _:
            folder = shown / "folder"
            folder.symlink_to("../store")
            link, links = folder / "model.safetensors", [folder]
    if not dangling:
        target.write_bytes(OLD)
    pointing = [each.readlink() for each in links]
    listed = {folder: set(names(folder)) for folder in (store, shown)}
    model = unetzoo.create("unet", base_channels=1)
    unetzoo.save(model, link)
    unetzoo.save(model, tmp_path / "expected.safetensors")
    assert [each.readlink() for each in links] == pointing
    assert target.read_bytes() == (tmp_path / "expected.safetensors").read_bytes()
    assert not target.is_symlink()
    assert {folder: set(names(folder)) for folder in (store, shown)} == {
        store: listed[store] | {"model.safetensors"},
        shown: listed[shown],
    }


def test_a_link_in_a_circle_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(WriteError, match=r"\ba\b"):
        write(tmp_path / "a", NEW)
    assert (tmp_path / "a").readlink() == Path("b")
    assert (tmp_path / "b").readlink() == Path("a")
    assert names(tmp_path) == ["a", "b"]


def test_a_link_at_the_temporary_name_is_never_written_through(tmp_path: Path) -> None:
    """In a folder that others may write to, somebody may have put a link where the temporary file goes."""
    path = tmp_path / "model.bin"
    child = holder(path, b"half")
    (temporary,) = tmp_path.iterdir()
    child.kill()
    outcome(child)
    victim = tmp_path / "victim"
    victim.write_bytes(OLD)
    temporary.unlink()
    temporary.symlink_to(victim)
    with contextlib.suppress(WriteError):
        write(path, NEW)
    assert victim.read_bytes() == OLD
    assert not path.is_symlink()


def test_a_fifo_at_the_temporary_name_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    child = holder(path, b"half")
    (temporary,) = tmp_path.iterdir()
    child.kill()
    outcome(child)
    temporary.unlink()
    os.mkfifo(temporary)
    within_seconds(lambda: write(path, NEW), 5)


# Names

LONG_NAMES = ("a" * 250, "模" * 83, "é" * 120 + ".safetensors", "b" * 255)


@pytest.mark.parametrize("name", LONG_NAMES, ids=lambda name: f"{len(name.encode())} bytes of {name[0]}")
def test_any_name_that_a_file_may_have_is_taken(tmp_path: Path, name: str) -> None:
    for content in (OLD, NEW):
        write(tmp_path / name, content)
        assert names(tmp_path) == [name]
        assert (tmp_path / name).read_bytes() == content


def test_long_names_that_begin_alike_do_not_meet(tmp_path: Path) -> None:
    one, two = tmp_path / ("c" * 240 + "1"), tmp_path / ("c" * 240 + "2")
    children = [run_child(WRITER, path, own, 50, 4096) for own, path in enumerate((one, two))]
    assert [outcome(child) for child in children] == [(0, "", "")] * 2
    assert one.read_bytes() == (49).to_bytes(8, "little") * 512
    assert two.read_bytes() == (1_000_049).to_bytes(8, "little") * 1024
    assert names(tmp_path) == [one.name, two.name]


def test_a_name_that_is_no_utf8_is_taken(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    unetzoo.save(unetzoo.create("unet", base_channels=1), path)
    assert [os.fsencode(name) for name in names(tmp_path)] == [b"caf\xe9.safetensors"]
    assert unetzoo.verify(path).config.name == "unet"


def test_names_of_spaces_quotes_and_dots_are_taken(tmp_path: Path) -> None:
    for name in (
        " ",
        "a b",
        "'\"\\",
        ".hidden",
        "...",
        "-rf",
        "new\nline",
        "模型.safetensors",
        "x.saving",
        ".x.saving",
    ):
        write(tmp_path / name, NEW)
        assert (tmp_path / name).read_bytes() == NEW
        assert names(tmp_path) == [name]
        (tmp_path / name).unlink()


@pytest.mark.parametrize("name", ["d" * 256, "d" * 5000, "nul\0character", "file/below a file"], ids=lambda n: n[:9])
def test_a_name_that_no_file_can_have_is_one_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(WriteError):
        write(tmp_path / name, NEW)
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == OLD


# Places that no file can be put


def within_seconds(action: Any, seconds: float) -> None:
    """Call ``action`` and fail if it takes longer: a WriteError is as good as an end."""
    problems: list[BaseException] = []

    def call() -> None:
        try:
            action()
        except WriteError:
            pass
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    assert not problems


def test_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "model.safetensors"
    folder.mkdir()
    (tmp_path / "link.safetensors").symlink_to(folder)
    for path in (folder, tmp_path / "link.safetensors"):
        with pytest.raises(WriteError, match=f"{path} is a folder"):
            unetzoo.save(unetzoo.create("unet", base_channels=1), path)
    assert names(folder) == []
    assert names(tmp_path) == ["link.safetensors", "model.safetensors"]


def test_a_missing_folder_is_made_by_what_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "too" / "model.safetensors"
    unetzoo.save(unetzoo.create("unet", base_channels=1), path)
    assert names(path.parent) == ["model.safetensors"]


def test_a_folder_made_for_what_then_fails_is_gone_again(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), folder_made(tmp_path / "there" / "new" / "er"):
            raise ZeroDivisionError
        assert names(tmp_path / "there") == []
    with folder_made(tmp_path / "there" / "new"):
        pass
    assert names(tmp_path / "there") == ["new"]
    with contextlib.suppress(ZeroDivisionError), folder_made(tmp_path / "kept"):
        (tmp_path / "kept" / "mine.txt").touch()
        raise ZeroDivisionError
    assert names(tmp_path / "kept") == ["mine.txt"]


def test_a_link_into_a_missing_folder_names_that_folder(tmp_path: Path) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to("missing/model.safetensors")
    with pytest.raises(WriteError, match=f"no folder {tmp_path / 'missing'}; create it first"):
        unetzoo.save(unetzoo.create("unet", base_channels=1), link)
    assert names(tmp_path) == ["link.safetensors"]


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_what_is_no_ordinary_file_is_refused_at_once_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "model.safetensors"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        monkeypatch.chdir(tmp_path)  # an address of more than 108 bytes is refused
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    before = path.lstat()
    model = unetzoo.create("unet", base_channels=1)
    within_seconds(lambda: unetzoo.save(model, path), 5)
    with pytest.raises(WriteError, match="not an ordinary file"):
        unetzoo.save(model, path)
    assert os.path.samestat(path.lstat(), before)
    assert names(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize("device", ["/dev/null", pytest.param("/dev/full", marks=needs_dev_full), "/dev/zero"])
def test_a_device_is_refused_also_behind_a_link_and_stays_one(tmp_path: Path, device: str) -> None:
    link = tmp_path / "model.safetensors"
    link.symlink_to(device)
    for path in (Path(device), link):
        with pytest.raises(WriteError, match="not an ordinary file"):
            write(path, NEW)
    assert stat.S_ISCHR(Path(device).stat().st_mode)
    assert link.readlink() == Path(device)


# No room, no right

REFUSED = """
import os, resource, signal, sys
import fcntl, pathlib, traceback
from unetzoo.errors import WriteError
from unetzoo.files.writing import replacing
path, size, limit, user, chunk = sys.argv[1], *map(int, sys.argv[2:])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
try:
    with replacing(path) as stream:
        for at in range(0, size, chunk):
            stream.write(b"n" * min(chunk, size - at))
except WriteError as error:
    print(error)
    sys.exit(3)
"""


def refused(path: Path, size: int, *, limit: int = 0, user: int = 0, chunk: int = 1000) -> tuple[int, str, str]:
    """Save ``size`` bytes to ``path`` in a child with limits; exit status 3 is a WriteError, printed."""
    return outcome(run_child(REFUSED, path, size, limit, user, chunk))


@pytest.mark.parametrize("chunk", [1000, 1 << 20], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("limit", [1, 4096, 99_999])
@pytest.mark.parametrize("old", [OLD, None], ids=["over an old file", "anew"])
def test_a_full_disk_leaves_the_old_file_and_says_where_and_what_to_do(
    tmp_path: Path, chunk: int, limit: int, old: bytes | None
) -> None:
    path = tmp_path / "model.bin"
    if old is not None:
        path.write_bytes(old)
    status, said, errors = refused(path, 100_000, limit=limit, chunk=chunk)
    assert (status, errors) == (3, "")
    assert said.count("\n") == 1
    assert re.search(rf"no space left .*{tmp_path} .*free some", said)
    assert names(tmp_path) == ([] if old is None else ["model.bin"])
    assert old is None or path.read_bytes() == old
    assert refused(path, limit, limit=limit, chunk=chunk) == (0, "", "")
    assert path.read_bytes() == b"n" * limit


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a small disk in memory, where the system lets us."""
    folder.mkdir()
    command = shutil.which("mount")
    if command is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    done = subprocess.run(
        [command, "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full_keeps_the_old_file(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        path = disk / "model.safetensors"
        small, large = unetzoo.create("unet", base_channels=1), unetzoo.create("unet", base_channels=8)
        unetzoo.save(small, path)
        old = path.read_bytes()
        for _ in range(3):
            with pytest.raises(WriteError, match=f"no space left .*{disk} .*free some"):
                unetzoo.save(large, path)
            assert names(disk) == [path.name]
            assert path.read_bytes() == old
            assert unetzoo.verify(path).config == small.config
        with pytest.raises(WriteError, match=f"no space left .*{disk} "):
            write(disk / "other.bin", bytes(2_000_000))
        assert names(disk) == [path.name]
        write(disk / "other.bin", bytes(500_000))
        assert names(disk) == [path.name, "other.bin"]


def test_a_disk_without_room_for_a_name_keeps_the_old_file(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m,nr_inodes=2") as disk:
        path = disk / "model.bin"
        path.write_bytes(OLD)
        with pytest.raises(WriteError, match=f"no space left .*{disk} "):
            write(path, NEW)
        assert names(disk) == [path.name]
        assert path.read_bytes() == OLD


def test_a_disk_that_is_read_only_keeps_the_old_file(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        path = disk / "model.bin"
        path.write_bytes(OLD)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(WriteError, match=f"the folder {disk} cannot be written.*save elsewhere"):
            write(path, NEW)
        assert names(disk) == [path.name]
        assert path.read_bytes() == OLD


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Yield a folder that every user can reach: pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def unprivileged() -> int:
    """Return the user as whom modes count."""
    return NOBODY if os.geteuid() == 0 else 0


def hand_over(*paths: Path) -> None:
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, NOBODY, NOBODY)


def test_a_folder_that_may_not_be_written_keeps_the_old_file_and_is_named(open_folder: Path) -> None:
    folder = open_folder / "locked"
    folder.mkdir()
    path = folder / "model.bin"
    path.write_bytes(OLD)
    hand_over(path, folder)
    folder.chmod(0o555)
    status, said, errors = refused(path, 1000, user=unprivileged())
    folder.chmod(0o755)
    assert (status, errors) == (3, "")
    assert f"the folder {folder} cannot be written" in said
    assert re.search("save elsewhere.*permissions", said)
    assert path.read_bytes() == OLD
    assert names(folder) == ["model.bin"]


def test_a_folder_that_may_not_be_entered_is_one_clear_error(open_folder: Path) -> None:
    folder = open_folder / "locked"
    folder.mkdir()
    path = folder / "model.bin"
    path.write_bytes(OLD)
    hand_over(path, folder)
    folder.chmod(0o000)
    status, said, errors = refused(path, 1000, user=unprivileged())
    folder.chmod(0o755)
    assert (status, errors) == (3, "")
    assert str(folder) in said
    assert path.read_bytes() == OLD
    assert names(folder) == ["model.bin"]


def test_a_file_that_may_not_be_written_is_replaced_as_its_folder_allows(open_folder: Path) -> None:
    """As ``mv`` does it: a file is replaced, not written to."""
    folder = open_folder / "own"
    folder.mkdir()
    path = folder / "model.bin"
    path.write_bytes(OLD)
    path.chmod(0o444)
    hand_over(path, folder)
    assert refused(path, 1000, user=unprivileged()) == (0, "", "")
    assert path.read_bytes() == b"n" * 1000


def test_a_folder_that_may_be_written_and_not_listed_is_saved_to_without_a_false_alarm(open_folder: Path) -> None:
    folder = open_folder / "letterbox"
    folder.mkdir()
    path = folder / "model.bin"
    path.write_bytes(OLD)
    hand_over(path, folder)
    folder.chmod(0o333)
    status, said, errors = refused(path, 1000, user=unprivileged())
    folder.chmod(0o755)
    assert (status, said, errors, path.read_bytes()) == (0, "", "", b"n" * 1000)


@pytest.mark.skipif(os.geteuid() != 0 if os.name != "nt" else True, reason="takes two users, and so root")
def test_what_another_user_s_killed_save_left_in_a_shared_folder_goes_with_the_next_save(open_folder: Path) -> None:
    folder = open_folder / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    path = folder / "model.bin"
    child = holder(path, b"half")
    child.kill()
    outcome(child)
    assert len(names(folder)) == 1
    assert refused(path, 1000, user=NOBODY) == (0, "", "")
    assert path.read_bytes() == b"n" * 1000
    assert names(folder) == ["model.bin"]


def test_what_a_killed_save_left_goes_also_where_the_umask_forbids_to_write_it(open_folder: Path) -> None:
    folder = open_folder / "own"
    folder.mkdir()
    path = folder / "model.bin"
    child = holder(path, b"half", 0o222)
    child.kill()
    outcome(child)
    hand_over(folder, *folder.iterdir())
    assert refused(path, 1000, user=unprivileged()) == (0, "", "")
    assert path.read_bytes() == b"n" * 1000
    assert names(folder) == ["model.bin"]


# What save refuses, it refuses before it touches anything


def refusals(folder: Path) -> Sequence[tuple[str, torch.nn.Module]]:
    nan, infinite, resized = (unetzoo.create("unet", base_channels=1).requires_grad_(False) for _ in range(3))
    nan.head.conv.weight.view(-1)[0] = torch.nan
    infinite.encoder.levels[0][0].norm.running_var[0] = -torch.inf
    resized.head.conv = torch.nn.Conv2d(1, 2, 1)
    with torch.device("meta"):
        empty = unetzoo.create("unet", base_channels=1)
    return [
        (r"NaN or infinity .*\b1 of \d+ tensors", nan),
        (r"NaN or infinity .*\b1 of \d+ tensors", infinite),
        (r"config, (?s:.*)head\.conv\.weight: \(2, 1, 1, 1\)", resized),
        ("meta device", empty),
        ("a SegmentationModel is needed", torch.nn.Conv2d(1, 1, 1)),
    ]


def test_what_save_refuses_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(OLD)
    for message, model in refusals(tmp_path):
        with pytest.raises(WeightsError, match=message):
            unetzoo.save(model, path)
        assert path.read_bytes() == OLD
        assert names(tmp_path) == ["model.safetensors"]


def test_writing_needs_no_torch() -> None:
    """Children of these tests, and of users, start in milliseconds."""
    script = "import sys; from unetzoo.files.writing import replacing; print('torch' in sys.modules)"
    assert outcome(run_child(script)) == (0, "False\n", "")


def test_the_temporary_file_lies_beside_the_target_and_is_hidden(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with replacing(path):
        (beside,) = names(tmp_path)
        assert beside.startswith(".")
        assert beside.endswith(writing.SUFFIX)
    assert names(tmp_path) == ["model.bin"]
