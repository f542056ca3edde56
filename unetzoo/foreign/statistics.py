"""Mean and deviation that a training program keeps next to its network, as buffers ``mean`` and ``std`` of a module."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from unetzoo.files.finding import Contents, Place

_WHITE = 255.0
"""White, where the statistics are those of pixels from 0 to 255."""


class Statistics(NamedTuple):
    """Mean and deviation in a file.

    Attributes:
        names: their paths in the file, of all pairs that were seen.
        mean, std: of each channel, for pixels in [0, 1]; None if they cannot be used.
        why: why they cannot be used, or how they were changed.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    why: str

    @property
    def said(self) -> str:
        """What is said of them."""
        listed = " and ".join(self.names)
        if self.mean is None:
            return f"{listed} were not used as mean and std: {self.why}"
        return f"mean and std are {listed}{self.why}"


def statistics_in(contents: Contents, place: Place, channels: int) -> Statistics | None:
    """Return the mean and the deviation in a file, outside its network; None if there are none.

    Args:
        contents: of the file.
        place: of the network in it.
        channels: of its images.
    """
    inside = {id(tensor) for tensor in place.state.values()}
    tensors = {name: tensor for name, tensor in contents.tensors.items() if id(tensor) not in inside}
    starts = [name.removesuffix("mean") for name in tensors if name.rpartition(".")[2] == "mean"]
    pairs = [(f"{start}mean", f"{start}std") for start in starts if f"{start}std" in tensors]
    if not pairs:
        return None
    found = {_scaled(tensors[mean], tensors[std], channels) for mean, std in pairs}
    names = tuple(name for pair in pairs for name in pair)
    if len(found) > 1:
        return Statistics(names, None, None, "they differ")
    return Statistics(names, *found.pop())


_Scaled = tuple[tuple[float, ...] | None, tuple[float, ...] | None, str]


def _scaled(mean: Tensor, std: Tensor, channels: int) -> _Scaled:
    """Return mean and deviation for pixels in [0, 1], and how they were changed; or why they cannot be used."""
    if mean.numel() != channels or std.numel() != channels:
        return None, None, f"one value for each of {channels} channels is needed"
    means, stds = mean.flatten().tolist(), std.flatten().tolist()
    if not all(isinstance(value, float | int) and math.isfinite(value) for value in (*means, *stds)):
        return None, None, "finite numbers are needed"
    if min(stds) <= 0 or min(means) < 0:
        return None, None, "a std above 0 and a mean from 0 up are needed"
    if max(*means, *stds) <= 1:
        return _rounded(means), _rounded(stds), ""
    if max(*means, *stds) <= _WHITE and max(means) > 1 and min(stds) > 1:
        return _rounded(means, _WHITE), _rounded(stds, _WHITE), ", divided by 255"
    return None, None, "they are neither of pixels in [0, 1] nor of pixels in [0, 255]"


def _rounded(values: list[float], white: float = 1.0) -> tuple[float, ...]:
    """Return values without the digits that float32 adds."""
    return tuple(float(f"{value / white:.6g}") for value in values)
