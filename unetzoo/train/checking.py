"""Checks, before any work, that a recipe's settings fit each other, the network, the data and the trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as lightning
import torch

from unetzoo.checks import one_of, whole
from unetzoo.costs.counting import QuickNorms
from unetzoo.model import SegmentationModel, build_on_meta
from unetzoo.train.clipping import clipping_problems
from unetzoo.train.data import FolderData
from unetzoo.train.judging import monitor_problems
from unetzoo.train.optimisers import optimiser_problems
from unetzoo.train.own_metrics import call_problems, metric_problems, names_of
from unetzoo.train.schedules import schedule_problems


def setting_problems(settings: Any) -> list[str]:
    """Return what is wrong with the settings of a recipe on their own."""
    found: list[str] = []
    for name in ("lr", "encoder_lr", "weight_decay"):
        value = getattr(settings, name)
        if value is not None and not 0 <= value < math.inf:
            found.append(f"{name}={value!r}: a finite number from 0 up is needed")
    if not found:
        found += optimiser_problems(settings.optimiser, settings.optimiser_options, settings.weight_decay)
    found += schedule_problems(settings.schedule)
    if settings.warmup is not None and not 0 <= settings.warmup < 1:
        found.append(f"warmup={settings.warmup!r}: give a share of the steps, from 0 to less than 1")
    if settings.ema is not None and not 0 <= settings.ema < 1:
        found.append(f"ema={settings.ema!r}: give a decay from 0 to less than 1, such as 0.999")
    wrong = metric_problems(settings.metrics)
    found += wrong or monitor_problems(settings.monitor, own=names_of(settings.metrics))
    found += whole("frozen_epochs", settings.frozen_epochs, 0)
    if isinstance(settings.head_weights, str):
        found += one_of("head_weights", settings.head_weights, ("geometric",))
    if isinstance(settings.class_weights, str) and settings.class_weights != "auto":
        found.append(f"class_weights={settings.class_weights!r}: give 'auto' or one number per class")
    if isinstance(settings.class_weights, Sequence) and not isinstance(settings.class_weights, str):
        found += [f"class_weights: {w!r} is not a number above 0" for w in settings.class_weights if not w > 0]
    return found


def _meant(network: SegmentationModel) -> str:
    return "channels, the edges last" if network.config.task == "instances" else "classes"


def fit_problems(settings: Any, network: SegmentationModel, data: FolderData, trainer: lightning.Trainer) -> list[str]:
    """Return which settings do not fit together, for the network that they describe."""
    problems = []
    problem = network.decoder.size_problem(*data.crop)
    if problem is not None:
        problems.append(f"crop_size={data.crop}: {problem}")
    elif (
        trainer.world_size == 1 or getattr(trainer.strategy, "_layer_sync", None) is None
    ):  # otherwise processes normalise together
        problems += _norm_problems(network, data)
    heads = 1 + len(network.deep_heads)
    if settings.head_weights == "geometric":
        if network.decoder.averages_heads:
            problems.append(
                "head_weights='geometric': the last head is not trained, but output='average' includes it in the "
                f"average; give {heads} numbers, or output='last'"
            )
    elif settings.head_weights is not None and len(settings.head_weights) != heads:
        problems.append(f"head_weights: {len(settings.head_weights)} numbers for {heads} heads, the main one first")
    classes = network.config.channels
    if isinstance(settings.class_weights, list) and len(settings.class_weights) != classes:
        problems.append(f"class_weights: {len(settings.class_weights)} numbers for {classes} {_meant(network)}")
    labels = data.labels
    own = names_of(settings.metrics)
    problems += monitor_problems(
        settings.monitor, labels.class_names or (), objects=labels.task == "instances", own=own
    )
    problems += call_problems(settings.metrics, labels)
    finds_unused = getattr(trainer.strategy, "_ddp_kwargs", {}).get("find_unused_parameters")
    if settings.frozen_epochs and trainer.world_size > 1 and not finds_unused:
        problems.append("frozen_epochs in several processes needs trainer.strategy=ddp_find_unused_parameters_true")
    problems += clipping_problems(settings.optimiser_options, trainer)
    if settings.ema is not None and trainer.precision in ("bf16-true", "16-true"):
        problems.append(
            f"ema={settings.ema} with trainer.precision={trainer.precision!r}: its steps are too small for 16-bit "
            "numbers, so the average would not change; use trainer.precision=bf16-mixed, or leave ema=… out"
        )
    return problems


def _norm_problems(network: SegmentationModel, data: FolderData) -> list[str]:
    """Return the problem of a norm that gets a single value per channel, which has no variance."""
    batch, (height, width) = data.crops, data.crop
    problem = _refusal_of_norms(network, batch, (height, width))
    if problem is None:
        return []
    larger = [2 * network.encoder.strides[-1] * -(-side // network.encoder.strides[-1]) for side in data.crop]
    fixes = [] if _refusal_of_norms(network, 2 * batch, data.crop) else [f"batch_size={2 * batch}"]
    fixes += [] if _refusal_of_norms(network, batch, (larger[0], larger[1])) else [f"crop_size={larger[0]}"]
    fixes.append("another norm, such as model.options.norm=group")
    said = f"batch_size={batch} with crop_size={data.crop}: a norm gets a single value per channel, with no variance"
    return [f"{said}; use {' or '.join(fixes)}"]


def _refusal_of_norms(network: SegmentationModel, batch: int, crop: tuple[int, int]) -> str | None:
    """Return the error of a norm for batches of this shape in training; None if there is none.

    A batch goes through the network on the meta device, where norms check the shape and nothing is computed.
    """
    images = torch.empty(batch, network.config.in_channels, *crop, device="meta")
    try:
        with QuickNorms():  # type: ignore[no-untyped-call]
            build_on_meta(network.config).train().training_outputs(images)
    except ValueError as error:
        if "more than 1" not in str(error):
            raise
        return str(error)
    except NotImplementedError:
        return None  # the user's own part needs values: the first step will show
    return None
