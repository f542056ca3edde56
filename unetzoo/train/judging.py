"""Which epoch is the best: one rule for what is kept, for patience, for the plateau, and for what a run says of itself.

An epoch is judged by its Dice on the validation images, where a class occurs in their masks; where objects are told
apart, by their AP at an IoU of 0.5, and of epochs alike in that by Dice. Where nothing occurs, there is nothing to
find: Dice is 0 for whatever is found, and not defined for nothing, so that the loss judges, the lower the better. Which
it is depends on the masks alone, and is the same in all epochs.

Any other figure of an epoch may judge in their place, such as "iou", "boundary_f", "dice/rim" or "val_loss"; where it
is not defined the loss does, and is below any that is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unetzoo.checks import one_of
from unetzoo.metrics.scores import METRICS
from unetzoo.objects.scores import FIGURES as OBJECT_SCORES
from unetzoo.registry import suggest


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


LOSS = "val_loss"
FIGURES = (*(f"{name}{how}" for name in METRICS for how in ("", "_per_image")), "pixel_accuracy")
"""What may judge, the greater the better; a class's own is "dice/name"."""
OBJECT_FIGURES = tuple(f"object_{name}" for name in OBJECT_SCORES)
"""Likewise, where objects are told apart."""


def monitor_problems(
    monitor: str | None, classes: Sequence[str] | None = None, *, objects: bool = True, own: Sequence[str] = ()
) -> list[str]:
    """Return what is wrong with the name of a figure that is to judge.

    Args:
        monitor: the name; None: the rule above.
        classes: the names of the classes; None: not known yet.
        objects: whether they are told apart.
        own: further figures, see ``unetzoo.train.own_metrics``.
    """
    if monitor is None or monitor in own:
        return []
    name, _, of_class = monitor.partition("/")
    known = (LOSS, *FIGURES, *(OBJECT_FIGURES if objects else ()))
    if name not in known or (name == LOSS and of_class):
        others = " or one of objects, with task='instances'" if not objects and name in OBJECT_FIGURES else ""
        meant = suggest(name, known).removeprefix("; ")
        return [f"monitor={monitor!r}: {f'{meant} ' if meant else ''}{', '.join(known)} are possible{others}"]
    if not of_class or classes is None:
        return []
    if len(classes) < 2:
        return [f"monitor={monitor!r}: there is one class; give monitor={name!r}"]
    return one_of("monitor", monitor, [f"{name}/{one}" for one in classes])


def figure_of_images(monitor: str | None, *, objects: bool) -> str:
    """Return the score by which single images are compared, where a run is judged by ``monitor``.

    Those of an epoch are means over images, or of all their pixels; a loss is of batches, and leaves it to the rule.

    Args:
        monitor: name of the figure that judges; None: the rule above.
        objects: whether they are told apart.
    """
    if monitor is None or monitor == LOSS:
        return "object_ap_50" if objects else "dice"
    name, slash, of_class = monitor.partition("/")
    return (name.removesuffix("_per_image") if name in FIGURES else name) + slash + of_class


def score_of(row: Mapping[str, float | int | None], monitor: str | None = None) -> Score:
    """Return how good an epoch that was validated is.

    Args:
        monitor: name of the figure that judges; None: the rule above.
        row: of ``metrics.csv``: "val_loss", and "dice" and "recall" as ``Scores.to_dict`` gives them; where objects
            are told apart, "objects_true" and "object_ap_50" as ``ObjectScores.row`` does.
    """
    loss, dice = row["val_loss"], row.get("dice")
    assert loss is not None
    by_loss = Score(False, -loss if math.isfinite(loss) else -math.inf)
    if monitor is not None:
        value = None if monitor == LOSS else row.get(monitor)
        return by_loss if value is None else Score(True, value)
    if row.get("objects_true"):
        return Score(True, row["object_ap_50"] or 0.0, dice or 0.0)
    if dice is not None and row.get("recall", dice) is not None:  # recall is defined where there is something to find
        return Score(True, dice)
    return by_loss
