"""Evaluates a model on a slide: its mask is written by rows, and compared with the true mask by rows."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unetzoo import sheets
from unetzoo.checks import class_names_of
from unetzoo.config import ModelConfig
from unetzoo.data import bands
from unetzoo.data.drawn import drawing_of
from unetzoo.data.labels import Labels
from unetzoo.data.listing import Sample
from unetzoo.errors import ConfigError, InputError
from unetzoo.metrics import SegmentationMetrics
from unetzoo.prediction import Predictor
from unetzoo.prediction.objects_by_rows import rows_at_once
from unetzoo.prediction.results import of_files
from unetzoo.prediction.slides import SlideRows
from unetzoo.prediction.stored import StoredRows
from unetzoo.slides import Slide, is_slide, open_slide

TOGETHER = 512
"""Largest number of rows that are compared together."""
BOUNDARY = 2.0
"""Tolerance of the boundary F-score in pixels."""
SHOWN = 320
"""Longer side, in pixels, of the small copy of a slide that is shown."""


@dataclass(frozen=True)
class Slides:
    """Which images of a data set are slides, and how they are read.

    Attributes:
        asked: arguments of ``unetzoo.Slide``; with "mpp" or "level" among them all images are slides.

    Raises:
        ConfigError: lists what is wrong with them.
    """

    asked: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", {key: value for key, value in self.asked.items() if value is not None})
        Slide("", **self.asked)

    @property
    def mpp_stored(self) -> float | None:
        """µm per pixel of images whose files do not state it; None if it was not given."""
        given = self.asked.get("mpp_stored")
        return None if given is None else float(given)

    def of(self, sample: Sample) -> Slide | None:
        """Return the slide of a sample; None if it is not a slide."""
        known = is_slide(sample.image) or bool({"mpp", "level"} & {*self.asked})
        return Slide(sample.image, **self.asked) if known else None

    def check(self, samples: tuple[Sample, ...], labels: Labels, *, objects: bool, holes: bool) -> bool:
        """Raise if a slide cannot be evaluated, before any is; return whether there are slides.

        Raises:
            ConfigError: object scores or a table are requested, or the predictor fills holes.
            InputError: a slide or its mask cannot be read, or they do not fit.
        """
        slides = [(sample, slide) for sample in samples if (slide := self.of(sample)) is not None]
        if slides and objects:
            raise ConfigError(
                "objects of slides are not evaluated, nor written to a table, here: leave out objects=… and table=…; "
                "'unetzoo predict' writes a table of them; or cut regions out of the slides, and evaluate these"
            )
        if slides and holes:
            raise ConfigError("holes=…: holes cannot be filled in slides, which are read by rows; leave it out")
        for sample, slide in slides:
            with contextlib.ExitStack() as keeping:
                rows = keeping.enter_context(SlideRows(slide, sample.planes))
                _truth(sample, labels, rows, keeping)
        return bool(slides)


def judged(
    predictor: Predictor, slide: Slide, sample: Sample, labels: Labels, metrics: SegmentationMetrics
) -> tuple[dict[str, float | None], tuple[Tensor, ...]]:
    """Count the pixels of a slide.

    The mask is first written to the system's temporary folder, as ``Predictor.write_mask`` writes it; then it is
    removed.

    Args:
        predictor: segments it.
        slide: the slide, and how to read it.
        sample: its sample in the data set.
        labels: what its mask means.
        metrics: without ``boundary_tolerance``.

    Returns:
        Its scores; and three small tiles: the slide, its true mask, its predicted mask.

    Raises:
        InputError: the slide or its mask cannot be read, or they do not fit.
        WriteError: there is no room for the mask.
    """
    with contextlib.ExitStack() as keeping:
        folder = Path(keeping.enter_context(tempfile.TemporaryDirectory(prefix="unetzoo_")))
        rows = keeping.enter_context(SlideRows(slide, sample.planes))
        truth = _truth(sample, labels, rows, keeping)
        predictor.write_rows(rows, folder / "mask.tif", {})
        found = keeping.enter_context(StoredRows(folder / "mask.tif"))
        small = _Small(rows.height, rows.width)

        def pairs() -> Iterator[tuple[Tensor, Tensor]]:
            step = rows_at_once(rows.width, TOGETHER)
            for first in range(0, rows.height, step):
                last = min(first + step, rows.height)
                predicted = of_files(list(found.rows(first, last)), predictor.config).long()
                target = truth(first, last)
                small.add(first, target, predicted)
                yield predicted[None], target[None]

        (row,) = metrics.update_masks_in_parts(pairs()).rows()
        image = sheets.visible(rows.small(small.height, small.width)).float()
        tiles = sheets.beside(image, *small.masks(), labels.pixel_task, labels.num_classes)
    return row, tuple(tiles)


def metrics_of(config: ModelConfig, by_rows: bool) -> SegmentationMetrics:
    """Return metrics for a model's classes; by rows without the boundary F-score, as boundaries span several rows."""
    names = class_names_of(config.class_names, config.task, config.num_classes)
    tolerance = None if by_rows else BOUNDARY
    return SegmentationMetrics(config.pixel_task, config.num_classes, class_names=names, boundary_tolerance=tolerance)


