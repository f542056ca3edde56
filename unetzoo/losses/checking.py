"""Whether a loss keeps the contract of :func:`register_loss`: for whoever writes one."""

from __future__ import annotations

import torch
from torch import Tensor

from unetzoo.checks import TASKS
from unetzoo.losses._base import LOSSES, Loss
from unetzoo.losses.text import build

IGNORED = -100
SIZE = (13, 10)
"""Sides that divide by nothing."""


def check_loss(text: str, task: str | None = None) -> None:
    """Check a loss against all that training asks of one, on small random images of every task that it serves.

    Args:
        text: as :func:`build` takes it, such as "edges" or "edges(width=3)".
        task: check that task alone; None: those that the loss was registered for, or all.

    Raises:
        AssertionError: says what does not hold, and for which task.
        ConfigError: the loss cannot be built.
        InputError: it gives no scalar.
    """
    spec = LOSSES.get(text.partition("(")[0].strip())
    for each in [task] if task else TASKS if spec is None else spec.tasks:
        _check(build(text, each, ignore_index=IGNORED), f"{text}, task={each!r}")


def _check(loss: Loss, name: str) -> None:
    """Raise what does not hold for a loss of a task."""
    logits, target = _example(loss.task)
    value, slope = _value(loss, logits, target, name)
    assert bool((slope != 0).any()), f"{name}: the gradient is 0 everywhere: nothing would be learned from it"
    repeated, _ = _value(loss, logits, target, name)
    assert torch.equal(value, repeated), f"{name}: the same logits and target gave {value:g}, then {repeated:g}"

    ignored = target.clone()
    ignored[..., :4] = IGNORED
    others = logits.clone()
    others[..., :4] = 7.0
    one, other = (_value(loss, given, ignored, name)[0] for given in (logits, others))
    close = torch.isclose(one, other, rtol=1e-5, atol=1e-6)
    assert close, f"{name}: logits of pixels that are ignored ({IGNORED}) change it from {one:g} to {other:g}"
    for fill in (IGNORED, 0, 1):  # nothing counts; no foreground; nothing else
        _value(loss, logits, torch.full_like(target, fill), f"{name}, a target of {fill} alone")
    _value(loss, 60 * logits, target, f"{name}, logits of {60 * float(logits.abs().max()):.0f}")

    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, _ = _value(loss, logits.bfloat16(), target, f"{name}, logits in bfloat16")
    close = torch.isclose(half, value, rtol=0.05, atol=0.02)
    assert close, f"{name}: {half:g} of logits in bfloat16, and {value:g} of the same in float32"


def _value(loss: Loss, logits: Tensor, target: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient by the logits, both checked."""
    logits = logits.clone().requires_grad_()
    value = loss(logits, target)
    assert value.shape == (), f"{name}: shape {tuple(value.shape)}; a scalar is needed, such as a mean"
    assert value.dtype == torch.float32, f"{name}: {value.dtype}; float32 is needed: begin with logits.float()"
    assert bool(value.isfinite()), f"{name}: the loss is {value.item():g}"
    (slope,) = torch.autograd.grad(value, logits, allow_unused=True, materialize_grads=True)
    assert bool(slope.isfinite().all()), f"{name}: the gradient is not finite"
    return value.detach(), slope


def _example(task: str) -> tuple[Tensor, Tensor]:
    """Return logits (2, C, H, W) and a target for a task, the same each time."""
    drawn = torch.Generator().manual_seed(0)
    classes = 1 if task == "binary" else 3
    logits = torch.randn(2, classes, *SIZE, generator=drawn)
    if task == "multilabel":
        return logits, torch.randint(2, (2, classes, *SIZE), generator=drawn)
    return logits, torch.randint(max(2, classes), (2, *SIZE), generator=drawn)
