"""Finds the best settings for the average of folds on the images that each fold held out, and their scores there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unetzoo.checks import class_names_of
from unetzoo.data.counting import can_find_components
from unetzoo.errors import ConfigError
from unetzoo.evaluation.calibrating import (
    Calibration,
    Judged,
    add_objects,
    best_thresholds,
    calibration,
    lacking_objects,
    segmented,
)
from unetzoo.evaluation.evaluating import images_of
from unetzoo.evaluation.object_trials import Trials
from unetzoo.evaluation.speck_trials import Cleaning, SpeckTrials
from unetzoo.files.writing import write_file
from unetzoo.metrics import Scores, SegmentationMetrics
from unetzoo.objects.separating import separable
from unetzoo.prediction import Predictor
from unetzoo.prediction.remarks import told_together
from unetzoo.prediction.views import VIEWS
from unetzoo.printing import aligned
from unetzoo.saving.folds import FOLDS_FILE, folds_in, members
from unetzoo.saving.records import CARD_FILE

GAIN = 0.001
"""Gain in Dice from which a test-time augmentation with more views is worth its longer time."""
_GIVEN = ("ratios", "seed", "group", "ignore", "foreground", "colours", "ignore_colour", "classes", "planes", "masks")


_CARD = """# {count} folds of {network}

{count} networks, each validated on a different part of the images and trained on the rest; none of them saw the test
images. `unetzoo.Predictor` loads this folder as the average of these networks, with the views, thresholds and sizes
below. These were chosen on the images that each network was not trained on, so the scores here are slightly too good;
the test images show how good the average is.

```text
{found}```