class _Small:
    """Small copies of masks that are read by rows: each pixel has the value at its middle."""

    def __init__(self, height: int, width: int) -> None:
        down = max(1.0, max(height, width) / SHOWN)
        self.height, self.width = max(1, round(height / down)), max(1, round(width / down))
        self._rows = ((torch.arange(self.height) + 0.5) * height / self.height).long()
        self._columns = ((torch.arange(self.width) + 0.5) * width / self.width).long()
        self._found: list[tuple[Tensor, Tensor]] = []

    def add(self, first: int, target: Tensor, predicted: Tensor) -> None:
        """Take the next rows of both masks, of which ``first`` is the uppermost."""
        chosen = self._rows[(self._rows >= first) & (self._rows < first + target.shape[-2])] - first
        target, predicted = (mask[..., chosen, :][..., self._columns].clone() for mask in (target, predicted))
        self._found.append((target, predicted))

    def masks(self) -> tuple[Tensor, Tensor]:
        """Return the true and the predicted mask."""
        target, predicted = (torch.cat(parts, dim=-2) for parts in zip(*self._found, strict=True))
        return target, predicted


def _truth(sample: Sample, labels: Labels, rows: SlideRows, keeping: contextlib.ExitStack) -> bands.Bands:
    """Return the true mask of a slide by rows: polygons drawn on level 0, or a level of a TIFF with the same size.

    Raises:
        InputError: it is neither; the message lists the sizes in the file.
    """
    drawing = drawing_of(sample)
    if drawing is not None:
        return bands.of_drawing(drawing, labels, (rows.height, rows.width), rows.scale or (1.0, 1.0))
    if not isinstance(sample.mask, Path) or sample.mask.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(
            f"the mask of {sample.name!r}: for a slide, give a .tif of the size at which the slide is read, or a "
            ".geojson of polygons in pixels of level 0, as QuPath exports them"
        )
    return bands.of_values(sample, labels, _rows_of(sample.mask, rows, keeping))


def _rows_of(mask: Path, rows: SlideRows, keeping: contextlib.ExitStack) -> Callable[[int, int], Tensor]:
    """Return a function that reads rows of a mask, from the level with the size at which the slide is read."""
    whole = keeping.enter_context(StoredRows(mask))
    if (whole.height, whole.width) == (rows.height, rows.width):
        return whole.rows
    levels = open_slide(mask, None, keeping)
    for k, level in enumerate(levels.levels):
        if (level.height, level.width) == (rows.height, rows.width):
            return lambda first, last: levels.window(k, first, last, 0, rows.width)
    sizes = ", ".join(f"{level.width}×{level.height}" for level in levels.levels)
    raise InputError(
        f"{str(mask)!r} is {sizes} pixels, and its slide is read at {rows.width}×{rows.height}: give the mpp=… or "
        "level=… at which the mask was made, or polygons in pixels of level 0 (.geojson)"
    )
