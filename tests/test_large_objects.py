"""Objects that are larger than the crops of a training: how they are found, and what is said of them."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from unetzoo import ConfigError
from unetzoo.checks import DENOMINATOR, ratio, resize_problems
from unetzoo.cli import main, parser
from unetzoo.data import Labels, check, find_samples, labels_of
from unetzoo.data.crops import crop_of, largest_square, parts_of
from unetzoo.data.examining import Wanted, examined

pytestmark = pytest.mark.usefixtures("no_curves")

CROP, HALF = 32, 16
SIZE = (96, 100)
ALL = {"crop_size": CROP, "closely": False}


def square(side: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[3 : 3 + side, 5 : 5 + side] = 1
    return mask


def disc(radius: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    rows, columns = np.ogrid[: size[0], : size[1]]
    return np.uint8((rows - size[0] // 2) ** 2 + (columns - size[1] // 2) ** 2 <= radius**2)


def grid(size: tuple[int, int] = SIZE, every: int = 5) -> np.ndarray:
    """Return lines of two pixels, far more than a square of half a crop has, and nowhere a hole of one."""
    mask = np.zeros(size, np.uint8)
    mask[:: every], mask[1 :: every], mask[:, :: every], mask[:, 1 :: every] = 1, 1, 1, 1  # fmt: skip
    return mask


def write(folder: Path, *masks: np.ndarray, white: int = 255) -> Path:
    """Write training images of noise with these masks, and one that validates."""
    noise = np.random.default_rng(0)
    for k, mask in enumerate([*masks, masks[0]]):
        split = folder / ("train" if k < len(masks) else "val")
        for part, array in (
            ("images", noise.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)),
            ("masks", np.uint8(mask * white)),
        ):
            (split / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(split / part / f"p{k:02}.png")
    return folder


def said(source: Path, labels: Labels | None = None, **how: Any) -> list[str]:
    """Return the warnings of large objects."""
    report = check(source, labels or Labels(), **{**ALL, **how})
    assert not report.problems
    return [one for one in report.warnings if "only part of it" in one]


# Squares


def by_erosion(mask: np.ndarray) -> int:
    """Return the side of the largest square: the last that leaves something of the mask which it erodes."""
    sides = range(1, min(mask.shape) + 1)
    left = (ndimage.minimum_filter(np.uint8(mask), k, mode="constant").any() for k in sides)
    return sum(itertools.takewhile(bool, left))


@pytest.mark.parametrize("seed", range(40))
def test_squares_are_those_of_scipy(seed: int) -> None:
    noise = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(noise.random(noise.integers(1, 40, 2)), noise.choice([0, 0.7, 2, 4]))
    mask = smooth <= np.quantile(smooth, noise.choice([0.3, 0.7, 0.9, 0.99, 1]))
    expected = by_erosion(mask)
    for least in {1, max(1, expected - 1), max(1, expected), expected + 1, 50}:
        assert largest_square(mask, least) == (expected if expected >= least else 0)


def test_squares_of_known_sizes() -> None:
    assert largest_square(square(16) == 1) == 16
    # Of a disc about a pixel: corners 70 away both ways are within 100, as 70² + 70² = 9800, and 71 are not.
    assert largest_square(disc(100, (250, 230)) == 1) == 141
    assert largest_square(grid() == 1) == 2
    assert largest_square(np.ones((7, 30), bool)) == 7
    assert largest_square(np.zeros((7, 30), bool)) == 0


# What is found in images


@pytest.mark.parametrize(
    ("mask", "large"),
    [
        (square(HALF - 1), False),
        (square(HALF), True),
        (disc(11), False),  # its square has 15 a side: 7² + 7² ≤ 11² < 8² + 7²
        (disc(12), True),  # 17: 8² + 8² ≤ 12²
        (grid(), False),
        (np.ones(SIZE, np.uint8), True),
        (np.ones((96, CROP), np.uint8), False),  # of images no larger than a crop
        (np.ones((CROP, 96), np.uint8), False),
        (np.ones((CROP + 1, CROP + 1), np.uint8), True),
        (np.zeros(SIZE, np.uint8), False),
    ],
)
def test_large_is_what_fills_half_a_crop(tmp_path: Path, mask: np.ndarray, large: bool) -> None:
    assert bool(said(write(tmp_path, mask, mask))) == large


def test_of_one_class_alone(tmp_path: Path) -> None:
    two = square(20)
    two[:, 15:] *= 2  # of 20 × 10 pixels each
    labels = Labels(task="multiclass", num_classes=3)
    assert not said(write(tmp_path / "halves", two, white=1), labels)
    assert said(write(tmp_path / "one", 2 * square(20), white=1), labels)
    assert not said(
        write(tmp_path / "ignored", np.where(disc(2), 255, disc(14)), white=1), Labels(ignore=255, foreground="any")
    )


def test_of_overlapping_classes_and_instances(tmp_path: Path) -> None:
    for name, side in (("cell", 20), ("rim", 9)):
        write(tmp_path / name, square(side), square(side))
        for split in ("train", "val"):
            target = tmp_path / "layers" / split / "masks" / name
            shutil.copytree(tmp_path / name / split / "masks", target)
            shutil.copytree(tmp_path / name / split / "images", target.parents[1] / "images", dirs_exist_ok=True)
    assert said(tmp_path / "layers", labels_of(tmp_path / "layers", task="multilabel"))
    halves = square(20)
    halves[:, 15:] *= 2  # two objects that touch
    labels = Labels(task="instances", foreground="any")
    assert said(write(tmp_path / "touching", halves, white=1), labels)
    assert not said(write(tmp_path / "small", square(12) + 2 * np.roll(square(12), 40, 1), white=1), labels)


def test_at_least_half_of_the_images(tmp_path: Path) -> None:
    large, small, empty = square(20), square(5), square(0)
    (found,) = said(write(tmp_path / "half", large, large, small, small, empty, empty, empty))
    assert found.startswith("in 2 of 4 training images with objects, one fills a square of 16 × 16 pixels or more")
    assert not said(write(tmp_path / "fewer", large, large, small, small, small))
    Image.fromarray(255 * large).save(tmp_path / "fewer" / "val" / "masks" / "p05.png")
    assert not said(tmp_path / "fewer")  # those that train alone


# Crops


def test_the_crop_is_that_of_the_training(tmp_path: Path) -> None:
    assert crop_of(None) == crop_of(None, [(300, 400)]) == (256, 256)
    assert crop_of(None, [(300, 90), (80, 300), (70, 70)]) == (80, 80)
    assert crop_of(64, [(10, 10)]) == (64, 64)
    assert crop_of((64, 32)) == (64, 32)
    source = write(tmp_path, *(disc(120, (300, 310)) for _ in range(3)))
    (found,) = said(source, crop_size=None)
    assert "128 × 128 pixels or more: crops of 256 × 256" in found
    (found,) = said(source, crop_size=(64, 200))
    assert "32 × 32 pixels or more: crops of 64 × 200" in found
    assert not said(source, crop_size=300)  # as high as the images
    assert not said(write(tmp_path / "small", *[square(90)] * 3), crop_size=None)


def test_none_of_resized_images(tmp_path: Path) -> None:
    source = write(tmp_path / "a 'b", *[square(40)] * 10)
    assert said(source)
    assert not said(source, resize=0.5)
    with pytest.raises(ConfigError, match="resize=0: "):
        said(source, resize=0)
    report = check(source, Labels(), crop_size=CROP, resize=0.5)
    _, rest = parser().parse_known_args(shlex.split(report.command)[1:])
    assert rest == ["--data.resize", "0.5"]
    call = eval(report.call, {"unetzoo": SimpleNamespace(fit=lambda *_, **given: given)})
    assert call == {"data": str(source), "crop_size": CROP, "settings": {"data.resize": 0.5}}


# The factor


@pytest.mark.parametrize("sides", [(16, 16, 16), (16, 30, 90), (20, 32, 40), (60, 62, 64, 66, 68), (90, 90, 90)])
def test_the_factor_makes_objects_fit(tmp_path: Path, sides: tuple[int, ...]) -> None:
    """Images of that size, by Pillow, are warned of no more."""
    size = (200, 220)
    (found,) = said(write(tmp_path / "a", *(square(side, size) for side in sides)))
    (factor,) = re.findall(r"train with resize=(\S+);", found)
    parts = ratio(float(factor)).denominator
    assert ratio(float(factor)) == Fraction(1, parts)
    small = (round(size[1] / parts), round(size[0] / parts))
    shades = [Image.fromarray(255 * square(side, size)).resize(small, Image.Resampling.BOX) for side in sides]
    resized = [np.uint8(np.asarray(shade) > 127) for shade in shades]
    assert np.median([by_erosion(mask) for mask in resized]) < HALF
    assert not said(write(tmp_path / "b", *resized))
    typical = float(np.median(sides))
    assert typical / parts < HALF <= typical / (parts - 1)


def test_the_factor_is_taken_by_a_training() -> None:
    objects = [(HALF * parts, (10_000, 10_000)) for parts in range(1, 100)]
    found = {parts_of([one], (CROP, CROP)) for one in objects}
    assert found == {*range(2, DENOMINATOR + 1)}
    for parts in found:
        factor = round(1 / parts, 4)
        assert not resize_problems(factor)
        assert ratio(factor) == Fraction(1, parts)


def test_images_become_no_smaller_than_crops_need(tmp_path: Path) -> None:
    (found,) = said(write(tmp_path, *[np.ones((50, 90), np.uint8)] * 3))
    assert "resize=0.5;" in found  # though an object of 50 pixels is three times half a crop


# By commands


def test_commands_say_their_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "data", *[square(40)] * 5)
    assert main(["data", "check", str(source), "--crop-size", str(CROP)]) == 0
    shown = capsys.readouterr().out
    assert "train with --data.resize 0.3333;" in shown
    assert "or train with --folds 5," in shown
    how = [
        "--steps",
        "1",
        "--batch-size",
        "2",
        "--crop-size",
        str(CROP),
        "--data.workers",
        "0",
        "--model.options.base_channels",
        "2",
    ]
    for name, more in (("a", []), ("b", ["--data.resize", "0.3333"])):
        out = tmp_path / name
        assert main(["train", "--model", "unet", "--data", str(source), "--out", str(out), *how, *more]) == 0
        captured = capsys.readouterr()
        assert ("train with --data.resize 0.3333;" in captured.out + captured.err) == (not more)


# Real images


def test_real_small_objects_are_none(shared_data: Path) -> None:
    for name, crop in (("vessels", 64), ("nuclei_16bit", 256), ("nuclei", 256)):
        source = shared_data / name
        found = [one for split in find_samples(source, Labels()).values() for one in split][:150]
        wanted = Wanted(Labels(), len(found), False, False, (crop, crop))
        assert not any(examined(one, "train", 0, wanted).large for one in found), name


def test_real_large_objects_are(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "polyps"
    samples = sorted(find_samples(source, Labels())["train"], key=lambda one: one.name)[:24]
    expected = []
    for sample in samples:
        for part, path in (("images", sample.image), ("masks", sample.mask)):
            assert isinstance(path, Path)
            with Image.open(path) as read:
                shown = read.convert("RGB") if part == "images" else read.convert("L").point(lambda v: 255 * (v > 127))
            for factor in (1, 3):
                size = (factor * shown.width, factor * shown.height)
                for split in ("train", "val")[: 1 + (sample is samples[0])]:
                    (tmp_path / str(factor) / split / part).mkdir(parents=True, exist_ok=True)
                    larger = shown.resize(size, Image.Resampling.NEAREST)
                    larger.save(tmp_path / str(factor) / split / part / f"{path.stem}.png")
        # Pixels that became nine: squares are three times as wide.
        expected.append(3 * by_erosion(np.asarray(shown) > 127))
    large = [side for side in expected if side >= 128]
    assert len(large) >= len(samples) / 2
    assert not said(tmp_path / "1", crop_size=None)
    (found,) = said(tmp_path / "3", crop_size=None)
    assert found.startswith(f"in {len(large)} of {len(samples)} training images")
    assert f"resize={round(1 / min(3, int(np.median(large)) // 128 + 1), 4)};" in found
