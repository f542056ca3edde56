"""The command that trains on a data set, with only the flags that it needs."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from unetzoo.data.labels import Labels
from unetzoo.data.listing import Source, paths_of
from unetzoo.data.splitting import RATIOS
from unetzoo.data.understanding import labels_from, understood
from unetzoo.errors import ConfigError
from unetzoo.naming import FIRST

DEFAULTS = {"ratios": RATIOS, "seed": 0, "group": None, "crop_size": None, "resize": 1}
_FLAGS = (
    *("task", "classes", "class_names", "colours", "num_classes", "masks", "ignore", "ignore_colour", "planes"),
    "foreground",
)
"""Fields of ``Labels`` that have a flag; where several choices have as few flags, the first ones are preferred."""
_LONG = {"resize": "data.resize"}
"""Settings without a flag of their own: their full names."""
_LISTS = ("class_names", "classes", "colours")


def training_flags(source: Source, labels: Sequence[Labels], settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings that these data need, as ``unetzoo.fit`` names them; None if none give these labels.

    Args:
        source: the data set.
        labels: of the data set; settings that give any of them are accepted.
        settings: "ratios", "seed", "group", "crop_size" and "resize".
    """
    wanted = {name: value for name in _FLAGS if (value := getattr(labels[0], name)) is not None}
    choices = itertools.chain.from_iterable(itertools.combinations(wanted.items(), k) for k in range(len(wanted) + 1))
    flags = next((dict(some) for some in choices if _labels_by(source, dict(some)) in labels), None)
    if flags is None:
        return None
    return flags | {name: value for name, value in settings.items() if value != DEFAULTS[name]}


def training_command(source: Source, flags: Mapping[str, Any] | None) -> str:
    """Return the command, quoted for a shell; empty without flags."""
    if flags is None:
        return ""
    first, *others = map(str, paths_of(source))
    words = ["unetzoo", "train", "--model", FIRST, *_flag("data", first), *others]
    return shlex.join([*words, *(word for name, value in flags.items() for word in _flag(name, value))])


def training_call(source: Source, flags: Mapping[str, Any] | None) -> str:
    """Return the same as a Python call."""
    if flags is None:
        return ""
    paths = [str(path) for path in paths_of(source)]
    given = {"data": paths[0] if len(paths) == 1 else paths, **{k: v for k, v in flags.items() if k not in _LONG}}
    if settings := {_LONG[name]: value for name, value in flags.items() if name in _LONG}:
        given["settings"] = settings
    return f"unetzoo.fit({FIRST!r}, {', '.join(f'{name}={value!r}' for name, value in given.items())})"


def _labels_by(source: Source, flags: Mapping[str, Any]) -> Labels | None:
    """Return the labels that flags give; None if they are wrong."""
    try:  # what a folder holds is read by the flags, too: with masks and label images, the task decides
        told = understood(source, flags.get("masks"), flags.get("task"))
        return labels_from(told.meaning(), source, **flags)
    except ConfigError:
        return None


def _flag(name: str, value: Any) -> list[str]:
    """Return the words of a setting of ``unetzoo train``."""
    option = f"--{_LONG.get(name, name.replace('_', '-'))}"
    if name == "ratios":
        return [option, *map(str, value)]
    if name in _LISTS:
        plain = all("," not in text and text == text.strip() for text in value)
        option, text = (option, ",".join(value)) if plain else (f"--data.{name}", json.dumps(value, ensure_ascii=False))
    else:
        text = json.dumps(value) if isinstance(value, tuple) else str(value)
    return [f"{option}={text}"] if text.startswith("-") else [option, text]
