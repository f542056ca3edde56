"""The default recipe compared with others, under one budget: ``python recipes.py --data ROOT --out results.json``.

Three ways, on the same files, the same core and for the same minutes of training:

- ``unetzoo``: ``unetzoo train --model resunet18 --data … --minutes 20``, all else default, then ``unetzoo predict``;
- ``nnunet``: nnU-Net v2, 2D, one fold, with its epochs shortened to the budget (``pip install nnunetv2``);
- ``smp``: segmentation_models_pytorch under Lightning (``pip install segmentation-models-pytorch pytorch-lightning``).

``recipe_rivals.py`` describes the setup of the last two. All train from scratch, without pretrained weights. Each
chooses its own validation images. The budget does not include prediction and nnU-Net's planning.

ROOT has ``nuclei/``, ``vessels/`` and ``polyps/``, each with ``images/`` and ``masks/``. Nuclei and vessels are split
like the data of the package's models (387, 84 and 82 images; 12, 4 and 4, by child), polyps by their names. ``shapes``
are drawn: five classes, with rings in one image of twelve, boxes in one of four, and thin lines. All are written once
as PNGs, next to the results, and every way reads these.

``unetzoo.metrics`` computes the scores of all ways, from the predicted masks of the test images at their own sizes: the
Dice of all pixels together, and its mean over images, in which a class only counts if it is in the truth or in the
prediction; both averaged over the classes without the background. Each result is written to the file when it is
available; existing results are not computed again. The table at the end has means over the seeds, and half the
difference between the smallest and the largest value.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

import unetzoo
from unetzoo import drawing, trained
from unetzoo.data import Labels, find_samples
from unetzoo.files.identity import fingerprint
from unetzoo.files.writing import write_file
from unetzoo.metrics import SegmentationMetrics

MODEL = "resunet18"
SPLITS = ("train", "val", "test")
SETS = ("nuclei", "vessels", "polyps", "shapes")
WAYS = {
    "unetzoo": {"pytorch_lightning": "unetzoo[train]"},
    "nnunet": {"nnunetv2": "nnunetv2"},
    "smp": {"segmentation_models_pytorch": "segmentation-models-pytorch", "pytorch_lightning": "pytorch-lightning"},
}
"""Way → module that it needs → what pip installs it by."""
DRAWN = {"train": 400, "val": 60, "test": 120}
RARE = {"ring": 12, "box": 4}
"""Class → n, if one of n images has it."""
Split = dict[str, list[tuple[Path, Path]]]
"""Split → images and masks."""


# --- Data --------------------------------------------------------------------------------------------------------


def split_of(name: str, root: Path) -> Split:
    """Return the images and masks of a real data set, by split."""
    folder = root / name
    if name == "polyps":
        parts = find_samples(folder, Labels(task="binary"))
        return {part: [(sample.image, Path(sample.mask)) for sample in samples] for part, samples in parts.items()}
    record = json.loads(trained.data_of(name).read_text(encoding="utf-8"))
    place = {image: part for part in SPLITS for image, _ in record[part].values()}
    found: Split = {part: [] for part in SPLITS}
    for image in sorted((folder / "images").iterdir()):
        found[place[fingerprint(image)]].append((image, folder / "masks" / f"{image.stem}.png"))
    return found


def prepare(name: str, root: Path, target: Path) -> None:
    """Write a data set as PNGs of RGB and of class indices, with a folder for each split, unless it exists."""
    if target.exists():
        return
    unfinished = target.with_name(f"{name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    if name == "shapes":
        draw(unfinished)
    else:
        for part, pairs in split_of(name, root).items():
            for image, mask in pairs:
                classes = np.asarray(Image.open(mask).convert("L")) > 127
                save(unfinished / part, image.stem, np.asarray(Image.open(image).convert("RGB")), classes)
    unfinished.rename(target)


def draw(target: Path, counts: Mapping[str, int] = DRAWN, side: int = 192) -> None:
    """Draw shapes, and leave out images that would make a rare class frequent."""
    seed = 0
    for part, count in counts.items():
        for index in range(count):
            wanted = {drawing.CLASSES.index(name): index % every == 0 for name, every in RARE.items()}
            while True:
                image, mask = drawing.draw_shapes(side, side, seed=seed)
                seed += 1
                if all(bool((mask == kind).any()) == there for kind, there in wanted.items()):
                    break
            save(target / part, f"{part}{index:04d}", image.permute(1, 2, 0).numpy(), mask.numpy())


def save(folder: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    """Write an image, (H, W, 3) uint8, and its mask, (H, W)."""
    for kind, pixels in (("images", image), ("masks", mask.astype(np.uint8))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / f"{name}.png")


# --- Training ----------------------------------------------------------------------------------------------------


def train(way: str, data: Path, out: Path, minutes: float, seed: int) -> dict[str, Any]:
    """Train and predict in separate processes; the masks are then in ``out/masks``."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    if way == "unetzoo":
        return train_unetzoo(data, out, minutes, seed)
    command = [Path(__file__).with_name("recipe_rivals.py"), way, data, out, "--minutes", minutes, "--seed", seed]
    execute(command)
    done: dict[str, Any] = json.loads((out / "done.json").read_text())
    return done


