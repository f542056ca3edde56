"""Learning rates as pure functions of the step: a factor that every group's rate is multiplied by."""

from __future__ import annotations

import math
from collections.abc import Callable

from unetzoo.checks import one_of
from unetzoo.errors import ConfigError
from unetzoo.registry import imported

SHARES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "poly": lambda done: (1 - done) ** 0.9,
    "constant": lambda done: 1.0,
    "plateau": lambda done: 1.0,
}
"""Name → factor for the share of the steps done. "cosine": Loshchilov and Hutter 2017 (SGDR, without restarts).
"poly": Chen et al. 2017 (DeepLab, section 4.1). "plateau" is lowered by the validation metric instead."""
SCHEDULES = (*SHARES, "one_cycle")
WARMUPS = {"one_cycle": 0.3}
"""Name → default share of the steps during which the learning rate rises; 0.05 for others."""


def warmup_of(schedule: str, warmup: float | None) -> float:
    """Return the share of the steps during which the learning rate rises: the one given, or the schedule's default."""
    return WARMUPS.get(schedule, 0.05) if warmup is None else warmup


def factor(schedule: str, step: int, steps: int, warmup: float) -> float:
    """Return the factor of a step, from 0 up to ``steps``.

    The first ``warmup`` · ``steps`` steps rise in a straight line, from 1/warmup up to 1 (Goyal et al. 2017, section
    2.2); the rest follow the schedule. "one_cycle" has a rise of its own, see :func:`_one_cycle`.

    Args:
        schedule: in ``SCHEDULES``, or the dotted path of a function: share of the steps after the rise → factor.
        step: number of steps done.
        steps: of the complete training.
        warmup: share of the steps, from 0 to less than 1.
    """
    if schedule == "one_cycle":
        return _one_cycle(step, steps, warmup)
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    done = min(1.0, (step - rising) / max(1, steps - rising))
    return float(_share(schedule)(done))


def _one_cycle(step: int, steps: int, warmup: float) -> float:
    """Return the factor of ``torch.optim.lr_scheduler.OneCycleLR`` with its defaults: Smith 2018, arXiv 1803.09820.

    Half a cosine rises from 1/25 to 1 at the last step of the rise, and another falls to 1/250,000 at the last step.
    Torch also moves the momentum from 0.95 to 0.85 and back; here it is constant.
    """
    top, last = warmup * steps - 1, steps - 1
    if step <= top and top > 0:
        low, share = 1 / 25, 1 - step / top
    else:
        low, share = 1 / 25 / 1e4, min(1.0, (step - top) / (last - top))
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share))


def moved(schedule: str, warmup: float, lr: float, step: int, ends: tuple[int, int]) -> str | None:
    """Return how the learning rate changes if a resumed run now has another length; None if it does not change.

    Args:
        schedule, warmup, step: see :func:`factor`.
        lr: the highest learning rate.
        ends: steps of the complete training, before and now.
    """
    before, now = (lr * factor(schedule, step, steps, warmup) for steps in ends)
    if before == now:
        return None
    return (
        f"the learning rate {'rises' if now > before else 'falls'} from {before:.3g} to {now:.3g} here: the schedule "
        f"'{schedule}' now ends after {ends[1]} steps instead of {ends[0]}"
    )


def schedule_problems(schedule: str) -> list[str]:
    """Return what is wrong with a schedule; the user's own function is called for the start, the middle and the end."""
    if not isinstance(schedule, str) or "." not in schedule:
        found = one_of("schedule", schedule, SCHEDULES)
        return [f"{problem}; give your own as the dotted path of a function" for problem in found]
    try:
        values = [(done, _share(schedule)(done)) for done in (0.0, 0.5, 1.0)]
    except ConfigError as error:
        return [f"schedule={schedule!r}: {error}"]
    except Exception as error:  # the user's function may raise anything
        return [f"schedule={schedule!r} cannot be called with a share of the steps ({type(error).__name__}: {error})"]
    return [
        f"schedule={schedule!r} gives {value!r:.100} for the share {done}: a finite number from 0 up is needed"
        for done, value in values
        if not isinstance(value, int | float) or not 0 <= value < math.inf
    ]


def _share(schedule: str) -> Callable[[float], float]:
    """Return the function of a name or a dotted path."""
    found: Callable[[float], float] = SHARES[schedule] if schedule in SHARES else imported(schedule)
    return found