```python
predictor = unetzoo.Predictor(FOLDER)
unetzoo.evaluate(predictor, DATA, split="test")
```
"""


@dataclass(frozen=True)
class AcrossFolds:
    """The result of :func:`choose`. ``str()`` is a table.

    Every image except the test images is in the validation set of one fold, and is scored with that fold's network,
    which was not trained on it: these are the out-of-fold scores.

    Attributes:
        network: name of the network.
        folds: numbers of the folds.
        scores: scores of each fold on its held-out images, with the chosen thresholds and views.
        together: the scores of all these images.
        views: test-time augmentation → mean Dice of the classes, each with its own best thresholds.
        tta: the chosen test-time augmentation: the one with the fewest views such that none with more views is better
            by 0.001.
        calibration: thresholds, and how objects are separated.
        cleaning: the size from which components of masks are kept; None if masks separate objects, or SciPy is missing.
    """

    network: str
    folds: tuple[int, ...]
    scores: tuple[Scores, ...]
    together: Scores
    views: Mapping[str, float]
    tta: str
    calibration: Calibration
    cleaning: Cleaning | None

    def __str__(self) -> str:
        table = [["fold", "images", "Dice", "IoU"]]
        rows = [*zip(map(str, self.folds), self.scores, strict=True), ("all", self.together)]
        table += [[name, str(its.images), f"{its.dice.mean:.4f}", f"{its.iou.mean:.4f}"] for name, its in rows]
        views = ", ".join(f"{name} {dice:.4f}" for name, dice in self.views.items())
        text = f"{self._how()}\n{aligned(table)}views: {self.tta}, chosen from {views}\n{self.calibration}"
        if self.cleaning is not None:
            smallest, dice, plain = self.cleaning
            text += f"masks: smallest {smallest}: Dice {dice:.4f}, without {plain:.4f}\n"
        return text

    def _how(self) -> str:
        """Return the heading of the table of folds."""
        by = ", ".join(f"{threshold:.3f}" for threshold in self.calibration.thresholds)
        masks = f"threshold{'s' * (',' in by)} {by}" if by else "the likeliest class"
        return f"each fold's network on its held-out images: views {self.tta}, {masks}, parts of any size:"

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON: the items of ``Calibration.to_dict``, and the rest."""
        return {
            **self.calibration.to_dict(),
            "masks": None if self.cleaning is None else self.cleaning._asdict(),
            "tta": self.tta,
            "views": dict(self.views),
            "scores": self.together.to_dict(),
            "folds": {str(fold): scores.to_dict() for fold, scores in zip(self.folds, self.scores, strict=True)},
        }

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write ``folds.json``, whose settings ``unetzoo.Predictor`` uses, and ``README.md`` to the folder of folds.

        Raises:
            WriteError: a file cannot be written.
        """
        write_file(Path(folder) / CARD_FILE, _CARD.format(network=self.network, count=len(self.folds), found=self))
        write_file(Path(folder) / FOLDS_FILE, json.dumps(self.to_dict(), indent=2) + "\n")


@told_together()
def choose(folder: str | os.PathLike[str], *, device: str = "auto", progress: bool = False) -> AcrossFolds:
    """Find the best settings for the average of folds: views, thresholds, and the smallest size that is kept.

    Each fold's network segments its held-out images, once for each test-time augmentation, and once more with the best.
    Views are chosen by Dice over all pixels, and thresholds as in ``unetzoo.evaluation.calibrate``. Then ``split`` and
    ``smallest`` are chosen for objects as in ``calibrate`` or, if masks do not separate objects, the ``smallest`` with
    the best Dice.

    Args:
        folder: folder of the folds, which ``unetzoo train --folds`` wrote.
        device: as ``unetzoo.Predictor`` takes it.
        progress: show a progress bar.

    Raises:
        ConfigError: there are no folds, or their data have changed.
        WeightsError: a fold has no network yet, or a damaged one.
        InputError: an image cannot be read.
    """
    folder = Path(folder)
    if not members(folder):
        raise ConfigError(f"there are no folds in {folder}: train them with 'unetzoo train --folds 5 --out {folder}'")
    pairs = [_held_back(path, device) for path in members(folder)]
    tried = {tta: _tried(_seen_by(pairs, tta), progress) for tta in VIEWS}
    views = {tta: dice for tta, (dice, _) in tried.items()}
    tta = best_views(views)
    return _settled(folds_in(folder), _seen_by(pairs, tta), tried[tta][1], views, tta, progress)


def best_views(dice: Mapping[str, float]) -> str:
    """Return the test-time augmentation to take: the first such that no later one is better by :data:`GAIN`.

    Args:
        dice: Dice of each, in the order of their number of views.
    """
    names = list(dice)
    # If no class occurs, Dice is nan, and nothing is better.
    return next(k for k in names if not any(dice[more] >= dice[k] + GAIN for more in names[names.index(k) + 1 :]))


def _held_back(path: Path, device: str) -> Judged:
    """Return the network of a fold, and the images that it was validated on."""
    predictor = Predictor(path, device=device)
    settings = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    return Judged(predictor, images_of(predictor, settings["data"]["folder"], "val", dict.fromkeys(_GIVEN)))


def _seen_by(pairs: Sequence[Judged], tta: str) -> list[Judged]:
    """Return predictors of the same networks with other views."""
    return [
        Judged(Predictor(list(predictor.networks.members), device=predictor.device, tta=tta), dataset)
        for predictor, dataset in pairs
    ]


def _tried(pairs: Sequence[Judged], progress: bool) -> tuple[float, list[tuple[float, float, float]]]:
    """Return the mean Dice of the classes that occur; and for each class its threshold, and Dice there and at 0.5."""
    if pairs[0].predictor.config.pixel_task == "multiclass":
        metrics = _metrics(pairs[0].predictor)
        for seen in segmented(pairs, (), progress):
            metrics.update_masks(seen.mask[None].long(), seen.target[None])
        return metrics.compute().dice.mean, []
    found = best_thresholds(pairs, progress)
    occurring = [dice for _, dice, _ in found if dice == dice]
    return sum(occurring) / len(occurring) if occurring else float("nan"), found


def _settled(
    folds: tuple[int, ...],
    pairs: Sequence[Judged],
    found: Sequence[tuple[float, float, float]],
    views: Mapping[str, float],
    tta: str,
    progress: bool,
) -> AcrossFolds:
    """Return the result with the chosen views."""
    task = pairs[0].predictor.config.pixel_task
    objects = separable(1.0) and lacking_objects(pairs) is None
    trials, specks = Trials(task), SpeckTrials(task)
    metrics = [_metrics(predictor) for predictor, _ in pairs]
    for seen in segmented(pairs, tuple(threshold for threshold, _, _ in found), progress):
        metrics[seen.pair].update_masks(seen.mask[None].long(), seen.target[None])
        if objects:
            add_objects(trials, seen)
        elif can_find_components():
            specks.add(seen.mask, seen.target)
    together = _metrics(pairs[0].predictor)
    for its in metrics:
        together.merge(its)
    return AcrossFolds(
        pairs[0].predictor.config.name,
        folds,
        tuple(its.compute() for its in metrics),
        together.compute(),
        views,
        tta,
        calibration(pairs, found, trials.best() if objects else None),
        specks.best(),
    )


def _metrics(predictor: Predictor) -> SegmentationMetrics:
    config = predictor.config
    names = class_names_of(config.class_names, config.task, config.num_classes)
    return SegmentationMetrics(config.pixel_task, config.num_classes, boundary_tolerance=None, class_names=names)
