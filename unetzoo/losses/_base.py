"""The base of all losses: tasks, class weights, ignored pixels, full precision; and the registry of losses."""

from __future__ import annotations

import contextlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from unetzoo.checks import PIXEL_TASKS, is_number, one_of, whole
from unetzoo.errors import ConfigError, InputError
from unetzoo.losses._target import Truth, read_target, target_problems
from unetzoo.registry import Registry


class Loss(nn.Module, ABC):
    """A loss of logits and a target: a :class:`SingleLoss`, or a sum of losses.

    Half precision, also under autocast, is computed in float32; float64 stays float64. The gradient is finite for any
    target; if no pixel counts, loss and gradient are 0.

    Args:
        task: "binary" (one channel, sigmoid), "multiclass" (softmax over two channels or more) or "multilabel" (a
            sigmoid for each channel).
        ignore_index: the target's value for pixels that do not count.
        problems: what a subclass finds wrong with its own arguments, one sentence each.

    Raises:
        ConfigError: lists all arguments that are not allowed.
    """

    name: ClassVar[str] = ""

    def __init__(self, task: str, *, ignore_index: int = -100, problems: Sequence[str] = ()) -> None:
        found = [*common_problems(task, None, ignore_index), *problems]
        if found:
            raise ConfigError(f"cannot build the loss {self.name or type(self).__name__}", found)
        super().__init__()
        self.task = task
        self.ignore_index = ignore_index

    @abstractmethod
    def parts(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the terms that :meth:`forward` adds up, by name: a single loss, or the weighted terms of a sum."""

    @abstractmethod
    def weight_problems(self, classes: int) -> list[str]:
        """Return why class weights do not fit logits with this many channels."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar of float32, or float64 for logits of float64.

        Args:
            logits: (N, C, H, W), floating point.
            target: class indices (N, H, W) of an integer type for a multiclass task; 0 and 1 of any type for the
                others, (N, H, W) or (N, 1, H, W) if binary and (N, C, H, W) if multilabel. ``ignore_index`` marks
                pixels (of a class, if multilabel) that do not count.

        Raises:
            InputError: shapes, types or devices do not fit; or, on the CPU, the target has other values. On other
                devices, where reading values would stall each step, such values make the loss nan.
        """
        return torch.stack(list(self.parts(logits, target).values())).sum()

    def read(self, logits: Tensor, target: Tensor) -> Truth:
        """Check both, and read the target.

        Raises:
            InputError: as :meth:`forward` says.
        """
        for name, value in (("logits", logits), ("target", target)):
            if not isinstance(value, Tensor):
                raise InputError(f"{name}: a torch.Tensor is needed, not {type(value).__name__}")
        found = target_problems(self.task, logits, target)
        if logits.ndim == 4:
            found += self.weight_problems(logits.shape[1])
        if found:
            raise InputError(f"the {self.task} loss {self.name} cannot be computed: {'; '.join(found)}")
        return read_target(self.task, target, logits.shape[1], self.ignore_index, full(logits.dtype))


class SingleLoss(Loss):
    """A loss that is not a sum; a subclass has a ``name`` and a ``measure``.

    Args:
        task, ignore_index, problems: see :class:`Loss`.
        class_weights: a number from 0 up for each channel of the logits; they move between devices with the module.
            In losses of pixels, a pixel of class c has the weight ``class_weights[c]``; in binary and multilabel tasks,
            the background of each class has the weight 1 (torch's ``pos_weight``). In losses of regions, they are the
            weights in the mean over classes, so that the weight of a single class has no effect.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        task: str,
        *,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        problems: Sequence[str] = (),
    ) -> None:
        problems = [*_weight_problems(task, class_weights), *problems]
        super().__init__(task, ignore_index=ignore_index, problems=problems)
        weights = None if class_weights is None else torch.tensor(_listed(class_weights), dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    @abstractmethod
    def measure(self, logits: Tensor, truth: Truth) -> Tensor:
        """Return the loss, a scalar, for logits (N, C, H, W) in float32 or float64; autocast is off."""

    def parts(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the loss by its name."""
        truth = self.read(logits, target)
        return {self.name: truth.guarded(self.measured(logits, truth))}

    def measured(self, logits: Tensor, truth: Truth) -> Tensor:
        """Return ``measure`` of the logits in full precision."""
        # Autocast does not support the meta device.
        with contextlib.nullcontext() if logits.is_meta else torch.autocast(logits.device.type, enabled=False):
            return self.measure(logits.to(full(logits.dtype)), truth)

    def weight_problems(self, classes: int) -> list[str]:
        """Return why the class weights do not fit logits with this many channels."""
        if self.class_weights is None or len(self.class_weights) == classes:
            return []
        return [f"{self.name} has {len(self.class_weights)} class_weights for logits of {classes} channels"]

    def weights(self, logits: Tensor) -> Tensor:
        """Return the class weights (C,), all 1 if there are none, for ``logits`` (N, C, H, W)."""
        if self.class_weights is None:
            return logits.new_ones(logits.shape[1])
        return self.class_weights.to(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the softmax over the classes, or the sigmoid, depending on the task."""
        return logits.softmax(dim=1) if self.task == "multiclass" else logits.sigmoid()


COMMON = ("task", "class_weights", "ignore_index")
"""Arguments of a loss that its builder gives, the same for all terms of a sum."""

M = TypeVar("M", bound=Callable[..., Any])


@dataclass(frozen=True)
class LossSpec:
    """An entry of the registry of losses.

    Attributes:
        make: a subclass of ``torch.nn.Module``, or a function of (logits, target).
        tasks: the tasks it supports.
    """

    make: Callable[..., Any]
    tasks: tuple[str, ...] = PIXEL_TASKS

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of its class's arguments, including those that all losses share; none for a function."""
        return tuple(name for name, kind in self._arguments().items() if kind is not inspect.Parameter.VAR_KEYWORD)

    @property
    def options(self) -> tuple[str, ...]:
        """The arguments that may be in brackets after its name."""
        return tuple(name for name in self.takes if name not in COMMON)

    @property
    def takes_anything(self) -> bool:
        """Whether its class has ``**options`` that no base class names."""
        return inspect.Parameter.VAR_KEYWORD in self._arguments().values()

    def _arguments(self) -> dict[str, Any]:
        """Return argument → kind of its class. ``**options`` stand for the arguments of the base class, and so on."""
        found: dict[str, Any] = {}
        for kind in self.make.__mro__ if isinstance(self.make, type) else ():
            if kind is nn.Module:
                break
            if "__init__" in vars(kind):
                own = inspect.signature(vars(kind)["__init__"]).parameters.values()
                found = {name: how for name, how in found.items() if how is not inspect.Parameter.VAR_KEYWORD}
                found |= {parameter.name: parameter.kind for parameter in own}
                if inspect.Parameter.VAR_KEYWORD not in found.values():
                    break
        return {name: how for name, how in found.items() if name not in ("self", "problems")}


LOSSES: Registry[LossSpec] = Registry("loss")
"""Name in texts → loss."""


def register_loss(name: str, *, tasks: Sequence[str] = PIXEL_TASKS) -> Callable[[M], M]:
    """Register a loss: ``build``, ``unetzoo train --loss`` and ``unetzoo.fit`` then know it by its name.

    Decorates a class or a function. A class is a :class:`SingleLoss`, or any other ``torch.nn.Module`` that is called
    as (logits, target). It is made with the options in brackets after its name, and gets ``task``, ``class_weights``
    and ``ignore_index`` if it has arguments of these names. A function of (logits, target) is used unchanged. The name
    of a :class:`Loss`, under which its value is reported, becomes the registered one.

    Args:
        name: in texts, such as "edges" in "edges(width=3) + dice".
        tasks: the tasks it supports; for others it is refused.

    Raises:
        ConfigError: the name is taken, or not a valid name; an unknown task; or neither a class nor a function.
    """
    problems = [problem for task in tasks for problem in one_of("tasks", task, PIXEL_TASKS)]
    problems += [] if tasks else [f"tasks={tasks!r}: one or more are needed"]
    if problems:
        raise ConfigError(f"cannot register the loss {name!r}", problems)

    def decorate(made: M) -> M:
        if not callable(made) or (isinstance(made, type) and not issubclass(made, nn.Module)):
            raise ConfigError(f"the loss {name!r}: a subclass of torch.nn.Module or a function is needed, not {made!r}")
        LOSSES.register(name, LossSpec(made, tuple(tasks)))
        if isinstance(made, type) and issubclass(made, Loss):
            made.name = name
        return made

    return decorate


def full(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for half precision, and other types unchanged."""
    return torch.promote_types(dtype, torch.float32)


def number_problems(name: str, value: object, low: float, high: float = math.inf, *, above: bool = False) -> list[str]:
    """Return what is wrong with an option that is a number from ``low`` (or ``above`` it) to ``high``."""
    fits = is_number(value) and low <= value <= high and value < math.inf
    if fits and not (above and value == low):
        return []
    span = f"above {low:g}" if above else f"from {low:g}"
    limit = f" to {high:g}" if high < math.inf else "" if above else " up"
    return [f"{name}={value!r}: a finite number {span}{limit} is needed"]


def common_problems(task: object, class_weights: object, ignore_index: object) -> list[str]:
    """Return a sentence for each wrong value among the arguments that all losses take."""
    found = one_of("task", task, PIXEL_TASKS) + whole("ignore_index", ignore_index, None)
    return found + _weight_problems(task, class_weights)


def _weight_problems(task: object, weights: object) -> list[str]:
    if weights is None:
        return []
    listed = _listed(weights)
    given = f"class_weights={listed!r:.100}"
    if not isinstance(listed, Sequence) or not listed or not all(map(is_number, listed)):
        return [f"{given}: a list of numbers is needed, one for each channel of the logits"]
    if not all(0 <= value <= torch.finfo(torch.float32).max for value in listed) or not any(listed):
        return [f"{given}: finite numbers from 0 up are needed, at least one of them above 0"]
    if task == "binary" and len(listed) != 1:
        return [f"{given}: task='binary' needs one number, the weight of the foreground; the background has 1"]
    if task == "multiclass" and len(listed) == 1:
        return [f"{given}: task='multiclass' needs two or more, one per class"]
    return []


def _listed(weights: object) -> object:
    return weights.tolist() if isinstance(weights, Tensor) else weights
