"""Checks the arguments of a predictor, and reads its thresholds."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from unetzoo import checks
from unetzoo.config import ModelConfig
from unetzoo.errors import ConfigError
from unetzoo.files import strict_json
from unetzoo.objects._arguments import split_problems
from unetzoo.objects.finding import SPLIT_BY_EDGES
from unetzoo.prediction.networks import MERGES
from unetzoo.prediction.tiles import BLENDS
from unetzoo.prediction.views import VIEWS
from unetzoo.saving.records import weights_of

_logger = logging.getLogger("unetzoo")


def problems(
    *,
    tile: object,
    overlap: object,
    blend: object,
    tta: object,
    scales: object,
    merge: object,
    smallest: object,
    holes: object,
    split: object,
    batch_size: object,
    intensity_range: object,
) -> list[str]:
    """Return a sentence for each argument that is wrong."""
    found = checks.whole("tile", tile, others=("auto", None))
    share = type(overlap) is float and 0 <= overlap < 1
    pixels = type(overlap) is int and overlap >= 0 and (type(tile) is not int or overlap < tile)
    if not (share or pixels or overlap == "full"):
        found.append(
            f"overlap={overlap!r}: give a share of the tile's side, from 0 to below 1; a number of pixels, below the "
            "tile's side; or 'full'"
        )
    found += checks.one_of("blend", blend, (None, *BLENDS))
    if overlap == "full" and blend not in (None, "crop"):
        found.append(f"blend={blend!r} with overlap='full': leave it out, because one tile has each pixel exactly")
    found += checks.one_of("tta", tta, (None, *VIEWS))
    found += checks.one_of("merge", merge, MERGES)
    if (
        not isinstance(scales, list | tuple)
        or not scales
        or not all(type(scale) in (int, float) and 0.1 <= scale <= 10 for scale in scales)
    ):
        found.append(f"scales={scales!r}: give a list of numbers from 0.1 to 10, such as scales=(0.75, 1)")
    found += checks.whole("smallest", smallest, 0, others=(None,)) + checks.whole("holes", holes, 0, others=("all",))
    found += [] if split is None else split_problems(split)
    if intensity_range is not None and not _is_range(intensity_range):
        found.append(
            f"intensity_range={intensity_range!r}: give two numbers, the value of black and then the larger value of "
            "white"
        )
    return found + checks.whole("batch_size", batch_size, others=(None,))


def _is_range(given: object) -> bool:
    if not isinstance(given, list | tuple) or len(given) != 2:
        return False
    return all(type(value) in (int, float) and math.isfinite(value) for value in given) and given[0] < given[1]


def split_of(config: ModelConfig) -> float:
    """Return the default of ``split`` for a model."""
    return SPLIT_BY_EDGES if config.task == "instances" else 0.0


_NAMED = 5
"""Number of classes that a message names."""


class Calibrated(NamedTuple):
    """The settings from a file that ``unetzoo calibrate`` wrote, or those given instead of a file.

    Attributes:
        thresholds: one for all classes, or one per class; None: none were given.
        smallest, split, tta: see ``unetzoo.Predictor``; None: the default of the task.
        file: the file; None: numbers were given.
        classes: names of the classes of the model that was calibrated; None: not known.
        weights: digests of the weights of the models that were calibrated; empty: not known.
    """

    thresholds: float | Sequence[float] | None
    smallest: int = 0
    split: float | None = None
    tta: str = "none"
    file: str | os.PathLike[str] | None = None
    classes: tuple[str, ...] | None = None
    weights: frozenset[str] = frozenset()


def calibrated(given: float | Sequence[float] | str | os.PathLike[str] | None) -> Calibrated:
    """Return the settings that a predictor's ``threshold`` stands for.

    Raises:
        ConfigError: it names a file that does not exist, or that ``unetzoo calibrate`` did not write.
    """
    return _read(given) if isinstance(given, str | os.PathLike) else Calibrated(given)


def thresholds_for(found: Calibrated, config: ModelConfig, models: Sequence[Path | None]) -> tuple[float, ...]:
    """Return a threshold for each class of a predictor; warn if those of a file were found for other weights.

    Args:
        found: what its ``threshold`` stands for.
        config: of its models.
        models: the file or folder of each of its models; None: not known.

    Raises:
        ConfigError: the file is of other classes; or see :func:`thresholds`.
    """
    own = checks.class_names_of(config.class_names, config.task, config.num_classes)
    fix = "calibrate this model too, with 'unetzoo calibrate', and give its own file"
    if found.classes is not None and found.classes != own:
        theirs, ours = (
            ", ".join(map(repr, names[:_NAMED])) + ", …" * (len(names) > _NAMED) for names in (found.classes, own)
        )
        raise ConfigError(
            f"threshold={str(found.file)!r}: this file was written for a model of the classes {theirs}, but this model "
            f"has {ours}: {fix}"
        )
    if found.weights:
        weights = {None if path is None else weights_of(path) for path in models}
        if None not in weights and weights != found.weights:
            _logger.warning(
                "threshold=%r: this file was written for other weights of the same classes, so its settings may not be "
                "the best ones here: %s",
                str(found.file),
                fix,
            )
    return thresholds(found.thresholds, config.task, config.num_classes)


def thresholds(given: float | Sequence[float] | None, task: str, classes: int) -> tuple[float, ...]:
    """Return a threshold for each class.

    Raises:
        ConfigError: this task has no thresholds, their number is wrong, or they are not probabilities.
    """
    if given is None:
        return (0.5,) * classes
    if task == "multiclass" and given == []:  # from the calibration file of a multi-class model
        return (0.5,) * classes
    if task == "multiclass":
        raise ConfigError(
            f"threshold={given!r}: a multi-class model takes the likeliest class of each pixel; leave the threshold out"
        )
    listed = (given,) * classes if isinstance(given, int | float) else tuple(given)
    if len(listed) != classes:
        raise ConfigError(
            f"threshold={given!r}: {len(listed)} numbers for {classes} classes; give one number, or one per class"
        )
    if not all(type(value) in (int, float) and 0 <= value < 1 for value in listed):
        raise ConfigError(f"threshold={given!r}: each threshold must be a probability from 0 to below 1")
    return tuple(map(float, listed))


def _read(path: str | os.PathLike[str]) -> Calibrated:
    """Return the settings in a file that ``unetzoo calibrate`` or a training by folds wrote.

    Raises:
        ConfigError: there is no such file, or it is a different kind of file.
    """
    try:
        record = strict_json.loads(Path(path).read_text(encoding="utf-8"))
        found = [float(value) for value in record["thresholds"]]
        objects = record.get("objects") or {"smallest": 0, "split": 0.0}  # older files have none
        smallest, split, tta = objects["smallest"], objects["split"], record.get("tta", "none")
        classes, weights = record.get("classes", []), record.get("weights", [])  # older files have no weights
        if record.get("masks"):
            smallest, split = record["masks"]["smallest"], None
        wrong = checks.whole("smallest", smallest, 0) + ([] if split is None else split_problems(split))
        wrong += checks.one_of("tta", tta, VIEWS)
        wrong += [] if all(isinstance(each, str) for each in (*classes, *weights)) else ["these are not texts"]
        if wrong:
            raise ValueError(wrong[0])
        return Calibrated(found, smallest, split, tta, path, tuple(classes) or None, frozenset(weights))
    except FileNotFoundError as error:
        raise ConfigError(f"threshold={path!s}: there is no such file; 'unetzoo calibrate' writes one") from error
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ConfigError(
            f"threshold={path!s}: this is not a file that 'unetzoo calibrate' writes ({type(error).__name__}: {error})"
        ) from error
