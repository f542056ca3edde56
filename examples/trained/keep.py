"""Put a trained run into the package: ``python keep.py NAME RUN`` writes its weights, figures, card, log and curves.

NAME.yaml, the recipe, and NAME.md, what the card says, lie beside this file. Run it where the recipe was run.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import torch
import yaml

import unetzoo
from unetzoo import trained
from unetzoo.data import Labels, find_samples
from unetzoo.evaluation import evaluate, settings_of_run

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"


MODELS = {
    "nuclei": ("nucleus", 20, "images dice iou object_ap object_ap@20 objects_true objects_found objects_found@20"),
    "vessels": ("vessel", 0, "images dice iou precision recall specificity"),
}
"""Name: its class; pixels of the smallest object, 0: none are counted; columns of the card, @: without smaller ones."""


def main(name: str, run: Path) -> None:
    """Write the model to the package, and what is told of it to ``docs/``."""
    model = unetzoo.load(run, dtype=torch.float16, class_names=[MODELS[name][0]])
    path = trained.weights_of(name)
    unetzoo.save(model, path)
    figures = measured(name, run)
    (DOCS / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for made, kept in (("metrics.csv", f"{name}.csv"), ("curves.png", f"{name}_curves.png")):
        shutil.copy(run / made, DOCS / "_static" / kept)
    rows = list(csv.DictReader((run / "metrics.csv").read_text(encoding="utf-8").splitlines()))
    card = (HERE / f"{name}.md").read_text(encoding="utf-8").format(
        parameters=f"{sum(p.numel() for p in model.parameters()):,}",
        megabytes=path.stat().st_size / 1e6,
        figures=lines(name, figures),
        minutes=((run / "metrics.csv").stat().st_mtime - (run / "config.yaml").stat().st_mtime) / 60,
        epochs=len(rows),
        best=max(rows, key=lambda row: float(row["dice"]))["epoch"],
        recipe=(HERE / f"{name}.yaml").read_text(encoding="utf-8"),
        **figures["kinds"],
        **figures["pictures"],
    )  # fmt: skip
    path.with_suffix(".md").write_text(card, encoding="utf-8")


def measured(name: str, run: Path) -> dict:
    """Return how many pictures there are, and the scores of those that did not train."""
    settings, smallest = settings_of_run(run), MODELS[name][1]
    source = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"]["folder"]
    splits = find_samples(source, Labels(), **{key: settings[key] for key in ("ratios", "group", "seed")})
    kinds = [sample.kind.replace(" ", "_") for found in splits.values() for sample in found if sample.kind]
    figures: dict = {"pictures": {split: len(found) for split, found in splits.items()}}
    figures["kinds"] = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    kept = unetzoo.from_pretrained(name)
    for split in ("val", "test"):
        for least in (0, smallest) if smallest else (0,):
            predictor = unetzoo.Predictor(kept, smallest=least)
            found = evaluate(predictor, source, split=split, objects=bool(smallest), progress=True, **settings)
            figures.setdefault(split, {})[f"from_{least}" if least else "all"] = found.to_dict()
            print(f"{split}, objects of {least} pixels and more", found, sep="\n")
    return figures


def lines(name: str, figures: dict) -> str:
    """Return the rows of the card's table."""
    found = []
    for split in ("val", "test"):
        kinds = figures[split]["all"].get("kinds", ())
        for kind in (*kinds, "all"):
            cells = [split, kind] if kinds else [split]
            for column in MODELS[name][2].split():
                score, _, least = column.partition("@")
                part = figures[split][f"from_{least}" if least else "all"]
                value = (part if kind == "all" else part["kinds"][kind])[score]
                cells.append(f"{value:.3f}" if isinstance(value, float) else str(value))
            found.append(f"| {' | '.join(cells)} |")
    return "\n".join(found)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