def train_unetzoo(data: Path, out: Path, minutes: float, seed: int) -> dict[str, Any]:
    """Train by the command line, as a user would; with more than two classes, the flags say what the masks mean."""
    classes = len(drawing.CLASSES) if data.name == "shapes" else 2
    meaning = ["--task", "multiclass", "--num-classes", classes] if classes > 2 else []
    run, start = out / "run", time.monotonic()
    common = ["--data", data, "--out", run, "--minutes", minutes, "--seed", seed]
    execute(["-m", "unetzoo", "train", "--model", MODEL, *common, *meaning])
    seconds = time.monotonic() - start
    best = run / "best.safetensors"
    execute(["-m", "unetzoo", "predict", best, data / "test" / "images", "--out", out / "masks"])
    setup, rows = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"], unetzoo.Run(run).history
    found = {"steps": rows[-1]["step"], "seconds": seconds, "classes": classes, "epochs": len(rows)}
    found |= {"crop": [crop_of(data)] * 2, "batch": setup["batch_size"], "best_epoch": unetzoo.Run(run).best_epoch}
    return found | {"parameters": sum(parameter.numel() for parameter in unetzoo.load(best).parameters())}


def crop_of(data: Path) -> int:
    """Return the default side of the training crops: 256, or that of the smallest image."""
    return min(256, *(side for path in (data / "train" / "images").iterdir() for side in Image.open(path).size))


def execute(arguments: Iterable[object]) -> None:
    """Run Python on one thread."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    subprocess.run([sys.executable, *map(str, arguments)], env={**os.environ, **one}, check=True)


# --- Scores ------------------------------------------------------------------------------------------------------


def scores(predicted: Path, true: Path, classes: int) -> dict[str, Any]:
    """Return the scores of a folder of masks, class indices or, of two classes, black and white."""
    task = "binary" if classes == 2 else "multiclass"
    metrics = SegmentationMetrics(task, 1 if classes == 2 else classes, boundary_tolerance=None)
    paths = sorted(true.glob("*.png"))
    for path in paths:
        found, truth = (np.asarray(Image.open(folder / path.name)) for folder in (predicted, true))
        found = found > 0 if classes == 2 else found
        metrics.update_masks(*(torch.from_numpy(mask.astype(np.int64))[None] for mask in (found, truth)))
    dice = metrics.compute().dice
    first = 0 if classes == 2 else 1  # without the background
    pooled, per_image = dice.pooled[first:], dice.per_image[first:]
    found = {"dice": float(pooled.nanmean()), "dice_per_image": float(per_image.nanmean())}
    return {**found, "dice_each": pooled.tolist(), "test_images": len(paths)}


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as a table in Markdown: a row for each data set and way, with means over the seeds."""
    lines = ["| data | way | Dice | mean of images | steps | minutes | seeds |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for name, way in dict.fromkeys((one["set"], one["way"]) for one in results):
        rows = [one for one in results if (one["set"], one["way"]) == (name, way)]
        dice, per_image = (spread([one[figure] for one in rows]) for figure in ("dice", "dice_per_image"))
        steps, minutes = mean(one["steps"] for one in rows), mean(one["seconds"] for one in rows) / 60
        lines.append(f"| {name} | {way} | {dice} | {per_image} | {steps:,.0f} | {minutes:.1f} | {len(rows)} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Return the mean, and half the difference between the smallest and the largest value if there are several."""
    half = f" ± {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{half}"


# --- All of it ---------------------------------------------------------------------------------------------------


def missing(ways: Iterable[str]) -> list[str]:
    """Return the packages that must be installed for these ways."""
    return sorted({package for way in ways for module, package in WAYS[way].items() if find_spec(module) is None})


def run_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Do the runs that are missing in the file, one after another, seed by seed; return all results."""
    results: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.exists() else []
    folder = options.out.with_suffix("")
    for seed, name, way in product(options.seeds, options.sets, options.ways):
        key = {"set": name, "way": way, "seed": seed, "minutes": options.minutes}
        if any(key.items() <= one.items() for one in results):
            continue
        data, out = folder / "data" / name, folder / f"{name}-{way}-{seed}-{options.minutes:g}"
        prepare(name, options.data, data)
        try:
            done = train(way, data, out, options.minutes, seed)
        except subprocess.CalledProcessError as error:
            print(f"{out.name} failed, status {error.returncode}; the next call tries again", flush=True)
            continue
        found = scores(out / "masks", data / "test" / "masks", done["classes"])
        results.append({**key, **done, **found, "versions": versions(way)})
        write_file(options.out, json.dumps(results, indent=1))
        print(json.dumps(results[-1]), flush=True)
    return results


def versions(way: str) -> dict[str, str]:
    """Return the versions of the packages that a way uses."""
    packages = {*WAYS[way].values(), "torch"} - {"unetzoo[train]"}
    return {"unetzoo": unetzoo.__version__, **{package: version(package) for package in sorted(packages)}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of nuclei/, vessels/ and polyps/")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--minutes", type=float, default=20, help="minutes of each training")
    parser.add_argument("--out", type=Path, default=Path("results.json"))
    options = parser.parse_args(arguments)
    if needed := missing(options.ways):
        parser.error(f"{', '.join(options.ways)}: not all of it is installed: pip install {' '.join(needed)}")
    if hasattr(os, "sched_setaffinity"):
        # Other processes that a way starts, such as those that read images, share this core.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(table(run_all(options)))


if __name__ == "__main__":
    main()
