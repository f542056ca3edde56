"""Which epoch is the best: one rule for the network that is kept, for patience, for the plateau, and for reports.

An epoch is judged by its Dice on the validation images if a class occurs in their masks. With ``task="instances"``, it
is judged by the AP of objects at an IoU of 0.5, and by Dice if that is equal. If no class occurs, there is nothing to
find: Dice is 0 if anything is found, and otherwise undefined. The loss then judges, the lower the better. Which of them
is used depends only on the masks, and is the same in all epochs.

Any other figure of an epoch may judge instead, such as "iou", "boundary_f", "dice/rim" or "val_loss". An epoch in which
it is undefined is judged by the loss, and ranks below any epoch in which it is defined.
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
    """How good an epoch is; greater is better.

    Attributes:
        by_score: whether it is a score, such as Dice or AP; otherwise it is the loss.
        value: the score, or the negated loss.
        then: breaks ties: greater is better.
    """

    by_score: bool
    value: float
    then: float = 0.0


LOSS = "val_loss"
FIGURES = (*(f"{name}{how}" for name in METRICS for how in ("", "_per_image")), "pixel_accuracy")
"""Figures that may judge; greater is better. Those of a single class are named like "dice/name"."""
OBJECT_FIGURES = tuple(f"object_{name}" for name in OBJECT_SCORES)
"""More of these, for ``task="instances"``."""


def monitor_problems(
    monitor: str | None, classes: Sequence[str] | None = None, *, objects: bool = True, own: Sequence[str] = ()
) -> list[str]:
    """Return what is wrong with the name of a figure that is to judge.

    Args:
        monitor: the name; None: the rule above.
        classes: the names of the classes; None: not known yet.
        objects: whether the task is "instances".
        own: further figures, see ``unetzoo.train.own_metrics``.
    """
    if monitor is None or monitor in own:
        return []
    name, _, of_class = monitor.partition("/")
    known = (LOSS, *FIGURES, *(OBJECT_FIGURES if objects else ()))
    if name not in known or (name == LOSS and of_class):
        others = ", and figures of objects with task='instances'" if not objects and name in OBJECT_FIGURES else ""
        meant = suggest(name, known).removeprefix("; ")
        return [f"monitor={monitor!r}: {f'{meant} ' if meant else ''}{', '.join(known)} are possible{others}"]
    if not of_class or classes is None:
        return []
    if len(classes) < 2:
        return [f"monitor={monitor!r}: there is only one class; give monitor={name!r}"]
    return one_of("monitor", monitor, [f"{name}/{one}" for one in classes])


def figure_of_images(monitor: str | None, *, objects: bool) -> str:
    """Return the score by which single images are compared in a run that is judged by ``monitor``.

    It is the figure for one image instead of all; a loss exists only for batches, so the default rule is used for it.

    Args:
        monitor: name of the figure that judges; None: the rule above.
        objects: whether the task is "instances".
    """
    if monitor is None or monitor == LOSS:
        return "object_ap_50" if objects else "dice"
    name, slash, of_class = monitor.partition("/")
    return (name.removesuffix("_per_image") if name in FIGURES else name) + slash + of_class


def score_of(row: Mapping[str, float | int | None], monitor: str | None = None) -> Score:
    """Return how good a validated epoch is.

    Args:
        row: of ``metrics.csv``: "val_loss", and "dice" and "recall" as from ``Scores.to_dict``; for
            ``task="instances"`` also "objects_true" and "object_ap_50" as from ``ObjectScores.row``.
        monitor: name of the figure that judges; None: the rule above.
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
