"""Class weights from how often classes occur."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from unetzoo.checks import PIXEL_TASKS, class_problems
from unetzoo.errors import ConfigError, InputError


class LabelledData(Protocol):
    """The interface that :func:`class_weights_from` needs; ``unetzoo.data.SegmentationDataset`` has it."""

    @property
    def task(self) -> str:
        """One of "binary", "multiclass", "multilabel"."""

    @property
    def num_classes(self) -> int:
        """Channels of the logits: 1 if binary."""

    @property
    def ignore_index(self) -> int:
        """Value of pixels that do not count."""

    def targets(self) -> Iterator[Tensor]:
        """Yield targets one by one, without augmentation: (H, W), or (num_classes, H, W) if multilabel; integers."""


def class_weights_from(data: LabelledData) -> Tensor:
    """Return class weights from the inverse square root of the number of pixels of each class.

    Over all images, let n_c be the number of pixels of class c that count, and m_c the number of other pixels that
    count:

    - multiclass: w_c ∝ 1 / √n_c, with a mean of 1;
    - binary and multilabel: w_c = √(m_c / n_c), the weight of the foreground; that of the background is 1.

    The ratio of two classes' weights is the square root of the inverse ratio of their pixels. Without the root, the
    classes would be fully balanced, but a pixel of a class with a share of 1/1000 would count a thousand times, which
    seldom trains well.

    Args:
        data: the training data; all its targets are read once.

    Returns:
        (num_classes,) float32, above 0: ``class_weights`` of any loss.

    Raises:
        ConfigError: names the classes that never occur, or that fill every pixel: no weight fixes that.
        InputError: a target has another shape, or values that are not a class.
    """
    problems = class_problems(data.task, data.num_classes, PIXEL_TASKS)
    if problems:
        raise ConfigError("cannot weigh the classes", problems)
    pixels = torch.zeros(data.num_classes, dtype=torch.int64)
    others = torch.zeros_like(pixels)
    for number, target in enumerate(data.targets()):
        of_classes, counted = _counts(data, target, number)
        pixels += of_classes
        others += counted - of_classes
    if not int((pixels + others).sum()):
        raise ConfigError("cannot weigh the classes: the data have no pixels that count")
    problems = [f"class {c} never occurs in the data" for c in range(len(pixels)) if not pixels[c]]
    problems += [f"class {c} fills every pixel that counts" for c in range(len(pixels)) if pixels[c] and not others[c]]
    if problems:
        raise ConfigError("cannot weigh the classes", problems)
    if data.task == "multiclass":
        weights = pixels.double().rsqrt()
        return (weights / weights.mean()).float()
    return (others.double() / pixels.double()).sqrt().float()


def _counts(data: LabelledData, target: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the pixels of each class, and those that count for it, both (num_classes,)."""
    classes = data.num_classes
    layers = target if data.task == "multilabel" else target[None]
    if layers.ndim != 3 or (data.task == "multilabel" and len(layers) != classes):
        wanted = f"({classes}, H, W)" if data.task == "multilabel" else "(H, W)"
        raise InputError(f"target {number} has shape {tuple(target.shape)}: {wanted} is needed")
    layers = layers.long().flatten(1).cpu()
    valid = layers != data.ignore_index
    most = classes if data.task == "multiclass" else 2
    wrong = sorted(set(layers[valid & ((layers < 0) | (layers >= most))].tolist()))
    if wrong:
        raise InputError(
            f"target {number} of a {data.task} task holds {', '.join(map(str, wrong[:8]))}: whole numbers "
            f"from 0 to {most - 1} are allowed, and ignore_index={data.ignore_index}"
        )
    if data.task == "multiclass":
        return torch.bincount(layers[valid], minlength=classes), valid.sum().expand(classes)
    return ((layers == 1) & valid).sum(dim=1), valid.sum(dim=1)
