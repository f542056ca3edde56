"""Optimisers by name: those of ``torch.optim``, and the user's own classes by their dotted paths."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unetzoo.checks import one_of
from unetzoo.errors import ConfigError
from unetzoo.registry import imported, suggest

NAMES: dict[str, type[Optimizer]] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
}
"""Name → class. Some cannot be used, such as LBFGS: :func:`optimiser_problems` finds out."""
DEFAULTS: dict[str, dict[str, Any]] = {"sgd": {"momentum": 0.99, "nesterov": True, "weight_decay": 3e-5}}
"""Name → defaults that differ from torch's. "sgd" is that of nnU-Net v2 (``nnUNetTrainer.configure_optimizers``), whose
learning rate is 0.01."""
SETTLED = {"params": "it is the network's", "lr": "give it as lr=…", "weight_decay": "give it as weight_decay=…"}
"""Arguments of a class that are not options, and why."""
WAYS = {"fused", "foreach", "differentiable", "capturable"}
"""Arguments of torch's classes that say how a step is computed."""
FUSED = (torch.optim.Adam, torch.optim.AdamW)
"""Classes whose steps are fused on the CPU if nothing else is asked for. That of SGD fails where a weight has its first
gradient later than others."""


def optimiser_problems(name: str, options: Mapping[str, Any] | None, weight_decay: float | None) -> list[str]:
    """Return what is wrong with an optimiser; it takes one step on two small tensors to find out.

    Args:
        name: of a class in ``torch.optim``, in small letters, or the dotted path of a subclass of its ``Optimizer``.
        options: arguments of its class.
        weight_decay: None: the optimiser's default.
    """
    try:
        kind = _class_of(name)
    except ConfigError as error:
        return list(error.problems)
    takes, anything = _arguments(kind)
    listed = ", ".join(key for key in takes if key not in SETTLED)
    found = []
    for key in options or {}:
        if key in SETTLED:
            found.append(f"optimiser_options: {key} is not an option; {SETTLED[key]}")
        elif key not in takes and not anything:
            found.append(f"optimiser_options: unknown option {key!r}{suggest(key, takes)} ({name} takes: {listed})")
    if weight_decay and "weight_decay" not in takes and not anything:
        found.append(f"weight_decay={weight_decay}: {name} has no weight decay; leave it out")
    return found or _refusals(name, options, weight_decay)


def made(
    name: str,
    options: Mapping[str, Any] | None,
    groups: list[dict[str, Any]],
    lr: float,
    weight_decay: float,
    scaled: bool = False,
) -> Optimizer:
    """Return the optimiser for parameter groups with their own learning rates and weight decays.

    Args:
        scaled: whether it is given gradients that are multiplied by a factor, as in float16.
    """
    kind = _class_of(name)
    takes, _ = _arguments(kind)
    given = DEFAULTS.get(name, {}) | {"lr": lr, "weight_decay": weight_decay} | dict(options or {})
    settled = {key: value for key, value in given.items() if key in takes or key not in SETTLED}
    if not scaled and _fuses(kind, settled, [parameter for group in groups for parameter in group["params"]]):
        settled["fused"] = True
    optimiser = kind(groups, **settled)
    if kind in FUSED:
        optimiser.register_load_state_dict_pre_hook(_as_here)
    if settled.get("fused"):
        optimiser.register_step_pre_hook(_laid_out)
        if not scaled:  # else the step divides by the factor itself, so Lightning refuses to clip before it
            optimiser._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimiser


def _fuses(kind: type[Optimizer], given: Mapping[str, Any], parameters: Sequence[nn.Parameter]) -> bool:
    """Whether a step is to be taken in one pass over the weights, which torch does on the CPU only if asked.

    A step of AdamW takes a quarter of the time then. On GPUs, torch's default has few kernels as well.
    """
    if kind not in FUSED or WAYS & given.keys():
        return False
    plain = (type(p) is nn.Parameter and p.device.type == "cpu" and p.is_floating_point() for p in parameters)
    return all(plain) and all(map(_has_no_gaps, parameters))


