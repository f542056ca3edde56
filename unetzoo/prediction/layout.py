"""Cuts an image into tiles of the requested size, or of the largest size that fits into free memory."""

from __future__ import annotations

from functools import cached_property

import torch

from unetzoo.devices import free_memory
from unetzoo.errors import ConfigError
from unetzoo.prediction.networks import Networks
from unetzoo.prediction.reach import memory_of_pixel, reach
from unetzoo.prediction.tiles import Grid, lay_out, rounded_up

LARGEST_TILE = 1024
"""Side of the tiles of ``tile="auto"`` if the whole image does not fit: larger tiles are hardly faster."""
SLIDE_TILE = 512
"""Side of the tiles of ``tile="auto"`` for slides, on every machine: objects at the borders of tiles depend on it."""
SHARE = 0.5
"""Share of the free memory for a network's feature maps: convolutions need working memory as well."""
FALLBACK = 4 * 2**30
"""Bytes assumed to be free if the system does not report it."""


def room(device: torch.device) -> float:
    """Return the bytes that a network's feature maps may take on a device at this moment."""
    free = free_memory(device)
    return SHARE * (FALLBACK if free is None else free)


class Layout:
    """Lays out the tiles of an image, given the predictor's arguments and networks.

    Args:
        networks: the networks that see the tiles.
        tile, overlap, blend, batch_size: see :class:`~unetzoo.prediction.Predictor`.

    Raises:
        ConfigError: these networks have no full overlap, or it is larger than the tiles.
    """

    def __init__(
        self,
        networks: Networks,
        tile: int | str | None,
        overlap: float | int | str,
        blend: str | None,
        batch_size: int | None,
    ) -> None:
        self.tile, self.overlap, self.batch_size = tile, overlap, batch_size
        self.blend = blend or ("crop" if overlap == "full" else "gaussian")
        self._unit, self._members = networks.unit, networks.members
        self._reach = _full_reach(networks) if overlap == "full" else None
        if type(tile) is int:
            self._overlap(tile)  # raises an error before any work is done
        self._scale = max(view.scale for view in networks.views)

    @cached_property
    def _memory(self) -> float:
        """Bytes per pixel that the network with the largest need takes."""
        return max(map(memory_of_pixel, self._members))

    def grid(self, height: int, width: int, device: torch.device, *, of_slide: bool = False) -> Grid:
        """Return the tiles of an image. With ``tile="auto"`` they depend on the free memory, but not those of slides.

        Slides are counted on different machines, and the counts are compared.
        """
        steady = of_slide and self.tile == "auto"
        window = self._of_slides(height, width) if steady else self._window(height, width, device)
        overlap = 0 if window is None else self._overlap(window)
        down, across = (lay_out(side, window, overlap, self._unit, self.blend) for side in (height, width))
        return Grid(down, across)

    def tiles_at_once(self, grid: Grid, device: torch.device) -> int:
        """Return how many tiles of a grid the networks see at a time."""
        if self.batch_size is not None:
            return self.batch_size
        if device.type == "cpu":
            return 1
        pixels = grid.down.window * grid.across.window
        return max(1, min(16, int(room(device) / (self._memory * pixels))))

    def _window(self, height: int, width: int, device: torch.device) -> int | None:
        if self.tile != "auto":
            assert not isinstance(self.tile, str)
            return self.tile
        unit = self._unit
        fitting = room(device) / (self._memory * self._scale**2)
        if rounded_up(height, unit) * rounded_up(width, unit) <= fitting:
            return None
        # With the full overlap, a small tile would be almost only overlap.
        largest = LARGEST_TILE if self._reach is None else max(LARGEST_TILE, 8 * self._reach)
        return max(min(int(fitting**0.5) // unit * unit, largest), 2 * unit)

    def _of_slides(self, height: int, width: int) -> int | None:
        side = SLIDE_TILE if self._reach is None else max(SLIDE_TILE, 8 * self._reach)
        return None if max(height, width) <= side else rounded_up(side, self._unit)

    def _overlap(self, window: int) -> int:
        """Return the overlap in pixels, a multiple of the stride, less than a window."""
        unit = self._unit
        window = rounded_up(window, unit)
        if self._reach is not None:
            pixels = rounded_up(2 * self._reach, unit)
            if pixels >= window:
                raise ConfigError(
                    f"tile={window} with overlap='full': this network looks {self._reach} pixels far, so tiles must "
                    f"have at least {pixels + unit} pixels; {rounded_up(4 * pixels, unit)} are better"
                )
            return pixels
        assert not isinstance(self.overlap, str)
        pixels = self.overlap if type(self.overlap) is int else round(self.overlap * window)
        return min(rounded_up(int(pixels), unit), window - unit)


def _full_reach(networks: Networks) -> int:
    """Return the largest distance, in pixels, that any of the networks looks.

    Raises:
        ConfigError: a network looks at the whole image, or a view is scaled.
    """
    if any(view.scale != 1 for view in networks.views):
        raise ConfigError("overlap='full' is exact with scales=(1,) only: give the overlap as pixels or a share")
    found = [reach(member.config) for member in networks.members]
    if None in found:
        name = networks.members[found.index(None)].config.name
        raise ConfigError(
            f"overlap='full': {name} looks at the whole image (group or instance norm, attention, squeeze-"
            "excitation, or the classification-guided module), so no overlap is enough; give pixels or a share, or "
            "tile=None"
        )
    return max(value for value in found if value is not None)
