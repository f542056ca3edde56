"""Losses that compare regions: Dice, IoU, Tversky, Lovász.

Each is computed for every class in every image, over the pixels that count; then averaged over the classes that occur
in the image, with the class weights, and then over the images; or all images of a batch are treated as one. An image in
which no class occurs adds 0: its false positives are seen only by a loss of pixels, to which such a loss is usually
added.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from unetzoo.checks import flag, one_of
from unetzoo.losses._base import SingleLoss, number_problems, register_loss
from unetzoo.losses._target import Truth, ratio


class RegionLoss(SingleLoss):
    """A loss of regions: a subclass gives the loss of each class.

    Args:
        task, class_weights, ignore_index: see :class:`SingleLoss`.
        per: "image", or "batch": all pixels of the batch are treated as one image.
        background: False leaves class 0 of a multiclass task out.
    """

    absent = False
    """Whether classes that do not occur count."""

    def __init__(
        self,
        task: str,
        *,
        per: str = "image",
        background: bool = True,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        problems: Sequence[str] = (),
    ) -> None:
        found = [*problems, *one_of("per", per, ("image", "batch")), *flag("background", background)]
        if background is False and task in ("binary", "multilabel"):
            found.append(f"background=False: task={task!r} has no channel for the background; leave it out")
        super().__init__(task, class_weights=class_weights, ignore_index=ignore_index, problems=found)
        self.per = per
        self.background = background

    @abstractmethod
    def per_class(self, logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
        """Return the loss (R, C) of each class.

        Args:
            logits: (R, C, pixels): R images, or the batch as one.
            truth: (R, C, pixels): 0 and 1, 0 where ignored.
            valid: (R, C or 1, pixels), bool.
        """

    def measure(self, logits: Tensor, truth: Truth) -> Tensor:
        """Return the loss; see the docstring of this module."""
        rows = [self._rows(x) for x in (logits, truth.classes, truth.valid)]
        present = rows[2].any(dim=2) if self.absent else rows[1].amax(dim=2) > 0
        weights = present * self.weights(logits)
        if not self.background:
            weights = weights * (torch.arange(logits.shape[1], device=logits.device) > 0)
        losses = self.per_class(*rows)
        return ratio((losses * weights).sum(dim=1), weights.sum(dim=1)).mean()

    def _rows(self, x: Tensor) -> Tensor:
        return x.flatten(2) if self.per == "image" else x.transpose(0, 1).flatten(1)[None]

    def overlap(self, logits: Tensor, truth: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return, each (R, C), the sums of p·y, of p·(1 − y) and of (1 − p)·y over the pixels that count."""
        probabilities = self.probabilities(logits) * valid
        both = (probabilities * truth).sum(dim=2)
        # Not as a difference of sums, which rounding could make negative.
        return both, (probabilities * (1 - truth)).sum(dim=2), ((1 - probabilities) * truth).sum(dim=2)


@register_loss("dice")
class Dice(RegionLoss):
    """Soft Dice loss: 1 − (2 Σ p·y + s) / (Σ p + Σ y + s).

    Formula: Drozdzal et al. 2016, arXiv 1608.04117.

    Args:
        task, per, background, class_weights, ignore_index: see :class:`RegionLoss`.
        smooth: s, from 0 up. A class that occurs does not need it. If it is above 0, classes that do not occur count,
            too, as in nnU-Net and MONAI, which both use 1e-5.
    """

    def __init__(
        self,
        task: str,
        *,
        smooth: float = 0.0,
        per: str = "image",
        background: bool = True,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
    ) -> None:
        super().__init__(
            task,
            per=per,
            background=background,
            class_weights=class_weights,
            ignore_index=ignore_index,
            problems=number_problems("smooth", smooth, 0),
        )
        self.smooth = smooth
        self.absent = smooth > 0

    def per_class(self, logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
        """Return the loss of each class; see :class:`RegionLoss`."""
        both, surplus, missed = self.overlap(logits, truth, valid)
        return ratio(surplus + missed, 2 * both + surplus + missed + self.smooth)


@register_loss("iou")
class IoU(RegionLoss):
    """Soft IoU (Jaccard) loss: 1 − Σ p·y / (Σ p + Σ y − Σ p·y).

    Formula: Rahman and Wang 2016, "Optimizing intersection-over-union in deep neural networks for image
    segmentation". Arguments: see :class:`RegionLoss`.
    """

    def per_class(self, logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
        """Return the loss of each class; see :class:`RegionLoss`."""
        both, surplus, missed = self.overlap(logits, truth, valid)
        return ratio(surplus + missed, both + surplus + missed)


@register_loss("tversky")
class Tversky(RegionLoss):
    """Tversky loss: 1 − TP / (TP + α·FP + β·FN), of soft counts; α = β = 0.5 is Dice, 1 is IoU.

    Paper: Salehi, Erdogmus and Gholipour 2017, arXiv 1706.05721; the defaults are their best.

    Args:
        task, per, background, class_weights, ignore_index: see :class:`RegionLoss`.
        alpha: α, from 0 up: the weight of false positives.
        beta: β, above 0: the weight of false negatives.
    """

    def __init__(
        self,
        task: str,
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        per: str = "image",
        background: bool = True,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
    ) -> None:
        super().__init__(
            task,
            per=per,
            background=background,
            class_weights=class_weights,
            ignore_index=ignore_index,
            problems=[*number_problems("alpha", alpha, 0), *number_problems("beta", beta, 0, above=True)],
        )
        self.alpha = alpha
        self.beta = beta

    def per_class(self, logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
        """Return the loss of each class; see :class:`RegionLoss`."""
        both, surplus, missed = self.overlap(logits, truth, valid)
        wrong = self.alpha * surplus + self.beta * missed
        return ratio(wrong, both + wrong)


@register_loss("lovasz")
class Lovasz(RegionLoss):
    """Lovász loss: the Jaccard loss of sets, extended piecewise linearly to errors between 0 and 1.

    Paper: Berman, Triki and Blaschko 2018, arXiv 1705.08790. The errors are |y − p| of the
    softmax in a multiclass task; otherwise the hinge max(0, 1 − z), where z is the logit, negated where y is 0: such a
    loss can exceed 1. Arguments: see :class:`RegionLoss`.
    """

    def per_class(self, logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
        """Return the loss of each class; see :class:`RegionLoss`."""
        softmax = self.task == "multiclass"
        errors = (truth - logits.softmax(dim=1)).abs() if softmax else 1 - logits * (2 * truth - 1)
        # Errors that do not count come last, where they do not change the slopes of others, and add 0.
        errors, order = errors.masked_fill(~valid, -1).sort(dim=2, descending=True)
        slopes = _jaccard_slopes(truth.gather(2, order) == 1, errors.dtype)
        return (errors.relu() * slopes).sum(dim=2)


def _jaccard_slopes(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """Return how much each pixel adds to the Jaccard loss of all pixels before it; truth is (R, C, pixels), bool.

    With G true pixels, of which t are mispredicted so far, and f other mispredicted pixels, the loss is
    1 − (G − t) / (G + f). Its increments are computed by formula, because differences of neighbours would lose digits
    in large images; from integer counts they are exact and the same on every run.
    """
    seen = truth.cumsum(dim=2)
    total = seen[:, :, -1:]
    union = total + (~truth).cumsum(dim=2)
    of_true = 1 / union.clamp(min=1).to(dtype)
    of_false = (total - seen).to(dtype) / (union * (union - 1)).clamp(min=1).to(dtype)
    return torch.where(truth, of_true, of_false)
