"""A loss from a line of text: ``build("0.5*bce + dice", task="binary")``."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from unetzoo import checks
from unetzoo.errors import ConfigError
from unetzoo.losses._base import COMMON, LOSSES, Loss, LossSpec, common_problems
from unetzoo.losses.compound import Sum
from unetzoo.registry import imported, suggest

SHORT = "give one or more losses with weights, such as '0.5*bce + dice' or 'tversky(alpha=0.3, beta=0.7)'"


def build(
    text: str, task: str, *, class_weights: Sequence[float] | Tensor | None = None, ignore_index: int = -100
) -> Loss:
    """Build a loss from a line of text, such as "0.5*bce + dice" or "tversky(alpha=0.3) + my.losses.Edge".

    The text is a sum of terms, each with a weight before or after it if that is not 1. A term is a name in ``LOSSES``
    or a dotted path, followed by options in brackets, which are literals by name. No other Python is allowed, and
    nothing is evaluated. A dotted path is imported; it names a class or a function as :func:`register_loss` takes it.

    Args:
        text: see above.
        task, class_weights, ignore_index: of all terms, see :class:`SingleLoss`.

    Returns:
        The loss itself if it is a :class:`Loss`, alone, and its weight is 1, otherwise a :class:`Sum`.

    Raises:
        ConfigError: lists everything that is wrong with the text and its options.
    """
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"loss={text!r}: {SHORT}")
    builder = _Builder(dict(zip(COMMON, (task, class_weights, ignore_index), strict=True)))
    try:
        terms = builder.terms(ast.parse(text.strip(), mode="eval").body, 1.0)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"loss={text!r:.200} cannot be read ({error}): {SHORT}") from error
    if builder.problems:
        raise ConfigError(f"cannot build the loss {text!r}", builder.problems)
    weight, only = terms[0]
    if len(terms) == 1 and weight == 1 and isinstance(only, Loss):
        return only
    return Sum(task, terms, ignore_index=ignore_index)


class _Builder:
    """Walks the syntax tree of the text, and collects problems.

    Args:
        common: the arguments that every loss gets.
    """

    def __init__(self, common: Mapping[str, Any]) -> None:
        self.common = common
        self.problems = common_problems(**common)
        self._said = frozenset(self.problems)

    def terms(self, node: ast.expr, weight: float) -> list[tuple[float, nn.Module]]:
        """Return the terms of a sum, a product or a loss, each multiplied by ``weight``."""
        match node:
            case ast.BinOp(left, ast.Add(), right):
                return self.terms(left, weight) + self.terms(right, weight)
            case ast.BinOp(ast.Constant() as factor, ast.Mult(), loss) | ast.BinOp(
                loss, ast.Mult(), ast.Constant() as factor
            ):
                return self.terms(loss, weight * self._factor(factor))
            case ast.Call(function, arguments, keywords):
                made = self._made(function, self._options(arguments, keywords))
            case ast.Name() | ast.Attribute():
                made = self._made(node, {})
            case _:
                self.problems.append(f"{ast.unparse(node)!r:.200}: {SHORT}")
                made = None
        return [] if made is None else [(weight, made)]

    def _factor(self, node: ast.Constant) -> float:
        value = node.value
        if type(value) in (int, float) and 0 < value < float("inf"):  # type: ignore[operator]
            return float(value)  # type: ignore[arg-type]
        self.problems.append(f"weight {value!r:.100}: a finite number above 0 is needed")
        return 1.0

    def _options(self, arguments: list[ast.expr], keywords: list[ast.keyword]) -> dict[str, Any]:
        found = {}
        self.problems += [f"{ast.unparse(node)!r:.100}: give options by name: name=value" for node in arguments]
        for keyword in keywords:
            try:
                value = ast.literal_eval(keyword.value)
            except ValueError:
                value = None
                self.problems.append(f"{ast.unparse(keyword)!r:.100}: the value must be a literal")
            if keyword.arg is None:
                self.problems.append(f"'{ast.unparse(keyword)}'"[:100] + ": give options by name: name=value")
            elif keyword.arg in self.common:
                self.problems.append(f"{keyword.arg} is the same for all terms: leave it out of the text")
            else:
                found[keyword.arg] = value
        return found

    def _made(self, node: ast.expr, options: dict[str, Any]) -> nn.Module | None:
        name = ast.unparse(node)
        found = self._registered(name) if isinstance(node, ast.Name) else self._imported(name)
        if found is None:
            return None
        if not isinstance(found.make, type):
            if options:
                self.problems.append(f"{name}: a function takes no options; write a class that keeps them")
            return _Function(found.make, name)
        wrong = [] if found.takes_anything else [key for key in options if key not in found.takes]
        self.problems += [
            f"{name}: unknown option {key!r}{suggest(key, found.options)} (it takes: "
            f"{', '.join(found.options) or 'none'})"
            for key in wrong
        ]
        if wrong:
            return None
        given = {key: value for key, value in self.common.items() if key in found.takes}
        try:
            made: nn.Module = found.make(**given, **options)
        except ConfigError as error:
            self.problems += [f"{name}: {problem}" for problem in error.problems if problem not in self._said]
        except Exception as error:  # the user's class may raise anything
            self.problems.append(f"{name} cannot be made ({type(error).__name__}: {error})")
        else:
            return made
        return None

    def _registered(self, name: str) -> LossSpec | None:
        """Return the loss of a name."""
        if name not in LOSSES:
            own = "; for your own, import its module (on the command line: --import), or give a dotted path"
            self.problems.append(checks.unknown("loss", name, LOSSES) + own)
            return None
        found, task = LOSSES[name], self.common["task"]
        if task in checks.PIXEL_TASKS and task not in found.tasks:
            self.problems.append(f"{name} is not for task={task!r}: it supports {', '.join(map(repr, found.tasks))}")
            return None
        return found

    def _imported(self, name: str) -> LossSpec | None:
        """Return the loss of a dotted path."""
        if not all(part.isidentifier() for part in name.split(".")):
            self.problems.append(f"{name!r:.100} is not a loss: {SHORT}")
            return None
        try:
            found: Callable[..., Any] = imported(name)
        except ConfigError as error:
            self.problems += error.problems
            return None
        if not callable(found) or (isinstance(found, type) and not issubclass(found, nn.Module)):
            self.problems.append(f"{name}: a subclass of torch.nn.Module or a function is needed, not {found!r:.100}")
        else:
            return LossSpec(found)
        return None


class _Function(nn.Module):
    """A function of (logits, target) as a module."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], name: str) -> None:
        super().__init__()
        self.function = function
        self.name = name.rpartition(".")[2]

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.function(logits, target)
