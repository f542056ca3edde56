"""Conversion of numbers and lists of numpy and torch to those of Python, so that they can be stored as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class SupportsItem(Protocol):
    """A number of numpy or torch."""

    def item(self) -> Any:
        """Return it as a Python number."""


def plain(value: Any) -> Any:
    """Return a number of numpy or torch as a Python number; anything else unchanged, for the config to check."""
    return value.item() if isinstance(value, SupportsItem) else value


def plain_tuple(values: Any) -> Any:
    """Return a list, array or tensor as a tuple of plain values; anything else unchanged, for the config to check."""
    if isinstance(values, str | tuple) or not isinstance(values, Iterable):
        return values
    return tuple(map(plain, values))
