"""The effect of each part of the recipe: ``python examples/benchmarks/recipe_parts.py [FOLDER --group REGEX]``.

The same small U-Net is trained with the defaults, and then with one part of the recipe changed at a time, for the same
number of steps, on the same crops: on drawn shapes of five classes, on drawn specks (two small discs among twelve
squares in an image of 320², most crops of which have none), and on the images and masks of a folder, if one is given.
Validation is done once, at the end: the Dice of all pixels of all validation images, averaged over the classes without
the background. Each run prints a line of JSON when it is done. A table of means follows, with half the difference
between the smallest and the largest value. Seconds are CPU time, including validation.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import unetzoo
from unetzoo import drawing, images, losses

SGD = {"model.optimiser": "sgd", "model.lr": 0.01, "model.schedule": "poly", "model.warmup": 0}
HEADS = {"model.options.deep_supervision": True}
OUTLIER = {"model.loss": "cross_entropy + dice + __main__.Outlier(step=60)"}
GEOMETRIC = {**HEADS, "model.head_weights": "geometric"}
WAYS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "0.003": {"model.lr": 0.003},
    "`sgd`, 0.01, `poly`": SGD,
    "crops anywhere": {"data.foreground_crops": 0},
    "not clipped": {"trainer.gradient_clip_val": 0},
    "crops anywhere, not clipped": {"data.foreground_crops": 0, "trainer.gradient_clip_val": 0},
    "augmentation `none`": {"data.augmentation": "none"},
    "augmentation `strong`": {"data.augmentation": "strong"},
    "`one_cycle`": {"model.schedule": "one_cycle"},
    "`one_cycle`, 0.003": {"model.schedule": "one_cycle", "model.lr": 0.003},
    "heads alike": HEADS,
    "heads `geometric`": GEOMETRIC,
    'dice, `per="batch"`': {"model.loss": 'cross_entropy + dice(per="batch")'},
    "dice, `background=False`": {"model.loss": "cross_entropy + dice(background=False)"},
    "`nnunet`": {"model.loss": "nnunet"},
    "an outlier": OUTLIER,
    "an outlier, clipped at 100": {**OUTLIER, "trainer.gradient_clip_val": 100},
    "an outlier, not clipped": {**OUTLIER, "trainer.gradient_clip_val": 0},
    "nnU-Net's: `sgd`, `geometric`, `nnunet`": {**SGD, **GEOMETRIC, "model.loss": "nnunet"},
}
"""Way → settings by their full names."""


class Outlier(nn.Module):
    """Zero, except at one step of the training: there it is a million times the cross-entropy."""

    def __init__(self, task: str, *, step: int) -> None:
        super().__init__()
        self.step, self.seen, self.loss = step, 0, losses.build("cross_entropy", task)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch."""
        self.seen += logits.requires_grad
        return self.loss(logits, target) * (1e6 if logits.requires_grad and self.seen == self.step else 0)


def settings_of(way: str, task: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """Return the settings of a run; None if the task does not have this way."""
    found = {
        "model.options.base_channels": 8,
        "data.workers": 0,
        "data.steps_per_epoch": options.steps,
        "images_every": 9,
    }
    found |= {"trainer.accelerator": "cpu", "model.lr": options.lr, **WAYS[way]}
    if task == "binary" and "background" in found.get("model.loss", ""):
        return None
    return found


def run(way: str, data: Path, seed: int, options: argparse.Namespace, **meaning: Any) -> dict[str, Any] | None:
    """Train, and return the result."""
    settings = settings_of(way, meaning["task"], options)
    if settings is None:
        return None
    start = time.process_time()
    with tempfile.TemporaryDirectory() as out:
        common = {"batch_size": 8, "crop_size": options.crop, "ratios": (0.6, 0.3, 0.1), "quiet": True, **meaning}
        done = unetzoo.fit(
            "unet", data=data, out=Path(out, "run"), steps=options.steps, seed=seed, settings=settings, **common
        )
        row = done.history[-1]
    classes = [value for name, value in row.items() if name.startswith("dice/") and name != "dice/background"]
    seconds = time.process_time() - start
    return {"way": way, "data": data.name, "seed": seed, "dice": mean(classes or [row["dice"]]), "seconds": seconds}


def write_specks(folder: Path, count: int) -> None:
    """Draw images of two discs and twelve squares of the same brightness; the discs are foreground."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:320, :320]
    for k in range(count):
        image, mask = rng.normal(110, 25, (320, 320)), np.zeros((320, 320), np.uint8)
        for _ in range(12):
            (y, x), half = rng.integers(10, 310, 2), rng.integers(4, 9)
            image[y - half : y + half, x - half : x + half] += 60
        for _ in range(2):
            (y, x), radius = rng.integers(12, 308, 2), rng.integers(5, 9)
            disc = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
            image[disc] += 60
            mask[disc] = 255
        images.write_png(torch.from_numpy(image.clip(0, 255).astype(np.uint8)), folder / "images" / f"{k:03}.png")
        images.write_png(torch.from_numpy(mask), folder / "masks" / f"{k:03}.png")


def runs(options: argparse.Namespace, root: Path) -> Iterator[dict[str, Any]]:
    """Yield the result of each run, seed by seed, so that an interrupted program has all ways at least once."""
    sets: list[tuple[Path, dict[str, Any]]] = []
    if "shapes" in options.sets:
        drawing.write_shapes(root / "shapes", 300, size=(96, 96), task="multiclass", seed=0)
        sets.append((root / "shapes", {"task": "multiclass", "class_names": drawing.CLASSES}))
    if "specks" in options.sets:
        write_specks(root / "specks", 60)
        sets.append((root / "specks", {"task": "binary"}))
    if options.folder is not None:
        sets.append((options.folder, {"task": "binary", "group": options.group}))
    for seed in options.seeds:
        for data, meaning in sets:
            for way in options.ways:
                found = run(way, data, seed, options, **meaning)
                if found is not None:
                    print(json.dumps(found), flush=True)
                    yield found


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the table in Markdown."""
    sets = list(dict.fromkeys(one["data"] for one in found))
    lines = [f"| | {' | '.join(sets)} |", f"| --- |{' ---: |' * len(sets)}"]
    for way in dict.fromkeys(one["way"] for one in found):
        cells = [[one["dice"] for one in found if (one["way"], one["data"]) == (way, data)] for data in sets]
        said = [f"{mean(cell):.3f} ± {(max(cell) - min(cell)) / 2:.3f}" if cell else "" for cell in cells]
        lines.append(f"| {way} | {' | '.join(said)} |")
    return "\n".join(lines)


def main() -> None:
    """Train them all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="folder of images and black and white masks")
    parser.add_argument("--sets", nargs="*", choices=("shapes", "specks"), default=["shapes"], help="drawn data sets")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate, unless a way sets another")
    parser.add_argument("--group", help="images stay in one split if this matches the same text in their names")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(table(list(runs(options, Path(folder)))))


if __name__ == "__main__":
    main()
