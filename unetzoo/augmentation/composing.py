"""Reading a composition: names and options from YAML, the transforms that they stand for, and the presets."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import nn
from torchvision.transforms import v2

from unetzoo.augmentation._base import is_word
from unetzoo.augmentation.borrowed import CONTAINERS, REFUSED, TORCHVISION, construct
from unetzoo.augmentation.photometric import (
    RandomBlur,
    RandomBrightness,
    RandomContrast,
    RandomGamma,
    RandomLowResolution,
    RandomNoise,
)
from unetzoo.augmentation.warping import RandomQuarterTurn, RandomWarp
from unetzoo.errors import ConfigError
from unetzoo.registry import suggest

OURS = (
    *(RandomQuarterTurn, RandomWarp, RandomBrightness, RandomContrast, RandomGamma, RandomNoise, RandomBlur),
    RandomLowResolution,
)
_FLIPS: list[dict[str, dict[str, Any]]] = [
    {"RandomHorizontalFlip": {"p": 0.5}},
    {"RandomVerticalFlip": {"p": 0.5}},
    {"RandomQuarterTurn": {}},
]
PRESETS: dict[str, list[dict[str, dict[str, Any]]]] = {
    "none": [],
    "light": [
        *_FLIPS,
        {"RandomBrightness": {"strength": 0.2, "p": 0.5}},
        {"RandomContrast": {"strength": 0.2, "p": 0.5}},
    ],
    "strong": [
        {"RandomWarp": {"degrees": 180, "scale": [0.75, 1.33], "displacement": 4, "spacing": 64, "p": 0.8}},
        *_FLIPS,
        {"RandomBrightness": {"strength": 0.4, "p": 0.5}},
        {"RandomContrast": {"strength": 0.4, "p": 0.5}},
        {"RandomGamma": {"gamma": [0.7, 1.5], "p": 0.3}},
        {"RandomGamma": {"gamma": [0.7, 1.5], "inverted": True, "p": 0.1}},
        {"RandomLowResolution": {"scale": [0.5, 1.0], "p": 0.25}},
        {"RandomBlur": {"sigma": 1.5, "p": 0.2}},
        {"RandomNoise": {"sigma": 0.3, "p": 0.3}},
    ],
}
"""Name → entries. "none" only crops."""
_NAMES: dict[str, type[nn.Module]] = {**TORCHVISION, **{ours.__name__: ours for ours in OURS}}


@dataclass(frozen=True)
class Entry:
    """A transform, with the name and the options from which it was made."""

    name: str
    options: dict[str, Any]
    module: nn.Module


def parse(spec: Any, where: str, problems: list[str]) -> list[Entry]:
    """Return the entries of ``spec``; add to ``problems`` what is wrong with any."""
    if isinstance(spec, str):
        spec = [spec]
    if not isinstance(spec, Sequence):
        problems.append(f"{where}{spec!r:.100}: a name, or a list of names and {{name: options}}, is needed")
        return []
    entries = []
    for number, given in enumerate(spec, 1):
        place = f"{where}entry {number}"
        name, options = next(iter(given.items())) if isinstance(given, Mapping) and len(given) == 1 else (given, {})
        options = {} if options is None else options  # YAML's "- name:"
        if not isinstance(name, str) or not isinstance(options, Mapping) or not all(map(is_word, options)):
            problems.append(f"{place}: {given!r:.100}: a name or a mapping {{name: {{option: value}}}} is needed")
        elif name in PRESETS:
            if options:
                problems.append(f"{place}: the preset {name!r} has no options; list its entries to change them")
            entries += parse(PRESETS[name], where, problems)
        else:
            entry = _entry(name, options, f"{place} ({name}): ", problems)
            entries += [] if entry is None else [entry]
    return entries


def _entry(name: str, given: Mapping[str, Any], where: str, problems: list[str]) -> Entry | None:
    made = _class(name)
    if isinstance(made, str):
        problems.append(where + made)
        return None
    found = [where + problem for problem in _option_problems(made, given)]
    options = {key: _plain(value) for key, value in given.items()}
    found += [
        f"{where}{key}={value!r:.100}: give numbers, words or lists of them"
        for key, value in given.items()
        if options[key] is _ODD
    ]
    arguments = copy.deepcopy(options)
    if made in CONTAINERS and not found:
        children = parse(options["transforms"], where, found)
        options["transforms"] = described(children)
        arguments["transforms"] = [child.module for child in children]
    if not found:
        try:
            return Entry(name, options, construct(made, arguments))
        except ConfigError as error:
            found = [where + problem for problem in error.problems]
        except Exception as error:  # any error of torchvision, or of the user's own class
            found = [f"{where}{type(error).__name__}: {error}"]
    problems += found
    return None


def _class(name: str) -> type[nn.Module] | str:
    """Return the class called ``name``, or what is wrong with it."""
    if name in _NAMES:
        return _NAMES[name]
    if name in REFUSED:
        return f"{REFUSED[name]}: leave it out"
    if "." not in name:
        ours = ", ".join(ours.__name__ for ours in OURS)
        return (
            f"unknown{suggest(name, [*PRESETS, *_NAMES])} (presets: {', '.join(PRESETS)}; transforms: {ours}, those of "
            "torchvision.transforms.v2, and dotted paths of your own classes)"
        )
    home, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(home), attribute)
    except Exception as error:  # importing runs the user's code
        return f"cannot be imported ({type(error).__name__}: {error})"
    if not inspect.isclass(found) or not issubclass(found, nn.Module):
        return "is not an nn.Module class"
    return found


def _option_problems(made: type[nn.Module], options: Mapping[str, Any]) -> list[str]:
    parameters = inspect.signature(made).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return []
    hidden = {"size"} if made is RandomWarp else set()  # set by the crop
    named = [key for key, p in parameters.items() if p.kind is not p.VAR_POSITIONAL and key not in hidden]
    needed = [key for key in named if parameters[key].default is inspect.Parameter.empty]
    return [
        *(f"unknown option {key!r}{suggest(key, named)}" for key in options if key not in named),
        *(f"{key} is missing" for key in needed if key not in options),
    ]


_ODD = object()


def _plain(value: Any) -> Any:
    """Return ``value`` as a JSON value, or ``_ODD``."""
    if isinstance(value, v2.InterpolationMode):
        return value.value
    if isinstance(value, Mapping):
        values = {key: _plain(item) for key, item in value.items()}
        return _ODD if _ODD in values.values() or not all(map(is_word, values)) else values
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return _ODD if _ODD in items else items
    return value if value is None or isinstance(value, bool | int | float | str) else _ODD


def described(entries: Iterable[Entry]) -> list[dict[str, dict[str, Any]]]:
    """Return a list from which :func:`parse` makes the same entries."""
    return [{entry.name: copy.deepcopy(entry.options)} for entry in entries]
