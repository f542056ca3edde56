"""How the runs of models split, read and scored their data, so that an evaluation does the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from unetzoo.data.splitting import RATIOS
from unetzoo.errors import ConfigError
from unetzoo.prediction import Predictor
from unetzoo.saving.sources import source_of


def as_trained(predictor: Predictor, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return how images are split and masks are read: as given, else as in the models' runs, else the defaults.

    Args:
        predictor: of the models; for models that were given as networks, no run is known.
        given: as ``evaluating.images_of`` takes it.

    Raises:
        ConfigError: the runs differ in settings that were not given.
    """
    runs = [run for model in _known(predictor) if (run := settings_of_run(model))]
    problems = [
        f"{name} is {', '.join(repr(run[name]) for run in runs)}: give {name}=…; or, because one model may have been "
        "trained on images that another held out, give data with its own splits, in train/, val/ and test/"
        for name, value in given.items()
        if value is None and runs and any(run[name] != runs[0][name] for run in runs)
    ]
    if problems:
        raise ConfigError("these runs split or read their data differently", problems)
    known = {"ratios": RATIOS, "seed": 0, **(runs[0] if runs else {})}
    return {name: known.get(name) if value is None else value for name, value in given.items()}


def monitors_of(predictor: Predictor) -> list[str | None]:
    """Return the scores by which the models' runs chose the best epoch; None for the default score."""
    found = [_config_of(model) for model in _known(predictor)]
    return [settings.get("model", {}).get("monitor") for _, settings in found if isinstance(settings, dict)]


def settings_of_run(model: str | os.PathLike[str]) -> dict[str, Any]:
    """Return how a run split and read its data, as ``evaluate`` takes it; empty if ``model`` is not in a run's folder.

    Raises:
        ConfigError: the run's ``config.yaml`` cannot be read.
    """
    path, found = _config_of(model)
    if path is None:
        return {}
    try:
        data = found["data"]
        settings = {name: data[name] for name in ("ratios", "group", "ignore", "colours", "ignore_colour")}
        later = {name: data.get(name) for name in ("foreground", "planes", "classes", "masks")}  # older runs have none
        return {**settings, **later, "seed": found["seed_everything"]}
    except (KeyError, TypeError) as error:
        raise _unreadable(path, error) from error


def _known(predictor: Predictor) -> list[str | os.PathLike[str]]:
    return [origin for origin in predictor.origins if origin is not None]


def _config_of(model: str | os.PathLike[str]) -> tuple[Path | None, Any]:
    """Return the settings file of the run that contains a model, and its content; None if there is no run."""
    source = source_of(model)
    if source.path is None or source.kind == "trained":
        return None, None
    path = (source.path if source.kind == "folder" else source.path.parent) / "config.yaml"
    if not path.is_file():
        return None, None
    try:
        return path, yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path} does not have the settings of a run ({type(error).__name__}: {error}); move it away")
