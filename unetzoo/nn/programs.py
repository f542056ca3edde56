"""Tells whether torch runs a network itself, on plain tensors, or a tracer or compiler processes it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

PLAIN = (Tensor, nn.Parameter)
"""Types of tensors that are nothing more than tensors."""


def transformed() -> bool:
    """Whether torch.compile, export, jit.trace or torch.func processes the program: they need plain operators."""
    return torch.compiler.is_compiling() or by_tracing() or by_torch_func()


def by_tracing() -> bool:
    """Whether ``torch.jit.trace`` runs this."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def by_torch_func() -> bool:
    """Whether ``torch.func`` (vmap, grad, jvp) runs this."""
    return torch._C._are_functorch_transforms_active()


def by_modes() -> bool:
    """Whether a mode sees each operator (fake tensors, ``make_fx``, counters): it would miss what is not one."""
    before_autograd: int = torch._ops._len_torch_dispatch_stack_pre_dispatch()  # type: ignore[no-untyped-call]
    return bool(torch._C._len_torch_dispatch_stack() or before_autograd)


def of_several(grad: Tensor) -> bool:
    """Whether ``grad`` is many gradients at once: by ``torch.func``, or ``is_grads_batched`` of ``autograd.grad``."""
    return by_torch_func() or bool(torch._C._functorch.is_legacy_batchedtensor(grad))


def only_backward(*tensors: Tensor) -> bool:
    """Whether all are plain tensors without a tangent: one of our functions has no derivative in forward mode."""
    return all(type(x) in PLAIN and _tangent(x) is None for x in tensors)


def _tangent(x: Tensor) -> Tensor | None:
    tangent: Tensor | None = forward_ad.unpack_dual(x).tangent  # type: ignore[no-untyped-call]
    return tangent
