"""Parameter groups for optimisers: a learning rate for the encoder, one for the rest, no weight decay where harmful."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from unetzoo.checks import is_number
from unetzoo.errors import ConfigError
from unetzoo.model import SegmentationModel


def param_groups(
    model: SegmentationModel, lr: float, *, encoder_lr: float | None = None, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Return parameter groups for any torch optimiser, such as ``AdamW(param_groups(model, 1e-3))``.

    Norms, biases and per-channel scales get no weight decay, whatever their shape; weights of convolutions and linear
    layers always do. Frozen parameters are left out.

    Args:
        model: of the zoo.
        lr: learning rate of decoder and heads.
        encoder_lr: learning rate of the encoder; None: ``lr``. 0.1 × ``lr`` is usual with pretrained weights.
        weight_decay: for the weights of convolutions and linear layers.

    Returns:
        Up to four groups with the keys "params", "lr", "weight_decay" and "name"; empty ones are left out.

    Raises:
        ConfigError: a learning rate or weight decay is negative or not a number.
    """
    given = {"lr": lr, "weight_decay": weight_decay} | ({} if encoder_lr is None else {"encoder_lr": encoder_lr})
    problems = [
        f"{name}={value!r}: a finite number from 0 up is needed" for name, value in given.items() if not _is_rate(value)
    ]
    if problems:
        raise ConfigError("cannot group the parameters", problems)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "encoder" if name.startswith("encoder.") else "decoder"
        decays = _decays(model.get_submodule(name.rpartition(".")[0]), parameter)
        group = groups.setdefault(
            part if decays else f"{part}, no decay",
            {
                "params": list[nn.Parameter](),
                "lr": given.get("encoder_lr", lr) if part == "encoder" else lr,
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return [{**group, "name": name} for name, group in groups.items()]


def _decays(owner: nn.Module, parameter: nn.Parameter) -> bool:
    """Return whether a parameter mixes channels or pixels, rather than only scaling or shifting each of them."""
    if isinstance(owner, _ConvNd | nn.Linear):
        return parameter.ndim > 1  # even a depth-wise (1, 1, 3, 3), or a (1, C, 1, 1) that gives a single channel
    if isinstance(owner, _NormBase | nn.LayerNorm | nn.GroupNorm):
        return False
    return sum(side > 1 for side in parameter.shape) > 1


def _is_rate(value: object) -> bool:
    return is_number(value) and 0 <= value < math.inf
