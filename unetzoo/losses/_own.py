"""Tests of the user's own losses before they are used: with the shapes they get, and with pixels that do not count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unetzoo.errors import InputError


def own_target(task: str, target: Tensor) -> Tensor:
    """Return the target in the form that the user's own losses get: (N, C, H, W) if multilabel, else (N, H, W)."""
    return target[:, 0] if task == "binary" and target.ndim == 4 else target


def try_out(name: str, term: nn.Module, logits: Tensor, target: Tensor) -> None:
    """Call a loss once, without gradient, on several copies of the first image of a batch.

    With a batch of one image, or of as many images as classes, torch can broadcast two different shapes by accident.
    The number of copies is therefore another: shapes that do not fit then fail, and wrong broadcasts are detected.

    Args:
        name: of the loss, for messages.
        term: takes (logits, target).
        logits: (N, C, H, W).
        target: what :func:`own_target` returns.

    Raises:
        InputError: it fails, or combines logits of one channel with a target without that axis.
    """
    count = 3 if logits.shape[1] == 2 else 2
    shapes = f"logits {tuple(logits.shape)} and a target {tuple(target.shape)} of {target.dtype}"
    try:
        with torch.no_grad(), _NoPairs():
            term(*(values.detach()[:1].repeat(count, *[1] * (values.ndim - 1)) for values in (logits, target)))
    except _PairsError as error:
        raise InputError(
            f"the loss {name} combines logits and target of two shapes, {error}: torch would broadcast each "
            f"image over the targets of all images, or treat one class as certain. It gets {shapes}, and must bring "
            "them to the same shape: logits[:, 0], or target[:, None]"
        ) from None
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise InputError(
            f"the loss {name} cannot take {shapes}, which your own losses get ({type(error).__name__}: {error}); "
            "write a function that first converts them to other shapes and types"
        ) from error


def try_ignored(
    parts: Callable[[Tensor, Tensor], Mapping[str, Tensor]], logits: Tensor, target: Tensor, ignore_index: int
) -> None:
    """Check that the gradient of each part of a loss is 0 at ignored pixels.

    Args:
        parts: of a :class:`~unetzoo.losses.Loss`.
        logits: (N, C, H, W).
        target: as the loss takes it, with pixels of ``ignore_index``.
        ignore_index: marks pixels that do not count.

    Raises:
        InputError: it is not 0; names the part.
    """
    given = logits.detach().requires_grad_()
    ignored = target == ignore_index
    ignored = (ignored if ignored.ndim == 4 else ignored[:, None]).expand_as(given)
    with torch.enable_grad():
        found = parts(given, target)
    for name, value in found.items():
        slope = torch.autograd.grad(value, given, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
        if bool(slope[ignored].any()):
            raise InputError(
                f"the loss {name} learns from pixels whose target is {ignore_index}, which do not count: leave them "
                f"out, as by (target != {ignore_index}); 'unetzoo.testing.check_loss' tests all that a loss must do"
            )


class _PairsError(Exception):
    """Two tensors that torch would broadcast to one value for each pair of images."""


_LIKE = ("to", "type_as", "view_as", "reshape_as")
"""Functions that use only the type or the shape of a tensor."""


class _NoPairs(TorchFunctionMode):
    """Checks the arguments of each torch function."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        given: Mapping[str, Any] = kwargs or {}
        if getattr(func, "__name__", "") in _LIKE:
            return func(*args, **given)
        shapes = {tuple(value.shape) for value in (*args, *given.values()) if isinstance(value, Tensor)}
        for shape in shapes:
            flat = (shape[0], *shape[2:]) if len(shape) == 4 and shape[1] == 1 else None
            if flat in shapes:
                raise _PairsError(f"{getattr(func, '__name__', func)} of {shape} and {flat}")
        return func(*args, **given)
