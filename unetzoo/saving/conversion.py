"""Conversion of other programs' files to files of this package."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from unetzoo import naming, zoo
from unetzoo.config import ModelConfig
from unetzoo.errors import ConfigError, WeightsError
from unetzoo.files.checkpoints import (
    MOST_LISTED,
    CheckpointFile,
    complete,
    lacks_statistics,
    listed,
    misfits,
    read_contents,
)
from unetzoo.files.finding import Contents, Place, find, split_place, taken_and_left
from unetzoo.files.notes import Note
from unetzoo.files.tensors import SUFFIX, kind_of, read_header
from unetzoo.foreign.loading import built, file_of, known, located, unknown
from unetzoo.model import SegmentationModel, build_on_meta
from unetzoo.nn.meta import on_meta
from unetzoo.saving.records import SavedModel, is_saved_model, read_saved, run_record
from unetzoo.saving.weights import check_fit, save

_HEAD = "head.conv.weight"
_PARTS = ("encoder", "decoder", "head", "deep_heads", "guide")
"""Parts of a network that have tensors."""
_SHOWN = ("pretrained", "input_policy", "in_channels")


def convert(
    source: str | os.PathLike[str], target: str | os.PathLike[str], name: str | None = None, **options: Any
) -> SavedModel:
    """Write the network in ``source`` as a file that ``load`` takes, and return the record of that file.

    The network is found by the names of its tensors, whatever it is wrapped in; the log says what was taken and left.
    A file of another program whose network is known here needs no name: see ``load_foreign``. If the tensors have
    this package's names, channels, classes, and whether there are heads for deep supervision and classification
    guidance, are read from the tensors unless ``options`` give them; the log lists the options that no tensor shows,
    for which the defaults are assumed. Types stay as in the file, half precision too.

    The ``last.ckpt`` of a run, even renamed, states everything itself, and needs neither name nor options: its network
    is written with its full record; if the run averages its weights, the average is written.

    Args:
        source: a file of tensors (.pth, .pt, .pth.tar, .ckpt, .bin, .safetensors), or ``FILE::place``, which selects
            the other network if it holds two; or a folder that smp's ``save_pretrained`` wrote.
        target: ends in ``.safetensors``.
        name: of the model in the zoo, or an alias; None for a file that states or shows it itself.
        **options: as ``create`` takes them, except ``pretrained``.

    Raises:
        ConfigError: lists all that is wrong with the name and the options; or ``target`` is the source itself.
        WeightsError: the file cannot be read, or holds another model; lists all tensors that are missing, unexpected
            or of another shape.
        WriteError: ``target`` cannot be written.
    """
    if Path(target).suffix != SUFFIX:
        raise ConfigError(f"cannot convert to {str(target)!r}: the name must end in {SUFFIX}")
    if "pretrained" in options:
        raise ConfigError("pretrained is not for convert: all weights come from the file")
    if name is not None:
        name = naming.resolve(name)
    source = file_of(source)
    path, asked = split_place(source)
    if kind_of(path) == "safetensors":
        _refuse_another(path, name)
    if Path(target).exists() and Path(target).samefile(path):
        raise ConfigError(f"{path} would be read and then overwritten: give the output another name")
    contents = read_contents(source)
    own = None if asked is not None or kind_of(path) == "safetensors" else run_record(contents)
    if own is not None:
        return _convert_own(*own, target, name, options)
    found = find(contents, {_HEAD: None}, _own_names, exact=False)
    if found is None:
        save(_foreign(contents, name, options), target)
        return read_saved(target)
    if name is None:
        raise ConfigError(f"{source} does not state which network of this package it holds: give name=…")
    return _convert_named(contents, *found, target, name, options)


def _foreign(contents: Contents, name: str | None, options: Mapping[str, Any]) -> SegmentationModel:
    """Return another program's network as a model of this package."""
    found = located(contents)
    if found is not None:
        return built(found, name, options)
    if name is None:
        raise ConfigError(f"{contents.path} {unknown()}")
    raise WeightsError(
        f"{contents.path} does not fit {name}: it has no {_HEAD}; its names are neither this package's nor those of a "
        f"known network ({known()}). A file that holds an encoder goes to create(..., pretrained=path)"
    )


