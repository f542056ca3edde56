"""A bar that shows how far an image is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar_of(shown: bool, count: int, unit: str) -> Iterator[Callable[..., object]]:
    """Give what is told of each step; without a bar it does nothing."""
    if not shown:
        yield lambda *_: None
        return
    from huggingface_hub.utils.tqdm import tqdm

    with tqdm(total=count, unit=unit, leave=False) as bar:  # type: ignore[no-untyped-call]
        yield bar.update
