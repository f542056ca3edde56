"""Code of others that registers parts: plug-ins in installed packages, and modules that the user names."""

from __future__ import annotations

import functools
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping
from importlib import import_module, metadata
from pathlib import Path

from unetzoo.errors import ConfigError

GROUP = "unetzoo"
"""The entry-point group in which a package names its module that registers decoders, encoders, losses, …"""


class Plugins:
    """The modules that installed packages declare in an entry-point group, imported once, when first needed.

    Args:
        group: of the entry points.
    """

    def __init__(self, group: str) -> None:
        self.group = group
        self._lock = threading.RLock()
        self._begun = self._done = False
        self._problems: list[str] = []
        self._cause: Exception | None = None

    def load(self) -> None:
        """Import them all, unless this has been done.

        A module that reads a registry while it is being imported sees what is registered so far.

        Raises:
            ConfigError: some cannot be imported; lists them all. It is raised at every call, as nobody should continue
                with only some of the installed parts.
        """
        if not self._done:
            with self._lock:  # another thread waits until all are imported; the same thread passes, and returns
                if not self._begun:
                    self._begun = True
                    try:
                        self._import_all()
                        self._done = True
                    finally:
                        self._begun = self._done  # after Ctrl-C, the next call imports the rest
        if self._problems and self._done:
            raise ConfigError("an installed plug-in of unetzoo is broken", self._problems) from self._cause

    def _import_all(self) -> None:
        for entry in metadata.entry_points(group=self.group):
            try:
                entry.load()
            except Exception as error:  # somebody else's module may raise anything
                package, version = ("?", "") if entry.dist is None else (entry.dist.name, f" {entry.dist.version}")
                self._problems.append(
                    f"{package}{version}, entry point {entry.name} = {entry.value}: {_told(error)}; update it, or "
                    f"'pip uninstall {package}'"
                )
                self._cause = error


PLUGINS = Plugins(GROUP)
_NAMED: set[str] = set()
"""Dotted names of modules."""


def import_modules(names: Iterable[str]) -> None:
    """Import modules for what they register, in the order given.

    Args:
        names: dotted, as in an ``import``.

    Raises:
        ConfigError: there is no such module, or importing it fails; the message has the traceback.
    """
    for name in names:
        if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(
                f"--import {name}: the name of a module is needed, as in Python's import: with dots between folders, "
                "and without .py, such as 'mine' or 'my_project.parts'"
            )
        try:
            import_module(name)
            _NAMED.add(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise _stopped(name, error) from error
            raise ConfigError(
                f"--import {name}: there is no module {error.name!r}, neither in {Path.cwd()} nor installed; give the "
                "name of a file there without .py, or install the package that contains it"
            ) from error
        except Exception as error:  # somebody else's module may raise anything
            raise _stopped(name, error) from error


def named() -> tuple[str, ...]:
    """Return the modules that were imported by name in this process, in alphabetical order."""
    return tuple(sorted(_NAMED))


def asked_for() -> set[str]:
    """Return the packages that the user chose to import: by name, or by installing plug-ins."""
    return {name.partition(".")[0] for name in _NAMED} | {
        entry.module.partition(".")[0] for entry in metadata.entry_points(group=GROUP)
    }


def homes_of(makers: Mapping[str, object]) -> dict[str, str]:
    """Return part → module for parts that were registered outside unetzoo, which another process has to import.

    Args:
        makers: part → the class or function that makes it.
    """
    found = {}
    for part, maker in makers.items():
        while isinstance(maker, functools.partial):
            maker = maker.func
        found[part] = str(getattr(maker, "__module__", "__main__"))
    return {part: module for part, module in found.items() if module.partition(".")[0] != "unetzoo"}


def environment_with(modules: Iterable[str]) -> dict[str, str]:
    """Return the environment for another process, in which it finds the modules that were imported here."""
    path = [os.environ.get("PYTHONPATH", ""), *map(_folder_of, modules)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, path)))}


def _folder_of(module: str) -> str:
    top = sys.modules[module.partition(".")[0]]
    inside = getattr(top, "__path__", None)
    return str(Path(next(iter(inside)) if inside else top.__file__ or "").absolute().parent)


def _stopped(name: str, error: Exception) -> ConfigError:
    """Return the error about a module that was found, but fails when it is imported."""
    told = traceback.TracebackException.from_exception(error)
    told.stack = _frames(error)
    return ConfigError(f"--import {name}: the module fails with an error; fix it\n{''.join(told.format()).rstrip()}")


def _told(error: Exception) -> str:
    """Return an error in one line, with the place where it was raised."""
    frames = _frames(error)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.300}{place}"


def _frames(error: Exception) -> traceback.StackSummary:
    """Return the stack frames of a failed import, without those of the import machinery."""
    machinery = ("<frozen importlib", __file__, str(Path(metadata.__file__).parents[1]))
    frames = traceback.extract_tb(error.__traceback__)
    return traceback.StackSummary.from_list([frame for frame in frames if not frame.filename.startswith(machinery)])
