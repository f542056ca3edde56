"""How well a model segments a slide: its mask is written by rows, and held against the true one by rows."""

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
"""Rows that are held against each other at once, at most."""
BOUNDARY = 2.0
"""Pixels by which a boundary may lie beside the true one."""
SHOWN = 320
"""Pixels of the longer side of what is shown of a slide."""


@dataclass(frozen=True)
class Slides:
    """Which images of a data set are slides, and what is asked of them.

    Attributes:
        asked: arguments of ``unetzoo.Slide``; with "mpp" or "level" among them all images are slides.

    Raises:
        ConfigError: lists what is wrong with them.
    """

    asked: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", {key: value for key, value in self.asked.items() if value is not None})
        Slide("", **self.asked)

    def of(self, sample: Sample) -> Slide | None:
        """Return what is asked of a sample that is a slide; None of others."""
        known = is_slide(sample.image) or bool({"mpp", "level"} & {*self.asked})
        return Slide(sample.image, **self.asked) if known else None

    def check(self, samples: tuple[Sample, ...], labels: Labels, *, objects: bool, holes: bool) -> bool:
        """Raise if a slide cannot be judged, before any is; return whether there are slides.

        Raises:
            ConfigError: objects or a table of them are asked for, or the predictor fills holes.
            InputError: a slide or its mask cannot be read, or they do not fit.
        """
        slides = [(sample, slide) for sample in samples if (slide := self.of(sample)) is not None]
        if slides and objects:
            raise ConfigError(
                "objects of slides are not held against true ones, and are in no table here: leave that out. "
                "'unetzoo predict' writes a table of them; or cut regions out of the slides, and evaluate these"
            )
        if slides and holes:
            raise ConfigError("holes: they are not looked for in slides, which are read by rows; leave it out")
        for sample, slide in slides:
            with contextlib.ExitStack() as keeping:
                rows = keeping.enter_context(SlideRows(slide, sample.planes))
                _truth(sample, labels, rows, keeping)
        return bool(slides)


def judged(
    predictor: Predictor, slide: Slide, sample: Sample, labels: Labels, metrics: SegmentationMetrics
) -> tuple[dict[str, float | None], tuple[Tensor, ...]]:
    """Count the pixels of a slide.

    The mask is written to the system's temporary folder first, as ``Predictor.write_mask`` writes it, and removed.

    Args:
        predictor: segments it.
        slide: what is asked of it.
        sample: of the data set.
        labels: what its mask means.
        metrics: without ``boundary_tolerance``.

    Returns:
        Its scores; and three small tiles: the slide, its true mask, the predicted one.

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
    """Return metrics of a model's classes: where images come by rows without boundaries, which run over them."""
    names = class_names_of(config.class_names, config.task, config.num_classes)
    tolerance = None if by_rows else BOUNDARY
    return SegmentationMetrics(config.pixel_task, config.num_classes, class_names=names, boundary_tolerance=tolerance)


class _Small:
    """Small copies of masks that come by rows: of each pixel the one in its middle."""

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
    """Return the true mask of a slide by rows: what was drawn on level 0, or a level of a TIFF of the same size.

    Raises:
        InputError: it is neither; says which sizes there are.
    """
    drawing = drawing_of(sample)
    if drawing is not None:
        return bands.of_drawing(drawing, labels, (rows.height, rows.width), rows.scale or (1.0, 1.0))
    if not isinstance(sample.mask, Path) or sample.mask.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(
            f"the mask of {sample.name!r}: of a slide it is a .tif of the size that is looked at, or a .geojson of "
            "polygons in pixels of level 0, as QuPath exports them"
        )
    return bands.of_values(sample, labels, _rows_of(sample.mask, rows, keeping))


def _rows_of(mask: Path, rows: SlideRows, keeping: contextlib.ExitStack) -> Callable[[int, int], Tensor]:
    """Return what reads rows of a mask: of the level that has the size of the slide as it is looked at."""
    whole = keeping.enter_context(StoredRows(mask))
    if (whole.height, whole.width) == (rows.height, rows.width):
        return whole.rows
    levels = open_slide(mask, None, keeping)
    for k, level in enumerate(levels.levels):
        if (level.height, level.width) == (rows.height, rows.width):
            return lambda first, last: levels.window(k, first, last, 0, rows.width)
    sizes = ", ".join(f"{level.width}×{level.height}" for level in levels.levels)
    raise InputError(
        f"{str(mask)!r} is {sizes} pixels, and its slide is looked at as {rows.width}×{rows.height}: give the mpp=… or "
        "level=… that the mask was made at, or polygons in pixels of level 0 (.geojson)"
    )
