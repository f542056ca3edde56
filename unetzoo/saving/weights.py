"""Models to files and back: one safetensors file that knows what it is.

A model is built on the meta device and takes over the mapped tensors, so that nothing is drawn at random and nothing
is copied. ``docs/format.md`` describes the file.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from unetzoo import __version__
from unetzoo.config import ModelConfig
from unetzoo.errors import ConfigError, DamagedError, WeightsError
from unetzoo.files.checkpoints import listed, misfits, non_finite
from unetzoo.files.tensors import (
    DATA_DIGEST,
    LONGEST_HEADER,
    TensorFile,
    check_file,
    check_types,
    read_header,
    write_tensors,
)
from unetzoo.folding import OptimizedModel
from unetzoo.model import SegmentationModel, build_on_meta
from unetzoo.nn.layers import initialise
from unetzoo.plain import plain, plain_tuple
from unetzoo.pretrained import POLICIES, adapt_images

CONFIG_FILE = "config.json"
MODEL_FILE = "model.safetensors"
BEST_FILE = "best.safetensors"
"""Of the best epoch, in the folder of a run."""
SUFFIX = ".safetensors"
_CONFIG = "unetzoo_config"
_VERSION = "unetzoo_version"

_logger = logging.getLogger("unetzoo")


@dataclass(frozen=True)
class SavedModel:
    """What a file says of the model in it. ``str()`` is a line about it.

    Attributes:
        path: of the file.
        config: of the model.
        unetzoo_version: of the program that wrote it.
        sha256: of the bytes of its tensors, as written in the file.
        parameters: number of them, batch-norm statistics not counted.
        bytes: size of the file.
        dtypes: of the floating-point tensors, such as ("float32",).
    """

    path: Path
    config: ModelConfig
    unetzoo_version: str
    sha256: str
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]

    def __str__(self) -> str:
        classes = f"{self.config.num_classes} class{'es' * (self.config.num_classes > 1)}"
        if self.config.class_names:
            classes += f" ({', '.join(self.config.class_names)})"
        return (
            f"{self.path}: {self.config.name}, {self.config.in_channels} channels → {classes}, "
            f"{self.parameters:,} parameters in {', '.join(self.dtypes)}, {self.bytes / 1e6:.1f} MB, "
            f"saved by unetzoo {self.unetzoo_version}"
        )


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model to one safetensors file, all or nothing.

    The file holds the tensors, the config, and digests of both. A model that ``torch.compile`` or data parallelism
    has wrapped is taken out of its wrapping. Where ``path`` is a symbolic link, its target is replaced.

    Args:
        model: a ``SegmentationModel``, on any device, of any floating-point type.
        path: ends in ``.safetensors``; a file that is there stays until the new one is complete on the disk.

    Raises:
        ConfigError: ``path`` has another ending.
        WeightsError: no model of unetzoo, one that was changed so that its config no longer describes it, weights
            that are not finite, or a file that cannot be written.
    """
    if Path(path).suffix != SUFFIX:
        raise ConfigError(f"cannot save to {str(path)!r}: the name must end in {SUFFIX}")
    model = unwrapped(model)
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in model.state_dict().items()}
    problems = misfits(build_on_meta(model.config).state_dict(), state)
    if problems:
        raise WeightsError(
            f"cannot save: the model is no longer what its config says, and could not be loaded:{listed(problems)}\n"
            "Register what you changed as a decoder or encoder, or keep it with torch.save"
        )
    if any(tensor.is_meta for tensor in state.values()):
        raise WeightsError("cannot save: the model is on the meta device, where there are shapes and no weights")
    check_types(state)
    broken = non_finite(state)
    if broken:
        raise WeightsError(
            f"cannot save: NaN or infinity in {len(broken)} of {len(state)} tensors, such as {broken[0]}; "
            "go back to an earlier state"
        )
    write_tensors(path, state, {"format": "pt", _VERSION: __version__, _CONFIG: model.config.to_json()})


