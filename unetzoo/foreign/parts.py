"""What layouts of U-Nets on a plain encoder share: options that their shapes show, and how layers are renamed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from unetzoo.foreign.layouts import Rule, State, UnfitError

LEVELS = 5
"""Maps that the zoo's plain encoder gives."""
SEQUENTIAL = (("0", "3"), ("1", "4"))
"""Convolutions and norms among convolution, norm, ReLU, convolution, norm, ReLU."""
NAMED = (("conv1", "conv2"), ("bn1", "bn2"))
BLOCKS = r"(encoder\.levels|decoder\.convs)\..*\.conv\.bias"
"""The biases before norms, which are idle, where transposed convolutions have one."""


def highest(state: State, pattern: str) -> int:
    """Return the highest number that the group of ``pattern`` has among the names that begin with it, up to 99."""
    found = (re.match(pattern, name) for name in state)
    return max((int(match[1]) for match in found if match and len(match[1]) <= 2), default=0)


def channels(state: State, convolution: str) -> tuple[int, int]:
    """Return the channels that a convolution makes, and those that it reads."""
    shape = state[f"{convolution}.weight"].shape
    if len(shape) == 5:
        raise UnfitError("a network of volumes", "those of the zoo are for images")
    if len(shape) != 4 or 0 in shape:
        raise UnfitError(f"a tensor {convolution}.weight of shape {tuple(shape)}", "a convolution's has 4 sides")
    return shape[0], shape[1]


def plain_options(title: str, state: State, convolutions: Sequence[str], head: str) -> dict[str, Any]:
    """Return the options of the plain encoder and the head.

    Args:
        title: of the layout.
        state: of theirs.
        convolutions: the first of each level, finest first, without ".weight".
        head: the last convolution.
    """
    if len(convolutions) != LEVELS:
        raise UnfitError(f"{title} of {len(convolutions)} levels", f"those of the zoo have {LEVELS}")
    widths = [channels(state, name)[0] for name in convolutions]
    doublings = LEVELS - 2 if widths[-1] == widths[-2] else LEVELS - 1
    if widths != [widths[0] * 2 ** min(level, doublings) for level in range(LEVELS)]:
        listed = ", ".join(map(str, widths))
        raise UnfitError(f"{title} of {listed} channels", "those of the zoo double them at each level")
    options = {
        "in_channels": channels(state, convolutions[0])[1],
        "num_classes": channels(state, head)[0],
        "base_channels": widths[0],
    }
    return options if doublings == LEVELS - 1 else {**options, "doublings": doublings}


def double(theirs: str, ours: str, convolutions: Sequence[str], norms: Sequence[str] = ()) -> Iterator[Rule]:
    """Yield the rules of a double convolution: of both convolutions and, if there are any, both norms."""
    for kind, names in (("conv", convolutions), ("norm", norms)):
        for number, name in enumerate(names):
            yield Rule(rf"{theirs}{name}\.(\w+)", rf"{ours}.{number}.{kind}.\1")


def module(theirs: str, ours: str) -> Rule:
    """Return the rule of one layer."""
    return Rule(rf"{theirs}\.(\w+)", rf"{ours}.\1")


def up_first(weight: Tensor) -> Tensor:
    """Swap the inputs of a convolution of [skip, up]: here it is [up, skip]; the skip is as wide as its output."""
    if weight.ndim != 4:
        return weight
    skip = len(weight)
    return torch.cat((weight[:, skip:], weight[:, :skip]), dim=1)


def up_first_rule(theirs: str, ours: str) -> Rule:
    """Return the rule of a decoder's first convolution, whose inputs stand the other way round."""
    return Rule(rf"{theirs}\.weight", f"{ours}.weight", up_first)
