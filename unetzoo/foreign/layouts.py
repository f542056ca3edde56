"""What a layout of somebody else's network is: how its names are told, which network it became, how it is renamed.

A layout is one entry in a table of a module beside this one; nothing else need know of a new one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

State = Mapping[str, Tensor]


class Rule(NamedTuple):
    """How tensors are renamed.

    Attributes:
        pattern: of a whole name of theirs, a regular expression.
        name: ours, with the groups of the pattern as ``re.Match.expand`` takes them; None for what is left out.
        change: what is done to the tensor.
    """

    pattern: str
    name: str | None
    change: Callable[[Tensor], Tensor] | None = None


class Assumption(NamedTuple):
    """What no tensor shows.

    Attributes:
        options: ours that say it; "name" is the network's. Where the caller gives one of them, nothing is assumed.
        said: what is assumed, and what to say where it is not so.
    """

    options: tuple[str, ...]
    said: str


@dataclass(frozen=True)
class Network:
    """A network of the zoo.

    Attributes:
        name: in the zoo.
        options: as ``create`` takes them.
        remark: where its results are theirs and where they differ, such as "equal where sides divide by 16".
        assumed: what no tensor shows.
        idle: pattern of whole names of theirs: what it holds, and no logit depends on.
    """

    name: str
    options: Mapping[str, Any]
    remark: str
    assumed: Sequence[Assumption] = ()
    idle: str = ""


class UnfitError(Exception):
    """A layout that is known, of a network that is not in the zoo.

    Attributes:
        what: it is, such as "milesial's U-Net of 3 levels".
        why: it is not in the zoo.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why


@dataclass(frozen=True)
class Layout:
    """How somebody's program names the tensors of a network.

    Attributes:
        title: whose network it is, such as "milesial's U-Net".
        home: where it is published.
        marks: patterns of whole names; a state dict that has a name for each is of this layout.
        networks: reads off the shapes which network it is; several where no tensor tells them apart, the usual one
            first. Raises :class:`UnfitError`, or KeyError where a tensor is missing.
        rules: the first that matches a name renames it; what none matches is an unexpected tensor.
        zero: pattern of our names, of biases that theirs lack: absent as a whole, they are zeros.
        beside: reads what the program writes beside a file of weights, and which says more than they show. None where
            nothing stands there; raises ConfigError for a network that is not in the zoo.
    """

    title: str
    home: str
    marks: Sequence[str]
    networks: Callable[[State], Sequence[Network]]
    rules: Sequence[Rule]
    zero: str | None = None
    beside: Callable[[Path], Network | None] | None = None

    def is_that_of(self, state: State) -> bool:
        """Whether a state dict has a name for each of the marks."""
        return all(any(map(_compiled(mark).fullmatch, state)) for mark in self.marks)

    def renamed(self, state: State, idle: str = "") -> tuple[dict[str, Tensor], list[str]]:
        """Return a state dict under our names, and the names of theirs that are left out: ``idle`` ones too."""
        found: dict[str, Tensor] = {}
        left = []
        rules = (Rule(idle, None), *self.rules)
        for name, tensor in state.items():
            rule, match = _first(rules, name)
            if rule is None or match is None:
                found[name] = tensor
            elif rule.name is None:
                left.append(name)
            else:
                ours = match.expand(rule.name)
                # Two for one place: the second is surplus, and is refused by its own name.
                found[name if ours in found else ours] = tensor if rule.change is None else rule.change(tensor)
        return found, left

    def with_zeros(self, state: State, wanted: State) -> dict[str, Tensor]:
        """Return a renamed state dict with the biases that theirs lack, if it has none of them."""
        lacking = [name for name in wanted if self.zero is not None and re.fullmatch(self.zero, name)]
        if any(name in state for name in lacking):
            return dict(state)
        like = next((tensor for tensor in state.values() if tensor.is_floating_point()), None)
        return dict(state) if like is None else {**state, **{n: like.new_zeros(wanted[n].shape) for n in lacking}}


def _first(rules: Sequence[Rule], name: str) -> tuple[Rule, re.Match[str]] | tuple[None, None]:
    for rule in rules:
        match = _compiled(rule.pattern).fullmatch(name)
        if match is not None:
            return rule, match
    return None, None


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
