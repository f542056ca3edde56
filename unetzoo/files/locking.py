"""A lock that one process holds, and that a killed one holds no more."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_held: set[str] = set()
"""Those of this process, whose threads the system does not tell from each other."""
_guard = threading.Lock()


@contextlib.contextmanager
def alone(path: str | os.PathLike[str]) -> Iterator[bool]:
    """Hold a lock while the block lasts, and give whether it is held: False where another process or thread has it.

    It is a file, which is removed at the end. Where files cannot be locked, as on some network file systems, it is
    taken to be held.

    Args:
        path: of the file, whose folder is there.

    Raises:
        OSError: the file cannot be made.
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
                    Path(name).unlink(missing_ok=True)  # before it is free: nobody else's is removed
                os.close(handle)
    finally:
        with _guard:
            _held.discard(name)


def _locked(path: Path) -> int | None:
    """Return the open file, None where another process holds it."""
    if os.name == "nt":  # where a file can be made to last as long as it is open
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_TEMPORARY", 0))
        except (FileExistsError, PermissionError):
            return None
    import fcntl

    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # Not flock, which processes that read images would inherit, and hold after this one was killed.
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
        os.close(handle)  # its holder has removed it just now
