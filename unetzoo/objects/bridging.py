"""One closed line around an object with holes and several parts, for formats in which an object is one line.

It runs to each hole and back on the same path, along edges of pixels: filled by the even-odd rule or by winding
numbers, it covers exactly the object's pixels.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

Corners = NDArray[np.int64]
Point = tuple[int, int]


def bridged(parts: list[list[Corners]]) -> Corners:
    """Return one line for the polygons of an object, as :func:`unetzoo.objects.polygons` returns them.

    Rings that meet in a corner are joined there. Any other hole is reached by a straight line from its left, inside the
    object; parts that are not connected at all are reached along two sides of a rectangle.

    Returns:
        (corners, 2), x and y; the first corner is not repeated at the end.
    """
    if len(parts) == 1 and len(parts[0]) == 1:
        return parts[0][0]
    rings, bridges = [ring for rings in parts for ring in rings], dict[Point, Point]()
    holes = [k for k, hole in enumerate(hole for rings in parts for hole in range(len(rings))) if hole]
    if holes:
        rings, bridges = _reached(rings, holes)
    return _walked([[(x, y) for x, y in ring.tolist()] for ring in rings], bridges)


def _reached(rings: list[Corners], holes: list[int]) -> tuple[list[Corners], dict[Point, Point]]:
    """Return the rings with an extra corner wherever a path to a hole begins, and the path from each such corner.

    A hole is reached at its upper left corner from the next vertical edge to the left. The ring of that edge extends
    farther to the left than the hole, so that all paths together lead to the outside.
    """
    corners, ends = np.concatenate(rings), np.concatenate([np.roll(ring, -1, 0) for ring in rings])
    owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    (upright,) = np.nonzero(corners[:, 0] == ends[:, 0])
    low, high = (choice(corners[upright, 1], ends[upright, 1]) for choice in (np.minimum, np.maximum))
    # All grid points on vertical edges, in reading order.
    lengths = high - low + 1
    edge = np.repeat(upright, lengths)
    y = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths) + np.repeat(low, lengths)
    width = int(corners[:, 0].max()) + 1
    key = y * width + corners[edge, 0]
    order = np.argsort(key, kind="stable")
    key, edge = key[order], edge[order]
    starts = np.array([rings[k][np.lexsort((rings[k][:, 1], rings[k][:, 0]))[0]] for k in holes])
    found = np.searchsorted(key, starts[:, 1] * width + starts[:, 0], "right") - 1
    while (own := owner[edge[found]] == holes).any():
        found -= own
    at = np.stack([corners[edge[found], 0], starts[:, 1]], 1)
    bridges: dict[Point, Point] = {
        (x, y): (to, y) for (x, y), (to, _) in zip(at.tolist(), starts.tolist(), strict=True)
    }
    new = np.flatnonzero((at != corners[edge[found]]).any(1) & (at != ends[edge[found]]).any(1))
    # Several points on one edge are sorted along it.
    new = new[np.lexsort((np.abs(at[new, 1] - corners[edge[found[new]], 1]), edge[found[new]]))]
    filled = np.insert(corners, edge[found[new]] + 1, at[new], 0)
    owner = np.insert(owner, edge[found[new]] + 1, owner[edge[found[new]]])
    return np.split(filled, np.flatnonzero(np.diff(owner)) + 1), bridges


def _walked(rings: list[list[Point]], bridges: dict[Point, Point]) -> Corners:
    """Return a line that follows each ring once, and continues to others at shared corners and over bridges."""
    at: dict[Point, list[tuple[int, int]]] = defaultdict(list)
    for k, ring in enumerate(rings):
        for i, point in enumerate(ring):
            at[point].append((k, i))
    ways = defaultdict(list, {start: [end] for start, end in bridges.items()})
    for start, end in bridges.items():
        ways[end].append(start)
    found, seen = list[Point](), set[int]()
    for first, ring in enumerate(rings):
        if first in seen:
            continue
        seen.add(first)
        aside = [(found[0][0], ring[0][1])] if found else []
        found += aside
        left = [[*ring, ring[0]][::-1]]  # points still to visit, the next one last
        while left:
            if not left[-1]:
                left.pop()
                continue
            here = left[-1].pop()
            found.append(here)
            for there in (here, *ways.get(here, ())):
                way = [] if there == here else [there]
                for other, i in at[there]:
                    if other not in seen:
                        seen.add(other)
                        around = rings[other][i + 1 :] + rings[other][: i + 1]
                        left.append([*way, *around, *([here] if way else [])][::-1])
        found += [*aside, found[0]] if aside else []
    return np.array(found[:-1], np.int64)
