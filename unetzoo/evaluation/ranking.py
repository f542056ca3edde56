"""By which figure images are the worst: the one that is asked for, else that of the training, else the usual one."""

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
        asked: what the caller gave. None: what all runs of the models were judged by, where images have that score;
            otherwise the AP of objects at an IoU of 0.5, or Dice where objects are not asked for.
        trained: what the runs were judged by, None for the usual.
        config: of the network.
        objects: whether images have scores of their objects.
        by_rows: whether some are scored by rows, which have no boundary F-score.

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
            raise ConfigError(f"monitor={asked!r}: {', '.join(names)} are possible, of a class 'dice/NAME'{near}{more}")
        return asked.removesuffix("_per_image")
    (one, *others) = {name and name.removesuffix("_per_image") for name in trained} or {None}
    usual = "object_ap_50" if objects else "dice"
    return one if one in known and not others else usual


def rank(row: Row, figure: str) -> tuple[bool, float]:
    """Return what sorts rows, the worst first; where it is not defined, there was nothing to find, or found."""
    value = row.get(figure)
    return value is None, 0.0 if value is None else float(value)


def title(row: Row, figure: str) -> str:
    """Return what is said of an image above it: the figure that sorts goes first."""
    names = dict.fromkeys((figure, "dice", "iou"))
    scores = [f"{name} {value:.3f}" for name in names if isinstance(value := row.get(name), float)]
    return "   ".join([str(row["name"]), *(scores or ["nothing to find, and nothing found"])])


def worst_first(rows: Sequence[Row], figure: str) -> list[int]:
    """Return the places of rows in their order."""
    return sorted(range(len(rows)), key=lambda i: rank(rows[i], figure))
