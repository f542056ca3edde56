"""Between the memory of images and that of networks: so that an accelerator never waits for the processor.

What is asked of a GPU is done later, in the order in which it was asked for; asking takes no time. It is idle where the
processor reads what it is not through with, as ``.cpu()`` does, or copies to it from ordinary memory. So images go up
and strips come down through pinned memory, and a strip is read when the work of the next one has been asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

LARGEST_PINNED = 2**28
"""Bytes. Pinned memory is slow to get, and kept for the next time: what is larger goes through ordinary memory."""

T = TypeVar("T")


class Transfer:
    """Brings tensors to a device and back. On the CPU nothing is copied, and nothing waits.

    Pinned memory is torch's own: given back, it is used again only when the copies that were asked of it are through.

    Args:
        device: where networks compute.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._uploads = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @property
    def ahead(self) -> int:
        """Strips whose work is asked for before the one that is read."""
        return 0 if self.device.type == "cpu" else 1

    def rows_together(self, at_once: int, across: int) -> int:
        """Return how many rows of tiles are computed together: one on the CPU, else as many as fill a batch.

        Args:
            at_once: tiles of a batch.
            across: tiles of a row.
        """
        return 1 if self.device.type == "cpu" else max(1, at_once // across)

    def up(self, values: Tensor) -> Tensor:
        """Return a tensor of the CPU on the device, beside the work that is under way there."""
        if self._uploads is None or values.nbytes > LARGEST_PINNED:
            return values.to(self.device)
        pinned = torch.empty_like(values, pin_memory=True).copy_(values)
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._uploads):
            there = pinned.to(self.device, non_blocking=True)
        computing.wait_stream(self._uploads)
        there.record_stream(computing)
        return there

    def down(self, *values: Tensor) -> Callable[[], tuple[Tensor, ...]]:
        """Begin to bring tensors of the device to the CPU; what is returned waits for them.

        Args:
            values: are not written to any more.
        """
        if self.device.type != "cuda" or sum(value.nbytes for value in values) > LARGEST_PINNED:
            return lambda: tuple(value.cpu() for value in values)
        copies = tuple(
            torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
            for value in values
        )
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self.device))

        def arrived() -> tuple[Tensor, ...]:
            done.synchronize()
            return copies

        return arrived


def taken(begun: Iterable[Callable[[], T]], ahead: int) -> Iterator[T]:
    """Give what calls return, in their order, each when so many more of them have been begun."""
    waiting: deque[Callable[[], T]] = deque()
    for call in begun:
        waiting.append(call)
        del call  # with what it holds: the next one takes as much
        if len(waiting) > ahead:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()
