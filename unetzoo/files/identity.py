"""The identity of a file, which tells an image from another one that took its name."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 4096
"""Bytes that are read at each place."""
BLOCKS = 16
"""Number of places of a file, and of chunks of a zarr folder, that are read: evenly spaced, with the first and last."""
_METADATA = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})


def fingerprint(path: str | os.PathLike[str]) -> str:
    """Return a digest of the contents of a file or a zarr folder: a copy under another name has the same digest.

    For a file it covers the size and sampled bytes, or all bytes of a small file (64 KiB); for a folder, the names and
    sizes of all files in it, and sampled bytes of the metadata and of some chunks. A change of bytes between the
    samples that keeps the size is not detected: :func:`identity` also uses the time of writing.

    Args:
        path: links are followed. Anything that is neither file nor folder, such as a pipe, is not opened.

    Returns:
        24 hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    return _digest(path, times=False)


def identity(path: str | os.PathLike[str]) -> str:
    """Return a digest that changes when a file or a zarr folder is replaced or written to.

    It covers the fingerprint and the times of writing (mtime, in nanoseconds): any other time, even an older one, is
    another identity. A plain copy has a new time; a copy that keeps the times (``cp -p``) keeps the identity.

    Args:
        path: see :func:`fingerprint`.

    Returns:
        24 hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    return _digest(path, times=True)


def place(path: str | os.PathLike[str]) -> str:
    """Return a digest of the path of a file, with links followed: 24 hexadecimal digits."""
    return hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:24]


def _digest(path: str | os.PathLike[str], *, times: bool) -> str:
    digest = hashlib.sha256()
    path = Path(path)
    if path.is_dir():
        _add_folder(digest, path, times)
    else:
        _add_file(digest, path, times)
    return digest.hexdigest()[:24]


def _add_folder(digest: Any, folder: Path, times: bool) -> None:
    found = sorted((os.fsencode(path.relative_to(folder).as_posix()), path) for path in _files_in(folder))
    chunks = [path for _, path in found if path.name not in _METADATA]
    left_out = set(chunks) - {chunks[k] for k in spaced(len(chunks))}
    for name, path in found:
        digest.update(b"%d:%b" % (len(name), name))  # no two lists of names give the same bytes
        if path in left_out:
            _add_status(digest, path.stat(), times)
        else:
            _add_file(digest, path, times)


def _files_in(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder, onerror=_fail):
        yield from (Path(place) / name for name in names)
        # A link to a folder does not count as one of its files, and may lead back.
        folders[:] = [name for name in folders if not (Path(place) / name).is_symlink()]


def _fail(error: OSError) -> None:
    raise error


def _add_file(digest: Any, path: Path, times: bool) -> None:
    if not stat.S_ISREG(path.stat().st_mode):
        _add_status(digest, path.stat(), times)
        return
    with path.open("rb", buffering=0) as stream:
        found = os.fstat(stream.fileno())
        _add_status(digest, found, times)
        if found.st_size <= BLOCK * BLOCKS:
            digest.update(stream.readall())
            return
        for place in spaced(found.st_size - BLOCK + 1):
            stream.seek(place)
            digest.update(stream.read(BLOCK))


def _add_status(digest: Any, found: os.stat_result, times: bool) -> None:
    digest.update(b" %d %d " % (found.st_size, found.st_mtime_ns if times else 0))


def spaced(count: int) -> list[int]:
    """Return up to :data:`BLOCKS` of the numbers from 0 to ``count`` - 1, the first and the last among them."""
    return sorted({k * (count - 1) // (BLOCKS - 1) for k in range(BLOCKS)}) if count else []
