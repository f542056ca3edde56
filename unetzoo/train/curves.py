"""The curves of a run: losses and scores of its epochs, on scales that a single outlier does not flatten."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

from unetzoo.comparing.plotting import require_plot
from unetzoo.files.writing import write_file

Row = Mapping[str, float | int | None]
LOSSES, SCORES = ("loss", "val_loss"), ("dice", "iou", "object_ap_50")


def top_of(values: Sequence[float]) -> float | None:
    """Return the end of an axis that outliers would flatten; None if all values can be shown.

    Nine tenths of the values, and five times their range above them, are always shown. This includes the first epochs
    of an ordinary run, but not a loss that jumped to a hundred times the others.
    """
    if len(values) < 5:
        return None
    typical = quantiles(values, n=10, method="inclusive")[-1]
    top = typical + 5 * (typical - min(values))
    return top if max(values) > top > typical else None


def write_curves(rows: Sequence[Row], path: Path, monitor: str | None = None) -> None:
    """Draw losses and scores over epochs, as PNG, and mark the best epoch.

    Args:
        rows: of ``metrics.csv``.
        path: of the file.
        monitor: the figure by which the best epoch is kept, drawn with the others; if it is not a score from 0 to 1,
            on its own axes.

    Raises:
        WriteError: it cannot be written.
    """
    panels = {"loss": LOSSES, "validation": SCORES}
    if monitor is not None and monitor not in LOSSES:
        scores = all(0 <= value <= 1 for _, value in _points(rows, monitor))
        panels |= {"validation": tuple(dict.fromkeys((*SCORES, monitor)))} if scores else {"judged by": (monitor,)}
    figure = require_plot(path)(figsize=(4.5 * len(panels), 4), layout="constrained")
    best, by = rows[-1].get("best") if rows else None, f", by {monitor.replace('_', ' ')}" if monitor else ""
    for axes, (title, names) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        _draw(axes, {name: _points(rows, name) for name in names})
        if best is not None:
            axes.axvline(best, color="0.6", lw=1, ls=":", label=f"best epoch, {best}{by}", zorder=0)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        axes.set(xlabel="epoch", title=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(lw=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    write_file(path, file.getvalue())


def _points(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    return [(row["epoch"], value) for row in rows if (value := row.get(name)) is not None and math.isfinite(value)]  # type: ignore[misc]


def _draw(axes: Any, curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Draw curves; points beyond the end of the axis are drawn as arrows there, the highest with its value."""
    values = [value for points in curves.values() for _, value in points]
    top = top_of(values)
    for name, points in curves.items():
        if not points:
            continue
        (line,) = axes.plot(*zip(*points, strict=True), label=name.replace("_", " "), marker=".")
        beyond = [point for point in points if top is not None and point[1] > top]
        for epoch, value in beyond:
            axes.plot(epoch, top, marker="^", color=line.get_color(), clip_on=False)
            if value == max(value for _, value in beyond):
                axes.annotate(f"{value:.3g}", (epoch, top), (6, -4), textcoords="offset points", va="top", fontsize=8)
    if top is not None:
        axes.set_ylim(min(values) - 0.05 * (top - min(values)), top)
