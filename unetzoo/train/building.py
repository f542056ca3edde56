"""The network to train: a new one of the zoo, or a trained one to start from, for the given data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from unetzoo.config import ModelConfig
from unetzoo.errors import ConfigError
from unetzoo.model import SegmentationModel
from unetzoo.saving import sources
from unetzoo.saving.records import read_saved
from unetzoo.saving.weights import load
from unetzoo.train.data import FolderData

DEFAULT_LOSSES = {"binary": "bce + dice", "multiclass": "cross_entropy + dice", "multilabel": "bce + dice"}
"""Default loss for the task of the logits, see :func:`logits_of`."""
MEANINGS = ("num_classes", "task", "class_names")
"""Options of a network that describe the masks; they are settings of the data."""


def logits_of(task: str) -> str:
    """Return the task of the logits; for instances, a channel per class and one for the edges, it is multilabel."""
    return "multilabel" if task == "instances" else task


def built(settings: Any, data: FolderData) -> SegmentationModel:
    """Return the network for the settings of a recipe, with the classes and channels of the data.

    Raises:
        ConfigError: options that follow from the data, or that a trained network does not take.
    """
    trained = _trained(settings.name) if is_saved(settings.name) else None
    if trained is not None:
        data.normalise_as(trained[1].normalisation)
    elif settings.pretrained:
        data.normalise_as("fixed")
    labels, facts = data.labels, data.facts
    common: dict[str, Any] = {
        "in_channels": facts.in_channels,
        "num_classes": labels.num_classes,
        "task": labels.task,
        "class_names": labels.class_names,
        "mean": facts.mean,
        "std": facts.std,
        "normalisation": facts.normalisation,
        "resize": data.resize,
        "pixels": facts.pixels,
    }
    taken = [
        f"{key}: follows from the data; " + (f"give it as data.{key}=…" if key in MEANINGS else "leave it out")
        for key in settings.options or {}
        if key in common
    ]
    elsewhere = [key for key in ("name", "pretrained") if key in (settings.options or {})]
    taken += [f"{key}: not an option of the network; give it as model.{key}=…" for key in elsewhere]
    if taken:
        raise ConfigError("cannot build the network", taken)
    if trained is not None:
        if settings.options or settings.pretrained:
            raise ConfigError(f"{settings.name} is trained already: it takes neither options nor pretrained")
        network = load(trained[0], dtype=torch.float32, **common).train()
        _check_seen(settings.name, trained[1], facts.normalisation, data.resize)
        return network
    return sources.create(settings.name, pretrained=settings.pretrained, **common, **(settings.options or {}))


def _check_seen(name: str, own: ModelConfig, normalisation: str, resize: float) -> None:
    """Refuse to prepare images differently from those that a trained network was trained on.

    Raises:
        ConfigError: its images were normalised each on its own, or resized, and these are not.
    """
    problems = []
    if own.normalisation == "image" and normalisation == "fixed":
        problems.append("it was trained on images normalised each on its own: give data.normalisation=image")
    if own.resize != 1 and resize == 1:
        problems.append(f"it was trained on resized images: give data.resize={own.resize:g}, or another factor")
    if problems:
        raise ConfigError(f"cannot start from {name}", problems)


def _trained(name: str) -> tuple[Path, ModelConfig]:
    """Return the path of a trained network, which is downloaded if needed, and its configuration."""
    path = sources.located(sources.named_source(name))
    return path, read_saved(path).config


def is_saved(name: str) -> bool:
    """Return whether a name means a trained network, not an untrained one of the zoo."""
    return sources.source_of(name).kind != "network"
