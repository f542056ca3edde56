"""The objects of an image from its finished files, which somebody may have corrected by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from unetzoo import images, objects
from unetzoo.config import ModelConfig
from unetzoo.errors import InputError
from unetzoo.objects.components import redrawn
from unetzoo.prediction.jobs import is_by_rows, opened
from unetzoo.prediction.ledger import Ledger
from unetzoo.prediction.outputs import Job, Outputs, mask_paths
from unetzoo.prediction.results import measured, of_files, unknown_values
from unetzoo.prediction.stored import StoredRows
from unetzoo.printing import printable


def label_images(job: Job, outputs: Outputs, config: ModelConfig) -> list[Path]:
    """Return the label images that tell the objects of an image apart; none if its mask alone does."""
    return [*outputs.annotations(job, config)["labels"].values()] if config.task == "instances" else []


def objects_in(
    job: Job, outputs: Outputs, config: ModelConfig, split: float, ledger: Ledger
) -> tuple[objects.Instances, int]:
    """Return the objects of an image that fits in memory, and the number of pixels at which something was measured.

    They are those of its mask. For ``task="instances"``, they are those of its label images: exactly, if these were
    corrected; if the mask was corrected instead, inside it, see ``unetzoo.objects.components.redrawn``.

    Args:
        job: the image.
        outputs: what is written, and where.
        config: configuration of the model.
        split: of the predictor, see ``unetzoo.objects.instances``.
        ledger: record of the files that were written.

    Raises:
        InputError: a file cannot be read.
    """
    layers = [images.read_values(path)[0] for path in mask_paths(outputs.mask(job), config)]
    mask, ids = of_files(layers, config), None
    labels = label_images(job, outputs, config)
    if labels:  # a mask does not show which objects there are
        ids = torch.stack([images.read_values(path)[0].long() for path in labels])
        planes = mask.reshape(ids.shape)
        if any(map(ledger.is_changed, labels)):
            mask = (ids != 0).byte().reshape(mask.shape)
        elif not torch.equal(planes != 0, ids != 0):
            ids = torch.stack(
                [torch.from_numpy(redrawn(*pair)) for pair in zip(ids.numpy(), planes.numpy(), strict=True)]
            )
    found = objects.instances(mask, config.pixel_task, config.num_classes, split=split, ids=ids)
    return found, measured(layers[0], config)


def check_corrected(job: Job, outputs: Outputs, config: ModelConfig, paths: Sequence[Path]) -> None:
    """Raise if files that were corrected cannot be measured.

    Args:
        job, outputs, config: see :func:`objects_in`.
        paths: the masks or label images that were corrected.

    Raises:
        InputError: the message says what is wrong with a file.
    """
    labels = label_images(job, outputs, config)
    by_rows = is_by_rows(job)
    size = _size_of(job)
    for path in paths:
        if by_rows:
            if path not in labels and labels:
                raise InputError(
                    f"{printable(path)} was corrected, but the objects of an image that is written by rows are those "
                    f"of {printable(labels[0])}: correct that file instead, and move this one away"
                )
            with StoredRows(path) as rows:
                now = rows.height, rows.width
        else:
            values = images.read_values(path)
            now = int(values.shape[1]), int(values.shape[2])
            _check_values(path, values, None if path in labels else config)
        if now != size:
            raise InputError(
                f"{printable(path)} was corrected, and is {now[1]}×{now[0]} pixels: its image has {size[1]}×{size[0]}"
            )


def _size_of(job: Job) -> tuple[int, int]:
    if not is_by_rows(job):
        return images.image_size(job.source)
    with opened(job) as rows:
        return rows.height, rows.width


def _check_values(path: Path, values: Tensor, config: ModelConfig | None) -> None:
    """Raise if a file has colours, or values that mean nothing in a mask; ``config`` is None for label images."""
    if len(values) > 1 and not all(torch.equal(values[0], channel) for channel in values[1:3]):
        raise InputError(f"{printable(path)} was corrected, and saved in colour: save it with one channel, in grey")
    strange = [] if config is None else unknown_values(values[0], config)
    if strange:
        allowed = "class indices" if config is not None and config.pixel_task == "multiclass" else "0 and 255"
        raise InputError(
            f"{printable(path)} was corrected, and has values such as {strange[0]}: {allowed} are possible; draw "
            "without soft edges, and save it without changing its values"
        )
