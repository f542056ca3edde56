"""How many crops fit in memory: measured on two small batches, before a run begins, and never by running out of it.

In training every tensor is a fixed number of bytes, or so many for each crop. So the most bytes that are alive in each
part of a step are known for all batches from those of two, and the largest is what a step needs. nnU-Net plans
likewise, by an estimate of its network's feature maps (``default_experiment_planner.py`` of its version 2.8.1); its
limits are ours: 8 GB, and 5 % of the pixels of all training images.
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
"""Crops of the batches that are measured."""
MOST = 8 * 2**30
"""Bytes that a step may take, as in nnU-Net: so that machines that have more of it train alike."""
MARGIN = 1.25
"""Times what tensors take: convolutions have buffers of their own, and memory is handed out in pieces."""
COVERED = 0.05
"""Of the pixels of all training images, the most that a batch sees, as in nnU-Net."""
FEWEST = 2
"""Crops of a batch, whatever else holds, as in nnU-Net."""


class _Second(Callback):
    """Counts in the second step, in which the optimiser has all that it keeps; parts: forward, backward, optimiser.

    They grow unlike: with few crops most is alive in the optimiser's part, with many at the end of the forward pass.
    """

    def __init__(self) -> None:
        self.bytes = LiveBytes()
        self._inside = contextlib.ExitStack()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin, with what is there already."""
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
    """Find the batch size where it is to be found, put it in settings and data, and say it; otherwise do nothing.

    Args:
        cli: ``unetzoo.train.command.RunCLI``, of a run that begins.

    Raises:
        ConfigError: nothing can be measured here, or even two crops do not fit.
    """
    data = cli.datamodule
    if data.batch_size != AUTO:
        return
    if cli.trainer.world_size > 1 or not isinstance(cli.config.trainer.strategy, str):
        raise ConfigError("batch_size='auto' is measured in one process alone: give a number for several")
    device = cli.trainer.strategy.root_device
    free = free_memory(device)
    if free is None:
        raise ConfigError(f"batch_size='auto': how much memory is free cannot be told of {device} here; give a number")
    few, more = (_measured(cli.bare, cli.model, data, count) for count in PROBES)
    pixels = sum(height * width for height, width in data.training_set().sizes())
    covering = round(COVERED * pixels / (data.crop[0] * data.crop[1]))
    limit = min(MOST, free)
    fitting = most_crops(few, more, int(limit / MARGIN))
    if fitting < FEWEST:
        raise ConfigError(
            f"batch_size='auto': a step of {FEWEST} crops of {data.crop[0]} × {data.crop[1]} takes "
            f"{size(int(MARGIN * needed(few, more, FEWEST)))}, and {size(limit)} may be taken; give a smaller "
            "crop_size=…, or model.gradient_checkpointing=True"
        )
    found = max(FEWEST, min(fitting, covering))
    cli.config.data.batch_size = data.batch_size = found
    if cli.style in ("bar", "lines"):
        why = f"{found} crops see about 5 % of all pixels, the most that auto takes"
        if found == fitting:
            why = f"more would not fit in {size(limit)}"
        elif found == FEWEST:
            why = "auto takes no fewer"
        print(f"batch_size {found}: a step takes {size(int(MARGIN * needed(few, more, found)))}; {why}", flush=True)


def needed(few: Sequence[int], more: Sequence[int], crops: int) -> int:
    """Return the bytes alive in a step of so many crops, by those in each part of steps of ``PROBES`` crops."""
    first, second = PROBES
    slopes = [(b - a) / (second - first) for a, b in zip(few, more, strict=True)]
    # With few crops the backward pass has most when the gradients of all weights are there, with many when it begins,
    # and all that the forward pass kept is: then it grows as fast as that.
    slopes[1] = max(slopes[:2])
    return round(max(a + slope * (crops - first) for a, slope in zip(few, slopes, strict=True)))


def most_crops(few: Sequence[int], more: Sequence[int], limit: int) -> int:
    """Return how many crops take no more than ``limit`` bytes; 0 where not even one does."""
    low, high = 0, 1
    while high <= 2**20 and needed(few, more, high) <= limit:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(few, more, middle) <= limit else (low, middle)
    return low


def _measured(trainer_of: Callable[..., lightning.Trainer], recipe: Recipe, data: FolderData, crops: int) -> list[int]:
    """Return the most bytes alive in each part of a step of so many crops; the run is left as it was."""
    second, length = _Second(), data.steps_per_epoch
    try:
        data.steps_per_epoch, data.batch_size = 2, crops
        limits = {"max_epochs": 1, "max_steps": -1, "limit_train_batches": None, "limit_val_batches": 0}
        with torch.random.fork_rng():
            trainer = trainer_of(callbacks=[second], **{**limits, "accumulate_grad_batches": 1})
            trainer.fit(copy.deepcopy(recipe), datamodule=data)
    finally:
        data.steps_per_epoch, data.batch_size = length, "auto"
    return second.bytes.most[-3:]  # the first step, which is not counted, has parts of its own
