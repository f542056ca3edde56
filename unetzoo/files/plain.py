"""Numbers and lists of numpy's and torch's as Python's own, so that a record of them is JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class SupportsItem(Protocol):
    """A number of numpy's or torch's."""

    def item(self) -> Any:
        """Return it as one of Python's."""


def plain(value: Any) -> Any:
    """Return a number of numpy's or torch's as one of Python's; anything else, for the config to judge, as it is."""
    return value.item() if isinstance(value, SupportsItem) else value


def plain_tuple(values: Any) -> Any:
    """Return a list, array or tensor as a tuple of plain values; anything else, for the config to judge, as it is."""
    if isinstance(values, str | tuple) or not isinstance(values, Iterable):
        return values
    return tuple(map(plain, values))
