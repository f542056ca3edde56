"""Untrusted YAML: text that would take a reader forever is refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

LONGEST = 100_000
"""Most characters: longer text takes too long to parse."""
DEEPEST = 50
"""Most levels of nested lists: the time to parse them grows with the square of the depth."""


def loads(text: str) -> dict[str, Any]:
    """Return the object in YAML text, with its keys as text; empty if there is none.

    Raises:
        ValueError: the text is not YAML, too long, too deeply nested, or has aliases.
    """
    import yaml  # huggingface_hub needs it

    try:
        if len(text) > LONGEST or _entangled(yaml.scan(text)):
            raise ValueError(
                f"it has aliases, more than {DEEPEST} levels of nesting, or more than {LONGEST:,} characters"
            )
        found = yaml.safe_load(text)
    # An invalid date, or a list as a key, raises built-in exceptions.
    except Exception as error:
        raise ValueError(str(error)) from error
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def _entangled(tokens: Iterable[Any]) -> bool:
    """Return whether there are aliases, or so many levels that reading them would take many seconds."""
    depth = 0
    for token in tokens:
        kind = type(token).__name__
        depth += kind.endswith(("SequenceStartToken", "MappingStartToken"))
        depth -= kind in ("FlowSequenceEndToken", "FlowMappingEndToken", "BlockEndToken")
        if kind == "AliasToken" or depth > DEEPEST:
            return True
    return False