def _convert_named(
    contents: Contents,
    place: Place,
    passed: Sequence[Place],
    target: str | os.PathLike[str],
    name: str,
    options: Mapping[str, Any],
) -> SavedModel:
    """Write a state dict whose tensors have this package's names."""
    state: Mapping[str, Tensor] = place.state
    options = {**_seen(state, zoo.signature(name)), **options}
    with on_meta():
        model = zoo.create(name, **options)
        channels = _channels(state, model)
        if "in_channels" not in options and channels is not None:
            model = zoo.create(name, in_channels=channels, **options)
    state = complete(state, model.state_dict())
    problems = misfits(model.state_dict(), state)
    if problems:
        raise WeightsError(
            f"{contents.path} does not fit {name}:{listed(problems, MOST_LISTED)}\n{len(problems)} tensors do not fit: "
            f"give the options with which it was created{_likely(problems)}"
        )
    model.load_state_dict(state, assign=True)
    save(model, target)
    assumed = {key: value for key, value in zoo.signature(name).items() if key not in {*options, *_SHOWN}}
    listing = ", ".join(f"{key}={getattr(model.config, key, value)!r}" for key, value in assumed.items())
    taken = taken_and_left(contents, place, passed, state)
    Note(f"{contents.path}: {taken}; the tensors do not show all options; defaults: {listing}", doubtful=True).log()
    return read_saved(target)


def _convert_own(
    file: CheckpointFile,
    config: ModelConfig,
    target: str | os.PathLike[str],
    name: str | None,
    options: Mapping[str, Any],
) -> SavedModel:
    """Write the network of a run's checkpoint."""
    if name not in (None, config.name):
        raise WeightsError(f"{file.path} holds {config.name}, not {name}")
    if options:
        raise ConfigError(f"{file.path} states itself what it holds: leave out {', '.join(options)}")
    model = build_on_meta(config)
    check_fit(file, config, model)
    model.load_state_dict(file.tensors(), assign=True)
    save(model, target)
    return read_saved(target)


def _likely(problems: Sequence[str]) -> str:
    """Return the option that all misfits point to, if there is one."""
    if lacks_statistics(problems):
        return ", such as norm='group': it has no batch-norm statistics"
    if all(re.fullmatch(r"unexpected: .*conv\.bias", problem) for problem in problems):
        return ", such as conv_bias=True: its convolutions have biases"
    return ""


def _own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that have names of this package's networks."""
    return {name: tensor for name, tensor in state.items() if name.partition(".")[0] in _PARTS}


def _refuse_another(source: str | os.PathLike[str], name: str | None) -> None:
    """Refuse a safetensors file that states itself which model it holds."""
    if not is_saved_model(read_header(source)):
        return
    found = read_saved(source).config.name
    fix = "is one already: unetzoo.load takes it" if name in (found, None) else f"holds {found}, not {name}"
    raise WeightsError(f"{source} {fix}")


def _seen(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the ``known`` options that the names and the head of a state dict reveal."""
    found: dict[str, Any] = {
        "deep_supervision": any(name.startswith("deep_heads.") for name in state),
        "classification_guided": any(name.startswith("guide.") for name in state),
    }
    head = state.get(_HEAD)
    if head is not None and head.ndim == 4:
        found["num_classes"] = head.shape[0]
    return {name: value for name, value in found.items() if name in known}


def _channels(state: Mapping[str, Tensor], model: SegmentationModel) -> int | None:
    """Return the number of channels that the first convolution in the file reads, None if it is not there."""
    first = next(
        (name for name, tensor in model.encoder.state_dict(prefix="encoder.").items() if tensor.ndim == 4), None
    )
    weight = None if first is None else state.get(first)
    return weight.shape[1] if weight is not None and weight.ndim == 4 else None
