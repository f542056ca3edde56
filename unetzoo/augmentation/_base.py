"""What the transforms share: checks of their options, random numbers, and typed tensors."""

from __future__ import annotations

import math
from typing import TypeGuard

import torch
from torch import Tensor
from torchvision import tv_tensors

from unetzoo.checks import is_number


def bare(inpt: Tensor) -> Tensor:
    """Return a plain tensor, without the type of an image or a mask."""
    return inpt.as_subclass(Tensor)


def like(inpt: Tensor, values: Tensor) -> Tensor:
    """Return ``values`` with the type of ``inpt``: image or mask."""
    wrapped: Tensor = tv_tensors.wrap(values, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else values
    return wrapped


def uniform(low: float, high: float) -> float:
    """Return a random number from ``low`` to ``high``, from float64."""
    return low + (high - low) * float(torch.rand((), dtype=torch.float64))


def is_finite(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number."""
    return is_number(value) and math.isfinite(value)


def is_word(value: object) -> bool:
    """Return whether a value is a str."""
    return isinstance(value, str)


def is_pair(value: object) -> bool:
    """Return whether a value is a list or tuple of two."""
    return isinstance(value, list | tuple) and len(value) == 2


def number_problems(name: str, value: object, low: float, high: float = math.inf) -> list[str]:
    """Return what is wrong with a number."""
    if is_finite(value) and low <= value <= high:
        return []
    return [f"{name}={value!r}: a number from {low} {'up' if high == math.inf else f'to {high}'} is needed"]


def range_problems(name: str, value: object, least: tuple[float, float], most: tuple[float, float]) -> list[str]:
    """Return what is wrong with a range of numbers above 0.

    Args:
        name, value: of an option: two numbers, the first no larger than the second.
        least, most: bounds of the first and of the second number; a lower bound of 0 is not included.
    """
    if is_pair(value):
        ends = zip(value, (least, most), strict=True)  # type: ignore[call-overload]
        if all(is_finite(end) and max(low, 1e-9) <= end <= high for end, (low, high) in ends) and value[0] <= value[1]:  # type: ignore[index]
            return []
    said = " and ".join(
        f"one from {low or 'above 0'} {'up' if high == math.inf else f'to {high}'}" for low, high in (least, most)
    )
    return [f"{name}={value!r:.100}: two numbers are needed, {said}"]
