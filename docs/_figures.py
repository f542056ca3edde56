"""The images of README and documentation that a trained model makes: ``python docs/_figures.py`` writes them."""

from __future__ import annotations

from pathlib import Path

import unetzoo
from unetzoo import images, sheets
from unetzoo.drawing import draw_nuclei

HERE = Path(__file__).resolve().parent


def nuclei() -> images.Tensor:
    """Return a drawn image beside itself with the objects of ``nuclei`` laid over it, (3, H, W) uint8."""
    image, _ = draw_nuclei(300, 400, seed=4)
    found = unetzoo.Predictor("nuclei")(image).instances()
    return sheets.sheet([[image, images.overlay_objects(image, found.labels)]])


if __name__ == "__main__":
    images.write_png(nuclei(), HERE / "_static" / "nuclei.png")
