"""Checks of a loss, for every task that it supports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from unetzoo.checks import PIXEL_TASKS
from unetzoo.losses import LOSSES, Loss, build
from unetzoo.testing._running import run

_IGNORED = -100
_SIZE = (13, 10)
"""Sides without useful divisors."""


@dataclass(frozen=True)
class _Case:
    """A loss for a task."""

    text: str
    task: str

    def __str__(self) -> str:
        return self.task

    def build(self) -> Loss:
        """Return it, as training makes it."""
        return build(self.text, self.task, ignore_index=_IGNORED)

    def example(self) -> tuple[Tensor, Tensor]:
        """Return logits (2, C, H, W) and a target of class indices, or of 0 and 1."""
        classes = 1 if self.task == "binary" else 3
        shape = (2, classes, *_SIZE) if self.task == "multilabel" else (2, *_SIZE)
        return torch.randn(2, classes, *_SIZE), torch.randint(3 if self.task == "multiclass" else 2, shape)


def check_loss(text: str) -> None:
    """Check a loss against the contract of losses, on small random images for every task that it supports.

    Args:
        text: as ``unetzoo.losses.build`` takes it, such as "edges" or "edges(width=3)".

    Raises:
        ContractError: lists everything that is wrong.
    """
    spec = LOSSES.get(text.partition("(")[0].strip())
    cases = [_Case(text, task) for task in (PIXEL_TASKS if spec is None else spec.tasks)]
    checks = (values, repeated, ignored_pixels, targets_of_one_value, large_logits, half_precision)
    run(
        f"the loss {text!r}",
        [partial(building, text, cases), *(partial(check, case) for case in cases for check in checks)],
    )


def building(_: str, cases: list[_Case]) -> Iterator[str]:
    """It can be made, and returns a scalar."""
    for case in cases:
        logits, target = case.example()
        value = case.build()(logits, target)
        if value.shape != ():
            yield f"task={case.task!r}: it returns shape {tuple(value.shape)}: a scalar is needed, such as a mean"


def values(case: _Case) -> Iterator[str]:
    """It is a finite float32, with a finite gradient that is not 0."""
    logits, target = case.example()
    value, slope = _taken(case.build(), logits, target)
    yield from _faults(value, slope)
    if not slope.any():
        yield "the gradient is 0 everywhere: nothing can be learned from it"


def repeated(case: _Case) -> Iterator[str]:
    """It is the same for the same logits: otherwise a resumed run could not be exact."""
    logits, target = case.example()
    loss = case.build()
    first, second = (_taken(loss, logits, target)[0] for _ in range(2))
    if not torch.equal(first, second):
        yield f"the same logits and target gave {first.item():g}, then {second.item():g}: it must not be random"


def ignored_pixels(case: _Case) -> Iterator[str]:
    """Logits of pixels that do not count change nothing, and get no gradient."""
    logits, target = case.example()
    target[..., :4] = _IGNORED
    others = logits.clone()
    others[..., :4] = 7.0
    loss = case.build()
    (one, slope), (other, _) = (_taken(loss, given, target) for given in (logits, others))
    if not torch.isclose(one, other, rtol=1e-5, atol=1e-6):
        yield f"logits at ignored pixels (target {_IGNORED}) change it from {one.item():g} to {other.item():g}"
    if slope[..., :4].any():
        yield f"logits at ignored pixels (target {_IGNORED}) get a gradient"


def targets_of_one_value(case: _Case) -> Iterator[str]:
    """It is finite if no pixel counts, if there is no foreground, and if there is only foreground."""
    logits, target = case.example()
    for value in (_IGNORED, 0, 1):
        for fault in _faults(*_taken(case.build(), logits, torch.full_like(target, value))):
            yield f"the target is {value} everywhere: {fault}"


def large_logits(case: _Case) -> Iterator[str]:
    """It is finite if the network is very sure, and wrong."""
    logits, target = case.example()
    yield from _faults(*_taken(case.build(), 100 * logits, target))


def half_precision(case: _Case) -> Iterator[str]:
    """For logits in bfloat16, under autocast, it is float32 and nearly the same."""
    logits, target = case.example()
    loss = case.build()
    whole, _ = _taken(loss, logits, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, slope = _taken(loss, logits.bfloat16(), target)
    yield from _faults(half, slope)
    if not torch.isclose(half.float(), whole.float(), rtol=0.05, atol=0.02):
        yield f"it is {half.item():g} for logits in bfloat16, but {whole.item():g} for the same logits in float32"


def _taken(loss: Loss, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss, and its gradient by the logits."""
    logits = logits.clone().requires_grad_()
    value = loss(logits, target)
    (slope,) = torch.autograd.grad(value, logits, allow_unused=True, materialize_grads=True)
    return value.detach(), slope


def _faults(value: Tensor, slope: Tensor) -> Iterator[str]:
    if value.dtype != torch.float32:
        yield f"it is {value.dtype}: float32 is needed; begin with logits.float()"
    if not value.isfinite():
        yield f"the loss is {value.item():g}"
    if not slope.isfinite().all():
        yield "the gradient is not finite"
