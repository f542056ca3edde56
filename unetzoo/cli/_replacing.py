"""One rule for existing files: a command reports each file it replaces, and never replaces a file that it reads."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from unetzoo.errors import ConfigError
from unetzoo.printing import printable

_Place = tuple[int, int, int]
"""Device, inode number and modification time of a file: a file that replaces it differs in one of them."""


@contextlib.contextmanager
def told(options: argparse.Namespace) -> Iterator[None]:
    """Print in one line which files were replaced within this block; unchanged files are not mentioned.

    Args:
        options: of a command; ``options.writes`` holds the names of the options for files or folders to write.

    Raises:
        ConfigError: one of these is a file that the command reads.
    """
    named = [Path(path) for name in options.writes if (path := getattr(options, name)) is not None]
    _check_unread(options, named)
    before = _places(named)
    try:
        yield
    finally:
        now = _places(named)
        replaced = [path for path, place in before.items() if now.get(path, place) != place]
        if replaced:
            names, was = ", ".join(map(printable, replaced)), "was" if len(replaced) == 1 else "were"
            print(f"{names} already existed and {was} replaced", file=sys.stderr)


def _check_unread(options: argparse.Namespace, named: Iterable[Path]) -> None:
    """Raise if a file to write is also on the command line as a file to read."""
    values = [value for name, value in vars(options).items() if name not in (*options.writes, "rest")]
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    read = [Path(text) for text in texts if isinstance(text, str)]
    for path in named:
        if path.is_file() and any(other.is_file() and path.samefile(other) for other in read):
            raise ConfigError(f"{printable(path)} would be read and then overwritten: give the output another name")


def _places(named: Iterable[Path]) -> dict[Path, _Place]:
    """Return the existing files: those that are named, and those in a folder that is named."""
    files = [file for path in named for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    stats = {path: path.stat() for path in files if path.is_file()}
    return {path: (stat.st_dev, stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}
