"""Losses that are a mean over pixels: binary cross-entropy, cross-entropy, focal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo.losses._base import SingleLoss, number_problems, register_loss
from unetzoo.losses._target import Truth, ratio


@register_loss("bce")
class BCE(SingleLoss):
    """Binary cross-entropy: the mean over pixels and classes of −w·y·log p − (1 − y)·log(1 − p).

    p is the sigmoid; in a multiclass task the softmax, each class against the rest. w is the weight of the class. As in
    torch's ``binary_cross_entropy_with_logits`` with ``pos_weight``, the mean is unweighted, over pixels that count.
    """

    def measure(self, logits: Tensor, truth: Truth) -> Tensor:
        """Return the loss; see :class:`SingleLoss`."""
        margins = against_the_rest(logits) if self.task == "multiclass" else logits
        return truth.mean(_sigmoid_cross_entropy(margins, truth.classes, self.weights(logits)))


@register_loss("cross_entropy")
class CrossEntropy(SingleLoss):
    """Cross-entropy: −log of the softmax of the true class; in binary and multilabel tasks that of the sigmoid, as BCE.

    In a multiclass task it is torch's ``cross_entropy``: a mean over pixels weighted by the weight of their class.

    Args:
        task, class_weights, ignore_index: see :class:`SingleLoss`.
        label_smoothing: share, from 0 to 1, of the truth that is spread evenly over the classes, or over 0 and 1.
    """

    def __init__(
        self,
        task: str,
        *,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
    ) -> None:
        problems = number_problems("label_smoothing", label_smoothing, 0, 1)
        super().__init__(task, class_weights=class_weights, ignore_index=ignore_index, problems=problems)
        self.label_smoothing = label_smoothing

    def measure(self, logits: Tensor, truth: Truth) -> Tensor:
        """Return the loss; see :class:`SingleLoss`."""
        share, weights = self.label_smoothing, self.weights(logits)
        if self.task != "multiclass":
            smooth = truth.classes * (1 - share) + share / 2
            return truth.mean(_sigmoid_cross_entropy(logits, smooth, weights))
        weights = weights[:, None, None]
        # Not F.cross_entropy, whose sum over pixels has no deterministic form on a GPU.
        losses = -weights * logits.log_softmax(dim=1)
        weighted = truth.classes * weights
        loss = (truth.classes * losses).sum() * (1 - share)
        if share:
            loss = loss + (losses * truth.valid).sum() * share / logits.shape[1]
        return ratio(loss, weighted.sum())


@register_loss("focal")
class Focal(SingleLoss):
    """Focal loss: cross-entropy times (1 − p)^γ, p being the probability of the truth.

    Paper: Lin et al. 2017, arXiv 1708.02002, equations 4 and 5. Binary and multilabel: the mean over pixels and
    classes, as torchvision's ``sigmoid_focal_loss``. Multiclass: of the softmax of the true class, a mean over pixels
    weighted by the weight of their class, so that γ = 0 is cross-entropy.

    Args:
        task, class_weights, ignore_index: see :class:`SingleLoss`.
        gamma: γ, from 0 up.
        alpha: weight, from 0 to 1, of the foreground in binary and multilabel tasks; that of the background is
            1 − ``alpha``. It multiplies the class weights. None: 1 for both. The paper's 0.25, chosen for detection,
            makes the foreground count *less*.
    """

    def __init__(
        self,
        task: str,
        *,
        gamma: float = 2.0,
        alpha: float | None = None,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
    ) -> None:
        problems = number_problems("gamma", gamma, 0)
        if alpha is not None:
            problems += number_problems("alpha", alpha, 0, 1)
            if task == "multiclass":
                problems.append(f"alpha={alpha!r}: task='multiclass' has no background; use class_weights")
        super().__init__(task, class_weights=class_weights, ignore_index=ignore_index, problems=problems)
        self.gamma = gamma
        self.alpha = alpha

    def measure(self, logits: Tensor, truth: Truth) -> Tensor:
        """Return the loss; see :class:`SingleLoss`."""
        classes, weights = truth.classes, self.weights(logits)[:, None, None]
        if self.task == "multiclass":
            own = (logits * classes).sum(dim=1)
            others = logits.masked_fill(classes == 1, -math.inf).logsumexp(dim=1)
            pixels = (classes * weights).sum(dim=1)
            return ratio((pixels * self._of_margin(own - others)).sum(), pixels.sum())
        losses = self._of_margin(logits * (2 * classes - 1))
        front, back = (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)
        return truth.mean(losses * (classes * weights * front + (1 - classes) * back))

    def _of_margin(self, margin: Tensor) -> Tensor:
        """Return the loss where the truth has probability sigmoid(``margin``).

        (1 − p)^γ through its logarithm: a power has no finite gradient where 1 − p is 0 and γ below 1.
        """
        return -F.logsigmoid(margin) * torch.exp(self.gamma * F.logsigmoid(-margin))


def _sigmoid_cross_entropy(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(
        logits, classes, pos_weight=weights[:, None, None].to(logits), reduction="none"
    )


def against_the_rest(logits: Tensor) -> Tensor:
    """Return the logits (N, C, H, W) whose sigmoid is the softmax of ``logits`` over C ≥ 2 classes.

    That is x_c − log Σ exp x_j over j ≠ c. The sum over all but c comes from the sum over all, except for the
    largest, where the difference would be lost in rounding.
    """
    logits = logits - logits.amax(dim=1, keepdim=True).detach()
    largest = torch.zeros_like(logits, dtype=torch.bool)
    largest = largest.scatter(1, logits.argmax(dim=1, keepdim=True), True)
    total = logits.logsumexp(dim=1, keepdim=True)
    log_share = (logits - total).masked_fill(largest, -1)  # any number whose branch is finite, as it is not used
    beside_the_largest = logits.masked_fill(largest, -math.inf).logsumexp(dim=1, keepdim=True)
    rest = torch.where(largest, beside_the_largest, total + torch.log1p(-log_share.exp()))
    return logits - rest
