"""List the 553 nuclei of the 2018 Data Science Bowl with their kind: ``python list_nuclei.py FOLDER nuclei.csv``.

FOLDER has ``images/`` and ``masks/``. The kind follows from the pixels: coloured images are histology, grey ones
with nuclei brighter than the rest are fluorescence, the other grey ones bright field.
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import torch

from unetzoo import images
from unetzoo.data import Labels, list_samples


def kind_of(image: torch.Tensor, mask: torch.Tensor) -> str:
    """Return the kind of an image, (3, H, W) uint8, whose nuclei are where ``mask``, (H, W), is not 0."""
    if (image.amax(0) - image.amin(0)).float().mean() >= 1:
        return "histology"
    grey, nuclei = image[0], mask > 0
    inside, count = (grey * nuclei).sum(), nuclei.sum()
    outside = (grey.sum() - inside) / (grey.numel() - count)
    return "fluorescence" if inside / count > outside else "bright field"


def main(folder: Path, target: Path) -> None:
    """Write the list: paths relative to its own folder, one row an image."""
    with target.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["image", "mask", "kind"])
        for sample in list_samples(folder, Labels()).samples[""]:
            kind = kind_of(images.fit_channels(images.read_image(sample.image), 3), images.read_image(sample.mask)[0])
            paths = (Path(os.path.relpath(path, target.parent)).as_posix() for path in (sample.image, sample.mask))
            table.writerow([*paths, kind])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
