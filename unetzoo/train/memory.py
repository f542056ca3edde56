"""How many crops fit in memory: measured on two small batches before a run begins, and never by running out of it.

In training, the size of every tensor is either fixed or proportional to the number of crops. The peak of live bytes in
each part of a step is therefore known for all batch sizes once it is measured for two, and a step needs the largest of
these peaks. nnU-Net does the same with an estimate of its network's feature maps (``default_experiment_planner.py`` of
its version 2.8.1); we use its limits: 8 GB, and 5 % of the pixels of all training images.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.utils._pytree import tree_leaves

from unetzoo.costs.living import LiveBytes
from unetzoo.devices import free_memory
from unetzoo.errors import ConfigError
from unetzoo.printing import size
from unetzoo.train.data import AUTO, FolderData
from unetzoo.train.recipe import Recipe

PROBES = (2, 3)
"""Batch sizes that are measured, in crops."""
MOST = 8 * 2**30
"""Bytes that a step may take, as in nnU-Net: so that machines with more memory train in the same way."""
MARGIN = 1.25
"""Memory needed, as a multiple of the tensors' bytes: convolutions have buffers, and memory is allocated in blocks."""
COVERED = 0.05
"""Largest share of the pixels of all training images that a batch covers, as in nnU-Net."""
FEWEST = 2
"""Smallest batch size, in crops, whatever the other limits, as in nnU-Net."""


class _Second(Callback):
    """Counts bytes in the second step, in which the optimiser's state exists; parts: forward, backward, optimiser.

    They grow at different rates: with few crops the peak is in the optimiser's part, with many at the end of the
    forward pass.
    """

    def __init__(self) -> None:
        self.bytes = LiveBytes()
        self._inside = contextlib.ExitStack()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin, with the tensors that exist already."""
        if batch_idx == 1:
            kept = [pl_module.state_dict(), [optimiser.state_dict() for optimiser in trainer.optimizers], batch]
            for leaf in tree_leaves(kept):
                if isinstance(leaf, Tensor):
                    self.bytes.see(leaf)
            self._inside.enter_context(self.bytes)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Begin the second part."""
        self.bytes.part()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Begin the third."""
        self.bytes.part()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop."""
        self._inside.close()


def settle(cli: Any) -> None:
    """If ``batch_size`` is "auto", find it, store it in settings and data, and print it; otherwise do nothing.

    Args:
        cli: ``unetzoo.train.command.RunCLI``, of a run that begins.

    Raises:
        ConfigError: nothing can be measured here, or even two crops do not fit.
    """
    data = cli.datamodule
    if data.batch_size != AUTO:
        return
    if cli.trainer.world_size > 1 or not isinstance(cli.config.trainer.strategy, str):
        raise ConfigError("batch_size='auto' can be measured only in a single process: give a number")
    device = cli.trainer.strategy.root_device
    free = free_memory(device)
    if free is None:
        raise ConfigError(f"batch_size='auto': the free memory of {device} is not known here; give a number")
    few, more = (_measured(cli.bare, cli.model, data, count) for count in PROBES)
    pixels = sum(height * width for height, width in data.training_set().sizes())
    covering = round(COVERED * pixels / (data.crop[0] * data.crop[1]))
    limit = min(MOST, free)
    fitting = most_crops(few, more, int(limit / MARGIN))
    if fitting < FEWEST:
        raise ConfigError(
            f"batch_size='auto': a step of {FEWEST} crops of {data.crop[0]} × {data.crop[1]} takes "
            f"{size(int(MARGIN * needed(few, more, FEWEST)))}, but only {size(limit)} may be used; give a smaller "
            "crop_size=…, or model.gradient_checkpointing=True"
        )
    found = max(FEWEST, min(fitting, covering))
    cli.config.data.batch_size = data.batch_size = found
    if cli.style in ("bar", "lines"):
        why = f"{found} crops cover about 5 % of all pixels, the limit of auto"
        if found == fitting:
            why = f"more would not fit in {size(limit)}"
        elif found == FEWEST:
            why = "this is the minimum of auto"
        print(f"batch_size {found}: a step takes {size(int(MARGIN * needed(few, more, found)))}; {why}", flush=True)


def needed(few: Sequence[int], more: Sequence[int], crops: int) -> int:
    """Return the peak of live bytes in a step of this many crops, from the peaks measured for ``PROBES`` crops."""
    first, second = PROBES
    slopes = [(b - a) / (second - first) for a, b in zip(few, more, strict=True)]
    # With few crops, the backward pass peaks when the gradients of all weights exist; with many, when it begins and
    # everything that the forward pass kept still exists: then it grows as fast as the forward pass.
    slopes[1] = max(slopes[:2])
    return round(max(a + slope * (crops - first) for a, slope in zip(few, slopes, strict=True)))


def most_crops(few: Sequence[int], more: Sequence[int], limit: int) -> int:
    """Return how many crops fit in ``limit`` bytes; 0 if not even one does."""
    low, high = 0, 1
    while high <= 2**20 and needed(few, more, high) <= limit:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(few, more, middle) <= limit else (low, middle)
    return low


def _measured(trainer_of: Callable[..., lightning.Trainer], recipe: Recipe, data: FolderData, crops: int) -> list[int]:
    """Return the peak of live bytes in each part of a step with this many crops; the run is left as it was."""
    second, length = _Second(), data.steps_per_epoch
    try:
        data.steps_per_epoch, data.batch_size = 2, crops
        limits = {"max_epochs": 1, "max_steps": -1, "limit_train_batches": None, "limit_val_batches": 0}
        with torch.random.fork_rng():
            trainer = trainer_of(callbacks=[second], **{**limits, "accumulate_grad_batches": 1})
            trainer.fit(copy.deepcopy(recipe), datamodule=data)
    finally:
        data.steps_per_epoch, data.batch_size = length, "auto"
    return second.bytes.most[-3:]  # before these are the parts of the first step, which is not counted
