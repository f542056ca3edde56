"""Learning rates as pure functions of the step: a factor in [0, 1] that every group's rate is multiplied by."""

from __future__ import annotations

import math
from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "poly": lambda done: (1 - done) ** 0.9,
    "constant": lambda done: 1.0,
    "plateau": lambda done: 1.0,
}
"""Name → factor by the share of the steps that is done. "cosine": Loshchilov and Hutter 2017 (SGDR, without restarts).
"poly": Chen et al. 2017 (DeepLab, section 4.1). "plateau" is lowered by the validation metric instead."""


def factor(schedule: str, step: int, steps: int, warmup: int) -> float:
    """Return the factor of a step, from 0 up to ``steps``.

    The first ``warmup`` steps rise in a straight line, from 1/warmup up to 1 (Goyal et al. 2017, section 2.2); the
    rest follow the schedule.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return SCHEDULES[schedule](min(1.0, done))