def load(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    verify: bool = False,
    num_classes: int | None = None,
    in_channels: int | None = None,
    input_policy: str | None = None,
    class_names: Sequence[str] | None = None,
    task: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> SegmentationModel:
    """Return the model in a file that :func:`save` wrote, in evaluation mode. Nothing is downloaded.

    On the CPU its weights are the mapped file: a page is read when it is first used, and copied when it is first
    changed. So do not overwrite the file in place meanwhile; to save over it is safe.

    Args:
        path: a ``.safetensors`` file, or a folder with a ``model.safetensors``.
        device: where the model goes.
        dtype: of its floating-point tensors; None: as in the file.
        verify: also read every byte, and hold it against the digest, and look for NaN and infinity.
        num_classes: another number of classes: the heads are drawn anew, and the log names their tensors.
        in_channels: another number of channels: the first convolution is adapted, see ``input_policy``.
        input_policy: "repeat" (the default), "mean", "sum" (the default for 1 channel) or "keep_rgb", as in
            ``create``.
        class_names, task, mean, std: replace those in the file; None leaves them. With another ``num_classes`` the
            names go, and with other ``in_channels`` mean and std, unless they are given.

    Raises:
        WeightsError: missing, damaged, not a model of unetzoo, or written by a newer unetzoo; lists all tensors that
            are missing, unexpected or of another shape.
        ConfigError: lists all that is wrong with the other arguments.
    """
    _check_target(device, dtype)
    file, config = _read(path)
    changes = {
        "num_classes": plain(num_classes),
        "in_channels": plain(in_channels),
        "class_names": plain_tuple(class_names),
        "task": task,
        "mean": plain_tuple(mean),
        "std": plain_tuple(std),
    }
    wanted = _changed(config, {name: value for name, value in changes.items() if value is not None}, input_policy)
    if verify:
        _verify(file)
    model = build_on_meta(wanted)
    as_saved = (wanted.num_classes, wanted.in_channels) == (config.num_classes, config.in_channels)
    _check_fit(file, config, model if as_saved else build_on_meta(config))
    state = file.tensors()
    if wanted.num_classes != config.num_classes:
        state |= _new_heads(model, state["head.conv.weight"].dtype)
    if wanted.in_channels != config.in_channels:
        policy = input_policy or ("sum" if wanted.in_channels == 1 else "repeat")
        _adapt_input(state, model, config.in_channels, policy)
    state = {name: tensor.to(device, dtype if tensor.is_floating_point() else None) for name, tensor in state.items()}
    return _filled(model, state, device, dtype).eval()


def verify(path: str | os.PathLike[str]) -> SavedModel:
    """Read every byte of a saved model, and return what the file says of it.

    A single changed bit is found, wherever it is, and so are weights that are not finite.

    Args:
        path: a ``.safetensors`` file, or a folder with a ``model.safetensors``; of a folder, ``config.json`` must
            say the same.

    Raises:
        WeightsError: missing, damaged, or not a model of unetzoo.
    """
    file, config = _read(path)
    model = build_on_meta(config)
    _check_fit(file, config, model)
    _verify(file)
    copy = Path(path) / CONFIG_FILE
    if copy.is_file() and read_config(copy) != config:
        raise WeightsError(f"{copy} says another thing than {MODEL_FILE} beside it, which counts; save the folder anew")
    return _described(file, model)


def read_saved(path: str | os.PathLike[str]) -> SavedModel:
    """Return what a file says of the model in it, without reading its tensors.

    Raises:
        WeightsError: missing, or not a model of unetzoo.
    """
    file, config = _read(path)
    return _described(file, build_on_meta(config))


def is_saved_model(file: TensorFile) -> bool:
    """Return whether a safetensors file says which model it holds."""
    return _CONFIG in file.metadata


def read_config(path: Path) -> ModelConfig:
    """Return the record in a ``config.json``.

    Raises:
        WeightsError: missing, or not the record of a model of unetzoo.
    """
    check_file(path)
    if path.stat().st_size > LONGEST_HEADER:
        raise WeightsError(f"{path} is longer than the {LONGEST_HEADER:,} bytes that any model's record has")
    try:
        return ModelConfig.from_json(path.read_bytes().decode())
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # ConfigError is one, and so is a failure to decode
        raise WeightsError(f"{path}: {error}") from error


def unwrapped(model: nn.Module) -> SegmentationModel:
    """Return the model in the wrappings of ``torch.compile`` and data parallelism.

    Raises:
        WeightsError: it is no model of unetzoo.
    """
    if isinstance(model, OptimizedModel):
        raise WeightsError(
            "optimize() made this copy, whose norms are part of its convolutions: save the model that it was made "
            "from, and optimize what you load"
        )
    inner: nn.Module | None = model
    while isinstance(inner, nn.Module) and not isinstance(inner, SegmentationModel):
        children = dict(inner.named_children())
        inner = children.get("_orig_mod", children.get("module"))
    if not isinstance(inner, SegmentationModel):
        raise WeightsError(
            f"a SegmentationModel is needed, from unetzoo.create() or load(), not {type(model).__name__}"
        )
    return inner


def model_in(folder: Path) -> Path | None:
    """Return the model's file in a folder that ``save_pretrained`` wrote, or a run of ``unetzoo train``."""
    return next((folder / name for name in (MODEL_FILE, BEST_FILE) if (folder / name).is_file()), None)


def _read(path: str | os.PathLike[str]) -> tuple[TensorFile, ModelConfig]:
    """Return a file and the config in it."""
    path = Path(path)
    if path.is_dir():
        path = model_in(path) or path / MODEL_FILE
        if not path.is_file():
            raise WeightsError(f"the folder {path.parent} holds no {MODEL_FILE}: unetzoo.save_pretrained writes one")
    if path.suffix != SUFFIX and path.is_file():
        raise WeightsError(
            f"{path} is no {SUFFIX} file; if it is a checkpoint, 'unetzoo convert {path.name} {path.stem}{SUFFIX} "
            "--model NAME' makes one of it"
        )
    file = read_header(path)
    file.check_header()
    if not is_saved_model(file):
        raise WeightsError(
            f"{path} holds tensors, and does not say of which model: 'unetzoo convert' with --model NAME writes a "
            "file that does"
        )
    try:
        return file, ModelConfig.from_json(file.metadata[_CONFIG])
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error


def _described(file: TensorFile, model: SegmentationModel) -> SavedModel:
    """Return what ``file`` says; ``model`` may be on meta."""
    dtypes = {entry.dtype for entry in file.entries.values() if entry.dtype.is_floating_point}
    return SavedModel(
        path=file.path,
        config=model.config,
        unetzoo_version=file.metadata.get(_VERSION, "?"),
        sha256=file.metadata.get(DATA_DIGEST, "?"),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes=len(file.content),
        dtypes=tuple(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)),
    )


