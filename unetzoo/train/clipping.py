"""Gradient clipping: its default limit, how often it happens, and where it is impossible."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.plugins import FSDPPrecision
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

NORM = 12.0
"""Largest norm of all gradients together that is not clipped; the value of nnU-Net v2.

A clipped step is scaled down to it; any other is multiplied by 1, which changes no bit. Losses that are means over
pixels and classes have norms of 0.3 to 5, and up to 11 in the first steps of ResNets. Of ten networks that were tried,
only UNet 3+ exceeds it: 20 to 32 in its first four steps. A single batch far above it ruins the weights under SGD.
Adam's step is bounded, but the square of the gradient stays in the second moment for thousands of steps, during which
all other batches count for little. In a test, one of 400 losses was a million times too large. A small U-Net with Adam
then ended at a loss of 1.93 without clipping, 1.63 with a norm of 100, 1.08 with 12, and 0.98 without that batch; with
SGD it ended at NaN without clipping, and at 1.41 with 12 (1.38 without that batch).
"""
OFTEN = 0.5
"""If at least this share of an epoch's steps is clipped, clipping acts as a lower learning rate, which is reported."""


def is_clipped(optimiser: Optimizer, limit: float, by_value: bool) -> Tensor:
    """Return whether the gradients are beyond the limit, as a scalar of float64 on their device: 1 or 0.

    Gradients that are not finite do not count: with mixed precision the step is skipped, and otherwise the run ends.

    Args:
        optimiser: its parameters have their gradients.
        limit: for the norm of all gradients, or ``by_value`` for each number.
        by_value: see ``limit``.
    """
    gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    size = get_total_norm(gradients, math.inf if by_value else 2.0)
    return ((size > limit) & size.isfinite()).double()


def often(share: float | None) -> str:
    """Return the remark after an epoch's figures if many of its steps were clipped, else an empty text."""
    return "" if share is None or share < OFTEN else f"  (gradients clipped in {100 * share:.0f} % of the steps)"


def clipping_problems(options: Mapping[str, Any] | None, trainer: lightning.Trainer) -> list[str]:
    """Return what prevents the trainer from clipping as it is set to.

    Args:
        options: of the optimiser.
        trainer: of the run.
    """
    limit = trainer.gradient_clip_val
    if not limit:
        return []
    fix = "give trainer.gradient_clip_val=0"
    if isinstance(trainer.precision_plugin, FSDPPrecision) and trainer.gradient_clip_algorithm != "value":
        return [f"trainer.gradient_clip_val={limit:g}: Lightning cannot clip the norm of sharded weights; {fix}"]
    if (options or {}).get("fused") and trainer.precision == "16-mixed":
        said = "optimiser_options: with trainer.precision='16-mixed', gradients cannot be clipped before a fused step"
        return [f"{said}; leave fused out, or {fix}"]
    return []
