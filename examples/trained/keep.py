"""Put a trained run into the package: ``python keep.py NAME RUN`` writes its weights, figures, card, log and curves.

NAME.yaml, the recipe, and NAME.md, what the card says, lie beside this file. Run it where the recipe was run.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import torch
import yaml

import unetzoo
from unetzoo import trained
from unetzoo.data import Labels, find_samples
from unetzoo.evaluation import evaluate, settings_of_run

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"


class Kept(NamedTuple):
    """What is told of a model: the name of its class, and of its smallest object in pixels, if any count."""

    class_name: str
    smallest: int | None


MODELS = {"nuclei": Kept("nucleus", 20), "vessels": Kept("vessel", None)}


def main(name: str, run: Path) -> None:
    """Write the model to the package, and what is told of it to ``docs/``."""
    model = unetzoo.load(run, dtype=torch.float16, class_names=[MODELS[name].class_name])
    path = trained.weights_of(name)
    unetzoo.save(model, path)
    figures = measured(name, run)
    (DOCS / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    shutil.copy(run / "metrics.csv", DOCS / "_static" / f"{name}.csv")
    shutil.copy(run / "curves.png", DOCS / "_static" / f"{name}_curves.png")

    rows = list(csv.DictReader((run / "metrics.csv").read_text(encoding="utf-8").splitlines()))
    card = (HERE / f"{name}.md").read_text(encoding="utf-8").format(
        parameters=f"{sum(p.numel() for p in model.parameters()):,}",
        megabytes=path.stat().st_size / 1e6,
        figures="\n".join(lines(figures)),
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
    settings, smallest = settings_of_run(run), MODELS[name].smallest
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


def lines(figures: dict) -> list[str]:
    """Return the rows of the card's table: those of objects where they were counted, those of pixels elsewhere."""
    found = []
    for split in ("val", "test"):
        whole, *larger = figures[split].values()
        for kind in (*whole.get("kinds", ()), "all"):
            part, *others = (x if kind == "all" else x["kinds"][kind] for x in (whole, *larger))
            if others:
                scores = [part["dice"], part["iou"], part["object_ap"], others[0]["object_ap"]]
                counts = [part["objects_true"], part["objects_found"], others[0]["objects_found"]]
            else:
                scores, counts = [part[score] for score in ("dice", "iou", "precision", "recall", "specificity")], []
            place = [split, kind] if "kinds" in whole else [split]
            cells = [*place, part["images"], *(f"{score:.3f}" for score in scores), *counts]
            found.append(f"| {' | '.join(map(str, cells))} |")
    return found


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