def _verify(file: TensorFile) -> None:
    file.check_data()
    try:
        # A second opinion, so that what we call whole can be read by all programs. It takes only names in UTF-8.
        if not any("\udc80" <= letter <= "\udcff" for letter in str(file.path)):
            with safe_open(file.path, "pt"):
                pass
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{file.path} cannot be read by safetensors itself: {error}") from error
    broken = non_finite(file.tensors())
    if broken:
        raise WeightsError(
            f"{file.path} holds NaN or infinity in {len(broken)} of {len(file.entries)} tensors, such as {broken[0]}; "
            "fetch it again, or take an earlier one"
        )


def _check_fit(file: TensorFile, config: ModelConfig, model: SegmentationModel) -> None:
    problems = misfits(model.state_dict(), file.entries)
    if problems:
        raise WeightsError(
            f"{file.path} does not hold the {config.name} that it says it holds:{listed(problems)}\n"
            "It was put together from different models; save the right one again"
        )


def _check_target(device: str | torch.device, dtype: torch.dtype | None) -> None:
    problems = []
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        problems.append(f"dtype={dtype!r}: a floating-point type such as torch.float16 is needed")
    try:
        if torch.empty(0, device=device).is_meta:
            problems.append("device='meta': there are no weights on it; use ModelConfig and torch.device('meta')")
    except (RuntimeError, AssertionError, TypeError) as error:  # torch without CUDA asserts
        problems.append(f"device={device!r} cannot be used here ({str(error).partition(chr(10))[0]})")
    if problems:
        raise ConfigError("cannot load", problems)


def _changed(config: ModelConfig, changes: dict[str, Any], input_policy: str | None) -> ModelConfig:
    """Return ``config`` with ``changes``, and without what they make void."""
    if input_policy is not None and input_policy not in POLICIES:
        raise ConfigError(f"input_policy={input_policy!r}: one of {', '.join(map(repr, POLICIES))} is needed")
    if input_policy is not None and changes.get("in_channels", config.in_channels) == config.in_channels:
        raise ConfigError(f"input_policy is for another number of channels than the file's {config.in_channels}")
    classes = changes.get("num_classes", config.num_classes)
    if classes != config.num_classes:
        task = "multilabel" if config.task == "multilabel" else "binary" if classes == 1 else "multiclass"
        changes = {"class_names": None, "task": task, **changes}
    if changes.get("in_channels", config.in_channels) != config.in_channels:
        changes = {"mean": None, "std": None, **changes}
    return config.replace(**changes) if changes else config


def _adapt_input(state: dict[str, Tensor], model: SegmentationModel, known: int, policy: str) -> None:
    """Adapt, in ``state``, the convolution that sees images of ``known`` channels; refuse where more depends on it."""
    channels = model.config.in_channels
    name = adapt_images(model.encoder, model.config.encoder, state, known, policy, prefix="encoder.")
    problems = misfits(model.state_dict(), state)
    if problems:
        raise WeightsError(
            f"in_channels={channels}: more than the convolution that sees the images depends on their {known} "
            f"channels, and cannot be adapted; train anew:{listed(problems)}"
        )
    _logger.warning("in_channels=%d: adapted from %d (%s): %s", channels, known, policy, name)


def _new_heads(model: SegmentationModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """Draw anew all that depends on the number of classes; return it by name, in ``dtype``."""
    found: dict[str, Tensor] = {}
    for title in ("head", "deep_heads", "guide"):
        module = getattr(model, title)
        if module is not None:
            initialise(module.to_empty(device="cpu"))
            found |= {name: tensor.to(dtype) for name, tensor in module.state_dict(prefix=f"{title}.").items()}
    _logger.warning("num_classes=%d: drawn anew: %s", model.config.num_classes, ", ".join(found))
    return found


def _filled(
    model: SegmentationModel, state: Mapping[str, Tensor], device: str | torch.device, dtype: torch.dtype | None
) -> SegmentationModel:
    """Return ``model`` with the tensors of ``state`` for its own."""
    model.load_state_dict(state, assign=True)
    if any(tensor.is_meta for tensor in _tensors(model)):
        # An encoder or decoder of the user's that keeps tensors out of its state dict: only to build it makes them.
        model = SegmentationModel(model.config)
        model.load_state_dict(state, assign=True)
        model.to(device=device, dtype=dtype)
    return model


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Yield all tensors of a model, also those that are no parameters and no buffers."""
    yield from itertools.chain(model.parameters(), model.buffers())
    for module in model.modules():
        yield from (value for value in vars(module).values() if isinstance(value, Tensor))
