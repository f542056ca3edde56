"""The settings of a run for a reader: those that most runs need, and all that differ from the defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from unetzoo.train.budgets import STEPS, cut
from unetzoo.train.building import DEFAULT_LOSSES
from unetzoo.train.flags import FLAGS

FIRST = tuple(flag.setting for flag in FLAGS if flag.setting.partition(".")[0] in ("model", "data", "trainer"))
"""Shown wherever they are set."""
OWN = ("model.name", "data.folder")
"""Every run has its own; there is no default."""


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield full name → value of nested settings."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def settings_rows(settings: Mapping[str, Any], defaults: Mapping[str, Any], task: str) -> list[list[str]]:
    """Return rows of a table: the setting, its value, and the default if it differs.

    Args:
        settings: as ``config.yaml`` nests them.
        defaults: nested in the same way.
        task: of the logits, which decides the default loss.
    """
    epochs, length = cut(STEPS)
    usual = dict(flat(defaults))
    usual |= {"model.loss": DEFAULT_LOSSES[task], "trainer.max_epochs": epochs, "data.steps_per_epoch": length}
    found = dict(flat(settings))
    found["model.loss"] = found["model.loss"] or DEFAULT_LOSSES[task]
    other = [name for name, value in found.items() if value != usual.get(name)]
    rows = [["setting", "value", "default, if different"]]
    for name in dict.fromkeys((*(name for name in FIRST if found.get(name) is not None), *other)):
        differs = name in other and name not in OWN
        rows.append([name, said(found[name]), said(usual.get(name)) if differs else ""])
    return rows


def said(value: Any) -> str:
    """Return a value on one line, as the command line takes it; "–" if there is none."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return str(yaml.safe_dump(value, default_flow_style=True, width=10**6)).removesuffix("\n").removesuffix("\n...")
