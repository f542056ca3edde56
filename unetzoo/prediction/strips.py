"""The predictions of networks for an image, strip by strip, in the memory of one row of tiles."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unetzoo.devices import Transfer, taken
from unetzoo.images import mirrored
from unetzoo.prediction.inputs import Rows
from unetzoo.prediction.networks import Networks, check_channels, columns
from unetzoo.prediction.tiles import Grid


class Strip(NamedTuple):
    """The predictions of networks for some rows of an image, over its whole width.

    Attributes:
        top: the first of the rows.
        probabilities: (channels, rows, W) float32 on the CPU, see ``ModelConfig.channels``; 0 where all bands are
            missing.
        missing: (rows, W) bool, where all bands are missing; None: nowhere.
    """

    top: int
    probabilities: Tensor
    missing: Tensor | None


def joined(parts: Iterable[Strip], height: int) -> Strip:
    """Join the strips of an image, from its first row to its last; each is copied when it arrives."""
    whole: Tensor | None = None
    missing: Tensor | None = None
    for part in parts:
        classes, rows, width = part.probabilities.shape
        if rows == height and not part.probabilities.is_pinned():
            return part
        whole = part.probabilities.new_empty(classes, height, width) if whole is None else whole
        whole[:, part.top : part.top + rows] = part.probabilities
        if part.missing is not None:
            missing = torch.zeros(height, width, dtype=torch.bool) if missing is None else missing
            missing[part.top : part.top + rows] = part.missing
    assert whole is not None
    return Strip(0, whole, missing)


def strips(
    networks: Networks,
    source: Rows,
    grid: Grid,
    transfer: Transfer,
    *,
    first: int = 0,
    at_once: int = 1,
    tick: Callable[[], object] | None = None,
) -> Iterator[Strip]:
    """Give the probabilities of an image in strips, from top to bottom.

    Args:
        networks: the networks, on the device of ``transfer``.
        source: gives the image by rows.
        grid: tiles of the image.
        transfer: moves data to the device that computes, and back.
        first: the row of tiles to begin with, from 0 to their number; rows above it are left out.
        at_once: number of tiles that the networks see at a time.
        tick: called after each tile, when it is computed or, on an accelerator, queued.

    Raises:
        InputError: the image does not fit the networks, or they overflow on it.
        WeightsError: the networks have weights that are not finite.
    """
    check_channels(source.rows(0, 1), networks.config, source.alpha, networks.names[0])
    for strip, sound in taken(_begun(networks, source, grid, transfer, first, at_once, tick), transfer.ahead):
        networks.check_finite(sound)
        yield strip


def _begun(
    networks: Networks,
    source: Rows,
    grid: Grid,
    transfer: Transfer,
    first: int,
    at_once: int,
    tick: Callable[[], object] | None,
) -> Iterator[Callable[[], tuple[Strip, bool]]]:
    """Start the computation of each strip; give a function that waits for it, and returns whether it is finite."""
    starts, window = grid.down.starts, grid.down.window
    groups = _groups(grid, first, transfer.rows_together(at_once, len(grid.across.starts)))
    if not groups:
        return
    tiles = Tiles(networks, grid, transfer, source)
    height = max(starts[rows[-1]] - starts[rows[0]] for rows in groups) + window
    width = grid.across.starts[-1] + grid.across.window
    total = torch.zeros(networks.config.channels, height, width, device=transfer.device)
    for rows in groups:
        top, last = starts[rows[0]], rows[-1] + 1
        chosen = [(k, n) for k in rows for n in range(len(grid.across.starts)) if _shows(source, grid, k, n)]
        band = None
        if chosen:
            band = _band(source, top - networks.border, starts[rows[-1]] - top + networks.shown(window))
            if source.alpha and band.shape[0] != networks.config.in_channels:
                band = band[:-1]
            band = transfer.up(band)
            tiles.add(total, band, top, chosen, at_once, tick)
        if tick is not None:
            for _ in range(len(rows) * len(grid.across.starts) - len(chosen)):
                tick()
        done = (starts[last] if last < len(starts) else source.height) - top
        skipped = max(0, starts[first] - top)  # rows of an earlier run
        if last > first:
            inside = slice(skipped, done)
            seen = None if band is None else band[:, networks.border :][:, inside]
            tissue = None if source.tissue is None else source.tissue.rows(top + skipped, top + done, source.width)
            yield _strip(networks, transfer, top + skipped, total[:, inside, : source.width], seen, tissue)
        # The next row of tiles begins ``done`` rows lower, where this one has already added its share.
        kept = total[:, done:].clone()
        total.zero_()[:, : kept.shape[1]] = kept


def _groups(grid: Grid, first: int, together: int) -> list[range]:
    """Return the rows of tiles that are computed together; the grouping does not depend on ``first``."""
    down = grid.down
    count = len(down.starts)
    if first == count:
        return []
    # Rows of the tile above reach into the first one.
    k = next(k for k in range(count) if down.starts[k] + down.window > down.starts[first])
    bounds = [k, *range((k // together + 1) * together, count, together), count]
    return [range(a, b) for a, b in itertools.pairwise(bounds)]


def _shows(source: Rows, grid: Grid, k: int, n: int) -> bool:
    """Return whether a tile shows anything that counts."""
    if source.tissue is None:
        return True
    top, left = grid.down.starts[k], grid.across.starts[n]
    return source.tissue.any(top, top + grid.down.window, left, left + grid.across.window)


def _strip(
    networks: Networks, transfer: Transfer, top: int, total: Tensor, band: Tensor | None, tissue: Tensor | None
) -> Callable[[], tuple[Strip, bool]]:
    """Start fetching a strip of the sums, with its missing pixels, found from ``band``, the image's rows there.

    Outside ``tissue`` it is 0: a pixel there may be in some tiles that were computed, and in others that were not.
    """
    found = networks.activated(total) if networks.merge == "logits" else total.clone()
    sound = found.isfinite().all()
    if tissue is not None:
        found.masked_fill_(~tissue.to(found.device), 0)
    gaps = band.isnan().all(dim=0) if band is not None and band.is_floating_point() else None
    if gaps is None:
        fetch = transfer.down(found, sound)
    else:
        fetch = transfer.down(found.masked_fill_(gaps, 0), sound, gaps, gaps.any())

    def fetched() -> tuple[Strip, bool]:
        probabilities, is_sound, *others = fetch()
        missing = others[0] if others and bool(others[1]) else None
        return Strip(top, probabilities, missing), bool(is_sound)

    return fetched


class Tiles:
    """The tiles of an image, with the data that all its rows share kept on the device.

    Args:
        networks: the networks that see the tiles.
        grid: grid of the image.
        transfer: moves data to the device.
        source: the image.
    """

    def __init__(self, networks: Networks, grid: Grid, transfer: Transfer, source: Rows) -> None:
        self.networks, self.grid = networks, grid
        self._levels = networks.levels(source, transfer.device)
        self._weights = [axis.weights.to(transfer.device) for axis in (grid.down, grid.across)]
        side = networks.shown(grid.across.window)
        cuts = [columns(start - networks.border, side, source.width) for start in grid.across.starts]
        self._cuts = [cut if isinstance(cut, slice) else cut.to(transfer.device) for cut in cuts]

    def add(
        self,
        total: Tensor,
        band: Tensor,
        top: int,
        tiles: Sequence[tuple[int, int]],
        at_once: int,
        tick: Callable[[], object] | None = None,
    ) -> None:
        """Add the predictions of tiles for ``band``, the image's rows there, to ``total``, whose first row is ``top``.

        Args:
            total, band, top: see above.
            tiles: row and column of each tile in the grid.
            at_once: number of tiles that the networks see at a time.
            tick: called after each tile.
        """
        for begin in range(0, len(tiles), at_once):
            chosen = tiles[begin : begin + at_once]
            with torch.inference_mode():
                self._add(total, band, chosen, top)
            if tick is not None:
                for _ in chosen:
                    tick()

    def _add(self, total: Tensor, band: Tensor, chosen: Sequence[tuple[int, int]], top: int) -> None:
        networks, down, across = self.networks, self.grid.down, self.grid.across
        side = networks.shown(down.window)
        cuts = [band[:, down.starts[k] - top :][:, :side][..., self._cuts[n]] for k, n in chosen]
        said = networks(torch.stack(cuts), down.window, across.window, self._levels)
        for (k, n), answer in zip(chosen, said, strict=True):
            (its_rows, rows), (its_columns, along) = down.parts(k), across.parts(n)
            weights = self._weights[0][k][its_rows][:, None] * self._weights[1][n][its_columns]
            total[:, rows.start - top : rows.stop - top, along].add_(answer[:, its_rows, its_columns] * weights)


def _band(source: Rows, first: int, count: int) -> Tensor:
    """Return rows of the image, mirrored at its upper and lower edges; NaN where values are missing."""
    wanted = mirrored(first, count, source.height)
    low, high = int(wanted.min()), int(wanted.max()) + 1
    band = source.measured(low, high)
    return band if count == high - low and bool((wanted.diff() == 1).all()) else band[:, wanted - low]
