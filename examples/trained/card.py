"""Write the card of a model of the package: ``python card.py NAME RUN``, from NAME.md and docs/NAME.json."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from unetzoo import trained
from unetzoo.saving import records

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"
COLUMNS = {
    "nuclei": "images dice iou object_ap_50 object_ap_50@20 objects_true objects_found objects_found@20",
    "vessels": "images dice iou precision recall specificity",
}
"""Scores of the card's table; those with @20 leave out objects of fewer pixels."""


def main(name: str, run: Path) -> None:
    """Fill the measured figures into the text."""
    path, figures = trained.weights_of(name), json.loads((DOCS / f"{name}.json").read_text(encoding="utf-8"))
    rows = list(csv.DictReader((run / "metrics.csv").read_text(encoding="utf-8").splitlines()))
    text = (HERE / f"{name}.md").read_text(encoding="utf-8").format(
        parameters=f"{records.read_saved(path).parameters:,}",
        megabytes=path.stat().st_size / 1e6,
        figures=lines(name, figures),
        minutes=((run / "metrics.csv").stat().st_mtime - (run / "config.yaml").stat().st_mtime) / 60,
        epochs=len(rows),
        best=max(rows, key=lambda row: (float(row.get("object_ap_50", 0)), float(row["dice"])))["epoch"],
        recipe=(HERE / f"{name}.yaml").read_text(encoding="utf-8"),
        dice=figures["test"]["all"]["dice"],
        ap=figures["test"]["all"].get("object_ap_50"),
        **figures["kinds"],
        **figures["images"],
    )  # fmt: skip
    trained.card_of(name).write_text(text, encoding="utf-8")


def lines(name: str, figures: dict) -> str:
    """Return the rows of the table."""
    found = []
    for split in ("val", "test"):
        kinds = figures[split]["all"].get("kinds", ())
        for kind in (*kinds, "all"):
            cells = [split, kind] if kinds else [split]
            for column in COLUMNS[name].split():
                score, _, least = column.partition("@")
                part = figures[split][f"from_{least}" if least else "all"]
                value = (part if kind == "all" else part["kinds"][kind])[score]
                cells.append(f"{value:.3f}" if isinstance(value, float) else str(value))
            found.append(f"| {' | '.join(cells)} |")
    return "\n".join(found)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
