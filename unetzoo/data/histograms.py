"""Distributions of values, as counts in bins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 32


@dataclass(frozen=True)
class Histogram:
    """Counts of values.

    Attributes:
        title: what the values are.
        edges: of the bins, one more than there are counts; a value on an edge is in the bin above, except the last.
        counts: by series, such as a split or a channel: one count per bin.
    """

    title: str
    edges: tuple[float, ...]
    counts: dict[str, tuple[int, ...]]


def histogram(
    title: str, series: Mapping[str, ArrayLike], *, whole: bool = False, log: bool = False
) -> Histogram | None:
    """Return the histogram of several series of numbers, with the same bins for all; None where there are none.

    Args:
        title: what the values are.
        series: by name.
        whole: the numbers are whole, and edges are whole numbers minus a half.
        log: bins grow by a constant factor; the numbers are above 0.
    """
    values = {name: np.asarray(found, np.float64).ravel() for name, found in series.items()}
    values = {name: found[np.isfinite(found)] for name, found in values.items()}
    values = {name: found for name, found in values.items() if len(found)}
    if not values:
        return None
    low, high = min(found.min() for found in values.values()), max(found.max() for found in values.values())
    edges = _edges(float(low), float(high), whole=whole, log=log)
    counts = {name: tuple(np.histogram(found, edges)[0].tolist()) for name, found in values.items()}
    return Histogram(title, tuple(edges.tolist()), counts)


def _edges(low: float, high: float, *, whole: bool, log: bool) -> NDArray[np.float64]:
    if log:
        edges = np.geomspace(low, max(high, low * 1.01), BINS + 1)
        edges[0], edges[-1] = low, max(high, low * 1.01)  # rounding may miss them
        return edges
    if whole:
        step = max(1, int(np.ceil((high - low + 1) / BINS)))
        return np.arange(low, high + step + 1, step) - 0.5
    return np.linspace(low, high if high > low else low + 1, BINS + 1)
