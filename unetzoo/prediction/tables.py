"""Tables about all images of a folder, from their finished masks: a row for each object, or for each image."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence

from unetzoo import images, objects
from unetzoo.config import ModelConfig
from unetzoo.objects.counting import Numbers, counts_file, counts_of, numbers_of
from unetzoo.objects.table import Columns, table_file
from unetzoo.objects.writing import object_classes
from unetzoo.prediction.finished import label_images, objects_in
from unetzoo.prediction.inputs import as_image
from unetzoo.prediction.jobs import is_by_rows, microns, opened
from unetzoo.prediction.ledger import Ledger
from unetzoo.prediction.outputs import Job, Outputs
from unetzoo.prediction.table_by_rows import measured_by_rows, tables


def write_tables(jobs: Sequence[Job], outputs: Outputs, config: ModelConfig, split: float, ledger: Ledger) -> None:
    """Write the table of the objects of all images, and that of their counts, including images of earlier runs.

    Args:
        jobs: all images.
        outputs: what is written, and where.
        config: configuration of the model.
        split: of the predictor, see ``unetzoo.objects.instances``.
        ledger: record of the files that were written.

    Raises:
        InputError: a mask or an image cannot be read.
        WriteError: a file cannot be written.
    """
    if outputs.table is None and outputs.counts is None:
        return
    sizes = [microns(job) for job in jobs]
    names = _names(config)
    keep = count = None
    with contextlib.ExitStack() as files:
        if outputs.table is not None:
            keep = files.enter_context(table_file(outputs.table, config.in_channels, microns=any(sizes)))
        if outputs.counts is not None:
            count = files.enter_context(counts_file(outputs.counts, names, microns=any(sizes)))
        for job, mpp in zip(jobs, sizes, strict=True):
            if is_by_rows(job):
                numbers, size, whole = _by_rows(job, outputs, config, split, keep)
            else:
                found, whole = objects_in(job, outputs, config, split, ledger)
                numbers, size = numbers_of(found), (found.labels.shape[-2], found.labels.shape[-1])
                if keep is not None:
                    keep(job.image, _measured(job, found, config, mpp))
            if count is not None:
                count(job.image, counts_of(numbers, names, size, mpp, whole))


def _measured(job: Job, found: objects.Instances, config: ModelConfig, mpp: tuple[float, float] | None) -> Columns:
    seen = as_image(job.source, job.planes)
    image = images.own_channels(seen.image, config.in_channels, seen.alpha)
    return objects.table(found, image, class_names=config.class_names, mpp=mpp)


def _by_rows(
    job: Job, outputs: Outputs, config: ModelConfig, split: float, keep: Callable[[str, Columns], None] | None
) -> tuple[Numbers, tuple[int, int], int]:
    """Write the objects of an image to their table; return their numbers, its size, and how much was measured."""
    kinds = {name: kind for kind, name in _names(config).items()}
    count, area = Counter[int](), Counter[int]()
    mask = outputs.mask(job)
    with opened(job) as source:
        for columns in tables(mask, label_images(job, outputs, config), source, config, split):
            if keep is not None:
                keep(job.image, columns)
            for name, pixels in zip(columns["class"], columns["area"], strict=True):
                count[kinds[name]] += 1
                area[kinds[name]] += int(pixels)
    whole = 0 if outputs.counts is None else measured_by_rows(mask, config)
    return {kind: (count[kind], area[kind]) for kind in count}, (source.height, source.width), whole


def _names(config: ModelConfig) -> dict[int, str]:
    return object_classes(config.pixel_task, config.num_classes, config.class_names)
