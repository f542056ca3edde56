"""Loading a saved model with other classes or channels: its new config, and the tensors that change."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from unetzoo.checks import one_of
from unetzoo.config import ModelConfig
from unetzoo.errors import ConfigError, WeightsError
from unetzoo.files.checkpoints import listed, misfits
from unetzoo.model import SegmentationModel
from unetzoo.nn.layers import initialise
from unetzoo.pretrained import POLICIES, adapt_images

_logger = logging.getLogger("unetzoo")


def changed_config(config: ModelConfig, changes: dict[str, Any], input_policy: str | None) -> ModelConfig:
    """Return ``config`` with ``changes``, and without the values that they invalidate.

    Raises:
        ConfigError: an unknown policy, a policy without a change of channels, or an invalid configuration.
    """
    problems = [] if input_policy is None else one_of("input_policy", input_policy, POLICIES)
    if problems:
        raise ConfigError("cannot change the channels", problems)
    if input_policy is not None and changes.get("in_channels", config.in_channels) == config.in_channels:
        raise ConfigError(f"input_policy is for another number of channels than the file's {config.in_channels}")
    classes = changes.get("num_classes", config.num_classes)
    if classes != config.num_classes:
        task = "multilabel" if config.task == "multilabel" else "binary" if classes == 1 else "multiclass"
        changes = {"class_names": None, "task": task, **changes}
    other_channels = changes.get("in_channels", config.in_channels) != config.in_channels
    if other_channels or changes.get("normalisation") == "image":
        changes = {"mean": None, "std": None, **changes}
    if changes.get("mean") is not None:
        changes = {"normalisation": "fixed", **changes}
    return config.replace(**changes) if changes else config


def adapt_input(state: dict[str, Tensor], model: SegmentationModel, known: int, policy: str) -> None:
    """Adapt, in ``state``, the encoder's convolution that reads images of ``known`` channels.

    Raises:
        WeightsError: there is no such convolution, or other tensors depend on the channels too.
    """
    channels = model.config.in_channels
    name = adapt_images(model.encoder, model.config.encoder, state, known, policy, prefix="encoder.")
    problems = misfits(model.state_dict(), state)
    if problems:
        raise WeightsError(
            f"in_channels={channels}: other tensors than the first convolution depend on the {known} channels of the "
            f"images and cannot be adapted; train from scratch:{listed(problems)}"
        )
    _logger.warning("in_channels=%d: adapted from %d (%s): %s", channels, known, policy, name)


def head_changes(before: ModelConfig, after: ModelConfig) -> bool:
    """Return whether the meaning of a head changes: the number of outputs, or whether the last one is for edges."""
    edges = (before.task == "instances") != (after.task == "instances")
    return edges or before.channels != after.channels


def new_heads(model: SegmentationModel, before: ModelConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Re-initialise all tensors that depend on the number of classes; return them by name, in the type of the file.

    If only the output for edges is added or removed, the file's tensors for the classes are kept: the edges come last.
    """
    found: dict[str, Tensor] = {}
    after, weight = model.config, state["head.conv.weight"]
    kept = before.num_classes if (before.pixel_task, before.num_classes) == (after.pixel_task, after.num_classes) else 0
    for title in ("head", "deep_heads", "guide"):
        module = getattr(model, title)
        if module is not None:
            initialise(module.to_empty(device="cpu"))
            found |= {name: tensor.to(weight.dtype) for name, tensor in module.state_dict(prefix=f"{title}.").items()}
    if kept:
        for name, tensor in found.items():
            tensor[:kept] = state[name][:kept]
        if before.task == "instances":
            _logger.warning("task=%r: the file's head is kept for the classes, and dropped for the edges", after.task)
        else:
            _logger.warning("task='instances': the file's head is kept for the classes, and initialised for the edges")
        return found
    classes = after.num_classes
    wanted = f"{classes} class{'es' * (classes > 1)}"
    line = f"the head is re-initialised for {wanted}, not the file's {before.num_classes}: {', '.join(found)}"
    if (before.task, before.num_classes, classes) == ("multiclass", 2, 1):
        line += (
            "; to train its two classes on masks of 0 and 255, give task='multiclass', num_classes=2 and "
            "colours=['#000000', '#ffffff']"
        )
    _logger.warning("%s", line)
    return found
