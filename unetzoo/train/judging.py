"""Which epoch is the best: one rule for what is kept, for patience, for the plateau, and for what a run says of itself.

An epoch is judged by its Dice on the validation images, where a class occurs in their masks. Where none does, there is
nothing to find: Dice is 0 for whatever is found, and not defined for nothing, so that the loss judges, the lower the
better. Which of both it is depends on the masks alone, and is the same in all epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Score:
    """How good an epoch is; the greater the better.

    Attributes:
        by_dice: whether Dice judges; if not, the loss does.
        value: the Dice in [0, 1], or the loss with the other sign.
    """

    by_dice: bool
    value: float


def score_of(row: Mapping[str, float | int | None]) -> Score:
    """Return how good an epoch that was validated is.

    Args:
        row: of ``metrics.csv``: "val_loss", and "dice" and "recall" as ``Scores.to_dict`` gives them.
    """
    loss, dice = row["val_loss"], row.get("dice")
    assert loss is not None
    if dice is not None and row.get("recall", dice) is not None:  # recall is defined where there is something to find
        return Score(True, dice)
    return Score(False, -loss if math.isfinite(loss) else -math.inf)