def _has_no_gaps(p: Tensor) -> bool:
    """Whether the numbers of a weight follow each other in memory, channels first or last."""
    return p.is_contiguous() or (p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last))


def _as_here(optimiser: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return a saved state with this optimiser's own way: the run may have begun on another device."""
    saved, own = state["param_groups"], optimiser.param_groups
    if len(saved) != len(own):
        return state  # which torch refuses
    ways = [{way: group[way] for way in WAYS & group.keys()} for group in own]
    return {**state, "param_groups": [{**group, **way} for group, way in zip(saved, ways, strict=True)]}


def _laid_out(optimiser: Optimizer, *_: Any) -> None:
    """Lay out gradients and moments as their weights are: fused steps take for granted that they are.

    Those of a run that began on another device, where weights have their channels last, are not.
    """
    for p in (p for group in optimiser.param_groups for p in group["params"]):
        if p.grad is not None and _lies_otherwise(p.grad, p):
            p.grad = torch.empty_like(p).copy_(p.grad)
        state = optimiser.state.get(p, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == p.shape and _lies_otherwise(value, p):
                state[key] = torch.empty_like(p, dtype=value.dtype).copy_(value)


def _lies_otherwise(x: Tensor, p: Tensor) -> bool:
    """Whether numbers of ``x`` are elsewhere in memory than those of ``p``; strides of sides of 1 do not matter."""
    pairs = zip(x.stride(), p.stride(), p.shape, strict=True)
    return x.stride() != p.stride() and any(one != other for one, other, size in pairs if size > 1)


def decay_of(name: str, weight_decay: float | None) -> float:
    """Return the weight decay: for None, that of the optimiser itself, and 0 if it has none."""
    if weight_decay is not None:
        return weight_decay
    own = DEFAULTS.get(name, {}).get("weight_decay", _arguments(_class_of(name))[0].get("weight_decay"))
    return float(own) if isinstance(own, int | float) else 0.0


def _class_of(name: str) -> type[Optimizer]:
    """Return the class of a name or a dotted path.

    Raises:
        ConfigError: there is none, or it is not an optimiser.
    """
    if not isinstance(name, str) or "." not in name:
        if not isinstance(name, str) or name not in NAMES:
            usable = [known for known in NAMES if not _refusals(known, None, None)]
            raise ConfigError(f"{one_of('optimiser', name, usable)[0]}; give your own as its dotted path")
        return NAMES[name]
    try:
        found = imported(name)
    except ConfigError as error:
        raise ConfigError(f"optimiser={name!r}: {error}") from error
    if not isinstance(found, type) or not issubclass(found, Optimizer):
        raise ConfigError(f"optimiser={name!r}: a subclass of torch.optim.Optimizer is needed, not {found!r:.100}")
    return found


def _arguments(kind: type[Optimizer]) -> tuple[dict[str, Any], bool]:
    """Return argument → default of a class, and whether it takes any other arguments."""
    parameters = inspect.signature(kind).parameters.values()
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return {one.name: one.default for one in parameters if one.kind is not one.VAR_KEYWORD}, anything


def _refusals(name: str, options: Mapping[str, Any] | None, weight_decay: float | None) -> list[str]:
    """Return the error of an optimiser in a step on a four-dimensional weight and a bias, in two groups."""
    parameters = [nn.Parameter(torch.ones(2, 2, 1, 1)), nn.Parameter(torch.ones(2))]
    decay = decay_of(name, weight_decay)
    groups = [{"params": [p], "lr": 0.1, "weight_decay": decay * (p.ndim > 1)} for p in parameters]
    try:
        optimiser = made(name, options, groups, 0.1, decay)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimiser.step()
    except Exception as error:  # torch's or the user's class may raise anything
        return [f"optimiser={name!r} cannot be used ({type(error).__name__}: {error})"]
    return []
