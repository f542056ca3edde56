"""Whether the user has switched off network access."""

import os

_ON = ("1", "on", "yes", "true")


def switched_off(*variables: str) -> str | None:
    """Return the first of these environment variables that is on (1, on, yes, true), as ``NAME=value``."""
    values = ((name, os.environ.get(name, "")) for name in variables)
    return next((f"{name}={value}" for name, value in values if value.lower() in _ON), None)
