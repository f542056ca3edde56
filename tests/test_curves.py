"""The curves of a run: what the picture shows of its epochs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unetzoo.train.curves import top_of, write_curves

FALLING = [1.0 / (k + 1) for k in range(20)]


@pytest.mark.parametrize(
    ("values", "top"),
    [
        ([], None),
        ([5.0, 1.0, 0.5, 900.0], None),  # too few to say what is typical
        (FALLING, None),
        ([0.5] * 20, None),
        # Of twenty values nine tenths lie below a tenth of the way from the 18th to the 19th, 1/3 and 1/2.
        ([*FALLING[1:], 100.0], 0.35 + 5 * (0.35 - 0.05)),
        ([-5.0, *[-4.0] * 18, 900.0], -4.0 + 5 * 1.0),
    ],
)
def test_an_outlier_does_not_set_the_scale(values: list[float], top: float | None) -> None:
    assert top_of(values) == (None if top is None else pytest.approx(top))


def drawn(path: Path, losses: list[float]) -> int:
    """Return over how many rows of the picture the curve of the loss reaches, in matplotlib's first colour."""
    rows = [{"epoch": k, "loss": loss, "best": 3, "dice": 0.5} for k, loss in enumerate(losses, 1)]
    write_curves(rows, path)
    left = np.asarray(Image.open(path).convert("RGB"), int)[60:-60, :495]
    (where,) = np.nonzero((np.abs(left - (31, 119, 180)).max(2) < 40).any(1))
    return int(where.max() - where.min())


def test_a_leap_of_the_loss_leaves_its_curve_readable(tmp_path: Path) -> None:
    smooth = drawn(tmp_path / "a.png", FALLING)
    leap = [*FALLING[:10], 1e4, *FALLING[11:]]
    assert drawn(tmp_path / "b.png", leap) > 0.9 * smooth
    assert drawn(tmp_path / "c.png", [*FALLING[:10], math.nan, *FALLING[11:]]) > 0.9 * smooth
