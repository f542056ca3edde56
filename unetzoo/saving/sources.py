"""The meaning of a model's name, defined here for every function and command that takes one.

Meanings are tried in this order:

1. A ``Path`` is a file or a folder.
2. "hf-hub:owner/name" and "hf-hub:owner/name@revision": a repository of the Hugging Face Hub.
3. A name or an alias of ``list_models()``, or one such as "unet_timm/convnextv2_tiny": a network of the zoo, whose
   weights are random.
4. A name of ``list_models(pretrained=True)``: a trained model of the package.
5. An existing file or folder.
6. "owner/name" and "owner/name@revision": a repository.

So a folder whose name is also a model's is written "./<name>". If such a folder holds a model:

=====================  ==========================================  =================================================
the text is            ``create``, ``info``, ``compare``, train    functions that need trained weights
=====================  ==========================================  =================================================
a name of the zoo      the network; the log names the folder       refused as always, with "./<name>" as the fix
a trained model        that model; the log names the folder        refused: it could mean two models
=====================  ==========================================  =================================================

For ``create`` and training, a name takes precedence over a folder: it is stored in the settings of a run, which must
mean the same in every working directory, even next to the run itself.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch

from unetzoo import naming, trained, zoo
from unetzoo.errors import ConfigError, HubError, UnetzooError, WeightsError
from unetzoo.files.packages import is_package, read_package
from unetzoo.files.tensors import SUFFIX
from unetzoo.model import SegmentationModel
from unetzoo.registry import OWN, suggest
from unetzoo.saving.folds import folds_in
from unetzoo.saving.pulling import pull_from_hub
from unetzoo.saving.records import MODEL_FILE, model_in, without_model
from unetzoo.saving.repositories import PREFIX, behind_the_host, is_repository, parse
from unetzoo.saving.weights import load

F = TypeVar("F", bound=Callable[..., SegmentationModel])

_PULLING = ("revision", "token", "cache_dir", "local_files_only", "endpoint", "refresh")
"""Arguments that control how a repository is pulled."""

_logger = logging.getLogger("unetzoo")


@dataclass(frozen=True)
class Source:
    """The meaning of a text.

    Attributes:
        kind: "network" of the zoo, "trained" model of the package, "file", "folder" or "repository".
        text: as it was given.
        path: of a trained model, a file or a folder; None for the others.
        repository, revision: of a repository; the revision is None if the text names none.
    """

    kind: Literal["network", "trained", "file", "folder", "repository"]
    text: str
    path: Path | None = None
    repository: str | None = None
    revision: str | None = None


def source_of(given: str | os.PathLike[str]) -> Source:
    """Return what a text or a path means, without using the network.

    Raises:
        ConfigError: a word without a meaning.
        WeightsError: the path of something that does not exist.
    """
    found = _meaning(given)
    if found is None:
        raise _meaningless(given)
    return found


def named_source(given: str | os.PathLike[str]) -> Source:
    """Return what a text means if untrained networks are allowed; the log names a folder that has the same name.

    Raises:
        ConfigError, WeightsError: as :func:`source_of`.
    """
    found = source_of(given)
    named = {"network": "the network of the zoo", "trained": "the trained model of the package"}.get(found.kind)
    if named is not None and _folder_called(found.text) is not None:
        _logger.warning("%r is %s; the folder here is './%s'", found.text, named, found.text)
    return found


def trained_source(given: str | os.PathLike[str]) -> Source:
    """Return what a text means if trained weights are needed.

    Raises:
        ConfigError: a name of the zoo, whose weights would be random; a trained model with the same name as a folder
            that holds a model; or as :func:`source_of`.
        WeightsError: as :func:`source_of`.
    """
    found = source_of(given)
    if found.kind == "trained" and _folder_called(found.text) is not None:
        raise ConfigError(
            f"{found.text!r} is a model of the package, and a folder with a model here: give './{found.text}' for the "
            "folder"
        )
    if found.kind == "network":
        name = found.text
        fix = f"train it with 'unetzoo train --model {name}', and give the folder of that run"
        if _folder_called(name) is not None:
            fix = f"the folder here is './{name}'"
        raise ConfigError(
            f"{name!r} is a network of the zoo, whose weights are random: {fix}; trained models: "
            f"{', '.join(trained.names())}"
        )
    return found


def located(source: Source, *, revision: str | None = None, **how: Any) -> Path:
    """Return the file or the folder of a trained source; a repository is pulled if needed.

    Args:
        source: of any kind but "network".
        revision, **how: as :func:`unetzoo.saving.pulling.pull_from_hub` takes them.

    Raises:
        ConfigError: a revision of something that is not a repository, or two revisions of one.
        HubError: the repository is not available.
        WeightsError: a folder without a model; a repository may have been meant.
    """
    if source.kind != "repository":
        assert source.path is not None
        if revision is not None:
            kind = "comes with the package" if source.kind == "trained" else "is a file or folder here"
            raise ConfigError(f"revision={revision!r} is for repositories; {source.text!r} {kind}")
        if source.kind == "folder" and (there := folds_in(source.path)):
            raise WeightsError(
                f"the folder {source.text} holds {len(there)} folds, whose networks Predictor, predict, evaluate and "
                f"export average; give one of them, such as {source.text}/fold-{there[0]}"
            )
        if source.kind == "folder" and model_in(source.path) is None and (why := without_model(Path(source.text))):
            raise WeightsError(why)
        if source.kind == "folder" and model_in(source.path) is None and is_repository(source.text):
            raise WeightsError(
                f"the folder {source.text} here has no {MODEL_FILE}; {PREFIX}{source.text} is the repository"
            )
        return source.path
    try:
        return pull_from_hub(source.text, revision=revision, **how)
    except HubError as error:
        if source.text.startswith(PREFIX) or error.reason not in ("missing", "offline", "unreachable"):
            raise
        near = naming.near_family(source.text)
        raise HubError(
            error.reason, f"there is no file or folder {source.text!r} here{near}; as a repository, {error}"
        ) from error


def from_pretrained(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
    refresh: bool = False,
    **options: Any,
) -> SegmentationModel:
    """Return a trained model, in evaluation mode: by its name, from a file, a folder, or the Hugging Face Hub.

    ``list_models(pretrained=True)`` gives the names. Their weights come with the package; they are stored in half
    precision and read as float32 unless ``dtype`` is given. A folder that has such a name is ``./<name>``.

    If the requested revision of a repository is in the cache, it is taken from there, without using the network;
    models from the Hub are verified, byte for byte, each time.

    Args:
        source: a name such as "nuclei"; a ``.safetensors`` file or a folder, if there is one of this name; otherwise
            a repository such as "me/cells", "me/cells@<branch, tag or commit>", or "hf-hub:me/cells".
        revision, token, cache_dir, local_files_only, endpoint, refresh: for repositories, see :func:`pull_from_hub`.
        **options: as ``load`` takes them, such as ``num_classes`` or ``device``.

    Raises:
        HubError: there is no such repository, or it cannot be reached or read; ``reason`` says which, and the message
            says what to do.
        WeightsError: there is no such file, or its tensors do not fit the model that it states.
        ConfigError: ``source`` has no meaning, or is a network of the zoo, whose weights are random; or lists all that
            is wrong with the other arguments.
    """
    _check_options(options)
    how = {
        "revision": revision,
        "token": token,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
        "endpoint": endpoint,
        "refresh": refresh,
    }
    return _loaded(trained_source(source), how, options)


def from_bioimageio(path: str | os.PathLike[str], **options: Any) -> SegmentationModel:
    """Return the network of a BioImage.IO package that ``export`` wrote, in evaluation mode, to predict or train.

    Only its safetensors file is read, and checked against the sha256 in the description; no program in it is opened.
    ``load`` and ``Predictor`` also take such packages.

    Args:
        path: of the ``.zip`` file.
        **options: as ``load`` takes them, such as ``num_classes`` or ``device``.

    Raises:
        WeightsError: there is no such package, another program wrote it, it is damaged, or the archive is unsafe.
        ConfigError: lists all that is wrong with the other arguments.
    """
    _check_options(options)
    if not is_package(Path(path)):
        read_package(Path(path))  # raises an error that says what is wrong
    return load(path, **options)


def _check_options(options: Mapping[str, Any]) -> None:
    known = inspect.signature(load).parameters
    unknown = [f"unknown option {name!r}{suggest(name, known)}" for name in options if name not in list(known)[1:]]
    if unknown:
        raise ConfigError("cannot load a saved model", unknown)


def _loaded(found: Source, how: Mapping[str, Any], options: dict[str, Any]) -> SegmentationModel:
    """Return the model of a trained source; ``how`` is for repositories, ``options`` for ``load``."""
    path = located(found, **how)
    if found.kind == "trained":
        options = {"dtype": torch.float32, **options}
    elif found.kind == "repository":
        options["verify"] = False  # pull_from_hub has done it
    return load(path, **options)


def _saved_ones_too(function: F) -> F:
    """Let ``zoo.create`` also take what ``from_pretrained`` takes, with its own signature and help."""

    @functools.wraps(function)
    def create(name: str, **arguments: Any) -> SegmentationModel:
        if _meaning(name) is None:
            raise _all_problems(function, name, arguments)
        found = named_source(name)
        if found.kind == "network":
            return function(name, **arguments)
        how = {key: arguments.pop(key) for key in _PULLING if key in arguments}
        _check_options(arguments)
        return _loaded(found, how, arguments)

    return cast(F, create)


create = _saved_ones_too(zoo.create)


def _all_problems(function: Callable[..., object], name: Any, arguments: dict[str, Any]) -> UnetzooError:
    """Return the error for a name without a meaning, with all that is wrong with the arguments of ``create``."""
    error = _meaningless(name)
    if isinstance(error, ConfigError):
        try:
            function(name, **arguments)
        except ConfigError as others:
            if others.problems[1:]:
                return ConfigError(f"cannot create {name!r}", [*error.problems, *others.problems[1:]])
    return error


def separated(text: str) -> list[str]:
    """Return the models of a text separated by commas, for the command line; a path may itself contain commas."""
    return [text] if Path(text).exists() else [part.strip() for part in text.split(",")]


def _meaning(given: object) -> Source | None:
    """Return what a text or a path means, None if it has no meaning."""
    if isinstance(given, os.PathLike):
        return _of_path(Path(given))
    if not isinstance(given, str) or not given:
        return None
    if given.startswith(PREFIX):
        return Source("repository", given, None, *_parsed(given))
    if naming.is_known(given):
        return Source("network", given)
    if given in trained.names():
        return Source("trained", given, trained.weights_of(given))
    here = _of_path(Path(given), given)
    if here is not None or not is_repository(given) or _parent_is_here(given):
        return here
    return Source("repository", given, None, *_parsed(given))


def _of_path(path: Path, text: str | None = None) -> Source | None:
    if not _exists(path):
        return None
    return Source("folder" if path.is_dir() else "file", str(path) if text is None else text, path)


def _parsed(text: str) -> tuple[str, str | None]:
    name, revision = parse(text, None)
    return name, revision if "@" in text else None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # the name is too long, or contains a zero byte
        return False


def _parent_is_here(text: str) -> bool:
    """Return whether a text names something in an existing folder; nobody wants to look for that on the Hub."""
    parent = Path(text).parent
    return str(parent) != "." and _exists(parent)


def _folder_called(name: str) -> Path | None:
    """Return the folder of this name in the working directory, if it holds a model."""
    folder = Path(name)
    return folder if folder.is_dir() and model_in(folder) is not None else None


def _meaningless(given: object) -> UnetzooError:
    """Return the error for a text without a meaning: what it is not, what is allowed, and the nearest names."""
    if not isinstance(given, str | os.PathLike):
        return ConfigError(f"{given!r:.100}: the name or the path of a model is needed")
    text = os.fspath(given)
    reason = naming.impossible(given)
    if reason is not None:
        return ConfigError(reason)
    if isinstance(given, os.PathLike):
        return WeightsError(f"there is no file or folder {text!r}")
    if is_repository(text):
        return WeightsError(f"there is no file or folder {text!r}; for a repository of that name, give {PREFIX}{text}")
    as_path = text.endswith(SUFFIX) or any(mark in text for mark in (os.sep, "/", "\\"))
    near = suggest(text, (*naming.names(), *trained.names()))
    if near and not as_path:
        return ConfigError(
            f"unknown model {text!r}{near} (unetzoo.list_models() gives all names; and there is no such file)"
        )
    said = (
        f"there is no file or folder {text!r}{behind_the_host(text)}{near or '.'} It is not a trained model of the "
        f"package ({', '.join(trained.names())}), not a network of the zoo (unetzoo.list_models() gives all names), "
        f"and not a repository, such as 'owner/name' or 'owner/name@revision'{'' if as_path or near else OWN}"
    )
    return WeightsError(said) if as_path else ConfigError(said)
