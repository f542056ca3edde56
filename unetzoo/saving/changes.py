"""A saved model with other classes or channels: what its config becomes, and which of its tensors change."""

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
    """Return ``config`` with ``changes``, and without what they make void.

    Raises:
        ConfigError: an unknown policy, one where no channels change, or a configuration that would be wrong.
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
    if changes.get("in_channels", config.in_channels) != config.in_channels:
        changes = {"mean": None, "std": None, **changes}
    return config.replace(**changes) if changes else config


def adapt_input(state: dict[str, Tensor], model: SegmentationModel, known: int, policy: str) -> None:
    """Adapt, in ``state``, the convolution of the encoder that sees images of ``known`` channels.

    Raises:
        WeightsError: there is none, or other tensors depend on the channels too.
    """
    channels = model.config.in_channels
    name = adapt_images(model.encoder, model.config.encoder, state, known, policy, prefix="encoder.")
    problems = misfits(model.state_dict(), state)
    if problems:
        raise WeightsError(
            f"in_channels={channels}: more than the convolution that sees the images depends on their {known} "
            f"channels, and cannot be adapted; train anew:{listed(problems)}"
        )
    _logger.warning("in_channels=%d: adapted from %d (%s): %s", channels, known, policy, name)


def new_heads(model: SegmentationModel, weight: Tensor) -> dict[str, Tensor]:
    """Draw anew all that depends on the number of classes; return it by name, of the type of the file's ``weight``."""
    found: dict[str, Tensor] = {}
    for title in ("head", "deep_heads", "guide"):
        module = getattr(model, title)
        if module is not None:
            initialise(module.to_empty(device="cpu"))
            found |= {name: tensor.to(weight.dtype) for name, tensor in module.state_dict(prefix=f"{title}.").items()}
    classes, before = model.config.num_classes, len(weight)
    wanted = f"{classes} class{'es' * (classes > 1)}"
    line = f"the head is drawn anew, for {wanted}, not the file's {before}: {', '.join(found)}"
    if (before, classes) == (2, 1):
        line += (
            "; to train its two on masks of 0 and 255, give task='multiclass', num_classes=2 and "
            "colours=['#000000', '#ffffff']"
        )
    _logger.warning("%s", line)
    return found
