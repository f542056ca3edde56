"""What a check found as one page of HTML that needs nothing else: no script, no other file, no network."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from unetzoo import images
from unetzoo.data import masks
from unetzoo.data.bars import drawn, escaped
from unetzoo.data.examples import Example
from unetzoo.data.histograms import Histogram
from unetzoo.data.labels import IGNORED, Labels
from unetzoo.data.previewing import SIDE, tile
from unetzoo.errors import InputError

_LONGEST = 300
"""Letters of a name in a caption."""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1120px; padding: 0 1rem; color: #222; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } h1, p, li { overflow-wrap: anywhere; }
pre { background: #f3f3f3; padding: 0.7rem; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 0.8rem 0; font-variant-numeric: tabular-nums; }
td, th { text-align: right; padding: 0.2rem 0.7rem; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; width: 256px; font-size: 0.85rem; }
.wide figure { width: 345px; } figcaption { overflow-wrap: anywhere; } svg { width: 100%; }
svg text { font-size: 11px; }
img { max-width: 256px; display: block; } .bad { color: #a40000; }
.keys span { margin-right: 0.9rem; white-space: nowrap; } .keys { margin: 0; }
.keys i { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.3em; border-radius: 2px; }
"""


@dataclass(frozen=True)
class Page:
    """What is on the page; texts may be anybody's.

    Attributes:
        title: of it.
        said: sentences below.
        command: that trains on the data; "" for none.
        sections: title → sentences; those without any are left out.
        tables: each with a line of titles.
        histograms: drawn.
        examples: images that are shown.
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
        parts = [f"<h1>{escaped(self.title)}</h1>", *(f"<p>{escaped(line)}</p>" for line in self.said)]
        parts += [f"<h2>Train with</h2><pre>{escaped(self.command)}</pre>"] if self.command else []
        for title, lines in self.sections.items():
            listed = "".join(f"<li>{escaped(line)}</li>" for line in lines)
            parts += [f"<h2>{title}</h2><ul>{listed}</ul>"] if lines else []
        parts += ["<h2>Figures</h2>", *map(_table, self.tables)] if self.tables else []
        if self.histograms:
            parts.append(f'<h2>Histograms</h2><div class="row wide">{"".join(map(drawn, self.histograms))}</div>')
        if self.examples:
            parts += ["<h2>Images</h2>", self._legend()]
            parts.append(f'<div class="row">{"".join(_figure(one, self.labels) for one in self.examples)}</div>')
        head = (
            f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            f'<meta name="viewport" content="width=device-width"><title>{escaped(self.title)}</title>'
        )
        start = f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>'
        return "\n".join([start, *parts, "</body></html>", ""])

    def _legend(self) -> str:
        """Return the colours of the classes."""
        first = 0 if self.labels.pixel_task == "multilabel" else 1
        names = self.labels.counted[first:]
        if len(names) == 1:
            return ""
        keys = "".join(
            f'<span><i style="background:{images.COLOURS[k % len(images.COLOURS)]}"></i>{escaped(name)}</span> '
            for k, name in enumerate(names)
        )
        return f'<p class="keys">{keys}</p>'


def _table(rows: Sequence[Sequence[str]]) -> str:
    titles, *others = rows
    head = "".join(f"<th>{escaped(cell)}</th>" for cell in titles)
    body = "".join(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>" for row in others)
    return f"<table><tr>{head}</tr>{body}</table>"


def _figure(example: Example, labels: Labels) -> str:
    """Return an image with its mask laid over it, and what is said of it."""
    name = example.sample.name
    name = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    said = f"{escaped(name)}<br>{escaped(example.split)}{f': {escaped(example.why)}' if example.why else ''}"
    said += "".join(f'<br><span class="bad">{escaped(problem)}</span>' for problem in example.problems)
    return f"<figure>{_image(example, labels)}<figcaption>{said}</figcaption></figure>"


def _image(example: Example, labels: Labels) -> str:
    """Return the image; without a mask where that cannot be read, and nothing where the image cannot."""
    try:
        raster = images.read(example.sample.files, example.sample.planes)
        opacity = raster.alpha or images.has_dead_alpha(raster.pixels)
        image = images.scaled(images.fitted(raster, raster.pixels.shape[0] - opacity))
    except (InputError, OSError):
        return ""
    size = (image.shape[1], image.shape[2])
    gaps = image.isnan()
    target = torch.zeros((labels.num_classes, *size) if labels.pixel_task == "multilabel" else size, dtype=torch.int64)
    with contextlib.suppress(InputError, OSError):  # what is wrong is said below the image
        target = masks.decode(example.sample, labels, size).target
    shown = tile(images.filled(image, None), target.masked_fill(gaps.all(dim=0), IGNORED), labels)
    return f'<img alt="" width="{min(SIDE, shown.shape[2])}" src="data:image/jpeg;base64,{_jpeg(shown)}">'


def _jpeg(image: torch.Tensor) -> str:
    """Return (3, H, W) uint8 as JPEG, which is a tenth of a PNG of photographs, in base64."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=90, subsampling=0)
    return base64.b64encode(file.getvalue()).decode("ascii")
