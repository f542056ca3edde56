"""For what strangers may have written: time that is limited, and a pickle that would leave a mark."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path

SECONDS = 5.0


class OvertimeError(BaseException):
    """Too long: no ``except Exception`` on the way takes it for a fault of the file."""


@contextlib.contextmanager
def within(seconds: float = SECONDS) -> Iterator[None]:
    """Break off what takes longer, wherever it hangs: by the processor's time, as a machine may be busy with others.

    What waits, and so takes none of that, is broken off by the clock, later.
    """

    def ring(*arguments: object) -> None:
        raise OvertimeError

    clocks = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, 10 * seconds)}
    before = {number: signal.signal(number, ring) for number in clocks}
    for timer, limit in clocks.values():
        signal.setitimer(timer, limit)
    try:
        yield
    except OvertimeError as error:
        # A new one, as pytest cannot show every frame through which this one has come: some have no line.
        where = [frame.name for frame in traceback.extract_tb(error.__traceback__) if "unetzoo" in frame.filename]
        raise OvertimeError(f"not done after {seconds} s, in {where[-1:]}") from None
    finally:
        for number, (timer, _) in clocks.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


class Payload:
    """Unpickled, it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)
