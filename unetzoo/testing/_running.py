"""Runs checks one after another, independently, and reports all their findings in one error."""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from unetzoo.errors import UnetzooError
from unetzoo.files.torch_files import first_line

_OURS = Path(__file__).parent
_SHOWN = 3
"""Most problems of one check that are listed: a mistake often occurs everywhere."""


class ContractError(UnetzooError, AssertionError):
    """A decoder, an encoder, a loss or an annotation format breaks its contract.

    Attributes:
        problems: a line for each thing that is wrong, which begins with the name of the check that found it.
    """

    def __init__(self, part: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        listed = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"{part} breaks its contract in {len(problems)} places:{listed}")


def run(part: str, checks: Sequence[partial[Iterator[str]]]) -> None:
    """Run checks of a part. The first is whether it can be built; if that fails, the others are not run.

    Args:
        part: its kind and name, the subject of the error.
        checks: functions with their arguments, which yield a sentence for each problem: what was expected, what was
            found, where to look.

    Raises:
        ContractError: lists everything that they find.
    """
    problems: list[str] = []
    logger = logging.getLogger("unetzoo")
    before = logger.disabled
    logger.disabled = True  # load(in_channels=) logs what it adapts
    try:
        for check in checks:
            problems += _found(check)
            if problems and check is checks[0]:
                break
    finally:
        logger.disabled = before
    if problems:
        raise ContractError(part, problems)


def _found(check: partial[Iterator[str]]) -> list[str]:
    """Return the findings of one check, its name first; if it raises an error, that is the last finding."""
    title = check.func.__name__.replace("_", " ")
    if not isinstance(check.args[0], str):
        title += f" ({check.args[0]})"
    found: list[str] = []
    with torch.random.fork_rng(devices=()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an exporter's deprecations do not concern the part
        torch.manual_seed(0)
        try:
            found.extend(f"{title}: {problem}" for problem in check())
        except Exception as error:
            found.append(f"{title}: {type(error).__name__}: {first_line(error):.300}{_place(error)}")
    if len(found) > _SHOWN:
        found[_SHOWN - 1 :] = [f"{found[_SHOWN - 1]}; and {len(found) - _SHOWN} more of this kind"]
    return found


def _place(error: BaseException) -> str:
    """Return where an error was raised, in the part itself if it is in the traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent != _OURS]
    own = [frame for frame in frames if "site-packages" not in Path(frame.filename).parts]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def disturb(module: nn.Module) -> None:
    """Move all parameters and statistics away from their initial values, whose zeros and ones could hide mistakes."""
    with torch.no_grad():
        for parameter in module.parameters():
            spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
            parameter.add_(torch.randn_like(parameter), alpha=0.1 * spread or 0.1)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the spread of the expected values; infinity if shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    found, expected = found.double(), expected.double()
    scale = (expected.max() - expected.min()).clamp(min=1e-6)
    relative = (found - expected).abs().max() / scale
    return float(relative.nan_to_num(nan=float("inf")))


def dead_parameters(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Yield a sentence for each parameter that has no gradient after a backward pass."""
    for name, parameter in module.named_parameters(prefix=prefix):
        owner, _, own = name.removeprefix(f"{prefix}." if prefix else "").rpartition(".")
        # The bias of a convolution before a norm cancels out.
        cancels = own == "bias" and isinstance(module.get_submodule(owner), nn.Conv2d | nn.ConvTranspose2d)
        if parameter.grad is None:
            yield f"{name} gets no gradient: no output depends on it; use it, or do not create it"
        elif not parameter.grad.isfinite().all():
            yield f"the gradient of {name} is not finite"
        elif not cancels and not parameter.grad.any():
            yield f"the gradient of {name} is 0 everywhere; is its output used?"


NORMS = {
    "batch": ("BatchNorm2d",),
    "group": ("GroupNorm",),
    "instance": ("InstanceNorm2d",),
    "layer": ("LayerNorm2d",),
    None: (),
}
"""``norm`` → names of the classes that ``make_norm`` takes for it."""


def norms_in(module: nn.Module) -> set[str]:
    """Return the names of the classes of the norms in a module."""
    return {type(layer).__name__ for layer in module.modules() if "Norm" in type(layer).__name__ and _holds(layer)}


def _holds(layer: nn.Module) -> bool:
    """Return whether it is a norm, not a block that contains one."""
    return not any(layer.children())
