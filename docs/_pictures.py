"""The pictures of README and documentation that a trained model makes: ``python docs/_pictures.py`` writes them."""

from __future__ import annotations

from pathlib import Path

import unetzoo
from unetzoo import images, sheets
from unetzoo.drawing import draw_nuclei

HERE = Path(__file__).resolve().parent


def nuclei() -> tuple[images.Tensor, images.Tensor]:
    """Return a drawn picture beside itself with the mask of ``nuclei`` laid over it, (3, H, W) uint8, and the mask."""
    picture, _ = draw_nuclei(300, 400, seed=4)
    mask = unetzoo.Predictor("nuclei")(picture).mask
    return sheets.sheet([[picture, images.overlay(picture, mask > 0)]]), mask


if __name__ == "__main__":
    images.write_png(nuclei()[0], HERE / "_static" / "nuclei.png")
