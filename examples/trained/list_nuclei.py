"""List the 553 images of the 2018 Data Science Bowl with kind and split: ``python list_nuclei.py FOLDER nuclei.csv``.

FOLDER has ``images/``, and ``instances/`` with their label images. The kind follows from the pixels: coloured images
are histology, grey ones with nuclei brighter than the rest are fluorescence, the other grey ones bright field. The
split is that in the package's record of the model, by the bytes of the images, so that no version of the model is
trained on the test images of another. ``nuclei_training.csv`` in the same folder is the same list, but with the few
images of histology and bright field as one kind, "stained", as training draws equally many crops of each kind.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import torch

from unetzoo import images, trained
from unetzoo.files.identity import fingerprint


def kind_of(image: torch.Tensor, mask: torch.Tensor) -> str:
    """Return the kind of an image, (3, H, W) uint8, whose nuclei are where ``mask``, (H, W), is not 0."""
    if (image.amax(0) - image.amin(0)).float().mean() >= 1:
        return "histology"
    grey, nuclei = image[0], mask > 0
    inside, count = (grey * nuclei).sum(), nuclei.sum()
    outside = (grey.sum() - inside) / (grey.numel() - count)
    return "fluorescence" if inside / count > outside else "bright field"


def main(folder: Path, target: Path) -> None:
    """Write the lists: one row for each image, with paths relative to the folder of the list."""
    record = json.loads(trained.data_of("nuclei").read_text(encoding="utf-8"))
    split = {image: part for part in ("train", "val", "test") for image, _ in record[part].values()}
    rows = []
    for image in sorted((folder / "images").glob("*.png")):
        ids = folder / "instances" / image.name
        kind = kind_of(images.fit_channels(images.read_image(image), 3), images.read_values(ids)[0].long())
        paths = (Path(os.path.relpath(path, target.parent)).as_posix() for path in (image, ids))
        rows.append([*paths, kind, split[fingerprint(image)]])
    write(target, rows)
    merged = [[*paths, kind if kind == "fluorescence" else "stained", part] for *paths, kind, part in rows]
    write(target.with_name(f"{target.stem}_training.csv"), merged)


def write(target: Path, rows: list[list[str]]) -> None:
    """Write a list with its header."""
    with target.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([["image", "mask", "kind", "split"], *rows])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
