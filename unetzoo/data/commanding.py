"""The command that trains on a data set, with the flags that it needs and no others."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from unetzoo.data.labels import Labels
from unetzoo.data.splitting import RATIOS
from unetzoo.data.understanding import labels_from, understood
from unetzoo.errors import ConfigError

MODEL = "unet"
DEFAULTS = {"ratios": RATIOS, "seed": 0, "group": None, "crop_size": None}
_ORDER = (
    *("task", "classes", "colours", "class_names", "masks", "ignore", "ignore_colour", "planes", "foreground"),
    "num_classes",
)
"""Of the flags. What may follow from others is behind them, and tried without first."""
_LISTS = ("class_names", "classes", "colours")


def training_command(source: str | os.PathLike[str], labels: Sequence[Labels], settings: Mapping[str, Any]) -> str:
    """Return the command, quoted as a shell takes it; empty where flags cannot say what is wanted.

    Args:
        source: the data set.
        labels: of it; any of them will do.
        settings: "ratios", "seed", "group" and "crop_size".
    """
    told = understood(source, labels[0].masks).meaning()

    def makes(flags: Mapping[str, Any]) -> bool:
        try:
            return labels_from(told, source, **flags) in labels
        except ConfigError:
            return False

    flags = {field.name: getattr(labels[0], field.name) for field in dataclasses.fields(Labels)}
    flags = {name: value for name, value in flags.items() if value is not None}
    if not makes(flags):
        return ""
    for name in [name for name in reversed(_ORDER) if name in flags]:
        fewer = {other: value for other, value in flags.items() if other != name}
        flags = fewer if makes(fewer) else flags
    flags = {name: flags[name] for name in _ORDER if name in flags}
    flags |= {name: value for name, value in settings.items() if value != DEFAULTS[name]}
    words = ["unetzoo", "train", "--model", MODEL, *_flag("data", os.fspath(source))]
    return shlex.join([*words, *(word for name, value in flags.items() for word in _flag(name, value))])


def _flag(name: str, value: Any) -> list[str]:
    """Return the words of a setting of ``unetzoo train``."""
    option = f"--{name.replace('_', '-')}"
    if name in _LISTS:
        plain = all("," not in text and text == text.strip() for text in value)
        option, text = (option, ",".join(value)) if plain else (f"--data.{name}", json.dumps(value, ensure_ascii=False))
    else:
        text = json.dumps(value) if isinstance(value, tuple) else str(value)
    return [f"{option}={text}"] if text.startswith("-") else [option, text]
