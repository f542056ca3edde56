"""Comparison of networks: names of the zoo, saved models, and averages of several."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unetzoo import information, naming, zoo
from unetzoo.checks import whole
from unetzoo.comparing.table import Comparison, ComparisonRow
from unetzoo.config import ModelConfig
from unetzoo.costs.counting import costs_of
from unetzoo.costs.measuring import measured
from unetzoo.errors import ConfigError, UnetzooError
from unetzoo.model import SegmentationModel, build_on_meta
from unetzoo.nn.meta import on_meta
from unetzoo.prediction import Predictor
from unetzoo.prediction.networks import Model, check_alike
from unetzoo.progress import shown
from unetzoo.registry import suggest
from unetzoo.saving.records import read_saved
from unetzoo.saving.sources import located, named_source
from unetzoo.trials import TrainingTrial, read_trials

Compared = Predictor | Model
"""What gives a row; a text may be a wildcard, which gives several."""
DEFAULTS = {"in_channels": 3, "num_classes": 1}
"""Default options of ``compare`` and ``create``."""


@dataclass(frozen=True)
class _Entry:
    """A planned row.

    Attributes:
        name: of the row.
        parts: the networks whose outputs are averaged, often one: names of the zoo, and configs of saved models.
    """

    name: str
    parts: tuple[str | ModelConfig, ...]


def compare(
    models: Compared | Iterable[Compared | Sequence[Compared]] | None = None,
    *,
    exclude: str | Iterable[str] = (),
    size: int = 256,
    in_channels: int = 3,
    num_classes: int = 1,
    measure: bool = False,
    results: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Comparison:
    """Compare networks of the zoo, by name or wildcard, saved models, and averages of several.

    All columns except the measured ones and those of ``results`` are computed on the meta device: nothing is
    allocated, and the numbers are the same on every machine. For ``unet_valid``, the image has the size to which
    ``predict`` mirrors an image of ``size``.

    Args:
        models: names or wildcards, as in ``list_models``; anything else that ``unetzoo.Predictor`` takes; and lists
            of these, which are averaged: their rows hold sums. The order is kept. None: those in ``results``, in
            their order, or without results all networks of the zoo.
        exclude: names or wildcards to leave out.
        size: height and width of the image in pixels.
        in_channels, num_classes: for names of the zoo, except those in ``results``. Saved models, and networks in
            ``results``, are taken as they were trained.
        measure: also measure time and memory for one image on the CPU, each network in a process of its own.
        results: a file of training results, which ``unetzoo.train.run_trials`` writes; adds columns.
        progress: show a progress bar.

    Raises:
        ConfigError: a name or wildcard that matches nothing, models that cannot be averaged, or a wrong number.
        WeightsError: a saved model cannot be read.
        HubError: a model cannot be fetched from the Hub.
        InputError: there is no such results file, or it is not one.
    """
    problems = whole("size", size)
    if problems:
        raise ConfigError("cannot compare", problems)
    trials = {} if results is None else {trial.name: trial for trial in read_trials(results)}
    options: dict[str, Any] = {"in_channels": in_channels, "num_classes": num_classes}
    entries = _chosen(tuple(trials) or "*" if models is None else models, exclude, options)
    reached = {
        entry.name: trials[entry.name] for entry in entries if entry.parts == (entry.name,) and entry.name in trials
    }
    steps = shown(entries, progress, "model")
    rows = tuple(_row(entry, size, options, measure, reached.get(entry.name)) for entry in steps)
    return Comparison(rows, size, tuple(reached.values()))


def _chosen(models: Any, exclude: str | Iterable[str], options: dict[str, Any]) -> list[_Entry]:
    """Return the planned rows.

    Raises:
        UnetzooError: the error, if there is one; for several errors, one that lists them all.
    """
    single = isinstance(models, str | os.PathLike | torch.nn.Module | Predictor)
    found: dict[str, _Entry] = {}
    errors: list[UnetzooError] = []
    for asked in (models,) if single else tuple(models):
        try:
            several = [_average(asked, options)] if isinstance(asked, list | tuple) else _entries(asked)
            found |= {entry.name: entry for entry in several if entry.name not in found}
        except UnetzooError as error:
            errors.append(error)
    unwanted = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    usual = naming.names()
    unwanted = tuple(usual.get(pattern, pattern) for pattern in unwanted)  # an alias counts as its name
    left = [entry for entry in found.values() if not any(fnmatch.fnmatchcase(entry.name, p) for p in unwanted)]
    if not left and not errors:
        errors.append(ConfigError("nothing is left to compare"))
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ConfigError("cannot compare", [str(error) for error in errors])
    return left


def _entries(asked: Compared) -> list[_Entry]:
    """Return the rows of a name, a wildcard or a model."""
    if isinstance(asked, Predictor):
        configs = tuple(member.config for member in asked.networks.members)
        return [_Entry(" + ".join(config.name for config in configs), configs)]
    if not isinstance(asked, str | os.PathLike):
        return [_Entry(asked.config.name, (asked.config,))]
    if isinstance(asked, str) and any(mark in asked for mark in "*?[") and not Path(asked).exists():
        names = naming.list_models(asked)
        if not names:
            raise ConfigError(
                f"{asked!r} matches no model{suggest(asked, naming.names())}; unetzoo.list_models() gives all names"
            )
        return [_Entry(name, (name,)) for name in names]
    source = named_source(asked)
    if source.kind == "network":
        name = naming.resolve(source.text)
        return [_Entry(name, (name,))]
    return [_Entry(source.text, (read_saved(located(source)).config,))]


def _average(asked: Sequence[Compared], options: dict[str, Any]) -> _Entry:
    """Return the row of several models, if their outputs can be averaged."""
    if not asked:
        raise ConfigError("no model is given")
    several = [_entries(model) for model in asked]
    for model, found in zip(asked, several, strict=True):
        if len(found) > 1:
            raise ConfigError(f"{model!r}: wildcards cannot be averaged; give names")
    entries = [entry for (entry,) in several]
    parts = tuple(part for entry in entries for part in entry.parts)
    if len(parts) > 1:
        check_alike([_built(part, options).config for part in parts])
    return _Entry(" + ".join(entry.name for entry in entries), parts)


def _row(
    entry: _Entry, size: int, options: dict[str, Any], measure: bool, trial: TrainingTrial | None
) -> ComparisonRow:
    networks = [_built(part, options) if trial is None else build_on_meta(trial.config) for part in entry.parts]
    usual = trial is None and options == DEFAULTS
    rows = [_counted(part, network, size, usual) for part, network in zip(entry.parts, networks, strict=True)]
    row = replace(rows[0], name=entry.name) if len(rows) == 1 else _summed(entry.name, rows)
    if trial is not None:
        row = replace(
            row,
            dice=trial.best.dice,
            iou=trial.best.iou,
            minutes=trial.minutes,
            training_mib=trial.peak_mib,
            times_resunet18=trial.times_resunet18,
        )
    if measure:
        found = [measured(network.config, size) for network in networks]
        peaks = [peak for _, peak in found if peak is not None]
        row = replace(row, latency_ms=sum(latency for latency, _ in found), peak_mib=sum(peaks) if peaks else None)
    return row


def _built(part: str | ModelConfig, options: dict[str, Any]) -> SegmentationModel:
    if isinstance(part, ModelConfig):
        return build_on_meta(part)
    with on_meta():
        return zoo.create(part, **options)


def _counted(part: str | ModelConfig, network: SegmentationModel, size: int, usual: bool) -> ComparisonRow:
    """Return the row of a network; ``usual``: a name of the zoo was built with its default options."""
    if isinstance(part, str) and usual:
        info = information.info_of(part, network)  # model_info would build the network again
    else:
        info = information.model_info(part if isinstance(part, str) else part.name)
    return ComparisonRow(**asdict(costs_of(network, info, size)))


def _summed(name: str, rows: Sequence[ComparisonRow]) -> ComparisonRow:
    return ComparisonRow(
        name=name,
        architecture=" + ".join(dict.fromkeys(row.architecture for row in rows)),
        encoder=" + ".join(dict.fromkeys(row.encoder for row in rows)),
        parameters=sum(row.parameters for row in rows),
        published=None,
        agrees=None,
        gflops=sum(row.gflops for row in rows),
        activation_mib=sum(row.activation_mib for row in rows),
    )
