"""Put a trained run into the package: ``python keep.py RUN`` writes its weights, figures, card, log and curves."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import torch

import unetzoo
from unetzoo import trained
from unetzoo.data import Labels, find_samples
from unetzoo.evaluation import evaluate, settings_of_run

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"


def main(run: Path) -> None:
    """Write the model to the package, and what is told of it to ``docs/``."""
    model = unetzoo.load(run, dtype=torch.float16, class_names=["nucleus"])
    path = trained.weights_of("nuclei")
    unetzoo.save(model, path)
    settings, source = settings_of_run(run), "nuclei.csv"
    splits = find_samples(source, Labels(), ratios=settings["ratios"], seed=settings["seed"])
    figures: dict = {"pictures": {split: len(found) for split, found in splits.items()}}
    kept = unetzoo.from_pretrained("nuclei")
    for split in ("val", "test"):
        for name, smallest in (("all", 0), ("from_20", 20)):
            predictor = unetzoo.Predictor(kept, smallest=smallest)
            found = evaluate(predictor, source, split=split, objects=True, progress=True, **settings)
            figures.setdefault(split, {})[name] = found.to_dict()
            print(f"{split}, objects of {smallest} pixels and more", found, sep="\n")
    (DOCS / "nuclei.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    shutil.copy(run / "metrics.csv", DOCS / "_static" / "nuclei.csv")
    shutil.copy(run / "curves.png", DOCS / "_static" / "nuclei_curves.png")

    rows = list(csv.DictReader((run / "metrics.csv").read_text(encoding="utf-8").splitlines()))
    best = max(rows, key=lambda row: float(row["dice"]))
    card = (HERE / "card.md").read_text(encoding="utf-8").format(
        parameters=f"{sum(p.numel() for p in kept.parameters()):,}",
        megabytes=path.stat().st_size / 1e6,
        figures="\n".join(lines(figures)),
        minutes=((run / "metrics.csv").stat().st_mtime - (run / "config.yaml").stat().st_mtime) / 60,
        epochs=len(rows),
        best=best["epoch"],
        bright=sum(sample.kind == "bright field" for found in splits.values() for sample in found),
        recipe=(HERE / "nuclei.yaml").read_text(encoding="utf-8"),
        **figures["pictures"],
    )  # fmt: skip
    path.with_suffix(".md").write_text(card, encoding="utf-8")


def lines(figures: dict) -> list[str]:
    """Return the rows of the card's table."""
    found = []
    for split in ("val", "test"):
        whole, large = (figures[split][name] for name in ("all", "from_20"))
        for kind in (*whole["kinds"], "all"):
            part, other = (x if kind == "all" else x["kinds"][kind] for x in (whole, large))
            scores = [part["dice"], part["iou"], part["object_ap"], other["object_ap"]]
            counts = [part["objects_true"], part["objects_found"], other["objects_found"]]
            cells = [split, kind, part["images"], *(f"{score:.3f}" for score in scores), *counts]
            found.append(f"| {' | '.join(map(str, cells))} |")
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
