"""The images of each batch: a pure function of seed and epoch, so that a run can continue from any batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from unetzoo.errors import ConfigError

Draw = tuple[int, int]
"""Index into a data set: (how often the image was drawn before, its number). Augmentation depends on both."""


class EpochBatches(Sampler[list[Draw]]):
    """Shuffled training batches of one process among several, the same on every machine.

    A pass draws each image ``repeats`` times. An epoch is a pass, or ``steps`` batches of endless passes: then each
    epoch continues where the last one stopped, and a batch may span two passes. Batch k has the k-th
    ``batch_size × processes`` draws, of which each process takes its share in order. So one process with a batch size
    of 8 sees the same as two with 4. Where an epoch is a pass, the last draws that do not fill a batch are left out:
    different ones each epoch.

    Args:
        images: number of images.
        batch_size: draws per batch and process.
        repeats: draws of each image in a pass; or a number for each image, from 0 up.
        steps: batches per epoch; None: those of a pass.
        seed: random seed of the order.
        rank, processes: this process's number, and how many processes there are.

    Raises:
        ConfigError: an epoch would not fill a single batch.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        *,
        repeats: int | Sequence[int] = 1,
        steps: int | None = None,
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.images, self.batch_size, self.repeats, self.seed = images, batch_size, repeats, seed
        self.steps = steps
        self._pass: tuple[int, list[Draw]] = (-1, [])  # the last pass that was drawn from, and its order
        self.rank, self.processes = rank, processes
        self.epoch = 0
        self.first = 0
        """The first batch of the next iteration: earlier ones were trained on before a restart."""
        if len(self) == 0:
            draws = self._draws()
            raise ConfigError(
                f"batch_size={batch_size} in {processes} process{'es' * (processes > 1)} is more than the {draws} "
                f"draws per epoch of the {images} training images: give data.repeats="
                f"{-(-batch_size * processes // max(images, 1))}, or batch_size={max(1, draws // processes)}"
            )

    def __len__(self) -> int:
        """Return the number of batches of a full epoch."""
        return self._draws() // (self.batch_size * self.processes) if self.steps is None else self.steps

    @property
    def sampler(self) -> EpochBatches:
        """Return itself: Lightning sets the epoch of a batch sampler's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        if epoch != self.epoch:
            self.epoch, self.first = epoch, 0

    def __iter__(self) -> Iterator[list[Draw]]:
        first, self.first = self.first, 0
        together = self.batch_size * self.processes
        begin = self.epoch * (self._draws() if self.steps is None else self.steps * together)
        for batch in range(first, len(self)):
            start = begin + batch * together + self.rank * self.batch_size
            yield [self._draw(place) for place in range(start, start + self.batch_size)]

    def _draw(self, place: int) -> Draw:
        """Return a draw by its place among the draws of all passes."""
        number, place = divmod(place, self._draws())
        if number != self._pass[0]:
            self._pass = number, self._order(number)
        return self._pass[1][place]

    def _draws(self) -> int:
        return self.images * self.repeats if isinstance(self.repeats, int) else sum(self.repeats)

    def _order(self, number: int) -> list[Draw]:
        """Return the draws of a pass."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        if not isinstance(self.repeats, int):
            draws = [(number * n + time, i) for i, n in enumerate(self.repeats) for time in range(n)]
            return [draws[k] for k in torch.randperm(len(draws), generator=generator).tolist()]
        times = range(number * self.repeats, (number + 1) * self.repeats)
        return [(time, i) for time in times for i in torch.randperm(self.images, generator=generator).tolist()]


class SizeBatches(Sampler[list[int]]):
    """Batches of whole images of one size each, in a fixed order; every image once over all processes.

    Args:
        sizes: (height, width) of each image.
        batch_size: the most images per batch.
        pixels: the most pixels per batch, if it has more than one image.
        rank, processes: this process's number, and how many processes there are.

    Raises:
        ConfigError: there are fewer images than processes.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        batch_size: int,
        *,
        pixels: int = 8 * 512 * 512,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, size in enumerate(sizes):
            alike[size].append(i)
        self.batches: list[list[int]] = []
        for (height, width), members in alike.items():
            most = min(batch_size, max(1, pixels // (height * width)))
            self.batches += [members[k : k + most] for k in range(0, len(members), most)]
        if len(self.batches) < processes:
            self.batches = [[i] for i in range(len(sizes))]
        if len(self.batches) < processes:
            raise ConfigError(
                f"{len(sizes)} validation image{'s' * (len(sizes) != 1)} for {processes} processes: each needs at "
                "least one; add images, or use fewer processes"
            )
        self.batches = self.batches[rank::processes]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
