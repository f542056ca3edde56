"""State dicts from files of other programs, and whether they fit a network. No code in these files is run."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unetzoo.errors import WeightsError
from unetzoo.files.finding import (
    COMPILED,
    COUNTER,
    LONGEST_NAME,
    Contents,
    Place,
    at,
    check_values,
    flattened,
    is_plain,
    places_like,
    split_place,
    usual,
)
from unetzoo.files.notes import Note
from unetzoo.files.tensors import kind_of, read_header
from unetzoo.files.torch_files import read_pickle

WRAPPINGS = (
    *("state_dict", "model_state_dict", "model", "model_state", "net", "network", "weights", "params", "generator"),
    *("ema", "state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "teacher", "student"),
)
"""Keys under which training programs keep a model's state dict, next to their own data."""
PREFIXES = ("module.", "model.", "net.")
"""Prefixes that wrappers put before all names: data parallelism, averaged models, Lightning modules."""
AVERAGED = "n_averaged"
"""Counter of ``torch.optim.swa_utils.AveragedModel``, next to the names of its network."""
MOST_LISTED = 9
"""Most tensors of another program's file that an error names, so that the message fits on a terminal."""
_COUNTING = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int16, torch.int8, torch.uint8}
)
"""Types that a batch counter may have instead of int64."""
SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".bin")
"""Suffixes of files that ``torch.save`` wrote."""


@dataclass(frozen=True)
class CheckpointFile:
    """The tensors and texts of a training checkpoint, as ``TensorFile`` holds those of a safetensors file.

    Attributes:
        path: of the file.
        metadata: text by name.
        entries: the state dict.
        size: bytes of the file.
        note: for the log, if the file is another program's; None for one of ours.
    """

    path: Path
    metadata: Mapping[str, str]
    entries: Mapping[str, Tensor]
    size: int
    note: Note | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors."""
        return dict(self.entries)

    def check_data(self) -> None:
        """Refuse, as there is no digest with which the bytes could be compared.

        Raises:
            WeightsError: always.
        """
        raise WeightsError(
            f"{self.path} is a checkpoint without digests, so damage cannot be detected: 'unetzoo convert "
            f"{self.path} {self.path.stem}.safetensors' writes a file that has them"
        )


def load_state_dict_file(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the state dict in a ``.safetensors`` file, or in one that ``torch.save`` wrote, whatever its name.

    The usual wrappers are removed: dictionaries that hold it under a key such as "state_dict", "model" or "ema", the
    prefixes "module.", "model." and "net." if all names have them, and "_orig_mod.". Other contents are ignored. Of
    two state dicts, such as the weights and their average, the one that is usually evaluated is returned, and the log
    says so. Types stay as in the file, half precision too; tensors of safetensors files are memory-mapped, and read
    when they are first used.

    Args:
        path: of the file; ``FILE::place`` for the tensors at a place in it, such as ``moco.pth.tar::module.encoder_k``.

    Raises:
        WeightsError: the file is missing, damaged, not a dictionary of tensors, or a pickle that would run code: such
            a file is never opened.
    """
    file, asked = split_place(path)
    if asked is not None:
        _, state = next(read_contents(path).states())
        check_values(file, state)
    elif kind_of(file) == "safetensors":
        state = read_header(file).tensors()
    else:
        state = dict(_state_dict_in(file, *read_pickle(file, strict=False)).state)
    state.pop(AVERAGED, None)
    return _without_prefixes({name.replace(COMPILED, ""): tensor for name, tensor in state.items()})


def read_contents(source: str | os.PathLike[str]) -> Contents:
    """Return all tensors of a file, wherever they are in it.

    Args:
        source: a file, or ``FILE::place``.

    Raises:
        WeightsError: the file is missing, damaged, or a pickle that would run code; or it holds no tensors, or none at
            that place.
    """
    path, asked = split_place(source)
    if kind_of(path) == "safetensors":
        file = read_header(path)
        tensors = {name.replace(COMPILED, ""): tensor for name, tensor in file.tensors().items()}
        contents, nested = Contents(path, asked, tensors, text=file.metadata), False
    else:
        content, foreign = read_pickle(path, strict=False)
        found, others = flattened(path, content) if isinstance(content, Mapping) else ({}, [])
        if not found:
            raise _no_state_dict(path, content, foreign)
        contents = Contents(path, asked, found, tuple(others), foreign, texts_in(content))
        nested = not any(map(is_plain, content.values()))
    if asked is not None and (next(contents.states(), None) is None or (not asked and nested)):
        where = repr(asked[:200]) if asked else "its top"
        raise WeightsError(f"{path} holds no tensors at {where}; they are at {places_like(contents)}")
    return contents


def texts_in(content: Mapping[Any, Any]) -> dict[str, str]:
    """Return the texts at the top level of a checkpoint, by name."""
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, str)}


