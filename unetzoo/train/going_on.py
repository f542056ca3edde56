"""Which settings may change when a run is resumed: those that continue the same run, and no others."""

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
"""What a resumed run may change, as well as the trainer's settings; any other change would make it another run."""


def check_longer(done: int, wanted: int | None, length: int | None) -> None:
    """Refuse fewer epochs than a run has done: written to its settings, they would stop it from being resumed.

    Args:
        done, wanted: epochs.
        length: steps per epoch, if the length of the run is given in steps.

    Raises:
        ConfigError: fewer are wanted than are done.
    """
    if wanted is not None and 0 <= wanted < done:
        unit, each = ("epochs", 1) if length is None else ("steps", length)
        raise ConfigError(f"{unit}={wanted * each}: {done * each} are already done; give more, or leave it out")


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse settings that would turn a resumed run into another run.

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
            f"a resumed run keeps its settings: only {longer}, {others} and what begins with trainer. may change. For "
            f"a new run, give its {CONFIG} as config=…, and another out=…",
            changed,
        )


def _change(name: str, old: Any, new: Any) -> str:
    """Return the message for a setting that has changed; None means not given."""
    if new is None:
        return f"{name}=… is left out: it was {old!r}"
    return f"{name}={new!r}: it was {'not given' if old is None else repr(old)}"
