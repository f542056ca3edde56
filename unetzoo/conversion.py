"""Files of other programs made into files of ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unetzoo import zoo
from unetzoo.checkpoints import complete, listed, load_state_dict_file, misfits
from unetzoo.errors import ConfigError, WeightsError
from unetzoo.model import on_meta
from unetzoo.tensor_files import read_header
from unetzoo.weights import SUFFIX, SavedModel, is_saved_model, read_saved, save


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str], name: str, **options: Any) -> SavedModel:
    """Write the state dict in ``source`` as a file that :func:`unetzoo.load` takes, and return what that file says.

    Channels, classes, and whether there are heads for deep supervision and classification guidance, are read off the
    tensors where ``options`` do not say them. Types stay as they are in the file, half precision too.

    Args:
        source: as ``load_state_dict_file`` takes it; tensors named as in this package.
        target: ends in ``.safetensors``.
        name: of the model in the zoo, or an alias.
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
    name = zoo.resolve(name)
    _refuse_another(source, name)
    state = load_state_dict_file(source)
    known = zoo.signature(name)
    with on_meta():
        plain = zoo.create(name, **options).state_dict()
    seen = {key: value for key, value in _seen(state, plain).items() if key in known}
    with on_meta():
        model = zoo.create(name, **{**seen, **options})
    state = complete(state, model.state_dict())
    problems = misfits(model.state_dict(), state)
    if problems:
        raise WeightsError(f"{source} does not fit {name}{_likely_cause(state)}:{listed(problems)}")
    model.load_state_dict(state, assign=True)
    save(model, target)
    return read_saved(target)


def _refuse_another(source: str | os.PathLike[str], name: str) -> None:
    """Refuse a file that says itself that it is another model."""
    if Path(source).suffix != SUFFIX or not is_saved_model(read_header(source)):
        return
    found = read_saved(source).config.name
    mend = "is one already: unetzoo.load takes it" if found == name else f"holds {found}, not {name}"
    raise WeightsError(f"{source} {mend}")


def _seen(state: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options of the model that the tensors show. ``plain`` is its state dict without them."""
    found: dict[str, Any] = {
        "deep_supervision": any(name.startswith("deep_heads.") for name in state),
        "classification_guided": any(name.startswith("guide.") for name in state),
    }
    head = state.get("head.conv.weight")
    if head is not None and head.ndim == 4:
        found["num_classes"] = head.shape[0]
    first = next((name for name, tensor in plain.items() if name.startswith("encoder.") and tensor.ndim == 4), None)
    if first is not None and first in state and state[first].ndim == 4:
        found["in_channels"] = state[first].shape[1]
    return found


def _likely_cause(state: Mapping[str, Tensor]) -> str:
    if not any(name.startswith("head.") for name in state):
        return (
            " (its names are not this package's: a file of torchvision's goes to create(..., pretrained=path), and one "
            "of another library must be renamed first)"
        )
    return " (give the options it was created with)"
