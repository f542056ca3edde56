"""The output of a command, which continues to work when nobody reads its output any more."""

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
    """A stream that does not raise when its reader is gone: from then on, nothing is written.

    If writing fails for another reason, such as a full disk, this is reported once.

    A command is run for what it does. That ``head -1`` has read enough is no reason to stop a training.

    Args:
        stream: standard output, or standard error.

    Attributes:
        broken: whether its reader is gone.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.broken = False

    def write(self, text: str) -> int:
        """Write the text, unless the reader is gone."""
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
            if not unread and self._stream is not sys.__stderr__:  # of standard error there is nowhere to report it
                raise WriteError(
                    f"the output cannot be written: {error.strerror}; redirect it, or free some space"
                ) from error


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Keep the work within this block running if the reader of standard output or standard error goes away."""
    before = {name: stream for name in ("stdout", "stderr") if (stream := getattr(sys, name)) is not None}
    own = {name: Output(stream) for name, stream in before.items()}
    for name, output in own.items():
        setattr(sys, name, output)
    try:
        yield
    finally:
        for name, output in own.items():
            output.flush()
            if not output.broken:  # a broken one stays, or Python would complain when it flushes the original at exit
                setattr(sys, name, before[name])


class _Shown(logging.Handler):
    """Prints log records to what is standard error at that time, so that a terminal shows them."""

    def emit(self, record: logging.LogRecord) -> None:
        print(printable(record.getMessage(), lines=True), file=sys.stderr)


@contextlib.contextmanager
def log_shown() -> Iterator[None]:
    """Show what the library logs within this block, at level INFO too, such as what was read from a file."""
    logger, handler = logging.getLogger("unetzoo"), _Shown()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
