"""Objects of a plane that is read by rows: the same as in the whole plane, with only unfinished rows in memory.

A component is in one strip, or continues in the next: rows are held in memory until all components in them are closed.
Objects are divided only inside their own component, see :mod:`unetzoo.objects.separating`, so that a closed component
is divided as in the whole plane.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetzoo.objects.components import components, ndimage
from unetzoo.objects.separating import separated

Plane = NDArray[Any]


class NumberedRows:
    """Numbers the objects of a plane of classes, corners included, from its first row to its last.

    Args:
        width: width of the plane.
        split: as ``unetzoo.objects.instances`` takes it.
        limit: largest number of rows held in memory. A taller component is cut after these rows. Without ``split``, its
            pieces get one number in the end, as if it had not been cut. With ``split``, its known part is divided;
            objects at the lower end wait for the rows below, but an object taller than half of ``limit`` is cut, and
            continues in the object with which it shares most of the cut.

    Attributes:
        classes: the class of each number given so far; the first is that of number 1.
    """

    def __init__(self, width: int, split: float, limit: int) -> None:
        self.split, self.limit = split, limit
        self.classes: list[int] = []
        self._firsts: list[int] = []
        self._same: list[int] = [0]  # number → another of the same object, itself where there is none
        self._top = 0  # row of the plane where the held rows begin
        self._plane: Plane = np.zeros((0, width), np.uint8)
        self._edges: NDArray[np.bool_] = np.zeros((0, width), bool)
        self._found: NDArray[np.uint32] = np.zeros((0, width), np.uint32)
        # For each cut that an open component reaches: the row below it, classes and numbers above it.
        self._seams: list[tuple[int, Plane, NDArray[np.int64]]] = []

    def add(self, rows: Plane, last: bool, edges: NDArray[np.bool_] | None = None) -> NDArray[np.uint32]:
        """Take the next rows (n, width) of classes, and return the numbers of the rows that are finished.

        Args:
            rows: whole numbers, 0 for background.
            edges: in the same shape, where the network predicts that objects end. None, for these rows and all others:
                unknown.
            last: whether these are the last rows: then all held rows are returned.
        """
        plane = np.concatenate([self._plane, rows])
        self._found = np.concatenate([self._found, np.zeros(rows.shape, np.uint32)])
        known = None if edges is None else np.concatenate([self._edges, edges])
        numbers, values = components(plane, 2)
        tops = np.array([box[0].start for box in ndimage().find_objects(numbers)], np.int64)
        is_open = np.zeros(len(values) + 1, bool)
        if not last:
            is_open[numbers[-1]] = True
            is_open[0] = False
            is_open[1:] &= len(plane) - tops <= self.limit
        waiting = is_open[numbers] | self._number(plane, known, numbers, values, ~is_open, last)
        self._seams.append((self._top + len(plane), plane[-1] * ~waiting[-1], self._found[-1].astype(np.int64)))
        plane[~waiting] = 0
        # Keep one more row above the open rows: the surroundings of an object affect where it is divided.
        keep = max(int(np.flatnonzero(waiting.any(1))[0]) - 1, 0) if waiting.any() else len(plane) - 1
        keep = len(plane) if last else keep
        through = self._found[:keep]
        self._plane, self._found, self._top = plane[keep:], self._found[keep:], self._top + keep
        self._edges = self._edges if known is None else known[keep:]
        self._seams = [seam for seam in self._seams if seam[0] >= self._top]
        return through

    def order(self) -> NDArray[np.uint32]:
        """Return number first assigned → number in reading order of first pixels; 0 stays 0. All rows must be taken."""
        roots = np.array([self._root(number) for number in range(len(self._same))])
        firsts = np.full(len(roots), np.iinfo(np.int64).max)
        np.minimum.at(firsts, roots[1:], np.array(self._firsts, np.int64))
        kept = np.unique(roots[1:])
        ranks = np.zeros(len(roots), np.uint32)
        ranks[kept[np.argsort(firsts[kept])]] = np.arange(1, len(kept) + 1)
        found: NDArray[np.uint32] = ranks[roots]
        return found

    def _number(
        self,
        plane: Plane,
        edges: NDArray[np.bool_] | None,
        numbers: NDArray[np.int32],
        values: NDArray[np.int64],
        chosen: NDArray[np.bool_],
        last: bool,
    ) -> NDArray[np.bool_]:
        """Number the objects of the chosen components, and return the pixels that must wait."""
        chosen[0] = False
        anew = np.cumsum(chosen, dtype=np.int32) * chosen
        found, kinds = anew[numbers], values[chosen[1:]]
        waits = np.zeros(len(kinds) + 1, bool)
        if self.split and len(kinds):
            found, kinds = separated(found, kinds, self.split, 2, edges)
            waits = np.zeros(len(kinds) + 1, bool)
            if not last:  # objects of a tall component that may continue in the next rows
                tops = np.array([box[0].start for box in ndimage().find_objects(found)], np.int64)
                waits[found[-1]] = True
                waits[0] = False
                waits[1:] &= len(plane) - tops <= self.limit // 2
        waiting = waits[found]
        kept = ~waits
        kept[0] = False
        found, kinds = (np.cumsum(kept, dtype=np.int32) * kept)[found], kinds[kept[1:]]
        before, at = len(self.classes), np.flatnonzero(found)
        first = np.zeros(len(kinds) + 1, np.int64)
        first[found.ravel()[at][::-1]] = at[::-1]
        self.classes += kinds.tolist()
        self._firsts += (first[1:] + self._top * plane.shape[1]).tolist()
        self._same += range(before + 1, before + len(kinds) + 1)
        np.add(found, before, out=self._found, where=found > 0, casting="unsafe")
        for row, kind, above in self._seams:
            self._join(np.where(found > 0, found + before, 0)[row - self._top], plane[row - self._top], kind, above)
        return waiting

    def _join(self, below: Plane, classes: Plane, kinds: Plane, above: Plane) -> None:
        """Join objects below a cut with those above it, given numbers and classes of the rows on both sides."""
        pairs = []
        for step in (-1, 0, 1):
            here = slice(max(step, 0), len(below) + min(step, 0))
            there = slice(max(-step, 0), len(below) + min(-step, 0))
            meets = (below[here] > 0) & (above[there] > 0) & (classes[here] == kinds[there])
            pairs.append(np.stack([below[here][meets], above[there][meets]], 1))
        both, counts = np.unique(np.concatenate(pairs), axis=0, return_counts=True)
        taken = set[tuple[int, int]]()
        for own, other in both[np.argsort(-counts, kind="stable")].tolist():
            if self.split and {(0, own), (1, other)} & taken:
                continue
            taken |= {(0, own), (1, other)}
            self._same[self._root(own)] = self._root(other)

    def _root(self, number: int) -> int:
        while self._same[number] != number:
            self._same[number] = self._same[self._same[number]]
            number = self._same[number]
        return number


class LargeRows:
    """Removes small components from a plane of classes, exactly as ``unetzoo.objects.cleaned`` does, but by rows.

    Rows are held while they contain components that are not known to be large enough: fewer than ``smallest`` rows.

    Args:
        width: width of the plane.
        smallest: the size in pixels from which components are kept, with pixels connected across corners.
    """

    def __init__(self, width: int, smallest: int) -> None:
        self.smallest = smallest
        self._plane: Plane = np.zeros((0, width), np.uint8)
        self._above: Plane = np.zeros(width, np.uint8)  # the row above: its components are large enough

    def add(self, rows: Plane, last: bool) -> Plane:
        """Take the next rows (n, width), and return finished rows without small components.

        Args:
            rows: whole numbers, 0 for background.
            last: whether these are the last rows: then all held rows are returned.
        """
        plane = np.concatenate([self._plane, rows])
        numbers, values = components(plane, 2)
        large = np.bincount(numbers.ravel(), minlength=len(values) + 1) >= self.smallest
        beside = np.pad(self._above, 1)
        for step in (0, 1, 2):
            meets = beside[step : step + plane.shape[1]] == plane[0]
            large[numbers[0][meets]] = True
        is_open = np.zeros(len(large), bool)
        if not last:
            is_open[numbers[-1]] = True
            is_open &= ~large
        is_open[0] = False
        plane[~(large | is_open)[numbers]] = 0
        waiting = is_open[numbers].any(1)
        keep = int(waiting.argmax()) if waiting.any() else len(plane)
        through, self._plane = plane[:keep], plane[keep:]
        if keep:
            self._above = through[-1]
        return through
