"""What a run that goes on may be asked for: more of the same, and nothing that would make another run of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unetzoo.errors import ConfigError
from unetzoo.train.refusals import short_name
from unetzoo.train.runs import CONFIG
from unetzoo.train.settings_table import flat

MAY_CHANGE = (
    *("data.folder", "data.workers", "patience"),
    *("keep_minutes", "keep_steps", "images_every", "logger"),
)
"""What a run that goes on may set anew, beside what is the trainer's; all else would make another run of it."""


def check_longer(done: int, wanted: int | None, length: int | None) -> None:
    """Refuse fewer epochs than a run has behind it: written to its settings, they would keep it from going on.

    Args:
        done, wanted: epochs.
        length: steps of one, where steps are counted.

    Raises:
        ConfigError: with both.
    """
    if wanted is not None and 0 <= wanted < done:
        unit, each = ("epochs", 1) if length is None else ("steps", length)
        raise ConfigError(f"{unit}={wanted * each}: {done * each} are done already; give more, or leave it out")


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse settings that would make another run of one that goes on.

    Args:
        before, now: as ``config.yaml`` nests them.

    Raises:
        ConfigError: lists them.
    """
    old, new = dict(flat(before)), dict(flat(now))
    may = (*MAY_CHANGE, "trainer")
    changed = [
        _change(short_name(key), old.get(key), new.get(key))
        for key in {**old, **new}
        if old.get(key) != new.get(key) and not any(key == one or key.startswith(f"{one}.") for one in may)
    ]
    if changed:
        longer = "epochs=…" if new.get("data.steps_per_epoch") is None else "steps=… or epochs=…"
        others = ", ".join(f"{short_name(name)}=…" for name in MAY_CHANGE)
        raise ConfigError(
            f"a run goes on as it was set up: only {longer}, {others} and what begins with trainer. may change. Give "
            f"its {CONFIG} as config=…, and another out=…, for a new run",
            changed,
        )


def _change(name: str, old: Any, new: Any) -> str:
    """Return what is said of a setting that is another now; None is one that is not given."""
    if new is None:
        return f"{name}=… is left out: it was {old!r}"
    return f"{name}={new!r}: it was {'not given' if old is None else repr(old)}"
