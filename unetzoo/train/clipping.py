"""Gradients that are clipped: from where on, how often, and where they cannot be."""

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
"""Largest norm of all gradients together that a step takes as it is; nnU-Net v2's.

A clipped step is scaled down to it, and any other multiplied by 1, which changes no bit. Losses that are means over
pixels and classes have norms of 0.3 to 5, and up to 11 in the first steps of ResNets; of ten networks that were tried,
UNet 3+ alone goes beyond: 20 to 32 in its first four steps. A batch far beyond pulls SGD's weights away at once. Adam's
step is bounded, but the batch's square stays in the second moment for thousands of steps, during which all others
count for little: with one loss of 400 a million times too large, a small U-Net ended at a loss of 1.93 as it is, 1.63
with a norm of 100, 1.08 with 12, and 0.98 without that batch; by SGD at NaN, and at 1.41 with 12 (1.38 without it).
"""
OFTEN = 0.5
"""Share of an epoch's steps from which on clipping is no rare event, but a lower rate, which is said then."""


def is_clipped(optimiser: Optimizer, limit: float, by_value: bool) -> Tensor:
    """Return whether the gradients are beyond the limit, as a scalar of float64 on their device: 1 or 0.

    Those that are not finite are not: of mixed precision the step is left out, and otherwise the run ends.

    Args:
        optimiser: whose parameters have their gradients.
        limit: of the norm of all, or ``by_value`` of each number.
        by_value: see ``limit``.
    """
    gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    size = get_total_norm(gradients, math.inf if by_value else 2.0)
    return ((size > limit) & size.isfinite()).double()


def often(share: float | None) -> str:
    """Return what to say behind an epoch's figures where so large a share of its steps was clipped, else nothing."""
    return "" if share is None or share < OFTEN else f"  (gradients clipped in {100 * share:.0f} % of the steps)"


def clipping_problems(options: Mapping[str, Any] | None, trainer: lightning.Trainer) -> list[str]:
    """Return what keeps the trainer from clipping as it is told to.

    Args:
        options: of the optimiser.
        trainer: of the run.
    """
    limit = trainer.gradient_clip_val
    if not limit:
        return []
    fix = "give trainer.gradient_clip_val=0"
    if isinstance(trainer.precision_plugin, FSDPPrecision) and trainer.gradient_clip_algorithm != "value":
        return [f"trainer.gradient_clip_val={limit:g}: Lightning cannot clip the norm of weights in shards; {fix}"]
    if (options or {}).get("fused") and trainer.precision == "16-mixed":
        said = "optimiser_options: with trainer.precision='16-mixed', a fused step has no gradients to clip before it"
        return [f"{said}; leave fused out, or {fix}"]
    return []
