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


def coloured(path: Path, colour: tuple[int, int, int]) -> int:
    """Return how many pixels are of a colour of matplotlib's."""
    return int((np.abs(np.asarray(Image.open(path).convert("RGB"), int) - colour).max(2) < 40).sum())


def test_what_the_run_is_judged_by_is_drawn(tmp_path: Path) -> None:
    third = (44, 160, 44)
    rows = [
        {"epoch": k, "loss": 1 / k, "best": 3, "dice": 0.5, "iou": 0.4, "recall": 0.6, "minus_area": -k}
        for k in range(1, 4)
    ]
    for monitor in (None, "recall", "minus_area"):
        write_curves(rows, tmp_path / f"{monitor}.png", monitor)
    assert coloured(tmp_path / "None.png", third) == 0
    assert coloured(tmp_path / "recall.png", third) > 50
    # What is no score from 0 to 1 has axes of its own.
    widths = [
        np.asarray(Image.open(tmp_path / f"{monitor}.png").convert("L")).shape[1]
        for monitor in (None, "recall", "minus_area")
    ]
    assert widths[0] == widths[1] < widths[2]


def test_a_leap_of_the_loss_leaves_its_curve_readable(tmp_path: Path) -> None:
    smooth = drawn(tmp_path / "a.png", FALLING)
    leap = [*FALLING[:10], 1e4, *FALLING[11:]]
    assert drawn(tmp_path / "b.png", leap) > 0.9 * smooth
    assert drawn(tmp_path / "c.png", [*FALLING[:10], math.nan, *FALLING[11:]]) > 0.9 * smooth
