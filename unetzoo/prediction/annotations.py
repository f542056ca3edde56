"""Writes the objects of predictions for the tools in which people correct them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from unetzoo.config import ModelConfig
from unetzoo.objects import Annotated
from unetzoo.prediction.finished import objects_in
from unetzoo.prediction.ledger import Ledger
from unetzoo.prediction.outputs import Job, Outputs
from unetzoo.prediction.results import Prediction, annotated


def check_shared(outputs: Outputs, config: ModelConfig, ledger: Ledger) -> None:
    """Raise if a file about all images exists and was corrected by hand.

    Raises:
        InputError: a file was corrected.
    """
    for path in [*(path for _, path in outputs.shared().values()), *outputs.beside(config)]:
        ledger.check(path)


def write_of_image(found: Prediction, job: Job, outputs: Outputs, ledger: Ledger) -> int | None:
    """Write the objects of an image in all formats, and return how many there are; None if no format was requested.

    Raises:
        InputError: a file exists and was corrected by hand; then nothing is written.
        WriteError: a file cannot be written.
    """
    if not outputs.formats:
        return None
    places, known = outputs.annotations(job, found.config), outputs.writers()
    for path in (path for paths in places.values() for path in paths.values()):
        ledger.check(path)
    instances = found.instances()
    for kind, paths in places.items():
        for k, path in paths.items():
            one = annotated(found, instances, k, job.image, _from(path.parent, job.source))
            ledger.write(path, known[kind].pieces([one]))
    return len(instances)


def write_of_all(jobs: Sequence[Job], outputs: Outputs, config: ModelConfig, split: float, ledger: Ledger) -> None:
    """Write the files about all images: their objects, read from their masks, with one image in memory at a time.

    Args:
        jobs: all images.
        outputs: what is written, and where.
        config: configuration of the model.
        split: of the predictor, see ``unetzoo.objects.instances``.
        ledger: record of the files that were written.

    Raises:
        InputError: a mask cannot be read.
        WriteError: a file cannot be written.
    """
    if not jobs:
        return
    for path, text in outputs.beside(config).items():
        ledger.write(path, [text.encode()])
    for kind, (_, path) in outputs.shared().items():
        ledger.write(path, outputs.writers()[kind].pieces(_of_masks(jobs, outputs, config, split, ledger, path.parent)))


def _of_masks(
    jobs: Sequence[Job], outputs: Outputs, config: ModelConfig, split: float, ledger: Ledger, folder: Path
) -> Iterator[Annotated]:
    for job in jobs:
        found, _ = objects_in(job, outputs, config, split, ledger)
        yield Annotated(found, config.class_names, job.image, _from(folder, job.source))


def _from(folder: Path, source: Path) -> str:
    """Return the path of an image relative to a folder, with /; the absolute path if they are on different drives."""
    place = Path(os.path.realpath(source.parent)) / source.name
    try:
        return Path(os.path.relpath(place, os.path.realpath(folder))).as_posix()
    except ValueError:
        return place.as_posix()
