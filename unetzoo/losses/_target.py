"""Targets as losses need them: one channel of 0 and 1 per class, and which pixels count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unetzoo.errors import InputError


@dataclass(frozen=True)
class Truth:
    """A target, read.

    Attributes:
        classes: (N, C, H, W), 1 in the class and 0 elsewhere, including ignored pixels; floating point.
        valid: (N, C, H, W), or (N, 1, H, W) if it is the same for all classes, bool: which values count.
        wrong: (N, ...) bool: values that are neither a class nor ignored; their ``classes`` are meaningless.
    """

    classes: Tensor
    valid: Tensor
    wrong: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of ``values`` (N, C, H, W) over the pixels that count; 0 if there are none."""
        counted = self.valid.expand_as(values)
        return ratio((values * counted).sum(), counted.sum().to(values.dtype))

    def guarded(self, loss: Tensor) -> Tensor:
        """Return ``loss``, or nan if the target has a wrong value.

        An error is raised only on the CPU: on a GPU, reading the target would stall every step.
        """
        return loss.masked_fill(self.wrong.any(), torch.nan)


def ratio(value: Tensor, weight: Tensor) -> Tensor:
    """Return ``value / weight``, and 0 with a gradient of 0 where ``weight`` is 0."""
    return value / weight.masked_fill(weight == 0, torch.inf)


def target_problems(task: str, logits: Tensor, target: Tensor) -> list[str]:
    """Return a sentence for each reason why ``target`` cannot be compared with ``logits``."""
    found = []
    if logits.ndim != 4 or 0 in logits.shape:
        found.append(f"logits of shape {tuple(logits.shape)}: (N, C, H, W) is needed, each from 1 up")
    if not logits.is_floating_point():
        found.append(f"logits of {logits.dtype}: floating point is needed")
    if target.is_complex() or (task == "multiclass" and (target.is_floating_point() or target.dtype == torch.bool)):
        found.append(f"a target of {target.dtype}: integers are needed")
    if target.device != logits.device:
        found.append(f"the target is on {target.device}, the logits on {logits.device}: move one of them")
    if logits.ndim == 4:
        found += _shape_problems(task, tuple(logits.shape), tuple(target.shape))
    return found


def _shape_problems(task: str, logits: tuple[int, ...], target: tuple[int, ...]) -> list[str]:
    count, classes, *size = logits
    found = []
    if task == "binary" and classes != 1:
        found.append(f"logits of {classes} channels: task='binary' has 1; more are 'multiclass' or 'multilabel'")
    elif task == "multiclass" and classes == 1:
        found.append("logits of 1 channel: task='multiclass' has 2 or more; use task='binary'")
    flat, deep = (count, *size), (count, classes, *size)
    allowed = {"binary": [flat, (count, 1, *size)], "multiclass": [flat], "multilabel": [deep]}[task]
    if target not in allowed:
        fix = ""
        if task == "multiclass" and target == (count, 1, *size):
            fix = "; target[:, 0] is"
        elif task == "multiclass" and target == deep:
            fix = "; for one channel per class use task='multilabel', or target.argmax(dim=1)"
        elif task == "multilabel" and classes == 1 and target == flat:
            fix = "; target[:, None] is"
        wanted = " or ".join(map(str, allowed))
        found.append(f"a target of shape {target}: {wanted} is needed for logits of shape {logits}{fix}")
    return found


def read_target(task: str, target: Tensor, classes: int, ignore_index: int, dtype: torch.dtype) -> Truth:
    """Read a target in which :func:`target_problems` finds no problem.

    Raises:
        InputError: only on the CPU, where reading values is cheap: it has values that are not a class.
    """
    if not target.is_floating_point():
        target = target.long()  # a uint8 is never -100, but compared as uint8, 156 is
    valid = target != ignore_index
    if task == "multiclass":
        wrong = valid & ((target < 0) | (target >= classes))
        numbers = torch.arange(classes, device=target.device)[:, None, None]
        one_hot = valid[:, None] & (target[:, None] == numbers)
        valid = valid[:, None]
    else:
        target, valid = (x[:, None] if x.ndim == 3 else x for x in (target, valid))
        one_hot = valid & (target == 1)
        wrong = valid & ~one_hot & (target != 0)
    if target.device.type == "cpu" and not torch.compiler.is_compiling() and bool(wrong.any()):
        values = sorted(set(target[wrong].tolist()))
        shown = ", ".join(f"{value:g}" for value in values[:8]) + (", …" if len(values) > 8 else "")
        allowed = f"whole numbers from 0 to {classes - 1}" if task == "multiclass" else "0 and 1"
        raise InputError(
            f"the target of a {task} task holds {shown}: {allowed} are allowed, and ignore_index={ignore_index} for "
            "pixels that do not count"
        )
    return Truth(one_hot.to(dtype), valid, wrong)
