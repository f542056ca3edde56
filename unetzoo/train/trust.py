"""What a file of settings may name: it may come from a stranger, and to name a class or a function is to run it."""

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
"""Bytes of a file of settings; those that runs leave have 2,000."""
DEEPEST = 100
"""Lists and mappings within each other; those that runs leave have 6. The reader takes long for each level."""
WORDS = {
    "accelerator": {"auto", "cpu", "gpu", "cuda", "mps"},
    "strategy": {
        "auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false", "ddp_spawn", "fsdp",
    },
    "logger": set(),
    "callbacks": set(),
    "profiler": {"simple", "advanced"},  # they print; the others write where they are told
    "plugins": set(),
}  # fmt: skip
"""Setting of the trainer that takes objects → the words that it may be given as well."""
LIGHTNING = {"DeviceStatsMonitor", "EarlyStopping", "GradientAccumulationScheduler", "LearningRateMonitor"}
"""Callbacks of Lightning's that neither write to a place that they are given, nor call what they are given."""
OURS = {"unetzoo.train.Clock", "unetzoo.train.timing.Clock"}
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def check_settings(path: Path) -> None:
    """Raise if a file of settings names a class that is not allowed; none is imported to find out.

    Allowed are a few callbacks of Lightning's, and what modules hold whose import the user asked for: by ``--import``,
    or by the installation of a package that announces itself to unetzoo.

    Raises:
        ConfigError: lists all that is not allowed.
    """
    if not path.is_file():
        return  # the parser says so
    problems: list[str] = []
    settings = _read(path, problems)
    problems += _problems_in(settings) if isinstance(settings, Mapping) else []  # of others, the parser says so
    if problems:
        raise ConfigError(
            f"{path} is not followed, as it may be a stranger's. If it is yours, trust=True follows it{_by(problems)}; "
            "or give what it names yourself",
            problems,
        )


def _by(problems: Sequence[str]) -> str:
    """Return the option that would do as well: to import what lies in the current folder and holds all that is named.

    Other modules are not proposed: by the import of a library, a file could have any of its functions called.
    """
    found = [re.fullmatch(r".* names '([\w.]+)\.\w+'", problem) for problem in problems]
    modules = sorted({match[1] for match in found if match})
    if not all(found) or not all(map(_is_here, modules)):
        return ""
    return f", or of a command {' '.join(f'--import {module}' for module in modules)}"


def _is_here(module: str) -> bool:
    """Return whether an import of a module takes a file of the current folder; nothing is imported to find out."""
    here, (root, *others) = Path.cwd(), module.split(".")
    if root in plugins.asked_for():
        return False  # it is imported already, and what is named is not its own
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
    """Return what ``unetzoo.augmentation.build`` is to make of what the user typed.

    Args:
        text: a name; a list, "[…]", as YAML has it; or a file, .yaml or .yml, that holds a name or a list, or settings
            of a training, of which ``data.augmentation`` is taken.
        trust: whether the file may name any class.

    Raises:
        ConfigError: no such file, or no YAML; or the file names classes that nobody asked for. None is imported.
    """
    path, problems = Path(text), list[str]()
    if path.suffix.lower() not in (".yaml", ".yml"):
        try:
            return yaml.safe_load(text) if text.lstrip().startswith("[") else text
        except yaml.YAMLError as error:
            raise ConfigError(
                f"augmentation={text!r}: no list in YAML ({' '.join(str(error).split()):.200})"
            ) from error
    found = _read(path, problems)
    if isinstance(found, Mapping):
        found = found["data"] if isinstance(found.get("data"), Mapping) else found
        found = found.get("augmentation")
    if found is None and not problems:
        problems.append("it holds neither a list of transforms, nor settings with data.augmentation")
    fix = ""
    if not trust and (named := list(_transform_problems(found))):
        problems += named
        fix = ", as it may be a stranger's. If it is yours, trust=True follows it; or import the modules that it names"
    if problems:
        raise ConfigError(f"{text!r} is not followed{fix}", problems)
    return found


