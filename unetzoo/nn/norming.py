"""In-place batch norm for inference on the CPU: a quarter of the time of torch's own, which fills a new map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from unetzoo.nn.programs import transformed


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Return ``norm(x)``, for an ``x`` that the caller no longer needs.

    On the CPU, ``x`` is overwritten if ``norm`` is a batch norm in evaluation mode, no gradient is recorded, no hook
    sees it, and its type is wide enough for the scale and the shift.
    """
    if not isinstance(norm, nn.BatchNorm2d) or not _overwrites(norm, x):
        out: Tensor = norm(x)
        return out
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    return torch.addcmul(shift[:, None, None], x, scale[:, None, None], out=x)


def hooked(module: nn.Module) -> bool:
    """Whether a forward hook sees, and may keep, what goes into ``module`` or comes out of it."""
    everywhere = torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
    return bool(everywhere or module._forward_hooks or module._forward_pre_hooks)


def watched(module: nn.Module) -> bool:
    """Whether any hook sees what goes through ``module``, forward or backward, or its ``forward`` was replaced."""
    everywhere = torch_module._global_backward_hooks or torch_module._global_backward_pre_hooks
    its_own = module._backward_hooks or module._backward_pre_hooks or "forward" in vars(module)
    return bool(hooked(module) or everywhere or its_own)


def _overwrites(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    if type(norm) is not nn.BatchNorm2d or norm.training or not norm.affine or norm.running_mean is None:
        return False
    if torch.is_grad_enabled() and (x.requires_grad or any(tensor.requires_grad for tensor in norm.parameters())):
        return False
    alike = type(x) is Tensor and x.dtype == norm.weight.dtype and x.dtype.itemsize >= 4
    return alike and x.device.type == norm.weight.device.type == "cpu" and not transformed() and not hooked(norm)
