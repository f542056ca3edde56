"""Which epoch is the best: one rule for what is kept, for patience, for the plateau, and for what a run says of itself.

An epoch is judged by its Dice on the validation images, where a class occurs in their masks; where objects are told
apart, by their AP at an IoU of 0.5, and of epochs alike in that by Dice. Where nothing occurs, there is nothing to
find: Dice is 0 for whatever is found, and not defined for nothing, so that the loss judges, the lower the better. Which
it is depends on the masks alone, and is the same in all epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Score:
    """How good an epoch is; the greater the better.

    Attributes:
        by_score: whether Dice or AP judges; if not, the loss does.
        value: the score in [0, 1], or the loss with the other sign.
        then: of scores alike, the greater is the better.
    """

    by_score: bool
    value: float
    then: float = 0.0


def score_of(row: Mapping[str, float | int | None]) -> Score:
    """Return how good an epoch that was validated is.

    Args:
        row: of ``metrics.csv``: "val_loss", and "dice" and "recall" as ``Scores.to_dict`` gives them; where objects
            are told apart, "objects_true" and "object_ap_50" as ``ObjectScores.row`` does.
    """
    loss, dice = row["val_loss"], row.get("dice")
    assert loss is not None
    if row.get("objects_true"):
        return Score(True, row["object_ap_50"] or 0.0, dice or 0.0)
    if dice is not None and row.get("recall", dice) is not None:  # recall is defined where there is something to find
        return Score(True, dice)
    return Score(False, -loss if math.isfinite(loss) else -math.inf)
