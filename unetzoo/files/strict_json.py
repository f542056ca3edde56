"""JSON from strangers: what readers could take in two ways, or not survive, is refused."""

from __future__ import annotations

import itertools
import json
from typing import Any


def loads(text: str) -> Any:
    """Return what JSON text holds, if no object has a name twice and all numbers are JSON's.

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
        raise ValueError(f"{twice!r:.200} stands in it twice")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON's")
