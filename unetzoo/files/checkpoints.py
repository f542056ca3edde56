"""State dicts from files that other programs wrote, and whether they fit a network. Nothing that is read runs."""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unetzoo.errors import WeightsError
from unetzoo.files import pickles
from unetzoo.files.tensors import check_file, read_header

WRAPPINGS = ("state_dict", "model_state_dict", "model")
"""Names under which training programs keep a model's state dict beside their own affairs."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What wrappers put before all names: data parallelism, torch.compile, Lightning modules."""
COUNTER = "num_batches_tracked"
SUFFIX = ".ckpt"
"""Of the checkpoints of a training."""


@dataclass(frozen=True)
class CheckpointFile:
    """The tensors of a checkpoint of a training, and the text beside them: what a ``TensorFile`` is of safetensors.

    Attributes:
        path: of the file.
        metadata: text by name.
        others: names of what else stands beside the state dict.
        entries: the state dict.
        size: bytes of the file.
    """

    path: Path
    metadata: Mapping[str, str]
    others: frozenset[str]
    entries: Mapping[str, Tensor]
    size: int

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors."""
        return dict(self.entries)

    def check_data(self) -> None:
        """Refuse: there is nothing to hold the bytes against.

        Raises:
            WeightsError: always.
        """
        raise WeightsError(
            f"{self.path} is a checkpoint, and carries no digests, so that damage cannot be seen: 'unetzoo convert "
            f"{self.path} {self.path.stem}.safetensors' makes a file of it that does"
        )


def read_checkpoint(path: str | os.PathLike[str]) -> CheckpointFile:
    """Return the state dict of a checkpoint, with its full names, and the text that stands beside it.

    Raises:
        WeightsError: as :func:`load_state_dict_file` does.
    """
    path = Path(path)
    content = load_pickle(path)
    state = _state_dict_in(path, content)
    text = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, str)}
    others = frozenset(name for name in content if isinstance(name, str)) - text.keys()
    return CheckpointFile(path, text, others, state, path.stat().st_size)


def load_state_dict_file(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the state dict in a ``.safetensors`` file, or in one that ``torch.save`` wrote (.pth, .pt, .ckpt, .bin).

    The usual wrappings are taken off: dictionaries that hold it as "state_dict", "model_state_dict" or "model", and
    the prefixes "module.", "_orig_mod.", "model." and "net." where all names have them. Types stay as they are in the
    file, half precision too; tensors of safetensors files are mapped, and read when they are first used.

    Raises:
        WeightsError: missing, damaged, no dictionary of tensors, or a pickle that would have to run code: such a file
            is never opened.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        state: dict[str, Tensor] = read_header(path).tensors()
    else:
        state = _state_dict_in(path, load_pickle(path))
    return _without_prefixes(state)


def complete(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` with the counters of batches that old files lack, at 0."""
    counters = {name: torch.zeros((), dtype=torch.int64) for name in wanted if name.endswith(f".{COUNTER}")}
    return {**{name: counter for name, counter in counters.items() if name not in state}, **state}


