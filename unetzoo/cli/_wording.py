"""Rewrites messages of the library, which name arguments as Python does, for the command line.

A function says ``foreground='any'``, since that is what its caller writes; a command says ``--foreground any``. Every
message of the library that a command prints passes through here, so that the library needs one wording. It always
writes an argument with its equals sign: ``task='multiclass'``, or ``ignore=…`` where the reader chooses the value.
Calls of Python functions are replaced by the commands that do the same: see ``CALLS``.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import logging
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from unetzoo.files.notes import DESCRIPTION

_QUOTED = r"(?<!\w)(?:'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")(?!\w)"
"""The name of a file or of a class, or a command: never an argument, whatever it contains."""
_LITERAL = rf"{_QUOTED}|\([^()\n]*\)|\[[^\[\]\n]*\]|-?\d[\d_.]*(?:e[-+]?\d+)?(?!\w)|True\b|False\b|None\b|torch\.\w+"
_SETTING = r"(?:trainer|model|data)(?:\.\w+)+"
"""The full name of a training setting."""

CALLS = {
    r"unetzoo\.list_models\(\)": "'unetzoo list'",
    r"; unetzoo\.from_pretrained takes saved models": "; the name of a network is needed, not of a saved model",
    r"unetzoo\.(?:create|from_pretrained)\((?P<model>'[^'\n]*')\)": r"\g<model>",
    r" \(unetzoo\.save_pretrained writes one\)": "",
    r"unetzoo\.load takes it": "every command takes it",
    r"unetzoo\.load or unetzoo\.convert": "'unetzoo convert'",
    r"then load\(…, [^()\n]*\) of the file": "then train from the file",
    r"create\(\.\.\., pretrained=path\)": "'unetzoo train --pretrained FILE'",
    r"create\('(?P<network>\w+)', pretrained=path\)": r"'unetzoo train --model \g<network> --pretrained FILE'",
    r"unetzoo\.images\.read says where": "replace them by numbers",
    r"unetzoo\.save writes": "'unetzoo convert' writes",
    r" \(unetzoo\.exporting\.About\)": "",
    r" is needed, or None\b": " is needed",
    r" \(to unetzoo\.Slide\)": "",
    r"GeoTIFFs of prediction, and Prediction\.geojson\(\),": "the masks and --write geojson of 'unetzoo predict'",
}
"""Text for somebody who writes Python → text for somebody who types commands."""


class Wording:
    """Replaces arguments in a text by the options of a command.

    Args:
        command: the parser that knows the options.
        settings: whether the command also takes settings by their full names.
    """

    def __init__(self, command: argparse.ArgumentParser, *, settings: bool = False) -> None:
        self._actions = {action.dest: action for action in command._actions if action.option_strings}
        self._others: dict[str, str] = {}
        self._settings = settings
        self._pattern = self._compiled()

    def know(self, others: Mapping[str, str]) -> None:
        """Treat these names as options, unless they are options themselves: "ema" as "model.ema"."""
        self._others = {name: option for name, option in others.items() if name not in self._actions}
        self._pattern = self._compiled()

    def _compiled(self) -> re.Pattern[str]:
        names = sorted(map(re.escape, (*self._actions, *self._others)), key=len, reverse=True)
        named = "|".join([*names, _SETTING] if self._settings else names)
        argument = rf"(?<![^\s(])(?P<name>{named})=(?:…|(?P<value>{_LITERAL}))?"
        return re.compile(rf"(?P<quoted>{_QUOTED})|(?P<call>{'|'.join(CALLS)})|{argument}")

    def __call__(self, text: str) -> str:
        """Return the text with its arguments replaced; text in quotes and other arguments stay unchanged."""
        return self._pattern.sub(self._said, text)

    def _said(self, found: re.Match[str]) -> str:
        """Return the replacement for a part of a text."""
        if found["quoted"]:
            return found[0]
        if found["call"] is None:
            return self._typed(found)
        for call, command in CALLS.items():
            if same := re.fullmatch(call, found[0]):
                return same.expand(command)
        raise AssertionError(found[0])

    def option(self, name: str, value: Any) -> str | None:
        """Return an argument as it is typed; None if its value cannot be typed."""
        name = self._others.get(name, name)
        action = self._actions.get(name)
        if action is None:
            return f"--{name} {shlex.quote(value if isinstance(value, str) else json.dumps(value))}"
        option = action.option_strings[-1]
        if action.nargs == 0 or (action.nargs == "?" and isinstance(value, bool)):
            return option if value is True else None
        words = _words(action, value)
        return None if words is None else " ".join([option, *map(shlex.quote, words)])

    def _typed(self, found: re.Match[str]) -> str:
        name, literal = self._others.get(found["name"], found["name"]), found["value"]
        if literal is None:
            flag = self._actions[name].option_strings[-1] if name in self._actions else f"--{name}"
            rest = found.string[found.end() : found.end() + 1]
            return flag if found[0].endswith("…") or not rest or rest in " ,;:)\n" else f"{flag} "
        try:
            kind = literal.removeprefix("torch.")
            if kind == "None" and name in self._actions and found.string[found.end() :].startswith(": "):
                return self._actions[name].option_strings[-1]  # that was not given
            return self.option(name, kind if kind != literal else ast.literal_eval(literal)) or found[0]
        except (ValueError, SyntaxError, TypeError):
            return found[0]


@contextlib.contextmanager
def warnings_in(wording: Wording) -> Iterator[None]:
    """Rewrite what the library logs within this block; records that only describe stay unchanged."""

    def reworded(record: logging.LogRecord) -> bool:
        if not DESCRIPTION.keys() <= vars(record).keys():
            record.msg, record.args = wording(record.getMessage()), ()
        return True

    logger = logging.getLogger("unetzoo")
    logger.addFilter(reworded)
    try:
        yield
    finally:
        logger.removeFilter(reworded)


def _words(action: argparse.Action, value: Any) -> list[str] | None:
    """Return the words that follow an option; None if the value cannot be typed."""
    if value is None and callable(action.type):
        with contextlib.suppress(ValueError):
            return ["none"] if action.type("none") is None else None
    if value is None or isinstance(value, bool):
        return None
    if not isinstance(value, list | tuple):
        return [str(value)]
    if isinstance(action.nargs, int):
        return [str(part) for part in value]
    if action.type is not None or all(isinstance(part, str) for part in value):
        return [",".join(map(str, value))]
    return [json.dumps(value)]
