"""YAML from strangers: what readers would take forever for is refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

LONGEST = 100_000
"""Characters: more takes longer to parse than anybody waits."""
DEEPEST = 50
"""Lists within lists: the time to parse them grows with the square of that."""


def loads(text: str) -> dict[str, Any]:
    """Return the object that YAML text holds, by its keys as text; empty where it holds none.

    Raises:
        ValueError: no YAML, too long, too deep, or with aliases.
    """
    import yaml  # huggingface_hub needs it

    try:
        if len(text) > LONGEST or _entangled(yaml.scan(text)):
            raise ValueError(f"aliases, more than {DEEPEST} levels of nesting, or more than {LONGEST:,} characters")
        found = yaml.safe_load(text)
    # A date that is none, or a list as a key, raises what Python knows.
    except Exception as error:
        raise ValueError(str(error)) from error
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def _entangled(tokens: Iterable[Any]) -> bool:
    """Return whether there are aliases, or levels so deep that reading them would take many seconds."""
    depth = 0
    for token in tokens:
        kind = type(token).__name__
        depth += kind.endswith(("SequenceStartToken", "MappingStartToken"))
        depth -= kind in ("FlowSequenceEndToken", "FlowMappingEndToken", "BlockEndToken")
        if kind == "AliasToken" or depth > DEEPEST:
            return True
    return False
