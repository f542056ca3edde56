"""Histograms as drawings in SVG, without a library."""

from __future__ import annotations

from unetzoo import images
from unetzoo.data.histograms import Histogram
from unetzoo.markup import escaped

_WIDTH, _HEIGHT, _FOOT, _HEAD = 360, 120, 16, 4
_MOST = 6
"""The most series that are drawn; thirteen bands would hide each other."""


def drawn(histogram: Histogram) -> str:
    """Return an ``<svg>`` of a histogram: each series is a stepped line, scaled to its own highest count."""
    series = list(histogram.counts.items())[:_MOST]
    parts = [_line(counts, images.COLOURS[k]) for k, (_, counts) in enumerate(series)]
    foot = _HEIGHT + _HEAD + _FOOT - 3
    low, high = (f"{histogram.edges[k]:.4g}" for k in (0, -1))
    text = f'<text x="0" y="{foot}">{low}</text><text x="{_WIDTH}" y="{foot}" text-anchor="end">{high}</text>'
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT + _HEAD + _FOOT}" role="img" aria-label="{escaped(histogram.title)}"'
    keys = "".join(
        f'<span><i style="background:{images.COLOURS[k]}"></i>{escaped(name)} ({sum(counts)})</span>'
        for k, (name, counts) in enumerate(series)
    )
    more = len(histogram.counts) - len(series)
    keys += f"<span>and {more} more</span>" if more > 0 else ""
    drawing = f'<svg {box}>{"".join(parts)}{text}</svg><p class="keys">{keys}</p>'
    return f"<figure><figcaption>{escaped(histogram.title)}</figcaption>{drawing}</figure>"


def _line(counts: tuple[int, ...], colour: str) -> str:
    step, highest = _WIDTH / len(counts), max(*counts, 1)
    points = [(0.0, 0.0)]
    for k, count in enumerate(counts):
        points += [(k * step, count / highest), ((k + 1) * step, count / highest)]
    points.append((float(_WIDTH), 0.0))
    path = " ".join(f"{x:.1f},{_HEAD + _HEIGHT * (1 - y):.1f}" for x, y in points)
    return f'<polygon points="{path}" fill="{colour}" fill-opacity="0.18" stroke="{colour}"/>'
