"""Checks the arguments of a predictor, and reads its thresholds."""

from __future__ import annotations

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


class Calibrated(NamedTuple):
    """The settings from a file that ``unetzoo calibrate`` wrote, or those given instead of a file.

    Attributes:
        thresholds: one for all classes, or one per class; None: none were given.
        smallest, split, tta: see ``unetzoo.Predictor``; None: the default of the task.
    """

    thresholds: float | Sequence[float] | None
    smallest: int = 0
    split: float | None = None
    tta: str = "none"


def calibrated(given: float | Sequence[float] | str | os.PathLike[str] | None) -> Calibrated:
    """Return the settings that a predictor's ``threshold`` stands for.

    Raises:
        ConfigError: it names a file that does not exist, or that ``unetzoo calibrate`` did not write.
    """
    return _read(given) if isinstance(given, str | os.PathLike) else Calibrated(given)


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
        if record.get("masks"):
            smallest, split = record["masks"]["smallest"], None
        wrong = checks.whole("smallest", smallest, 0) + ([] if split is None else split_problems(split))
        wrong += checks.one_of("tta", tta, VIEWS)
        if wrong:
            raise ValueError(wrong[0])
        return Calibrated(found, smallest, split, tta)
    except FileNotFoundError as error:
        raise ConfigError(f"threshold={path!s}: there is no such file; 'unetzoo calibrate' writes one") from error
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ConfigError(
            f"threshold={path!s}: this is not a file that 'unetzoo calibrate' writes ({type(error).__name__}: {error})"
        ) from error
