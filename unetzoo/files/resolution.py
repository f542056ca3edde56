"""How large a pixel is, as the tags of resolution of a TIFF that is written say it."""

from __future__ import annotations

from typing import Any


def per_centimetre(mpp: tuple[float, float]) -> tuple[float, float]:
    """Return pixels a centimetre, across and down, of so many µm a pixel, down and across."""
    return 10_000 / mpp[1], 10_000 / mpp[0]


def resolution(mpp: tuple[float, float] | None) -> dict[str, Any]:
    """Return how Pillow is told the size of a pixel that a TIFF is to have; nothing where it is not known."""
    if mpp is None:
        return {}
    across, down = per_centimetre(mpp)
    return {"x_resolution": across, "y_resolution": down, "resolution_unit": "cm"}
