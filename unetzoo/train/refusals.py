"""The parser's errors about settings, in the words of this package and with the flags that users type."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin

import jsonargparse
import yaml
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser

from unetzoo.checks import shortened
from unetzoo.devices import in_memory
from unetzoo.errors import ConfigError, TrainingError, UnetzooError
from unetzoo.train.data import FolderData
from unetzoo.train.flags import FLAGS
from unetzoo.train.recipe import Recipe

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
SHORT = {flag.setting: flag for flag in FLAGS}
"""Full name of a setting → the flag that stands for it."""


def _loaded(text: str) -> Any:
    """Return a YAML value; except a colour such as "#ff0000", which is a comment in YAML and would be lost."""
    found = _yaml(text)
    return text if found is None and text.startswith("#") and "\n" not in text else found


_yaml = jsonargparse.get_loader("yaml")
MODE = "unetzoo"
"""How the parser reads values."""
jsonargparse.set_loader(MODE, _loaded, (yaml.YAMLError,))


def other_names() -> dict[str, str]:
    """Return a setting's name in errors → that of the command line: "ema" → "model.ema", "model.lr" → "lr"."""
    owners = {"data": FolderData, "model": Recipe}
    own = {name: f"{owner}.{name}" for owner, cls in owners.items() for name in inspect.signature(cls).parameters}
    del own["name"]  # too common a word
    return own | {setting: flag.name for setting, flag in SHORT.items()}


def short_name(setting: str) -> str:
    """Return the keyword of a setting, such as "lr" for "model.lr"; its full name if it has no keyword."""
    return SHORT[setting].name if setting in SHORT else setting


def repeated(given: Mapping[str, str], rest: Sequence[str]) -> list[str]:
    """Return a message for each setting that is given twice: the last value would win, silently.

    ``--name+=value`` appends to a list, as often as you like, and ``--name.of`` then belongs to the item before it.

    Args:
        given: short name of a setting → its value.
        rest: words of a command line, with full names.
    """
    values = {flag.setting: [(flag.option, given[flag.name])] for flag in FLAGS if flag.name in given}
    for word, following in itertools.zip_longest(rest, rest[1:], fillvalue=""):
        if not word.startswith("--"):
            continue
        option, equals, value = word.partition("=")
        name = option[2:]
        if name.endswith("+"):
            values = {key: found for key, found in values.items() if not key.startswith(f"{name[:-1]}.")}
        else:
            said = value if equals or following.startswith("--") else following
            values.setdefault(name, []).append((option, said))
    return [
        f"{' and '.join(f'{option}={value}' for option, value in found)}: these are the same setting; give it once"
        for found in values.values()
        if len(found) > 1
    ]


def refusal(error: Exception, parser: LightningArgumentParser) -> str:
    """Return what is wrong with the settings: what was given, what is allowed, or what may have been meant."""
    text = " ".join(str(error).split())
    if "unrecognized arguments" in text:
        return text.replace("unrecognized arguments:", "unknown:", 1) + _suggestions(text, parser)
    if strange := re.search(r"Option '([\w.]+)' is not accepted", text):
        return (
            f"the settings file has {strange[1]!r}, which this version of unetzoo does not know; remove it from the "
            f"file if another version wrote it{_suggestions(f'--{strange[1]}', parser)}"
        )
    named = re.match(r'Parser key "([\w.]+)": (.*)', text)
    hints = {action.dest: action._typehint for action in parser._actions if hasattr(action, "_typehint")}
    value = re.search(r"(?:Given value|Got value): (.*?)(?: Given|$)", text)
    if named is None or value is None or named[1] not in hints:
        return shortened(text)
    return f"{short_name(named[1])}={value[1]!r:.100}: {' or '.join(_allowed(hints[named[1]]))} is needed"


def _allowed(hint: Any) -> Iterator[str]:
    """Yield what a type allows, in words."""
    if get_origin(hint) in (Union, types.UnionType):
        given = [part for part in get_args(hint) if part is not type(None)]  # None: it was left out
        yield from dict.fromkeys(word for part in given for word in _allowed(part))
    elif get_origin(hint) is Literal:
        yield from map(str, get_args(hint))
    elif get_origin(hint) is tuple and ... not in get_args(hint):
        yield f"a list of {len(get_args(hint))}, such as [{', '.join('0' for _ in get_args(hint))}]"
    elif hint in (list, tuple) or get_origin(hint) in (list, tuple):
        yield "a list, such as [a, b]"
    else:
        yield WORDS.get(hint) or str(getattr(hint, "__name__", hint))


def _suggestions(text: str, parser: LightningArgumentParser) -> str:
    """Return a suggestion for the options that the parser does not know."""
    if re.search(r"--(gpus?|device|cuda)\b", text):
        return "; a GPU is used if there is one: see --trainer.accelerator and --trainer.devices"
    settings = [name.lstrip("-") for action in parser._actions for name in action.option_strings]
    full = {name.rpartition(".")[2]: SHORT[name].option if name in SHORT else f"--{name}" for name in settings}
    full |= {flag.name: flag.option for flag in FLAGS}
    wrong = [word.partition("=")[0].lstrip("-").rpartition(".")[2] for word in text.split() if word.startswith("--")]
    found = [full[near] for name in wrong for near in get_close_matches(name.replace("-", "_"), full, n=1, cutoff=0.6)]
    listed = ", ".join(dict.fromkeys(found))
    return f"; did you mean {listed}?" if found else "; 'unetzoo train --print-config' lists all settings"


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn the errors of Lightning and CUDA into our own."""
    fix = (
        "use a smaller batch_size=… or crop_size=…, trainer.precision='bf16-mixed', "
        "model.gradient_checkpointing=True, or, if it happened while images were read, fewer data.workers=…"
    )
    try:
        with in_memory(TrainingError, fix):
            yield
    except MisconfigurationException as error:
        raise ConfigError(f"cannot train: {' '.join(str(error).split())}") from error
    except (RuntimeError, OSError) as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a process that reads images was killed ({shortened(str(error))}), perhaps because memory ran out, which "
            "in /dev/shm is limited separately; data.workers=0 reads without such processes, resume=… continues the run"
        ) from error


@contextlib.contextmanager
def makeable() -> Iterator[None]:
    """Replace the parser's error about an object that cannot be made by its one cause.

    The parser tries each type that a setting may have, and reports all of the failures.
    """
    try:
        yield
    except UnetzooError:
        raise
    except (ImportError, ValueError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if cause is error and not isinstance(error, ImportError):
            raise
        raise ConfigError(
            f"cannot train: an object named in the settings cannot be made ({type(cause).__name__}: "
            f"{shortened(str(cause))}); install what is missing, or leave it out"
        ) from error
