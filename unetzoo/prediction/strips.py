"""What networks say of an image, strip by strip, in the memory of one row of its tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from unetzoo.errors import InputError
from unetzoo.prediction.inputs import Rows
from unetzoo.prediction.networks import Networks, check_channels, cut_out
from unetzoo.prediction.tiles import Grid, mirrored


def strips(
    networks: Networks,
    source: Rows,
    grid: Grid,
    device: torch.device,
    *,
    first: int = 0,
    at_once: int = 1,
    tick: Callable[[], object] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Give the probabilities of an image in strips, from top to bottom.

    Args:
        networks: on ``device``.
        source: gives the image by rows.
        grid: its tiles.
        device: where they are computed.
        first: the row of tiles to begin with, from 0 to their number; what is above it is not given.
        at_once: tiles that the networks are shown at a time.
        tick: is called after each tile.

    Yields:
        The first row of the strip, and (classes, rows, W) float32 on the CPU.

    Raises:
        InputError: the image does not fit the networks, or has values that are not finite.
    """
    check_channels(source.rows(0, 1), networks.config, source.alpha)
    down, across = grid.down, grid.across
    if first == len(down.starts):
        return
    # Rows of the tile above reach into the first one.
    begin = next(k for k in range(len(down.starts)) if down.starts[k] + down.window > down.starts[first])
    total = torch.zeros(networks.config.num_classes, down.window, across.starts[-1] + across.window, device=device)
    for k in range(begin, len(down.starts)):
        _add(total, networks, source, grid, k, at_once, tick)
        top = down.starts[k]
        done = (down.starts[k + 1] if k + 1 < len(down.starts) else source.height) - top
        if k >= first:
            strip = total[:, :done, : source.width]
            yield top, (networks.activated(strip) if networks.merge == "logits" else strip).cpu().clone()
        # The next row of tiles begins ``done`` rows lower, where this one has counted already.
        kept = total[:, done:].clone()
        total.zero_()[:, : kept.shape[1]] = kept


def _add(
    total: Tensor,
    networks: Networks,
    source: Rows,
    grid: Grid,
    k: int,
    at_once: int,
    tick: Callable[[], object] | None,
) -> None:
    """Add what row ``k`` of tiles says to ``total``, whose first row is the tiles' first."""
    down, across = grid.down, grid.across
    band = _band(source, down.starts[k] - networks.border, networks.shown(down.window))
    if source.alpha and band.shape[0] != networks.config.in_channels:
        band = band[:-1]
    rows, _ = down.parts(k)
    weight = down.weights[k][rows].to(total.device)[:, None]
    for begin in range(0, len(across.starts), at_once):
        chosen = range(begin, min(begin + at_once, len(across.starts)))
        cuts = [cut_out(band, across.starts[n] - networks.border, networks.shown(across.window)) for n in chosen]
        with torch.inference_mode():
            said = networks(torch.stack(cuts).to(total.device), down.window, across.window)
            for n, answer in zip(chosen, said, strict=True):
                columns, place = across.parts(n)
                weights = weight * across.weights[n][columns].to(total.device)
                total[:, rows, place].add_(answer[:, rows, columns] * weights)
                if tick is not None:
                    tick()


def _band(source: Rows, first: int, count: int) -> Tensor:
    """Return rows of the image, mirrored at its upper and lower end."""
    wanted = mirrored(first, count, source.height)
    low, high = int(wanted.min()), int(wanted.max()) + 1
    band = source.rows(low, high)
    if band.is_floating_point() and not bool(band.isfinite().all()):
        raise InputError(f"{source.name or 'the image'} has values that are not finite (nan or inf): fill them first")
    return band if count == high - low and bool((wanted.diff() == 1).all()) else band[:, wanted - low]