def misfits(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return a line for each tensor that is missing, unexpected, of another shape or of another kind of number.

    Both hold what has a ``shape`` and a ``dtype``. Floating point of any width is one kind.
    """
    lines = [f"missing: {name}" for name in wanted if name not in found]
    lines += [f"unexpected: {name}" for name in found if name not in wanted]
    for name, tensor in wanted.items():
        if name in found and tuple(found[name].shape) != tuple(tensor.shape):
            lines.append(f"{name}: {tuple(found[name].shape)} instead of {tuple(tensor.shape)}")
        elif name in found and not _same_kind(found[name].dtype, tensor.dtype):
            lines.append(f"{name}: {found[name].dtype} instead of {tensor.dtype}")
    return lines


def listed(problems: list[str]) -> str:
    """Return the lines of an error that names all of them."""
    return "".join(f"\n  - {problem}" for problem in problems)


def non_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that hold NaN or infinity."""
    found = []
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.numel():
            low, high = tensor.aminmax()  # NaN anywhere is NaN in both, and no mask is made
            if not (low.isfinite() and high.isfinite()):
                found.append(name)
    return found


def _same_kind(found: torch.dtype, wanted: torch.dtype) -> bool:
    return found.is_floating_point if wanted.is_floating_point else found == wanted


_UNREADABLE = (
    "{path} cannot be read as a file of tensors ({why}); it must be what torch.save(model.state_dict(), path) writes"
)


def load_pickle(path: Path) -> Any:
    """Return what ``torch.save`` wrote, read as text, numbers, tensors, and containers of these.

    Raises:
        WeightsError: missing, damaged, or a pickle that would build anything else; none of it is built then.
    """
    check_file(path)
    try:
        _refuse_bombs(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on pickles that it refuses in the end
            return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except pickles.Damaged as error:
        raise WeightsError(_UNREADABLE.format(path=path, why=error)) from error
    except (pickle.UnpicklingError, pickles.Refused) as error:
        needed = error.needed if isinstance(error, pickles.Refused) else None
        why = (
            f"a pickle that needs {needed:.200}, and to unpickle that can run any code" if needed else first_line(error)
        )
        raise WeightsError(
            f"{path} is not opened: {why}. In the program that made it, torch.save(model.state_dict(), 'weights.pth') "
            "writes tensors alone; take that file"
        ) from error
    # Damaged archives raise whatever the layer that stumbled knows: KeyError, EOFError, struct.error and more.
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise WeightsError(_UNREADABLE.format(path=path, why=why)) from error


def _refuse_bombs(path: Path) -> None:
    """Refuse what would take more memory or time than the file has bytes, or build what no state dict holds."""
    size = path.stat().st_size
    if size == 0:
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != b"PK\3\4":  # torch tells by these
            _check_legacy(content)
            return
        with zipfile.ZipFile(path) as archive:
            inside = sum(member.file_size for member in archive.infolist())
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
            twofold = archive.start_dir != _directory(content)
            if packed or twofold or inside > size:
                raise WeightsError(
                    f"{path} cannot be read: it would unpack to {inside:,} bytes or more from {size:,}; what "
                    "torch.save writes is not compressed, and has one list of contents"
                )
            for member in archive.infolist():
                # Torch's reader takes no notice of capitals.
                if member.filename.lower().endswith(".pkl"):
                    pickles.Pickle(archive.read(member)).check()


def _check_legacy(content: mmap.mmap) -> None:
    """Go through the pickles at the beginning of a file of torch before 1.6.

    They are a number that marks such files, the version, notes on the machine, what was saved, and the storages' names.
    """
    with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=content, mode="r:"):
        raise pickles.Refused("it is an archive as torch wrote before 0.2")
    place = 0
    for k in range(5):
        found = pickles.Pickle(content, place)
        if found.check() != torch.serialization.MAGIC_NUMBER and k == 0:
            raise pickles.Refused("it is a pickle that torch.save did not write")
        place = found.place


def _directory(content: mmap.mmap) -> int:
    """Return where a zip file says that its list of contents begins: there torch reads it, Python elsewhere."""
    end = content.rfind(b"PK\5\6")
    start = int.from_bytes(content[end + 16 : end + 20], "little")
    if start != 0xFFFFFFFF:
        return start
    wide = int.from_bytes(content[end - 12 : end - 4], "little")  # of the zip64 locator just before
    return int.from_bytes(content[wide + 48 : wide + 56], "little")


def _state_dict_in(path: Path, content: Any) -> dict[str, Tensor]:
    """Return the state dict that a checkpoint is, or holds under a usual name."""
    candidates = {"": content}
    if isinstance(content, Mapping):
        candidates |= {name: content[name] for name in WRAPPINGS if isinstance(content.get(name), Mapping)}
    found = {name: dict(value) for name, value in candidates.items() if _is_state_dict(value)}
    if len(found) > 1:
        raise WeightsError(
            f"{path} holds several state dicts, {', '.join(map(repr, found))}: save the one you mean alone"
        )
    if not found:
        inside = (
            ", ".join(str(name)[:40] for name in content) if isinstance(content, Mapping) else type(content).__name__
        )
        raise WeightsError(f"{path} holds no state dict but {inside or 'nothing':.200}; save model.state_dict() alone")
    (state,) = found.values()
    for name, tensor in state.items():
        if tensor.device.type != "cpu":
            raise WeightsError(
                f"{path} cannot be read: {name:.200} is on the {tensor.device} device, and has no values"
            )
        # Such a tensor costs nothing here, and any amount of memory as soon as it is copied.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(f"{path} cannot be read: {name:.200} claims more values than the file holds")
    return state


def _is_state_dict(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) for name in value)
        and all(isinstance(tensor, Tensor) and tensor.layout is torch.strided for tensor in value.values())
    )


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefixes that all names have, however many."""
    pieces = re.compile(f"(?:{'|'.join(map(re.escape, PREFIXES))})*")
    found = [_match(pieces, name) for name in state]
    shared = os.path.commonprefix(found)  # noqa: RUF071 - letter by letter is meant
    cut = len(_match(pieces, shared))
    return {name[cut:]: tensor for name, tensor in state.items()}


def _match(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.match(text)
    return match[0] if match else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without the colours that torch gives it."""
    line = str(error).partition("\n")[0] or type(error).__name__
    return re.sub(r"\x1b\[[0-9;]*m", "", line)