def _read(path: Path, problems: list[str]) -> Any:
    """Return what a file of YAML holds; None, and say in ``problems`` why, where it is not plain."""
    try:
        if path.stat().st_size > LARGEST:
            problems.append(f"it has more than {LARGEST:,} bytes")
            return None
        text = path.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                problems.append("it refers to its own parts (YAML's *), which can unfold to any size")
                return None
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                problems.append(f"it has more than {DEEPEST} lists and mappings within each other")
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
    """Say which names are not plain: the parser knows others, such as "trainer.logger" and "callbacks+"."""
    for key, value in settings.items():
        if not isinstance(key, str) or not re.fullmatch(r"\w+", key):
            yield f"{prefix}{key!r:.100}: no name of a setting"
        elif not prefix and isinstance(value, Mapping):
            yield from _odd_keys(value, f"{key}.")


def _objects(value: Any, where: str, words: set[str]) -> Iterator[str]:
    """Say what is wrong with a value of which an object is made, or several."""
    if isinstance(value, list):
        for item in value:
            yield from _objects(item, where, words)
    elif isinstance(value, str) and value not in words:
        yield from _class_problems(value, where)
    elif isinstance(value, Mapping):
        others = value.keys() - {"class_path", "init_args"}
        if others or not isinstance(value.get("class_path"), str):
            yield f"{where}: class_path and init_args are needed, and nothing else"
            return
        yield from _class_problems(value["class_path"], where)
        yield from _strays(value.get("init_args"), f"{where}.init_args")


def _class_problems(name: str, where: str) -> Iterator[str]:
    module, _, last = name.rpartition(".")
    lightning = re.fullmatch(r"pytorch_lightning\.callbacks(\.\w+)*", module) and last in LIGHTNING
    if not (lightning or name in OURS or _is_the_users(module, last)):
        yield f"{where} names {name!r:.100}"


def _loss_problems(loss: Any) -> Iterator[str]:
    """Say what a loss imports: its text may hold dotted paths."""
    if not isinstance(loss, str):
        return
    try:
        nodes = list(ast.walk(ast.parse(loss.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # the reader of losses says so, and has imported nothing
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    inner = [id(node.value) for node in attributes]
    for node in attributes:
        name = ast.unparse(node)
        if id(node) not in inner and not _is_the_users(*name.rpartition(".")[::2]):
            yield f"model.loss names {name!r:.100}"


def _path_problems(name: Any, where: str) -> Iterator[str]:
    """Say what a name imports: it may be a dotted path."""
    if isinstance(name, str) and "." in name and not _is_the_users(*name.rpartition(".")[::2]):
        yield f"{where} names {name!r:.100}"


def _transform_problems(spec: Any) -> Iterator[str]:
    """Say what an augmentation imports: a name in it may be a dotted path."""
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
    """Return whether a class or function is of a module that the user asked for, and not one that it imports."""
    asked = plugins.asked_for()
    found = getattr(sys.modules.get(module), name, None) if module.partition(".")[0] in asked else None
    return str(getattr(found, "__module__", "")).partition(".")[0] in asked


def _strays(value: Any, where: str) -> Iterator[str]:
    """Say which classes and functions are named where values belong."""
    if isinstance(value, Mapping):
        if {"class_path", "init_args", "dict_kwargs"} & value.keys():
            yield f"{where} names {value.get('class_path')!r:.100}, and no class is taken there"
        for key, inside in value.items():
            yield from _strays(inside, f"{where}.{key!s:.100}")
    elif isinstance(value, list):
        for inside in value:
            yield from _strays(inside, where)
    elif isinstance(value, str) and ".init_args" in where and _DOTTED.fullmatch(value):
        root = value.partition(".")[0]
        if root in sys.modules or find_spec(root) is not None:
            yield f"{where} names {value!r:.100}, and no class is taken there"
