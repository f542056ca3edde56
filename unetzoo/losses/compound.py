"""Sums of losses: those of the papers, and any given as a line of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unetzoo.errors import InputError
from unetzoo.losses._base import Loss, SingleLoss, number_problems, register_loss
from unetzoo.losses._own import own_target, try_out
from unetzoo.losses.pixels import BCE, CrossEntropy, Focal
from unetzoo.losses.regions import Dice, IoU
from unetzoo.losses.structure import MSSSIM


class Sum(Loss):
    """A weighted sum of losses. The target is read once for all of them.

    Args:
        task, ignore_index: see :class:`Loss`; the same as those of the terms.
        terms: pairs (weight, loss) with a weight above 0. A loss that is a sum adds its own terms. A module that is not
            a :class:`Loss` is called as ``module(logits, target)`` with logits (N, C, H, W) and an integer target,
            (N, C, H, W) if multilabel and (N, H, W) otherwise; it must handle ignored pixels itself, and return a
            scalar. Before the first batch it is tested on that batch's first image, and refused if it fails, or if it
            would broadcast the target of each image over all the others.

    Raises:
        ConfigError: there are no terms, or terms that do not go together.
    """

    name: ClassVar[str] = "sum"

    def __init__(self, task: str, terms: Sequence[tuple[float, nn.Module]], *, ignore_index: int = -100) -> None:
        problems = [] if terms else ["no terms: one or more (weight, loss) are needed"]
        for number, (weight, term) in enumerate(terms, 1):
            problems += [f"term {number}: {problem}" for problem in number_problems("weight", weight, 0, above=True)]
            if not isinstance(term, nn.Module):
                problems.append(f"term {number}: a torch.nn.Module is needed, not {term!r:.100}")
            elif isinstance(term, Loss) and (term.task, term.ignore_index) != (task, ignore_index):
                problems.append(
                    f"term {number}: {term.name} has task={term.task!r}, ignore_index={term.ignore_index}, and the sum "
                    f"task={task!r}, ignore_index={ignore_index!r}"
                )
        super().__init__(task, ignore_index=ignore_index, problems=problems)
        flat = [(weight * own, part) for weight, term in terms for own, part in _flat(term)]
        self.term_weights = [weight for weight, _ in flat]
        self.terms = nn.ModuleList(term for _, term in flat)
        self._tried = all(isinstance(term, Loss) for _, term in flat)
        self.names = _numbered([getattr(term, "name", "") or type(term).__name__ for _, term in flat])

    def parts(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms by name: a repeated name is numbered, as "dice", "dice_2"."""
        truth = self.read(logits, target)
        target = own_target(self.task, target)
        if not self._tried and not torch.compiler.is_compiling():
            for name, term in zip(self.names, self.terms, strict=True):
                if not isinstance(term, Loss):
                    try_out(name, term, logits, target)
            self._tried = True
        found = {}
        for name, weight, term in zip(self.names, self.term_weights, self.terms, strict=True):
            value = term.measured(logits, truth) if isinstance(term, SingleLoss) else term(logits, target)
            if not isinstance(value, Tensor) or value.ndim:
                raise InputError(
                    f"the loss {name} returned {_described(value)}: a tensor of shape () is needed, such as a mean"
                )
            found[name] = truth.guarded(weight * value)
        return found

    def weight_problems(self, classes: int) -> list[str]:
        """Return why the terms' class weights do not fit logits with this many classes."""
        losses = [term for term in self.terms if isinstance(term, Loss)]
        return [problem for term in losses for problem in term.weight_problems(classes)]


@register_loss("unetpp")
class UNetPPLoss(Sum):
    """0.5·BCE + Dice, per image.

    Paper: UNet++, Zhou et al. 2018, arXiv 1807.10165, section 3.2, which uses −Dice: smaller by one, with the same
    gradient. Arguments: see :class:`SingleLoss`.
    """

    def __init__(
        self, task: str, *, class_weights: Sequence[float] | Tensor | None = None, ignore_index: int = -100
    ) -> None:
        bce = BCE(task, class_weights=class_weights, ignore_index=ignore_index)
        dice = Dice(task, class_weights=class_weights, ignore_index=ignore_index)
        super().__init__(task, [(0.5, bce), (1, dice)], ignore_index=ignore_index)


@register_loss("unet3p")
class UNet3PLoss(Sum):
    """Focal + MS-SSIM + IoU: pixels, patches, maps.

    Paper: UNet 3+, Huang et al. 2020, arXiv 2004.08790, section 2.2. Arguments: see :class:`SingleLoss`.
    """

    def __init__(
        self, task: str, *, class_weights: Sequence[float] | Tensor | None = None, ignore_index: int = -100
    ) -> None:
        terms = [loss(task, class_weights=class_weights, ignore_index=ignore_index) for loss in (Focal, MSSSIM, IoU)]
        super().__init__(task, [(1, term) for term in terms], ignore_index=ignore_index)


@register_loss("nnunet")
class NNUNetLoss(Sum):
    """Cross-entropy + Dice over all images of the batch together, without background: the loss of nnU-Net v2.

    Paper: Isensee et al. 2021, arXiv 1904.08128; formula: nnU-Net v2, ``DC_and_CE_loss`` with ``batch_dice`` and a
    smoothing term of 1e-5, and ``DC_and_BCE_loss`` for multilabel tasks, plus 1. nnU-Net's binary networks have a
    channel for the background; cross-entropy over the two channels is that of the sigmoid of their difference, as here.
    In several processes, nnU-Net combines the images of all of them; here each process uses its own. Arguments: see
    :class:`SingleLoss`.
    """

    def __init__(
        self, task: str, *, class_weights: Sequence[float] | Tensor | None = None, ignore_index: int = -100
    ) -> None:
        pixels = CrossEntropy if task == "multiclass" else BCE
        common: dict[str, Any] = {"class_weights": class_weights, "ignore_index": ignore_index}
        dice = Dice(task, smooth=1e-5, per="batch", background=task != "multiclass", **common)
        super().__init__(task, [(1, pixels(task, **common)), (1, dice)], ignore_index=ignore_index)


def _flat(term: nn.Module) -> list[tuple[float, nn.Module]]:
    if isinstance(term, Sum):
        return list(zip(term.term_weights, term.terms, strict=True))
    return [(1.0, term)]


def _described(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _numbered(names: list[str]) -> list[str]:
    repeats = [names[:i].count(name) for i, name in enumerate(names)]
    return [f"{name}_{k + 1}" if k else name for name, k in zip(names, repeats, strict=True)]
