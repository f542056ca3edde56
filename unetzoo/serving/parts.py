"""Parts of the page as HTML, with texts for screen readers. Texts in them may come from anybody."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from unetzoo import images
from unetzoo.markup import escaped
from unetzoo.serving.counts import Measured, Row


@dataclass(frozen=True)
class Thumbnail:
    """An image to choose.

    Attributes:
        name: text that may come from anybody.
        source: a data URL; "" while it waits, or if it is refused.
        said: its state, such as "waiting".
        current: whether it is the one that is shown.
    """

    name: str
    source: str
    said: str = ""
    current: bool = False


def embedded(image: Tensor) -> str:
    """Return an image, (3, H, W) uint8, as a data URL of a PNG: no file is needed."""
    return f"data:image/png;base64,{base64.b64encode(images.png_of(image)).decode('ascii')}"


def view(image: Tensor, said: str) -> str:
    """Return the current image, with its description for screen readers."""
    return (
        f'<figure><img src="{embedded(image)}" alt="{escaped(said)}">'
        '<button type="button" class="full">Full screen</button></figure>'
    )


def description(name: str, size: Sequence[int], shown: str, rows: Sequence[Row]) -> str:
    """Return the description of an image for screen readers: what it shows, and the share of each class."""
    counted = [
        f"{row.name} {'' if row.objects is None else f'{row.objects:,} objects, '}{row.share:.1%} of the image"
        for row in rows
    ]
    return f"{name}, {size[1]} × {size[0]} pixels, {shown}: {'; '.join(counted)}"


def strip(thumbnails: Sequence[Thumbnail], title: str) -> str:
    """Return images to choose from as buttons, and those that are not done as text; empty if there are none."""
    if not thumbnails:
        return ""
    items = []
    for k, one in enumerate(thumbnails):
        name = f'<span class="name">{escaped(one.name)}</span>'
        if one.source:
            pressed = f' aria-current="{"true" if one.current else "false"}"'
            inner = f'<img src="{one.source}" alt="">{name}'
            items.append(f'<li><button type="button" data-number="{k}"{pressed}>{inner}</button></li>')
        else:
            items.append(f'<li class="undone">{name}<span class="said">{escaped(one.said)}</span></li>')
    return (
        f'<h2 class="small">{escaped(title)}</h2><ul class="strip" aria-label="{escaped(title)}">{"".join(items)}</ul>'
    )


def legend_html(rows: Sequence[Row]) -> str:
    """Return the legend as a table, with a column of objects if they are counted."""
    counted = any(row.objects is not None for row in rows)
    lines = []
    for row in rows:
        number = "" if row.objects is None else f"{row.objects:,}"
        cells = [*([number] if counted else []), f"{row.pixels:,}", f"{row.share:.1%}"]
        chip = f'<span class="chip" aria-hidden="true" style="background:{_paint(row)}"></span>'
        name = f'<th scope="row">{chip}{escaped(row.name)}</th>'
        lines.append(f"<tr>{name}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = ["class", *(["objects"] if counted else []), "pixels", "share"]
    titles = "".join(f'<th scope="col">{name}</th>' for name in head)
    return (
        f'<table class="legend"><caption>Classes and their colours</caption><thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
        + ('<p class="note">In the image, neighbouring objects have different colours.</p>' if counted else "")
    )


def _paint(row: Row) -> str:
    if not row.palette:
        return row.colour or "transparent"
    step = 360 / len(row.palette)
    return (
        f"conic-gradient({','.join(f'{c} {k * step:g}deg {(k + 1) * step:g}deg' for k, c in enumerate(row.palette))})"
    )


def object_table(found: Sequence[Measured], intensities: Sequence[str], total: int) -> str:
    """Return the objects as a table whose titles are buttons that sort it."""
    if not total:
        return '<p class="note">No objects were found.</p>'
    titles = ["number", "class", "area (pixels)", *intensities]
    head = "".join(f'<th scope="col"><button type="button">{escaped(title)}</button></th>' for title in titles)
    lines = [
        f'<tr><th scope="row">{one.number}</th><td>{escaped(one.name)}</td><td>{one.area}</td>'
        + "".join(f'<td data-value="{value!r}">{value:.1f}</td>' for value in one.intensities)
        + "</tr>"
        for one in found
    ]
    what = f"{total:,} objects" if total > 1 else "1 object"
    if len(found) < total:
        what = f"The {len(found):,} largest of {what}; the CSV file lists all"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table of objects"><table class="objects">'
        f"<caption>{what}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def note(text: str) -> str:
    """Return a line that screen readers announce when it changes."""
    return f'<p class="note" role="status">{escaped(text)}</p>'


def warning(text: str) -> str:
    """Return a highlighted line that screen readers announce when it changes."""
    return f'<p class="warning" role="status">{escaped(text)}</p>'


def refusal(text: str) -> str:
    """Return a line that screen readers announce immediately."""
    return f'<p class="refusal" role="alert">{escaped(text)}</p>'
