"""A progress bar for an image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar_of(shown: bool, count: int, unit: str) -> Iterator[Callable[..., object]]:
    """Give a function to call after each step; it does nothing if no bar is shown."""
    if not shown:
        yield lambda *_: None
        return
    from huggingface_hub.utils.tqdm import tqdm

    with tqdm(total=count, unit=unit, leave=False) as bar:  # type: ignore[no-untyped-call]
        yield bar.update
