"""Put a trained run into the package: ``python keep.py NAME RUN DATA`` writes weights, figures, log, curves and card.

NAME.yaml in this folder is the recipe. The figures are measured on DATA: the recipe's data, or a list of the same
images with more kinds.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import card
import torch

import unetzoo
from unetzoo import trained
from unetzoo.data import Labels, list_samples
from unetzoo.evaluation import evaluate

MODELS = {"nuclei": ("nucleus", 20), "vessels": ("vessel", 0)}
"""For each name: its class, and the smallest size of objects in the second figures; 0: objects are not counted."""


def main(name: str, run: Path, data: Path) -> None:
    """Write the model to the package, and its figures to ``docs/``."""
    model = unetzoo.load(run, dtype=torch.float16, class_names=[MODELS[name][0]])
    unetzoo.save(model, trained.weights_of(name))
    shutil.copy(run / "data.json", trained.data_of(name))
    text = json.dumps(measured(name, run, data), indent=1) + "\n"
    (card.DOCS / f"{name}.json").write_text(text, encoding="utf-8")
    shutil.copy(run / "metrics.csv", card.DOCS / "_static" / f"{name}.csv")
    shutil.copy(run / "curves.png", card.DOCS / "_static" / f"{name}_curves.png")
    card.main(name, run)


def measured(name: str, run: Path, data: Path) -> dict:
    """Return the number of images, and the scores of those that were not used for training."""
    smallest = MODELS[name][1]
    listed = list_samples(data, Labels()).samples
    kinds = Counter(one.kind.replace(" ", "_") for samples in listed.values() for one in samples if one.kind)
    splits = json.loads((run / "data.json").read_text(encoding="utf-8"))
    counts = {split: len(splits[split]) for split in ("train", "val", "test")}
    figures = {"images": counts, "kinds": dict(sorted(kinds.items()))}
    for split in ("val", "test"):
        for least in (0, smallest) if smallest else (0,):
            predictor = unetzoo.Predictor(name, smallest=least)
            found = evaluate(predictor, data, split=split, objects=bool(smallest), progress=True)
            figures.setdefault(split, {})[f"from_{least}" if least else "all"] = found.to_dict()
            print(f"{split}, objects of {least} pixels and more", found, sep="\n")
    return figures


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
