"""Layouts of other programs' networks: how to recognise them, which network here they are, and how to rename tensors.

A layout is one entry in a table of a module next to this one; a new one needs no other change.
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
    """A rule that renames tensors.

    Attributes:
        pattern: a regular expression that matches a complete name of theirs.
        name: our name, with the groups of the pattern as ``re.Match.expand`` takes them; None to leave the tensor out.
        change: function applied to the tensor.
    """

    pattern: str
    name: str | None
    change: Callable[[Tensor], Tensor] | None = None


class Assumption(NamedTuple):
    """An assumption about something that no tensor shows.

    Attributes:
        options: our options that state it; "name" is the network's. If the caller gives one, nothing is assumed.
        said: what is assumed, and what to give if this is wrong.
    """

    options: tuple[str, ...]
    said: str


@dataclass(frozen=True)
class Network:
    """A network of the zoo.

    Attributes:
        name: in the zoo.
        options: as ``create`` takes them.
        remark: where its results equal theirs and where they differ, such as "equal where sides are divisible by 16".
        assumed: assumptions about what no tensor shows.
        idle: pattern of complete names of theirs, of tensors on which no logit depends.
    """

    name: str
    options: Mapping[str, Any]
    remark: str
    assumed: Sequence[Assumption] = ()
    idle: str = ""


class UnfitError(Exception):
    """A known layout of a network that is not in the zoo.

    Attributes:
        what: the network, such as "milesial's U-Net of 3 levels".
        why: the reason why it is not in the zoo.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why


@dataclass(frozen=True)
class Layout:
    """How another program names the tensors of a network.

    Attributes:
        title: the network and its author, such as "milesial's U-Net".
        home: where it is published.
        marks: patterns of complete names; a state dict with a match for each has this layout.
        networks: determines the network from the shapes; returns several if no tensor tells them apart, the usual one
            first. Raises :class:`UnfitError`, or KeyError if a tensor is missing.
        rules: the first rule that matches a name renames it; a tensor that no rule matches is unexpected.
        zero: pattern of our names, for biases that their network lacks: if all are absent, they are set to zero.
        beside: reads a file that the program writes next to the weights, which says more than they show. Returns None
            if there is none; raises ConfigError for a network that is not in the zoo.
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
        """Return a state dict under our names, and their names that are left out, including ``idle`` ones."""
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
                # Two tensors for one name: the second is surplus, and is later refused under its own name.
                found[name if ours in found else ours] = tensor if rule.change is None else rule.change(tensor)
        return found, left

    def with_zeros(self, state: State, wanted: State) -> dict[str, Tensor]:
        """Return a renamed state dict with zeros for the biases that their network lacks, if it has none of them."""
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
