"""The size of a pixel, for the resolution tags of a TIFF that is written."""

from __future__ import annotations

from typing import Any


def per_centimetre(mpp: tuple[float, float]) -> tuple[float, float]:
    """Return pixels per centimetre, horizontal and vertical, for µm per pixel, vertical and horizontal."""
    return 10_000 / mpp[1], 10_000 / mpp[0]


def resolution(mpp: tuple[float, float] | None) -> dict[str, Any]:
    """Return Pillow's arguments for the pixel size of a TIFF; empty if the size is unknown."""
    if mpp is None:
        return {}
    across, down = per_centimetre(mpp)
    return {"x_resolution": across, "y_resolution": down, "resolution_unit": "cm"}
