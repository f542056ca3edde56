"""Split a list of images so that similar images stay together: ``python look_alikes.py nuclei.csv together.csv``.

Images of one experiment look alike, and a network that was trained on some of them does better on the others than on
images of a new experiment. An image is described by quantiles of its grey values and of their gradients, by its colour
and its size. Two images are in one group if a chain of steps of less than ``--distance`` connects them (single
linkage). Groups are assigned so that, as nearly as possible, a seventh of the images of each kind is in the test split
and another seventh in the validation split. Needs ``pip install 'unetzoo[objects]'``.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from unetzoo import images
from unetzoo.data.splitting import deal


def look_of(path: Path) -> NDArray[np.float64]:
    """Return a description of an image; each part is divided by a difference that is large for it."""
    pixels = images.fit_channels(images.read_image(path), 3).numpy().astype(np.float64)
    grey = pixels.mean(0)
    steepness = np.hypot(*np.gradient(grey))
    return np.r_[
        np.quantile(grey, np.linspace(0.02, 0.98, 13)) / 255,
        np.quantile(steepness, [0.25, 0.5, 0.75, 0.9, 0.97]) / 60,
        (pixels.mean((1, 2)) - grey.mean()) / 60,
        np.log2(grey.shape) / 2,
    ]


def main() -> None:
    """Write the list."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("source", type=Path, help="CSV with image, mask, kind and split")
    parser.add_argument("target", type=Path)
    parser.add_argument("--distance", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with options.source.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    looks = np.stack([look_of(options.source.parent / row["image"]) for row in rows])
    groups = fcluster(linkage(looks, "single", "cityblock"), options.distance, "distance")
    strata: dict[str, dict[str, int]] = defaultdict(dict)
    for group, count in Counter(map(str, groups)).items():
        kinds = Counter(row["kind"] for row, its in zip(rows, groups, strict=True) if str(its) == group)
        strata[kinds.most_common(1)[0][0]][group] = count
    parts = deal(strata, 7, options.seed)
    for row, group in zip(rows, groups, strict=True):
        row["split"] = {1: "train", 6: "val", 7: "test"}.get(parts[str(group)], "train")
        for name in ("image", "mask"):
            row[name] = Path(os.path.relpath(options.source.parent / row[name], options.target.parent)).as_posix()
    with options.target.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for split in ("train", "val", "test"):
        print(split, dict(Counter(row["kind"] for row in rows if row["split"] == split)))
    print(f"{len(set(groups))} groups, of which the largest has {np.bincount(groups).max()} images")


if __name__ == "__main__":
    main()
