"""The findings of a check as one self-contained HTML page: no scripts, no other files, no network."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from unetzoo import images, sheets
from unetzoo.data import masks
from unetzoo.data.bars import drawn
from unetzoo.data.examples import Example
from unetzoo.data.histograms import Histogram
from unetzoo.data.labels import IGNORED, Labels
from unetzoo.data.previewing import SIDE, tile
from unetzoo.errors import InputError
from unetzoo.markup import document, escaped, legend, picture, section, shown, table

_LONGEST = 300
"""Characters of a name in a caption."""
_NO_IMAGE = torch.zeros(1, 1, 1)


@dataclass(frozen=True)
class Page:
    """The contents of the page; texts are not trusted.

    Attributes:
        title: of the page.
        said: sentences below the title.
        command: the command or the call that trains on the data; "" for none.
        sections: title → sentences; empty sections are left out.
        tables: each with a header row.
        histograms: to draw.
        examples: images to show.
        labels: what their masks mean.
    """

    title: str
    said: Sequence[str]
    command: str
    sections: Mapping[str, Sequence[str]]
    tables: Sequence[Sequence[Sequence[str]]]
    histograms: Sequence[Histogram]
    examples: Sequence[Example]
    labels: Labels

    def html(self) -> str:
        """Return the page."""
        return document(self.title, self.parts())

    def shown(self) -> str:
        """Return what a notebook shows."""
        return shown(self.title, self.parts())

    def parts(self) -> list[str]:
        """Return what is below the title."""
        parts = [f"<p>{escaped(line)}</p>" for line in self.said]
        parts += [f"<h2>Train with</h2><pre>{escaped(self.command)}</pre>"] if self.command else []
        for title, lines in self.sections.items():
            parts += section(title, lines)
        parts += ["<h2>Figures</h2>", *map(table, self.tables)] if self.tables else []
        if self.histograms:
            parts.append(f'<h2>Histograms</h2><div class="row wide">{"".join(map(drawn, self.histograms))}</div>')
        if self.examples:
            parts += ["<h2>Images</h2>", self._legend()]
            parts.append(f'<div class="row">{"".join(_figure(one, self.labels) for one in self.examples)}</div>')
        return parts

    def _legend(self) -> str:
        """Return the colours of the classes."""
        labels = self.labels
        keys = sheets.class_keys([_NO_IMAGE], labels.pixel_task, labels.num_classes, labels.class_names)
        return legend(keys) if len(keys) > 1 else ""


def _figure(example: Example, labels: Labels) -> str:
    """Return a figure of an image with its mask as an overlay, and a caption."""
    name = example.sample.name
    name = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    said = f"{escaped(name)}<br>{escaped(example.split)}{f': {escaped(example.why)}' if example.why else ''}"
    said += "".join(f'<br><span class="bad">{escaped(problem)}</span>' for problem in example.problems)
    return f"<figure>{_image(example, labels)}<figcaption>{said}</figcaption></figure>"


def _image(example: Example, labels: Labels) -> str:
    """Return the image with its mask; without the mask if that cannot be read, and empty if the image cannot."""
    try:
        raster = images.read(example.sample.files, example.sample.planes)
        opacity = raster.alpha or images.has_dead_alpha(raster.pixels)
        image = images.scaled(images.fitted(raster, raster.pixels.shape[0] - opacity))
    except (InputError, OSError):
        return ""
    size = (image.shape[1], image.shape[2])
    gaps = image.isnan()
    target = torch.zeros((labels.num_classes, *size) if labels.pixel_task == "multilabel" else size, dtype=torch.int64)
    with contextlib.suppress(InputError, OSError):  # the caption says what is wrong
        target = masks.decode(example.sample, labels, size).target
    laid = tile(images.filled(image, None), target.masked_fill(gaps.all(dim=0), IGNORED), labels)
    return picture(laid, min(SIDE, laid.shape[2]))
