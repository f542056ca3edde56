"""Saving and loading models: one safetensors file that states which model it holds.

A model is built on the meta device and takes over the mapped tensors, so that nothing is initialised and nothing is
copied. ``docs/format.md`` describes the file.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from unetzoo import __version__
from unetzoo.config import CONFIG_KEY, ModelConfig
from unetzoo.errors import ConfigError, DamagedError, WeightsError
from unetzoo.files.checkpoints import CheckpointFile, check_finite, listed, misfits, non_finite
from unetzoo.files.packages import SUFFIX as PACKAGE
from unetzoo.files.plain import plain, plain_tuple
from unetzoo.files.tensors import (
    SUFFIX,
    TensorFile,
    check_types,
    write_tensors,
)
from unetzoo.folding import OptimizedModel
from unetzoo.model import SegmentationModel, build_on_meta
from unetzoo.saving.changes import adapt_input, changed_config, head_changes, new_heads
from unetzoo.saving.records import (
    CONFIG_FILE,
    MODEL_FILE,
    ORIGIN_KEY,
    VERSION_KEY,
    SavedModel,
    described,
    read_config,
    read_record,
)


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model to one safetensors file, all or nothing.

    The file holds the tensors, the config, and digests of both. A model wrapped by ``torch.compile`` or data
    parallelism is unwrapped first. If ``path`` is a symbolic link, its target is replaced.

    Args:
        model: a ``SegmentationModel``, on any device, of any floating-point type.
        path: ends in ``.safetensors``; an existing file is kept until the new one is complete on the disk.

    Raises:
        ConfigError: ``path`` has another ending.
        WeightsError: not a model of unetzoo, a model that was changed so that its config no longer describes it, or
            weights that are not finite.
        WriteError: the file cannot be written.
    """
    if Path(path).suffix != SUFFIX:
        raise ConfigError(f"cannot save to {str(path)!r}: the name must end in {SUFFIX}")
    model = unwrapped(model)
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in model.state_dict().items()}
    problems = misfits(build_on_meta(model.config).state_dict(), state)
    if problems:
        raise WeightsError(
            f"cannot save: the model no longer fits its config, so the file could not be loaded:{listed(problems)}\n"
            "Register the changed part as a decoder or encoder, or save the model with torch.save"
        )
    if any(tensor.is_meta for tensor in state.values()):
        raise WeightsError("cannot save: the model is on the meta device, which has shapes but no weights")
    check_types(state)
    broken = non_finite(state)
    if broken:
        raise WeightsError(
            f"cannot save: NaN or infinity in {len(broken)} of {len(state)} tensors, such as {broken[0]}; "
            "go back to an earlier state"
        )
    record = {"format": "pt", VERSION_KEY: __version__, CONFIG_KEY: model.config.to_json()}
    write_tensors(path, state, {**record, ORIGIN_KEY: model.origin} if model.origin else record)


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
    normalisation: str | None = None,
    resize: float | None = None,
    pixels: str | None = None,
) -> SegmentationModel:
    """Return the model in a file that :func:`save` wrote, in evaluation mode. Nothing is downloaded.

    On the CPU its weights are memory-mapped from the file: a page is read when it is first used, and copied when it is
    first changed. So do not overwrite the file in place meanwhile; saving a model to the same path is safe.

    Args:
        path: a ``.safetensors`` file, a folder with a ``model.safetensors``, a BioImage.IO package that ``export``
            wrote (``.zip``), or the ``last.ckpt`` of a run, even renamed, from which the network is read that the run
            validates: the average of its weights if it has one. Of other programs' files (.pth, .pt, .pth.tar, .ckpt,
            .bin, .safetensors), those of segmentation_models_pytorch.
        device: for the model.
        dtype: of its floating-point tensors; None: as in the file.
        verify: also read every byte, compare it with the digest, and look for NaN and infinity.
        num_classes: another number of classes: the heads are re-initialised, and the log names their tensors.
        in_channels: another number of channels: the first convolution is adapted, see ``input_policy``.
        input_policy: "repeat" (the default), "mean", "sum" (the default for 1 channel) or "keep_rgb", as in
            ``create``.
        class_names, task, mean, std, normalisation, resize, pixels: replace those in the file; None keeps them. With
            another ``num_classes``, class names are dropped, and with other ``in_channels``, mean and std, unless they
            are given.

    Raises:
        WeightsError: the file is missing, damaged, not a model of unetzoo, or written by a newer unetzoo; lists all
            tensors that are missing, unexpected or of another shape.
        ConfigError: lists all that is wrong with the other arguments.
    """
    _check_target(device, dtype)
    changes = {
        "num_classes": plain(num_classes),
        "in_channels": plain(in_channels),
        "class_names": plain_tuple(class_names),
        "task": task,
        "mean": plain_tuple(mean),
        "std": plain_tuple(std),
        "normalisation": normalisation,
        "resize": plain(resize),
        "pixels": pixels,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    settled = ("mean", "std") if {"in_channels", "normalisation"} & {*changes} else ()  # see changed_config
    file, config = read_record(path, {*changes, *settled})
    wanted = changed_config(config, changes, input_policy)
    if verify:
        _verify(file)
    model = build_on_meta(wanted)
    as_saved = (wanted.channels, wanted.in_channels) == (config.channels, config.in_channels)
    check_fit(file, config, model if as_saved else build_on_meta(config))
    state = file.tensors()
    if head_changes(config, wanted):
        state |= new_heads(model, config, state)
    if wanted.in_channels != config.in_channels:
        policy = input_policy or ("sum" if wanted.in_channels == 1 else "repeat")
        adapt_input(state, model, config.in_channels, policy)
    state = {name: tensor.to(device, dtype if tensor.is_floating_point() else None) for name, tensor in state.items()}
    loaded = _filled(model, state, device, dtype).eval()
    loaded.origin = file.metadata.get(ORIGIN_KEY, "")
    if isinstance(file, CheckpointFile) and file.note is not None:
        file.note.log()
    return loaded


def verify(path: str | os.PathLike[str]) -> SavedModel:
    """Read every byte of a saved model, and return its record.

    Even a single changed bit is found, wherever it is, and so are weights that are not finite.

    Args:
        path: a ``.safetensors`` file, or a folder with a ``model.safetensors``; a ``config.json`` in the folder must
            agree with it.

    Raises:
        WeightsError: the file is missing, damaged, or not a model of unetzoo.
    """
    file, config = read_record(path)
    model = build_on_meta(config)
    check_fit(file, config, model)
    _verify(file)
    copy = Path(path) / CONFIG_FILE
    if copy.is_file() and read_config(copy) != config:
        raise WeightsError(f"{copy} does not agree with {MODEL_FILE} next to it, which is used; save the folder again")
    return described(file, model)


def check_fit(file: TensorFile | CheckpointFile, config: ModelConfig, model: SegmentationModel) -> None:
    """Refuse a file whose tensors do not fit the model that it states.

    Raises:
        WeightsError: lists what does not fit.
    """
    problems = misfits(model.state_dict(), file.entries)
    if problems:
        raise WeightsError(
            f"{file.path} does not hold the {config.name} that it states:{listed(problems)}\n"
            "It was assembled from different models; save the right one again"
        )


def unwrapped(model: nn.Module) -> SegmentationModel:
    """Return the model inside the wrappers of ``torch.compile`` and data parallelism.

    Raises:
        WeightsError: it is not a model of unetzoo.
    """
    if isinstance(model, OptimizedModel):
        raise WeightsError(
            "optimize() made this copy, whose norms are folded into its convolutions: save the model that it was made "
            "from, and optimize that after loading"
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


def _verify(file: TensorFile | CheckpointFile) -> None:
    file.check_data()
    try:
        # A second opinion, so that all programs can read what we call intact. safe_open takes only names in UTF-8.
        packed = file.path.suffix.lower() == PACKAGE
        if not packed and not any("\udc80" <= letter <= "\udcff" for letter in str(file.path)):
            with safe_open(file.path, "pt"):
                pass
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{file.path} cannot be read by safetensors itself: {error}") from error
    check_finite(file.path, file.tensors())


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


def _filled(
    model: SegmentationModel, state: Mapping[str, Tensor], device: str | torch.device, dtype: torch.dtype | None
) -> SegmentationModel:
    """Return ``model`` with the tensors of ``state`` as its own."""
    model.load_state_dict(state, assign=True)
    if any(tensor.is_meta for tensor in _tensors(model)):
        # A user's encoder or decoder keeps tensors outside its state dict: only building it creates them.
        model = SegmentationModel(model.config)
        model.load_state_dict(state, assign=True)
        model.to(device=device, dtype=dtype)
    return model


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Yield all tensors of a model, including those that are neither parameters nor buffers."""
    yield from itertools.chain(model.parameters(), model.buffers())
    for module in model.modules():
        yield from (value for value in vars(module).values() if isinstance(value, Tensor))
