"""Progress bars, which are only there if they are asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def shown(steps: Iterable[T], progress: bool, unit: str, total: int | None = None) -> Iterable[T]:
    """Return the steps, with a bar if ``progress`` is True.

    Args:
        steps: anything to go through.
        progress: whether there is a bar.
        unit: what a step is of, such as "image".
        total: number of the steps; None: their length.
    """
    if not progress:
        return steps
    from huggingface_hub.utils.tqdm import tqdm

    bar: Iterable[T] = tqdm(steps, total=total, unit=unit, leave=False)  # type: ignore[no-untyped-call]
    return bar


@contextlib.contextmanager
def bar_of(shown: bool, count: int, unit: str) -> Iterator[Callable[..., object]]:
    """Give a function to call after each step; it does nothing if no bar is shown."""
    if not shown:
        yield lambda *_: None
        return
    from huggingface_hub.utils.tqdm import tqdm

    with tqdm(total=count, unit=unit, leave=False) as bar:  # type: ignore[no-untyped-call]
        yield bar.update
