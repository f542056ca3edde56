"""The images of README and documentation that a trained model makes: ``python docs/_figures.py`` writes them."""

from __future__ import annotations

from pathlib import Path

import unetzoo
from unetzoo import images, sheets
from unetzoo.drawing import draw_nuclei

HERE = Path(__file__).resolve().parent


def nuclei() -> tuple[images.Tensor, images.Tensor]:
    """Return a drawn image beside itself with the mask of ``nuclei`` laid over it, (3, H, W) uint8, and the mask."""
    image, _ = draw_nuclei(300, 400, seed=4)
    mask = unetzoo.Predictor("nuclei")(image).mask
    return sheets.sheet([[image, images.overlay(image, mask > 0)]]), mask


if __name__ == "__main__":
    images.write_png(nuclei()[0], HERE / "_static" / "nuclei.png")
