"""What differs between the settings of two predictions, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ARGUMENTS = {"thresholds": "threshold"}
"""Settings whose arguments have another name."""
SLIDE = ("mpp", "level", "mpp_stored", "background")
"""Settings of slides, which other images do not have."""


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each setting that differs, as arguments of functions.

    Args:
        before: settings that were kept.
        now: the new settings, see ``Predictor.settings``, with those of slides under "slides".
    """
    then, here = _flat(before), _flat(now)
    names = [name for name in {**here, **then} if name in here or name in SLIDE]
    changed = [name for name in names if then.get(name) != here.get(name)]
    if "models" in changed:
        changed = [name for name in changed if name != "weights"]
    return [
        "the model has other weights"
        if name == "weights"
        else f"{_said(name, then.get(name))} there, {_said(name, here.get(name))} now"
        for name in changed
    ]


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, those of slides one by one."""
    found = {name: value for name, value in settings.items() if name != "slides"}
    slides = settings.get("slides")
    return found | (slides if isinstance(slides, dict) else {})


def _said(name: str, value: Any) -> str:
    if name == "models":
        return f"the model {', '.join(map(str, value or ()))}"
    name = _ARGUMENTS.get(name, name)
    if value is None or value is False:
        return f"without {name}=…"
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    return f"{name}={value if name == 'dtype' else repr(_short(value))}"


def _short(value: Any) -> Any:
    """Return whole numbers without a point: 3060, not 3060.0."""
    if isinstance(value, list):
        return [_short(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
