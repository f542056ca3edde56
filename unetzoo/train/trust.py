"""What a settings file may name: it may come from a stranger, and naming a class or a function means running it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from unetzoo import plugins
from unetzoo.errors import ConfigError

LARGEST = 1 << 20
"""Largest settings file, in bytes; those that runs write have about 2,000."""
DEEPEST = 100
"""Most levels of nested lists and mappings; files that runs write have 6. The reader is slow for each level."""
WORDS = {
    "accelerator": {"auto", "cpu", "gpu", "cuda", "mps"},
    "strategy": {
        "auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false", "ddp_spawn", "fsdp",
    },
    "logger": set(),
    "callbacks": set(),
    "profiler": {"simple", "advanced"},  # these only print; the others write to any given path
    "plugins": set(),
}  # fmt: skip
"""Trainer setting that takes objects → the words that are also allowed for it."""
LIGHTNING = {"DeviceStatsMonitor", "EarlyStopping", "GradientAccumulationScheduler", "LearningRateMonitor"}
"""Lightning callbacks that do not write to given paths and do not call given functions."""
OURS = {"unetzoo.train.Clock", "unetzoo.train.timing.Clock"}
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def check_settings(path: Path) -> None:
    """Raise if a settings file names a class that is not allowed; nothing is imported to find out.

    Allowed are a few of Lightning's callbacks, and the contents of modules that the user chose to import: by
    ``--import``, or by installing a package that registers itself with unetzoo.

    Raises:
        ConfigError: lists everything that is not allowed.
    """
    if not path.is_file():
        return  # the parser reports it
    problems: list[str] = []
    settings = _read(path, problems)
    problems += _problems_in(settings) if isinstance(settings, Mapping) else []  # the parser reports anything else
    if problems:
        raise ConfigError(
            f"{path} is not used, because it may be a stranger's. If it is yours, trust=True allows it{_by(problems)}; "
            "or give the settings that it names yourself",
            problems,
        )


def _by(problems: Sequence[str]) -> str:
    """Return the other option: to import the modules of the current folder, if they contain everything that is named.

    Other modules are not suggested: if a library is imported, a file can have any of its functions called.
    """
    found = [re.fullmatch(r".* names '([\w.]+)\.\w+'", problem) for problem in problems]
    modules = sorted({match[1] for match in found if match})
    if not all(found) or not all(map(_is_here, modules)):
        return ""
    return f", or in a command {' '.join(f'--import {module}' for module in modules)}"


def _is_here(module: str) -> bool:
    """Return whether importing a module would read a file of the current folder; nothing is imported to find out."""
    here, (root, *others) = Path.cwd(), module.split(".")
    if root in plugins.asked_for():
        return False  # it is imported already, and does not itself define what is named
    try:
        spec = find_spec(root)
    except ValueError:  # __main__
        return False
    origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
    if origin == here / root / "__init__.py":
        inner = here.joinpath(root, *others)
        return inner.is_dir() or inner.with_suffix(".py").is_file()
    return origin == here / f"{root}.py" and not others


def augmentation_of(text: str, *, trust: bool = False) -> Any:
    """Return the argument for ``unetzoo.augmentation.build`` from the text that the user typed.

    Args:
        text: a name; a list "[…]" in YAML; or a .yaml or .yml file that contains a name or a list, or the settings of
            a training, of which ``data.augmentation`` is used.
        trust: whether the file may name any class.

    Raises:
        ConfigError: there is no such file, it is not YAML, or it names classes that are not allowed. None is imported.
    """
    path, problems = Path(text), list[str]()
    if path.suffix.lower() not in (".yaml", ".yml"):
        try:
            return yaml.safe_load(text) if text.lstrip().startswith("[") else text
        except yaml.YAMLError as error:
            raise ConfigError(
                f"augmentation={text!r}: not a list in YAML ({' '.join(str(error).split()):.200})"
            ) from error
    found = _read(path, problems)
    if isinstance(found, Mapping):
        found = found["data"] if isinstance(found.get("data"), Mapping) else found
        found = found.get("augmentation")
    if found is None and not problems:
        problems.append("it contains neither a list of transforms nor settings with data.augmentation")
    fix = ""
    if not trust and (named := list(_transform_problems(found))):
        problems += named
        fix = ", because it may be a stranger's. If it is yours, trust=True allows it; or import the modules it names"
    if problems:
        raise ConfigError(f"{text!r} is not used{fix}", problems)
    return found


def _read(path: Path, problems: list[str]) -> Any:
    """Return the contents of a YAML file; if it is not plain YAML, add the reason to ``problems`` and return None."""
    try:
        if path.stat().st_size > LARGEST:
            problems.append(f"it is larger than {LARGEST:,} bytes")
            return None
        text = path.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                problems.append("it refers to its own parts (YAML's *), which can expand to any size")
                return None
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                problems.append(f"it nests more than {DEEPEST} lists and mappings")
                return None
        return yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        problems.append(f"it cannot be read as YAML ({' '.join(str(error).split()):.200})")
        return None


def _problems_in(settings: Mapping[Any, Any]) -> Iterator[str]:
    yield from _odd_keys(settings, "")
    for part in ("trainer", "model", "data"):
        if isinstance(settings.get(part), str):
            yield f"{part}={settings[part]!r:.100}: it names another file"
    if "config" in settings:
        yield f"config={settings['config']!r:.100}: it names another file"
    for key, value in settings.items():
        if key != "trainer":
            yield from _strays(value, str(key))
    model, data, trainer = (settings.get(part) for part in ("model", "data", "trainer"))
    if isinstance(model, Mapping):
        yield from _loss_problems(model.get("loss"))
        for key in ("optimiser", "schedule"):
            yield from _path_problems(model.get(key), f"model.{key}")
        metrics = model.get("metrics")
        for path in metrics if isinstance(metrics, list) else [metrics]:
            yield from _path_problems(path, "model.metrics")
    if isinstance(data, Mapping):
        yield from _transform_problems(data.get("augmentation"))
    for key, value in trainer.items() if isinstance(trainer, Mapping) else ():
        if key in WORDS:
            yield from _objects(value, f"trainer.{key}", WORDS[key])
        else:
            yield from _strays(value, f"trainer.{key}")
    if isinstance(trainer, Mapping) and trainer.get("model_registry") is not None:
        yield "trainer.model_registry: checkpoints would be sent to another host"


def _odd_keys(settings: Mapping[Any, Any], prefix: str) -> Iterator[str]:
    """Yield a problem for each unusual key: the parser also takes keys like "trainer.logger" and "callbacks+"."""
    for key, value in settings.items():
        if not isinstance(key, str) or not re.fullmatch(r"\w+", key):
            yield f"{prefix}{key!r:.100}: not the name of a setting"
        elif not prefix and isinstance(value, Mapping):
            yield from _odd_keys(value, f"{key}.")


def _objects(value: Any, where: str, words: set[str]) -> Iterator[str]:
    """Yield what is wrong with a value from which one or more objects are made."""
    if isinstance(value, list):
        for item in value:
            yield from _objects(item, where, words)
    elif isinstance(value, str) and value not in words:
        yield from _class_problems(value, where)
    elif isinstance(value, Mapping):
        others = value.keys() - {"class_path", "init_args"}
        if others or not isinstance(value.get("class_path"), str):
            yield f"{where}: give class_path and init_args, and nothing else"
            return
        yield from _class_problems(value["class_path"], where)
        yield from _strays(value.get("init_args"), f"{where}.init_args")


def _class_problems(name: str, where: str) -> Iterator[str]:
    module, _, last = name.rpartition(".")
    lightning = re.fullmatch(r"pytorch_lightning\.callbacks(\.\w+)*", module) and last in LIGHTNING
    if not (lightning or name in OURS or _is_the_users(module, last)):
        yield f"{where} names {name!r:.100}"


def _loss_problems(loss: Any) -> Iterator[str]:
    """Yield what a loss would import: its text may contain dotted paths."""
    if not isinstance(loss, str):
        return
    try:
        nodes = list(ast.walk(ast.parse(loss.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # the parser of losses reports it, and imports nothing
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    inner = [id(node.value) for node in attributes]
    for node in attributes:
        name = ast.unparse(node)
        if id(node) not in inner and not _is_the_users(*name.rpartition(".")[::2]):
            yield f"model.loss names {name!r:.100}"


def _path_problems(name: Any, where: str) -> Iterator[str]:
    """Yield what a name would import: it may be a dotted path."""
    if isinstance(name, str) and "." in name and not _is_the_users(*name.rpartition(".")[::2]):
        yield f"{where} names {name!r:.100}"


def _transform_problems(spec: Any) -> Iterator[str]:
    """Yield what an augmentation would import: a name in it may be a dotted path."""
    if isinstance(spec, Mapping):
        for key, value in spec.items():
            yield from _transform_problems(key)
            yield from _transform_problems(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from _transform_problems(value)
    else:
        yield from _path_problems(spec, "data.augmentation")


def _is_the_users(module: str, name: str) -> bool:
    """Return whether a class or function is defined in a module that the user imported, not in one it imports."""
    asked = plugins.asked_for()
    found = getattr(sys.modules.get(module), name, None) if module.partition(".")[0] in asked else None
    return str(getattr(found, "__module__", "")).partition(".")[0] in asked


def _strays(value: Any, where: str) -> Iterator[str]:
    """Yield the classes and functions that are named where plain values belong."""
    if isinstance(value, Mapping):
        if {"class_path", "init_args", "dict_kwargs"} & value.keys():
            yield f"{where} names {value.get('class_path')!r:.100}, but takes no class"
        for key, inside in value.items():
            yield from _strays(inside, f"{where}.{key!s:.100}")
    elif isinstance(value, list):
        for inside in value:
            yield from _strays(inside, where)
    elif isinstance(value, str) and ".init_args" in where and _DOTTED.fullmatch(value):
        root = value.partition(".")[0]
        if root in sys.modules or find_spec(root) is not None:
            yield f"{where} names {value!r:.100}, but takes no class"
