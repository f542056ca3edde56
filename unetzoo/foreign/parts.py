"""Functions shared by layouts of U-Nets on a plain encoder: options that the shapes show, and rules for layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from unetzoo.foreign.layouts import Rule, State, UnfitError

LEVELS = 5
"""Number of maps of the zoo's plain encoder."""
SEQUENTIAL = (("0", "3"), ("1", "4"))
"""Indices of convolutions and norms in convolution, norm, ReLU, convolution, norm, ReLU."""
NAMED = (("conv1", "conv2"), ("bn1", "bn2"))
BLOCKS = r"(encoder\.levels|decoder\.convs)\..*\.conv\.bias"
"""The biases before norms, which have no effect; here they exist if transposed convolutions have a bias."""


def highest(state: State, pattern: str) -> int:
    """Return the highest number, up to 99, that the group of ``pattern`` matches at the beginning of names."""
    found = (re.match(pattern, name) for name in state)
    return max((int(match[1]) for match in found if match and len(match[1]) <= 2), default=0)


def channels(state: State, convolution: str) -> tuple[int, int]:
    """Return the output channels and the input channels of a convolution."""
    shape = state[f"{convolution}.weight"].shape
    if len(shape) == 5:
        raise UnfitError("a network for volumes", "those of the zoo are for images")
    if len(shape) != 4 or 0 in shape:
        raise UnfitError(
            f"a tensor {convolution}.weight of shape {tuple(shape)}", "that of a convolution has 4 dimensions"
        )
    return shape[0], shape[1]


def plain_options(title: str, state: State, convolutions: Sequence[str], head: str) -> dict[str, Any]:
    """Return the options of the plain encoder and the head.

    Args:
        title: of the layout.
        state: under their names.
        convolutions: the first of each level, finest first, without ".weight".
        head: the last convolution.
    """
    if len(convolutions) != LEVELS:
        raise UnfitError(f"{title} of {len(convolutions)} levels", f"those of the zoo have {LEVELS} levels")
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
    """Yield the rules for a double convolution: for both convolutions and, if there are any, both norms."""
    for kind, names in (("conv", convolutions), ("norm", norms)):
        for number, name in enumerate(names):
            yield Rule(rf"{theirs}{name}\.(\w+)", rf"{ours}.{number}.{kind}.\1")


def module(theirs: str, ours: str) -> Rule:
    """Return the rule for one layer."""
    return Rule(rf"{theirs}\.(\w+)", rf"{ours}.\1")


def up_first(weight: Tensor) -> Tensor:
    """Swap the inputs of a convolution of [skip, up], as ours is [up, skip]; the skip is as wide as the output."""
    if weight.ndim != 4:
        return weight
    skip = len(weight)
    return torch.cat((weight[:, skip:], weight[:, :skip]), dim=1)


def up_first_rule(theirs: str, ours: str) -> Rule:
    """Return the rule for the first convolution of a decoder step, whose inputs are in the opposite order."""
    return Rule(rf"{theirs}\.weight", f"{ours}.weight", up_first)
