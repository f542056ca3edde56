"""A lock that one process holds, and that is released when the process is killed."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_held: set[str] = set()
"""Locks held by this process; the system does not distinguish its threads."""
_guard = threading.Lock()


@contextlib.contextmanager
def alone(path: str | os.PathLike[str]) -> Iterator[bool]:
    """Hold a lock within this block, and yield whether it is held: False if another process or thread has it.

    The lock is a file, which is removed at the end. If files cannot be locked, as on some network file systems, the
    result is True.

    Args:
        path: of the file; its folder must exist.

    Raises:
        OSError: the file cannot be created.
    """
    name = os.path.realpath(path)
    with _guard:
        free = name not in _held
        _held.add(name)
    if not free:
        yield False
        return
    try:
        handle = _locked(Path(name))
        try:
            yield handle is not None
        finally:
            if handle is not None:
                if os.name != "nt":
                    Path(name).unlink(missing_ok=True)  # before it is released, so that no other lock is removed
                os.close(handle)
    finally:
        with _guard:
            _held.discard(name)


def _locked(path: Path) -> int | None:
    """Return the open file, None if another process holds it."""
    if os.name == "nt":  # Windows can delete a file when it is closed
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_TEMPORARY", 0))
        except (FileExistsError, PermissionError):
            return None
    import fcntl

    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # Not flock: child processes that read images would inherit it, and hold it after this one was killed.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                os.close(handle)
                return None
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                os.close(handle)
                raise
        try:
            if os.path.samestat(os.fstat(handle), path.lstat()):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # its holder has just removed it
