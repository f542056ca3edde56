"""What networks say of an image, strip by strip, in the memory of one row of its tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unetzoo.prediction.inputs import Rows
from unetzoo.prediction.networks import Networks, check_channels, cut_out
from unetzoo.prediction.tiles import Grid, mirrored


class Strip(NamedTuple):
    """What networks say of some rows of an image, over its whole width.

    Attributes:
        top: the first of the rows.
        probabilities: (classes, rows, W) float32 on the CPU; 0 where all bands are missing.
        missing: (rows, W) bool, where they are; None where that is nowhere.
    """

    top: int
    probabilities: Tensor
    missing: Tensor | None


def joined(parts: Sequence[Strip]) -> Strip:
    """Return strips that lie one below the other as one."""
    if len(parts) == 1:
        return parts[0]
    missing = None
    if any(part.missing is not None for part in parts):
        none = torch.zeros_like(parts[0].probabilities[0], dtype=torch.bool)
        gaps = [
            none[:1].expand(part.probabilities.shape[1:]) if part.missing is None else part.missing for part in parts
        ]
        missing = torch.cat(gaps)
    return Strip(parts[0].top, torch.cat([part.probabilities for part in parts], dim=1), missing)


def strips(
    networks: Networks,
    source: Rows,
    grid: Grid,
    device: torch.device,
    *,
    first: int = 0,
    at_once: int = 1,
    tick: Callable[[], object] | None = None,
) -> Iterator[Strip]:
    """Give the probabilities of an image in strips, from top to bottom.

    Args:
        networks: on ``device``.
        source: gives the image by rows.
        grid: its tiles.
        device: where they are computed.
        first: the row of tiles to begin with, from 0 to their number; what is above it is not given.
        at_once: tiles that the networks are shown at a time.
        tick: is called after each tile.

    Raises:
        InputError: the image does not fit the networks, or they overflow on it.
        WeightsError: the networks have weights that are not finite.
    """
    check_channels(source.rows(0, 1), networks.config, source.alpha)
    down, across = grid.down, grid.across
    if first == len(down.starts):
        return
    # Rows of the tile above reach into the first one.
    begin = next(k for k in range(len(down.starts)) if down.starts[k] + down.window > down.starts[first])
    total = torch.zeros(networks.config.num_classes, down.window, across.starts[-1] + across.window, device=device)
    for k in range(begin, len(down.starts)):
        top = down.starts[k]
        done = (down.starts[k + 1] if k + 1 < len(down.starts) else source.height) - top
        band = _band(source, top - networks.border, networks.shown(down.window))
        if source.alpha and band.shape[0] != networks.config.in_channels:
            band = band[:-1]
        _add(total, networks, band, grid, k, at_once, tick)
        if k >= first:
            strip = total[:, :done, : source.width]
            strip = (networks.activated(strip) if networks.merge == "logits" else strip).cpu().clone()
            networks.check_finite(strip)
            missing = _missing(band[:, networks.border :][:, :done])
            yield Strip(top, strip if missing is None else strip.masked_fill_(missing, 0), missing)
        # The next row of tiles begins ``done`` rows lower, where this one has counted already.
        kept = total[:, done:].clone()
        total.zero_()[:, : kept.shape[1]] = kept


def _add(
    total: Tensor,
    networks: Networks,
    band: Tensor,
    grid: Grid,
    k: int,
    at_once: int,
    tick: Callable[[], object] | None,
) -> None:
    """Add what row ``k`` of tiles says of ``band``, the image's rows there, to ``total``, which begins with them."""
    down, across = grid.down, grid.across
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
    """Return rows of the image, mirrored at its upper and lower end; NaN where values are missing."""
    wanted = mirrored(first, count, source.height)
    low, high = int(wanted.min()), int(wanted.max()) + 1
    band = source.measured(low, high)
    return band if count == high - low and bool((wanted.diff() == 1).all()) else band[:, wanted - low]


def _missing(band: Tensor) -> Tensor | None:
    """Return where all values of (C, rows, W) are missing; None where they nowhere are."""
    found = band.isnan().all(dim=0) if band.is_floating_point() else None
    return found if found is not None and bool(found.any()) else None
