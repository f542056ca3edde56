"""Chooses the score by which images are sorted: the requested one, else that of the training, else the default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from unetzoo.checks import class_names_of
from unetzoo.config import ModelConfig
from unetzoo.errors import ConfigError
from unetzoo.metrics.scores import METRICS
from unetzoo.objects.scores import FIGURES
from unetzoo.registry import suggest

Row = Mapping[str, str | float | None]


def figure_of(
    asked: str | None, trained: Iterable[str | None], config: ModelConfig, *, objects: bool, by_rows: bool
) -> str:
    """Return the score by which images are sorted.

    Args:
        asked: the score that the caller gave. None: the score of all runs of the models, if images have that score;
            otherwise the AP of objects at an IoU of 0.5, or Dice if object scores are not requested.
        trained: the scores of the runs, None for the default.
        config: configuration of the network.
        objects: whether images have object scores.
        by_rows: whether some images are scored by rows, which have no boundary F-score.

    Raises:
        ConfigError: images have no such score.
    """
    names = [name for name in METRICS if not (by_rows and name == "boundary_f")]
    names += [f"object_{name}" for name in FIGURES] if objects else []
    classes = class_names_of(config.class_names, config.task, config.num_classes)
    known = [*names, *(f"{name}/{label}" for name in names for label in classes if len(classes) > 1)]
    if asked is not None:
        if asked.removesuffix("_per_image") not in known:
            more = "" if objects else "; those of objects need objects=True"
            near = suggest(asked, known)
            raise ConfigError(
                f"monitor={asked!r}: give one of {', '.join(names)}, for a single class 'dice/NAME'{near}{more}"
            )
        return asked.removesuffix("_per_image")
    (one, *others) = {name and name.removesuffix("_per_image") for name in trained} or {None}
    usual = "object_ap_50" if objects else "dice"
    return one if one in known and not others else usual


def rank(row: Row, figure: str) -> tuple[bool, float]:
    """Return a key that sorts rows, worst first; without a score, there was nothing to find and nothing found."""
    value = row.get(figure)
    return value is None, 0.0 if value is None else float(value)


def title(row: Row, figure: str) -> str:
    """Return the line above an image; the score that sorts comes first."""
    names = dict.fromkeys((figure, "dice", "iou"))
    scores = [f"{name} {value:.3f}" for name in names if isinstance(value := row.get(name), float)]
    return "   ".join([str(row["name"]), *(scores or ["nothing to find, and nothing found"])])


def worst_first(rows: Sequence[Row], figure: str) -> list[int]:
    """Return the indices of rows, worst first."""
    return sorted(range(len(rows)), key=lambda i: rank(rows[i], figure))