def complete(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` with batch counters as integers, 0 where old files lack them."""
    counters = [name for name in wanted if name.endswith(f".{COUNTER}")]
    lacking = {name: torch.zeros((), dtype=torch.int64) for name in counters if name not in state}
    return {**lacking, **state, **{name: _whole(state[name]) for name in counters if name in state}}


def _whole(counter: Tensor) -> Tensor:
    """Return a counter as int64 if another type holds its value exactly, as when all tensors were cast."""
    if counter.device.type != "cpu" or counter.numel() != 1 or counter.dtype not in _COUNTING:
        return counter
    value = counter.item()
    # Floating point may hold values that are not whole, or too large.
    return counter.to(torch.int64) if abs(value) < 1 << 53 and value == int(value) else counter


def misfits(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return a line for each tensor that is missing, unexpected, of another shape or of another kind of number.

    The values of both have a ``shape`` and a ``dtype``. Floating point of any width is one kind. The kinds of lines
    alternate, so that the first lines show all kinds of problems.
    """
    missing = [f"missing: {name}" for name in wanted if name not in found]
    unexpected = [f"unexpected: {name}" for name in found if name not in wanted]
    others = []
    for name, tensor in wanted.items():
        if name in found and tuple(found[name].shape) != tuple(tensor.shape):
            others.append(f"{name}: {tuple(found[name].shape)} instead of {tuple(tensor.shape)}")
        elif name in found and not _same_kind(found[name].dtype, tensor.dtype):
            others.append(f"{name}: {found[name].dtype} instead of {tensor.dtype}")
    turns = itertools.zip_longest(missing, unexpected, others)
    return [line for turn in turns for line in turn if line is not None]


def lacks_statistics(problems: Sequence[str]) -> bool:
    """Return whether all misfits are missing batch-norm statistics, which other norms do not have."""
    return bool(problems) and all(re.fullmatch(r"missing: .*\.running_(mean|var)", problem) for problem in problems)


def listed(problems: Sequence[str], most: int | None = None) -> str:
    """Return all problems as lines of an error, or the first ``most`` and how many more there are."""
    rest = 0 if most is None else max(0, len(problems) - most)
    shown = [*problems[:most], f"and {rest} more"] if rest else problems
    return "".join(f"\n  - {problem}" for problem in shown)


def non_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that hold NaN or infinity."""
    found = []
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.numel():
            values = tensor if tensor.element_size() > 1 else tensor.float()  # aminmax does not support 8 bits
            low, high = values.aminmax()  # a NaN anywhere gives NaN in both, without allocating a mask
            if not (low.isfinite() and high.isfinite()):
                found.append(name)
    return found


def check_finite(path: str | os.PathLike[str], state: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not finite.

    Raises:
        WeightsError: says how many tensors are affected, and names the first.
    """
    broken = non_finite(state)
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise WeightsError(
            f"{path} holds NaN or infinity in {len(broken)} of {len(state)} tensors, "
            f"{', '.join(f'{name:.100}' for name in broken[:3])}{more}; fetch it again, or use an earlier one"
        )


def _same_kind(found: torch.dtype, wanted: torch.dtype) -> bool:
    return found.is_floating_point if wanted.is_floating_point else found == wanted


def _state_dict_in(path: Path, content: Any, foreign: tuple[str, ...]) -> Place:
    """Return the state dict that a checkpoint is, or holds under a usual key."""
    found = {}
    ahead = [("", content)]
    while ahead:
        prefix, value = ahead.pop()
        if isinstance(value, Mapping) and len(prefix) < LONGEST_NAME:
            named = {name: item for name, item in value.items() if isinstance(name, str)}
            if any(map(is_plain, named.values())):
                found[prefix] = named
            ahead += [(f"{prefix}{name}.", named[name]) for name in reversed(named)]
    wrapped = {prefix: found[prefix] for prefix in found if _last(prefix) in WRAPPINGS}
    wrapped = dict(sorted(wrapped.items(), key=lambda item: WRAPPINGS.index(_last(item[0]))))
    candidates = wrapped or ({"": found[""]} if "" in found else found)
    if not candidates:
        raise _no_state_dict(path, content, foreign)
    places = []
    for prefix, value in candidates.items():
        state = {name: tensor for name, tensor in value.items() if isinstance(tensor, Tensor)}
        sparse = next((name for name, tensor in state.items() if not is_plain(tensor)), None)
        if sparse is not None:
            raise WeightsError(f"{path} holds no state dict: {sparse:.200} is sparse, as no tensor of a network is")
        places.append(Place(prefix, state))
    place, passed = usual(path, places)
    said = []
    if passed:
        said.append(f"read from {place}; it also holds {', '.join(at(path, it) for it in passed)}")
    beside = [name for name in candidates[place.prefix] if name not in place.state]
    if beside:
        said.append(f"ignored: {', '.join(beside):.200}")
    if said:
        Note(f"{path}: {'; '.join(said)}", doubtful=bool(passed)).log()
    return place


def _last(prefix: str) -> str:
    return prefix.rstrip(".").rpartition(".")[2]


def _no_state_dict(path: Path, content: Any, foreign: tuple[str, ...]) -> WeightsError:
    if isinstance(content, Mapping) and not content:
        return WeightsError(f"{path} holds no state dict: the dictionary in it is empty; save model.state_dict()")
    inside = ", ".join(str(name)[:40] for name in content) if isinstance(content, Mapping) else type(content).__name__
    whole = f" (complete objects, which are not built: {', '.join(foreign[:3])})" if foreign else ""
    return WeightsError(
        f"{path} holds no state dict but {inside or 'nothing':.200}{whole:.400}; save only model.state_dict()"
    )


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that all names share, however many."""
    pieces = re.compile(f"(?:{'|'.join(map(re.escape, PREFIXES))})*")
    found = [_match(pieces, name) for name in state]
    shared = os.path.commonprefix(found)  # noqa: RUF071 - character by character on purpose
    cut = len(_match(pieces, shared))
    return {name[cut:]: tensor for name, tensor in state.items()}


def _match(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.match(text)
    return match[0] if match else ""
