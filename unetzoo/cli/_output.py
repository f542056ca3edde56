"""What a command prints, where perhaps nobody reads it any more."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from unetzoo.errors import WriteError
from unetzoo.printing import printable


class Output:
    """A stream that what is written to it cannot break: once its reader is gone, all of it is left out.

    Where it cannot be written for another reason, such as a full disk, that is said once.

    A command is there for what it does. ``head -1`` behind it has seen enough, and says nothing about a training.

    Args:
        stream: standard output, or standard error.

    Attributes:
        broken: whether its reader is gone.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.broken = False

    def write(self, text: str) -> int:
        """Write, or leave it out."""
        self._unless_broken(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush what was written."""
        self._unless_broken(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _unless_broken(self, act: Callable[..., object], *arguments: str) -> None:
        if self.broken:
            return
        try:
            act(*arguments)
        except OSError as error:
            self.broken = True
            # On Windows a pipe without a reader is an invalid argument.
            unread = isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL)
            if not unread and self._stream is not sys.__stderr__:  # which nobody could be told of
                raise WriteError(
                    f"what is printed cannot be written: {error.strerror}; send it elsewhere, or make room"
                ) from error


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Let neither standard output nor standard error end what is done within, as their readers go away."""
    before = {name: stream for name in ("stdout", "stderr") if (stream := getattr(sys, name)) is not None}
    own = {name: Output(stream) for name, stream in before.items()}
    for name, output in own.items():
        setattr(sys, name, output)
    try:
        yield
    finally:
        for name, output in own.items():
            output.flush()
            if not output.broken:  # which stays, or Python would complain of the other when it flushes that at its end
                setattr(sys, name, before[name])


class _Shown(logging.Handler):
    """Prints what is logged to standard error, which may be another one by then, so that a terminal shows it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(printable(record.getMessage(), lines=True), file=sys.stderr)


@contextlib.contextmanager
def log_shown() -> Iterator[None]:
    """Show what the library logs within: a command is asked once, and tells what it took from a file, too."""
    logger, handler = logging.getLogger("unetzoo"), _Shown()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
