"""Files of other programs made into files of ours."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unetzoo import zoo
from unetzoo.errors import ConfigError, WeightsError
from unetzoo.files.checkpoints import SUFFIX as CHECKPOINT_SUFFIX, complete, listed, load_state_dict_file, misfits
from unetzoo.files.tensors import read_header
from unetzoo.foreign.loading import built, known, layout_of, unknown
from unetzoo.model import SegmentationModel, on_meta
from unetzoo.saving.records import SUFFIX, SavedModel, is_saved_model, read_saved, run_checkpoint
from unetzoo.saving.weights import load, save

_HEAD = "head.conv.weight"
_SHOWN = ("pretrained", "input_policy", "in_channels")
_logger = logging.getLogger("unetzoo")


def convert(
    source: str | os.PathLike[str], target: str | os.PathLike[str], name: str | None = None, **options: Any
) -> SavedModel:
    """Write the state dict in ``source`` as a file that ``load`` takes, and return what that file says.

    A file of another program whose network is one of ours needs no name: see :func:`unetzoo.load_foreign`. Of a file
    whose tensors are named as in this package, channels, classes, and whether there are heads for deep supervision and
    classification guidance, are read off the tensors where ``options`` do not say them; the log says what no tensor
    shows, and was taken as by default. Types stay as they are in the file, half precision too.

    The ``last.ckpt`` of a run says all of it itself, and needs neither name nor options: its network becomes the file,
    the average of the weights where the run has one, with everything that it knows.

    Args:
        source: as ``load_state_dict_file`` takes it.
        target: ends in ``.safetensors``.
        name: of the model in the zoo, or an alias; None for a file that says or shows it itself.
        **options: as ``create`` takes them, but no ``pretrained``.

    Raises:
        ConfigError: lists all that is wrong with the name and the options.
        WeightsError: the file cannot be read, holds another model (lists all tensors that are missing, unexpected or
            of another shape), or ``target`` cannot be written.
    """
    if Path(target).suffix != SUFFIX:
        raise ConfigError(f"cannot convert to {str(target)!r}: the name must end in {SUFFIX}")
    if "pretrained" in options:
        raise ConfigError("pretrained is not for convert: all weights come from the file")
    if name is not None:
        name = zoo.resolve(name)
    if Path(source).suffix == CHECKPOINT_SUFFIX and is_saved_model(run_checkpoint(source)):
        return _convert_own(source, target, name, options)
    _refuse_another(source, name)
    state = load_state_dict_file(source)
    layout = layout_of(state)
    if layout is not None:
        save(built(source, layout, state, name, options), target)
        return read_saved(target)
    if name is None:
        raise ConfigError(f"{source} {unknown()}")
    return _convert_named(source, target, _unwrapped(state), name, options)


def _convert_named(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    state: dict[str, Tensor],
    name: str,
    options: Mapping[str, Any],
) -> SavedModel:
    """Write a state dict whose tensors are named as in this package."""
    options = {**_seen(state, zoo.signature(name)), **options}
    with on_meta():
        model = zoo.create(name, **options)
        channels = _channels(state, model)
        if "in_channels" not in options and channels is not None:
            model = zoo.create(name, in_channels=channels, **options)
    state = complete(state, model.state_dict())
    problems = misfits(model.state_dict(), state)
    if problems:
        cause = _likely_cause(state)
        raise WeightsError(
            f"{source} does not fit {name}:{listed(problems)}\n{len(problems)} tensors do not fit: {cause}"
        )
    model.load_state_dict(state, assign=True)
    save(model, target)
    assumed = {key: value for key, value in zoo.signature(name).items() if key not in {*options, *_SHOWN}}
    listing = ", ".join(f"{key}={getattr(model.config, key, value)!r}" for key, value in assumed.items())
    _logger.warning("tensors do not tell all; taken as by default: %s", listing)
    return read_saved(target)


def _convert_own(
    source: str | os.PathLike[str], target: str | os.PathLike[str], name: str | None, options: Mapping[str, Any]
) -> SavedModel:
    """Write the network of a run's checkpoint."""
    model = load(source)
    if name not in (None, model.config.name):
        raise WeightsError(f"{source} holds {model.config.name}, not {name}")
    if options:
        raise ConfigError(f"{source} says itself what it holds: leave out {', '.join(options)}")
    save(model, target)
    return read_saved(target)


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off whatever stands before the model's names, where other things stand beside it, such as a loss."""
    heads = [name for name in state if name.endswith(f".{_HEAD}")]
    if _HEAD in state or len(heads) != 1:
        return state
    return {name.removeprefix(heads[0].removesuffix(_HEAD)): tensor for name, tensor in state.items()}


def _refuse_another(source: str | os.PathLike[str], name: str | None) -> None:
    """Refuse a file that says itself that it is another model."""
    if Path(source).suffix != SUFFIX or not is_saved_model(read_header(source)):
        return
    found = read_saved(source).config.name
    fix = "is one already: unetzoo.load takes it" if name in (found, None) else f"holds {found}, not {name}"
    raise WeightsError(f"{source} {fix}")


def _seen(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the ``known`` options that the names and the head of a state dict show."""
    found: dict[str, Any] = {
        "deep_supervision": any(name.startswith("deep_heads.") for name in state),
        "classification_guided": any(name.startswith("guide.") for name in state),
    }
    head = state.get(_HEAD)
    if head is not None and head.ndim == 4:
        found["num_classes"] = head.shape[0]
    return {name: value for name, value in found.items() if name in known}


def _channels(state: Mapping[str, Tensor], model: SegmentationModel) -> int | None:
    """Return the channels that the first convolution in the file reads, None where it is not there."""
    first = next(
        (name for name, tensor in model.encoder.state_dict(prefix="encoder.").items() if tensor.ndim == 4), None
    )
    weight = None if first is None else state.get(first)
    return weight.shape[1] if weight is not None and weight.ndim == 4 else None


def _likely_cause(state: Mapping[str, Tensor]) -> str:
    if not any(name.startswith("head.") for name in state):
        return (
            f"its names are neither this package's nor those of a network that is known ({known()}). A file of "
            "torchvision's goes to create(..., pretrained=path), and so does model.encoder.state_dict() of another "
            "library's ResNet"
        )
    return "give the options it was created with"
