"""Runs that are the folds of one training; a folder of folds means the average of their networks."""

from __future__ import annotations

import os
import re
from pathlib import Path

from unetzoo.errors import WeightsError
from unetzoo.saving.records import BEST_FILE, model_in

FOLDS_FILE = "folds.json"
"""File in the folder of the folds that holds the best settings for their average."""
_NAME = re.compile(r"fold-([1-9]\d*)")
_RUN = "config.yaml"


def fold_folder(folder: Path, fold: int) -> Path:
    """Return the folder of a fold's run."""
    return folder / f"fold-{fold}"


def folds_in(folder: str | os.PathLike[str]) -> tuple[int, ...]:
    """Return the numbers of the folds that have begun in a folder, in order; empty if it is not a folder of folds."""
    folder = Path(folder)
    if not folder.is_dir() or model_in(folder) is not None or (folder / _RUN).is_file():
        return ()
    found = [match for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)) and (path / _RUN).is_file()]
    return tuple(sorted(int(match[1]) for match in found))


def members(model: object) -> list[Path]:
    """Return the folders of all folds' runs if a text or a path names a folder of folds; otherwise an empty list.

    Raises:
        WeightsError: a fold has no network yet.
    """
    if not isinstance(model, str | os.PathLike) or not (found := folds_in(model)):
        return []
    folders = [fold_folder(Path(model), fold) for fold in found]
    lacking = [folder.name for folder in folders if not (folder / BEST_FILE).is_file()]
    if lacking:
        there = ",".join(str(folder) for folder in folders if folder.name not in lacking)
        raise WeightsError(
            f"{os.fspath(model)}: there is no {BEST_FILE} yet in {', '.join(lacking)}: 'unetzoo train --resume "
            f"{os.fspath(model)}' continues{f'; or name those to average, {there}' if there else ''}"
        )
    return folders


def advice(model: object) -> Path | None:
    """Return the file with the best settings for the average of a folder of folds; None if there is none."""
    if isinstance(model, list | tuple) and len(model) == 1:
        (model,) = model
    if not isinstance(model, str | os.PathLike) or not folds_in(model):
        return None
    path = Path(model) / FOLDS_FILE
    return path if path.is_file() else None
