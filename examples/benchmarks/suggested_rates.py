"""Check the rates of ``--suggest``: ``python examples/benchmarks/suggested_rates.py ROOT [--sets …] [--networks …]``.

ROOT holds ``nuclei``, ``vessels`` and ``polyps``, each a folder of images and masks; shapes of five classes are drawn.
Each network is trained on each set with each learning rate of a grid, for the same number of steps, and validated at
the end: the rate with the best Dice is the right one. Then ``--suggest`` runs. Each training prints a line of JSON, and
a table follows.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import torch

import unetzoo
from unetzoo import TrainingError, cli, drawing

GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
NETWORKS: Mapping[str, Mapping[str, Any]] = {"unet": {"model.options.base_channels": 8}, "resunet18": {}}
SETS: Mapping[str, Mapping[str, Any]] = {
    "shapes": {"task": "multiclass", "class_names": drawing.CLASSES},
    "vessels": {"group": r"Image_(\d+)"},
    "nuclei": {},
    "polyps": {},
}
SETTINGS = {"data.workers": 0, "trainer.accelerator": "cpu", "trainer.limit_val_batches": 12, "images_every": 99}


def common(name: str, data: Path, network: str) -> dict[str, Any]:
    """Return the settings that trainings and suggestions share."""
    settings = {**SETTINGS, **NETWORKS[network]}
    return {"model": network, "data": data, "batch_size": 8, "crop_size": 64, "settings": settings, **SETS[name]}


def trained(name: str, data: Path, network: str, rate: float, options: argparse.Namespace) -> float:
    """Return the validation Dice, without the background, of a training."""
    with tempfile.TemporaryDirectory() as out:
        run = unetzoo.fit(
            **common(name, data, network), lr=rate, steps=options.steps, steps_per_epoch=options.steps,
            seed=options.seed, out=Path(out, "run"), quiet=True,
        )  # fmt: skip
        row = run.history[-1]
    classes = [value for key, value in row.items() if key.startswith("dice/") and key != "dice/background"]
    return mean(value or 0.0 for value in classes or [row["dice"]])


def suggested(name: str, data: Path, network: str) -> float | None:
    """Return the rate that ``--suggest`` prints, or None if it cannot suggest one."""
    given = common(name, data, network)
    settings, names = given.pop("settings"), given.pop("class_names", None)
    words = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    words += [f"--{key}={value}" for key, value in settings.items()]
    words += ["--class-names", ",".join(names)] if names else []
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = cli.main(["train", *words, "--suggest"])
    return float(said.getvalue().split()[-1]) if code == 0 else None


def main() -> None:
    """Try them all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["| | " + " | ".join(f"{rate:g}" for rate in GRID) + " | best | suggested | factor |"]
    lines.append("| --- |" + " ---: |" * (len(GRID) + 3))
    with tempfile.TemporaryDirectory() as folder:
        shapes = Path(folder, "shapes")
        drawing.write_shapes(shapes, 300, size=(96, 96), task="multiclass", seed=0)
        for name in options.sets:
            data = shapes if name == "shapes" else options.root / name
            for network in options.networks:
                said, found = suggested(name, data, network), dict[float, float]()
                print(json.dumps({"data": name, "network": network, "suggested": said}), flush=True)
                for rate in GRID:
                    try:
                        found[rate] = trained(name, data, network, rate, options)
                    except TrainingError:  # it diverged
                        found[rate] = math.nan
                    print(json.dumps({"data": name, "network": network, "lr": rate, "dice": found[rate]}), flush=True)
                best = max(found, key=lambda rate, found=found: -1.0 if math.isnan(found[rate]) else found[rate])
                factor = "" if said is None else f"{max(said / best, best / said):.1f}"
                cells = [f"{dice:.3f}" for dice in found.values()]
                lines.append(f"| {name}, `{network}` | {' | '.join(cells)} | {best:g} | {said or ''} | {factor} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
