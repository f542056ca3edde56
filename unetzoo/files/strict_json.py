"""Untrusted JSON: text that is ambiguous, or that would crash a reader, is refused."""

from __future__ import annotations

import itertools
import json
from typing import Any


def loads(text: str) -> Any:
    """Return the value of JSON text, if no object has a name twice and all numbers are valid JSON.

    Raises:
        ValueError: says what is wrong.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_names, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except TypeError as error:
        raise ValueError(f"text is needed: {error}") from None


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = sorted(name for name, _ in pairs)
        twice = next(name for name, following in itertools.pairwise(names) if name == following)
        raise ValueError(f"{twice!r:.200} is in it twice")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")
