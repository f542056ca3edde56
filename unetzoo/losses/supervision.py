"""One loss for all outputs of a model in training: every head, and the presence of classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetzoo.errors import ConfigError, InputError
from unetzoo.losses._base import Loss, full, number_problems
from unetzoo.losses._own import try_ignored
from unetzoo.losses._target import Truth, ratio, read_target
from unetzoo.model import SegmentationModel, TrainingOutputs


class DeepSupervision(nn.Module):
    """Σ weight · loss over a model's heads, plus the binary cross-entropy of its presence logits.

    UNet++ (Zhou et al. 2018, arXiv 1807.10165, section 3.2) and UNet 3+ (Huang et al. 2020, arXiv 2004.08790,
    section 2.2) supervise each head with the same loss. The presence logits are compared with whether the class occurs
    in those pixels of the image that count (UNet 3+, section 2.3), if there are any.

    Args:
        loss: of one head.
        weights: from 0 up, one per head, the main one first, then those of ``TrainingOutputs.deep``; used unchanged,
            such as ``geometric_weights`` of a model. None: 1 divided by the number of heads. Either way the loss, and
            a suitable learning rate, are about those of the model without deep supervision.
        presence_weight: from 0 up, of the term for the presence logits.

    Raises:
        ConfigError: lists all arguments that are not allowed.
    """

    def __init__(self, loss: Loss, weights: Sequence[float] | None = None, presence_weight: float = 1.0) -> None:
        problems = number_problems("presence_weight", presence_weight, 0)
        if not isinstance(loss, Loss):
            problems.append(f"loss={loss!r:.100}: a loss of unetzoo.losses is needed; Sum takes any module as a term")
        if weights is not None:
            listed = isinstance(weights, Sequence) and not isinstance(weights, str) and len(weights) > 0
            if not listed or any(number_problems("", weight, 0) for weight in weights) or not any(weights):
                problems.append(f"weights={weights!r:.100}: a list of finite numbers from 0 up is needed, not all 0")
        if problems:
            raise ConfigError("cannot build the loss of all heads", problems)
        super().__init__()
        self.loss = loss
        self.weights = None if weights is None else tuple(weights)
        self.presence_weight = presence_weight

    def forward(self, outputs: TrainingOutputs, target: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            outputs: of ``model.training_outputs(images)``.
            target: as the loss takes it, of the images' size; only the middle for smaller logits (unet_valid).

        Raises:
            ConfigError: the numbers of weights and heads differ.
            InputError: the outputs do not fit the target.
        """
        return torch.stack(list(self.parts(outputs, target).values())).sum()

    def parts(self, outputs: TrainingOutputs, target: Tensor) -> dict[str, Tensor]:
        """Return the terms that :meth:`forward` adds up: each part of the loss over all heads, and "presence"."""
        if not isinstance(outputs, TrainingOutputs):
            raise InputError(
                f"give TrainingOutputs, not {type(outputs).__name__}; model.training_outputs(images) returns them"
            )
        heads = (outputs.logits, *outputs.deep)
        weights = (1 / len(heads),) * len(heads) if self.weights is None else self.weights
        if len(weights) != len(heads):
            raise ConfigError(
                f"{len(weights)} weights for {len(heads)} heads: one is needed for the main head and for each of the "
                f"{len(outputs.deep)} deep ones, in this order"
            )
        found: dict[str, Tensor] = {}
        for logits, weight in zip(heads, weights, strict=True):
            for name, value in self.loss.parts(logits, _middle(target, logits)).items():
                found[name] = found.get(name, 0.0) + weight * value
        if outputs.presence is not None:
            judged = self._presence(outputs.presence, target, outputs.logits)
            found["presence"] = found.get("presence", 0.0) + self.presence_weight * judged
        return found

    def try_ignored(self, outputs: TrainingOutputs, target: Tensor) -> None:
        """Check that ignored pixels give no gradient to the main head, as they might with a user's own loss.

        Args:
            outputs, target: as of :meth:`forward`.

        Raises:
            InputError: they give a gradient.
        """
        logits = outputs.logits
        try_ignored(self.loss.parts, logits, _middle(target, logits), self.loss.ignore_index)

    def _presence(self, presence: Tensor, target: Tensor, logits: Tensor) -> Tensor:
        count, classes = logits.shape[:2]
        if presence.shape != (count, classes):
            raise InputError(f"presence logits of shape {tuple(presence.shape)}: {(count, classes)} is needed")
        truth = read_target(self.loss.task, target, classes, self.loss.ignore_index, full(presence.dtype))
        return truth.guarded(presence_loss(presence.to(truth.classes), truth))


def geometric_weights(model: SegmentationModel) -> tuple[float, ...]:
    """Return weights for :class:`DeepSupervision`, each half of the one before it: 1, 1/2, 1/4, …, over their sum.

    The first is that of the main head, followed by those of coarser stages, or of shallower nested decoders. If there
    are more than two heads, the last one, the coarsest or shallowest, gets 0, as in nnU-Net v2 (``_build_loss``), where
    this also holds for two heads.

    Args:
        model: with or without deep supervision; a single head has a weight of 1.

    Returns:
        One per head, in the order of ``training_outputs``; their sum is 1.
    """
    halved = [0.5**k for k in range(1 + len(model.deep_heads))]
    if len(halved) > 2:
        halved[-1] = 0.0
    main, *deep = (weight / sum(halved) for weight in halved)
    return (main, *(reversed(deep) if model.decoder.nested else deep))


def presence_loss(presence: Tensor, truth: Truth) -> Tensor:
    """Return the binary cross-entropy of presence logits (N, C), a mean over images and classes.

    A class is left out if all its pixels in the image are ignored, because then nobody knows whether it occurs.
    """
    occurs = truth.classes.amax(dim=(2, 3))
    known = truth.valid.expand_as(truth.classes).any(dim=3).any(dim=2)
    losses = F.binary_cross_entropy_with_logits(presence, occurs, reduction="none") * known
    return ratio(losses.sum(), known.sum().to(losses.dtype))


def _middle(target: Tensor, logits: Tensor) -> Tensor:
    """Return the target's middle, of the logits' height and width."""
    if target.ndim < 3 or logits.ndim != 4:
        return target  # the loss reports what is wrong with it
    surplus = [have - want for have, want in zip(target.shape[-2:], logits.shape[-2:], strict=True)]
    if any(pixels < 0 or pixels % 2 for pixels in surplus):
        raise InputError(
            f"a target of shape {tuple(target.shape)} for logits of shape {tuple(logits.shape)}: the target's height "
            "and width must be those of the logits, or larger by the same amount on both sides"
        )
    top, left = (pixels // 2 for pixels in surplus)
    height, width = logits.shape[-2:]
    return target[..., top : top + height, left : left + width]
