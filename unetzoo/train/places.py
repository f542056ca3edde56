"""The folder of a run: no other run uses it, from before its first step to its end."""

from __future__ import annotations

import contextlib
import itertools
import shlex
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from unetzoo import plugins
from unetzoo.data.record import FILE
from unetzoo.errors import ConfigError, WriteError
from unetzoo.files.locking import alone
from unetzoo.saving.folds import fold_folder, folds_in
from unetzoo.train.runs import CONFIG
from unetzoo.train.trust import check_settings

LOCK = ".training"
"""Lock file of the process that trains in a folder; removed at its end."""
_TRIES = 100
"""How often a folder is made whose parent other processes remove."""
_IN_PYTHON: ContextVar[bool] = ContextVar("in_python", default=False)
"""Whether training was started from Python, as in a notebook, and not by a command."""


@contextlib.contextmanager
def in_python() -> Iterator[None]:
    """Within, describe how to resume a run as a Python call, not as a command."""
    token = _IN_PYTHON.set(True)
    try:
        yield
    finally:
        _IN_PYTHON.reset(token)


@contextlib.contextmanager
def named(folder: Path) -> Iterator[Path]:
    """Make the folder of a new run and lock it for this process; at the end, remove it if it is empty.

    Raises:
        ConfigError: the folder is not empty, or another run is beginning there.
        WriteError: it cannot be made.
    """
    _check_no_file(folder)
    with _made(folder), _held(folder) as held:
        if not held:
            raise ConfigError(f"out={folder}: another process is training there; give another folder")
        check_free(folder)
        yield folder


def check_free(folder: Path) -> None:
    """Refuse a folder for a new run if it is not empty.

    Raises:
        ConfigError: it is not empty, or it is a file.
    """
    _check_no_file(folder)
    if folder.exists() and not _is_free(folder):
        fix = "resume=… continues its run; or give another folder" if _is_run(folder) else "give another folder"
        raise ConfigError(f"out={folder}: the folder is not empty; {fix}")


@contextlib.contextmanager
def numbered(name: str) -> Iterator[Path]:
    """Make and lock a new folder ``runs/<name>``, with a number if that exists, as :func:`named` does.

    Raises:
        WriteError: it cannot be made.
    """
    for k in itertools.count(1):
        folder = Path("runs") / (name if k == 1 else f"{name}-{k}")
        with contextlib.ExitStack() as stack:
            if stack.enter_context(_made(folder)) and stack.enter_context(_held(folder)):
                yield folder
                return


@contextlib.contextmanager
def resumed(folder: Path) -> Iterator[Path]:
    """Lock the folder of a run that is resumed for this process.

    Raises:
        ConfigError: there is no run in it, or another process is training it.
        WriteError: nothing can be written there.
    """
    check_run(folder)
    with _held(folder) as held:
        if not held:
            raise ConfigError(f"resume={folder}: another process is training this run; wait until it ends")
        yield folder


@contextlib.contextmanager
def several(folder: Path) -> Iterator[None]:
    """Lock a folder of folds for this process while all of them are resumed.

    Raises:
        ConfigError: another process is training them.
        WriteError: nothing can be written there.
    """
    with _held(folder) as held:
        if not held:
            raise ConfigError(f"resume={folder}: another process is training its folds; wait until it ends")
        yield


def check_run(folder: Path) -> None:
    """Refuse a folder without a run.

    Raises:
        ConfigError: there is no such folder, or no run in it.
    """
    if not _is_run(folder):
        raise ConfigError(f"resume={folder}: there is no {CONFIG} in it; give the folder of a run")


def going_on(folder: Path, **settings: int) -> str:
    """Return the command, in quotes, that resumes a run, or all folds if they are trained in turn.

    If training was started from Python, it is a Python call.

    Args:
        folder: of the run.
        settings: name → value of the settings to change.
    """
    if (folder.parent / LOCK).exists():
        folder = folder.parent
    try:
        for path in (folder / CONFIG, *(fold_folder(folder, fold) / CONFIG for fold in folds_in(folder))):
            check_settings(path)
        trust = False
    except ConfigError:  # it names classes, which the user who gave them trusts
        trust = True
    if _IN_PYTHON.get():
        dotted = {name: value for name, value in settings.items() if "." in name}
        given: dict[str, Any] = {name: value for name, value in settings.items() if name not in dotted}
        given |= {"settings": dotted} if dotted else {}
        given |= {"trust": True} if trust else {}
        return f"unetzoo.fit(resume={str(folder)!r}{''.join(f', {name}={value!r}' for name, value in given.items())})"
    words = f"unetzoo train --resume {shlex.quote(str(folder))}"
    words += "".join(f" --import {module}" for module in plugins.named())
    words += " --trust" if trust else ""
    return f"'{words}{''.join(f' --{name} {value}' for name, value in settings.items())}'"


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[bool]:
    """Make a folder, and yield whether it is new; if it is, remove the folders that are still empty at the end."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        new = _is_new(folder)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise WriteError(f"the folder {str(folder)!r} cannot be made: {problem}") from error
    try:
        yield new
    finally:
        for path in missing if new else ():
            with contextlib.suppress(OSError):  # it is not empty: perhaps there is another run
                path.rmdir()


def _is_new(folder: Path) -> bool:
    """Make a folder, and return whether it is new.

    Other processes remove empty folders that they made, perhaps the parent of this one: then try again.
    """
    for k in range(_TRIES):
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if folder.exists():
                return False
        except FileNotFoundError:
            if k == _TRIES - 1:
                raise
        else:
            return True
    return False


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    with contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context(alone(folder / LOCK))
        except FileNotFoundError:  # the process that made the folder has just removed it
            held = False
        except OSError as error:
            raise WriteError(f"nothing can be written in {folder}: {error.strerror}") from error
        yield held


def _check_no_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out={folder}: this is a file; give a folder")


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def _is_free(folder: Path) -> bool:
    """Return whether the folder is empty, or has only a run that was stopped before it saved anything."""
    return {path.name for path in folder.iterdir()} <= {CONFIG, FILE, LOCK}
