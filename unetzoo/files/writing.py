"""Writing a file all or nothing: a reader sees the old file or the new one, even if the power fails at any time."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from unetzoo.errors import UnetzooError, WriteError

SUFFIX = ".saving"


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a stream whose bytes replace ``path`` in one step, if the block ends without an error.

    They are written to ``.<name>.saving`` in the same folder, flushed to the disk, and renamed. A symbolic link is
    kept, and its target replaced; permissions are those of any new file (umask). A process that saves to the same path
    at the same time waits. The next save removes what a killed process left behind.

    Raises:
        WriteError: the folder is missing or cannot be written, or the disk is full; ``path`` is unchanged.
    """
    path = Path(path)
    target = _target(path)
    try:
        temporary, stream = _open_temporary(target)
        with stream:
            try:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
                if not _is(stream, temporary):
                    raise WriteError(
                        f"{path} was not written: another program is saving to it, and files cannot be locked here; "
                        "save again when it is done"
                    )
                if os.name == "nt":
                    stream.close()  # Windows cannot rename open files
                temporary.replace(target)
            except BaseException:
                if stream.closed or _is(stream, temporary):
                    if os.name == "nt":
                        stream.close()
                    temporary.unlink(missing_ok=True)
                raise
        _sync_folder(target.parent)
    except OSError as error:
        if isinstance(error, UnetzooError):
            raise
        raise WriteError(f"{path} was not written, and nothing was changed: {_explain(error, target)}") from error


def write_file(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file all or nothing, and create its folder if there is none.

    Args:
        path: of the file.
        content: its bytes; text is written as UTF-8, with backslash escapes for bytes of a file name that are not
            valid UTF-8.

    Raises:
        WriteError: it cannot be written; what was there is unchanged.
    """
    make_folder(Path(path).parent)
    with replacing(path) as stream:
        stream.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Create a folder and its parents, if they do not exist.

    Raises:
        WriteError: it cannot be created.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise WriteError(f"the folder {str(folder)!r} cannot be made: {problem}") from error


def check_place(path: str | os.PathLike[str]) -> None:
    """Raise if a file cannot be written there, as far as this can be known in advance; nothing is created.

    Raises:
        WriteError: there is a folder of this name, or its parent is a file or a folder without write permission.
    """
    path = Path(path).absolute()
    if path.is_dir():
        raise WriteError(f"{str(path)!r} is a folder: give the name of a file")
    above = next(folder for folder in path.parents if folder.exists())
    if not above.is_dir():
        raise WriteError(f"{str(path)!r} cannot be written: {str(above)!r} is a file, not a folder")
    if not os.access(above, os.W_OK):
        error = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        raise WriteError(f"{str(path)!r} cannot be written: {_explain(error, above / path.name)}")


@contextlib.contextmanager
def folder_made(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Create a folder and its parents, if they do not exist; remove them again if the block fails.

    Raises:
        WriteError: it cannot be created.
    """
    folder = Path(folder).absolute()
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    make_folder(folder)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # something has been put into it
            for each in new:
                each.rmdir()
        raise


def _target(path: Path) -> Path:
    """Return the file to write: ``path``, or the target of a link.

    Raises:
        WriteError: it is not a file, or cannot be the name of one.
    """
    try:
        target = Path(os.path.realpath(path))
        looped = target.is_symlink()
        wrong = target.exists() and not target.is_file()
    except ValueError as error:
        raise WriteError(f"{str(path)!r} cannot be the name of a file: {error}") from error
    except OSError as error:
        raise WriteError(f"{path} was not written, and nothing was changed: {error.strerror}") from error
    if looped:
        raise WriteError(f"{path} is a link that leads to itself: delete it")
    if wrong:
        kind = "a folder" if target.is_dir() else "not an ordinary file"
        raise WriteError(f"{path} is {kind}: give the name of a file")
    return target


def _open_temporary(target: Path) -> tuple[Path, BinaryIO]:
    """Return the temporary file of ``target``, new, empty and locked by this process."""
    name = target.name.encode(errors="ignore")[:200].decode(errors="ignore")  # of 255 bytes that names may have
    temporary = target.with_name(f".{name}{SUFFIX}")
    while True:
        stream: BinaryIO
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
            stream, new = os.fdopen(handle, "wb"), True
        except FileExistsError:
            found = _reopened(temporary)
            if found is None:
                continue  # its writer has just finished
            stream, new = found, False
        _lock(stream)  # waits for a living writer; a killed one holds no lock
        if _is(stream, temporary):
            if new:
                return temporary, stream
            if os.name == "nt":  # Windows cannot delete open files
                stream.close()
            temporary.unlink()  # a killed process left it
        stream.close()


def _reopened(temporary: Path) -> BinaryIO | None:
    """Return the temporary file of another process, None if it is gone."""
    for access in (os.O_WRONLY, os.O_RDONLY):  # reading is enough for a lock, except on NFS
        try:
            # Without waiting, in case it is a pipe.
            return os.fdopen(os.open(temporary, access | _NO_WAIT | _FLAGS), "rb" if access == os.O_RDONLY else "wb")
        except FileNotFoundError:
            return None
        except OSError:
            if access == os.O_RDONLY:
                raise
    return None


def _is(stream: BinaryIO, path: Path) -> bool:
    """Return whether ``path`` still names the open file."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def _lock(stream: BinaryIO) -> None:
    """Wait until no other process holds the file; if files cannot be locked, continue."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            stream.close()
            raise


def _sync_folder(folder: Path) -> None:
    """Flush the new directory entry to the disk."""
    if os.name == "nt":  # Windows cannot open folders
        return
    with contextlib.suppress(PermissionError):  # the folder may be writable, but not readable
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems do not support it
                raise
        finally:
            os.close(handle)


def _explain(error: OSError, target: Path) -> str:
    folder = target.parent
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return f"there is no space left in {folder} ({error.strerror}); free some, or save elsewhere"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"the folder {folder} cannot be written ({error.strerror}); save elsewhere, or fix its permissions"
        case errno.ENOENT if not folder.is_dir():
            return f"there is no folder {folder}; create it first"
        case errno.ENAMETOOLONG:
            return "the name is too long for a file"
    return f"{error.strerror or error} ({folder})"


_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
