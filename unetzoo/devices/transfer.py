"""Transfer of images and results between CPU and accelerator, so that the accelerator never waits for the CPU.

A GPU runs its work asynchronously, in the order in which it was queued; queueing takes no time. The GPU is idle when
the CPU waits for a result, as in ``.cpu()``, or copies to the GPU from ordinary memory. So images and strips of masks
are copied through pinned memory, and a strip is read after the work of the next one has been queued.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

LARGEST_PINNED = 2**28
"""Bytes. Pinned memory is slow to allocate, and kept for reuse: larger tensors go through ordinary memory."""

T = TypeVar("T")


class Transfer:
    """Copies tensors to a device and back. On the CPU nothing is copied, and nothing waits.

    Pinned memory is managed by torch: once freed, it is reused only after its copies have finished.

    Args:
        device: where networks compute.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._uploads = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @property
    def ahead(self) -> int:
        """Number of strips whose work is queued before the one that is read."""
        return 0 if self.device.type == "cpu" else 1

    def rows_together(self, at_once: int, across: int) -> int:
        """Return how many rows of tiles are computed together: one on the CPU, else as many as fill a batch.

        Args:
            at_once: tiles in a batch.
            across: tiles in a row.
        """
        return 1 if self.device.type == "cpu" else max(1, at_once // across)

    def up(self, values: Tensor) -> Tensor:
        """Return a CPU tensor on the device, copied while the device computes."""
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
        """Begin to copy tensors from the device to the CPU; return a function that waits for them.

        Args:
            values: must not be changed any more.
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
    """Yield the results of calls in order, each after ``ahead`` more of them have begun."""
    waiting: deque[Callable[[], T]] = deque()
    for call in begun:
        waiting.append(call)
        del call  # and the memory that it holds: the next one needs as much
        if len(waiting) > ahead:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()
