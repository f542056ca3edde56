"""Safetensors files: a header that is read with suspicion, and data that is mapped, not copied.

Format: https://huggingface.co/docs/safetensors. Eight bytes with the header's length, the header (JSON), the data of
all tensors without gaps. safetensors' own reader takes repeated names, notices no changed byte, and gives all tensors
one storage, so that a copy of one layer drags the whole file along; its writer makes the file private to its owner,
replaces symbolic links and leaves temporary files. Hence ours, held against it by the tests.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from unetzoo.errors import DamagedError, WeightsError
from unetzoo.files import strict_json
from unetzoo.files.strangers import SEEN, no_weights
from unetzoo.files.writing import make_folder, replacing

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
SUFFIX = ".safetensors"
LONGEST_HEADER = 4_000_000
"""Bytes: twenty times that of the zoo's largest network. What is longer is no network's, or an attack on memory."""
ALIGNED = 64
"""Bytes at a multiple of which torch's own tensors start: its products of matrices round otherwise elsewhere."""
DATA_DIGEST = "unetzoo_data_sha256"
HEADER_DIGEST = "unetzoo_header_sha256"
_CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: its type, its shape, and its first and last byte from the start of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class TensorFile:
    """The header of a file whose parts fit together.

    Attributes:
        path: of the file.
        metadata: text by name.
        entries: name → where the tensor lies.
        header: the bytes of the header.
        content: the whole file, mapped when it was opened: a file that is saved over meanwhile stays as it was.
    """

    path: Path
    metadata: Mapping[str, str]
    entries: Mapping[str, Entry]
    header: bytes
    content: mmap.mmap

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.content)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors: pages are read when they are first used, and never written back.

        Each has a storage of its own, as if it had been made by itself.
        """
        return {name: _tensor(self.content, entry) for name, entry in self.entries.items()}

    def check_header(self) -> None:
        """Hold the header against its digest, where it has one.

        Raises:
            DamagedError: it was changed after it was written.
        """
        promised = self.metadata.get(HEADER_DIGEST)
        if promised is not None and header_digest(self.header, promised) != promised:
            raise DamagedError(
                f"{self.path} was changed after it was written: its header is not the one that was saved; "
                "fetch or save it again"
            )

    def check_data(self) -> None:
        """Hold every byte of the tensors against the digest in the header.

        Raises:
            WeightsError: there is no digest.
            DamagedError: there is another.
        """
        promised = self.metadata.get(DATA_DIGEST)
        if promised is None or HEADER_DIGEST not in self.metadata:
            raise WeightsError(
                f"{self.path} carries no digests, so that damage cannot be seen: unetzoo.save writes them"
            )
        with memoryview(self.content) as content:
            found = hashlib.sha256(content[8 + len(self.header) :]).hexdigest()
        if found != promised:
            raise DamagedError(
                f"{self.path} is damaged: the sha256 of its tensors is {found[:12]}…, and was "
                f"{promised[:12]}… when it was saved; fetch or save it again"
            )


def read_header(path: str | os.PathLike[str]) -> TensorFile:
    """Return what a safetensors file says of itself, without reading its tensors.

    Raises:
        WeightsError: missing, or no file.
        DamagedError: not a whole and well-formed safetensors file.
    """
    path = Path(path)
    return read_mapped(path, _map(path))


def read_mapped(path: Path, content: mmap.mmap) -> TensorFile:
    """Return what the bytes of a safetensors file say, which came from ``path``, without reading its tensors.

    Raises:
        DamagedError: not a whole and well-formed safetensors file.
    """
    size, length = len(content), int.from_bytes(content[:8], "little")
    if content[:4] == b"PK\x03\x04":
        raise DamagedError(f"{path} is what torch.save writes, under a wrong name: call it .pth, and convert it")
    if not 2 <= length <= min(LONGEST_HEADER, size - 8):
        raise DamagedError(
            f"{path} cannot be read: its header would be {length:,} bytes long, in a file of {size:,} "
            f"({LONGEST_HEADER:,} at most are read); it is cut short, or no safetensors file"
        )
    try:
        return _parse(path, content, content[8 : 8 + length])
    except _MalformedError as error:
        raise DamagedError(f"{path} cannot be read: {error}; it is damaged, or no safetensors file") from error


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write a safetensors file, all or nothing, with digests of header and data; return that of the data.

    Its folder is made where there is none.

    Raises:
        WeightsError: it cannot be written, or a tensor is of a type that has no place in it.
    """
    check_types(tensors)
    ordered = dict(sorted(tensors.items(), key=_place))
    blank = {**metadata, DATA_DIGEST: "0" * 64, HEADER_DIGEST: "0" * 64}
    placed = _header(ordered, blank)
    make_folder(Path(path).parent)
    with replacing(path) as stream:
        stream.write(len(placed).to_bytes(8, "little") + placed)
        digest = hashlib.sha256()
        for tensor in ordered.values():
            content = _bytes(tensor)
            digest.update(content)
            stream.write(content)
        blank[DATA_DIGEST] = digest.hexdigest()
        blank[HEADER_DIGEST] = hashlib.sha256(_header(ordered, blank)).hexdigest()
        stream.seek(8)
        stream.write(_header(ordered, blank))
    return blank[DATA_DIGEST]


def check_types(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that have no place in a file.

    Raises:
        WeightsError: lists them.
    """
    wrong = [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype not in _CODES]
    if wrong:
        raise WeightsError(f"cannot save: no file of ours holds {', '.join(wrong)}; cast the model first")


def header_digest(header: bytes, own: str) -> str:
    """Return the sha256 of a header in which its own digest stands as zeros."""
    if not re.fullmatch("[0-9a-f]{64}", own):
        return "none"
    own_entry = f'"{HEADER_DIGEST}":"{own}"'.encode()
    return hashlib.sha256(header.replace(own_entry, f'"{HEADER_DIGEST}":"{"0" * 64}"'.encode())).hexdigest()


class _MalformedError(Exception):
    """What is wrong with a header."""


def kind_of(path: Path) -> Literal["safetensors", "torch"] | None:
    """Return what a file of tensors is, whatever it is called: ``torch`` is what ``torch.save`` writes; None: neither.

    One that is called .safetensors is to be one.

    Raises:
        WeightsError: missing, or no file.
    """
    if path.suffix == SUFFIX:
        return "safetensors"
    check_file(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(SEEN)
    except OSError:
        return None  # who reads it says why
    # Behind the length of the header stands an object of JSON. Of a pickle that length would be exabytes.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LONGEST_HEADER:
        return "safetensors"
    return "torch" if start.startswith((b"PK\3\4", b"\x80")) else None


def check_file(path: Path) -> None:
    """Refuse what is no file, and pipes and devices, which could be read for ever.

    Raises:
        WeightsError: says what it is.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        raise WeightsError(f"{path} cannot be read: it is {'a folder' if stat.S_ISDIR(mode) else 'no ordinary file'}")


def _map(path: Path) -> mmap.mmap:
    check_file(path)
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            instead = no_weights(stream.read(SEEN))
            if instead is not None:
                raise DamagedError(f"{path} is no safetensors file: {instead}")
            if size < 8:
                raise DamagedError(f"{path} cannot be read: it has {size} bytes, too few for any tensor file")
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error


def _parse(path: Path, content: mmap.mmap, header: bytes) -> TensorFile:
    if not header.startswith(b"{"):
        raise _MalformedError("its header is no JSON object")
    try:
        record = strict_json.loads(header.decode())
    except ValueError as error:
        raise _MalformedError(f"its header is not JSON ({error!s:.200})") from error
    metadata = record.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _MalformedError("its metadata is not text by name")
    entries = dict(_entries(record, 8 + len(header)))
    at = 8 + len(header)
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != at:
            what = "overlaps another tensor" if entry.start < at else "leaves a gap before it"
            raise _MalformedError(f"{name!r:.200} {what}")
        at = entry.stop
    if at != len(content):
        raise _MalformedError(f"its tensors end at byte {at:,}, and the file at {len(content):,}")
    return TensorFile(path, metadata, entries, header, content)


def _entries(record: Mapping[str, Any], base: int) -> Iterator[tuple[str, Entry]]:
    for name, value in record.items():
        if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
            raise _MalformedError(f"{name!r:.200} is not described by dtype, shape and data_offsets")
        dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise _MalformedError(f"{name!r:.200} is of type {dtype!r:.50}; {', '.join(DTYPES)} are known")
        if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2 or len(shape) > 32:
            raise _MalformedError(f"{name!r:.200} has a shape or offsets that are not whole numbers")
        start, stop = offsets
        if stop - start != prod(shape) * DTYPES[dtype].itemsize:
            raise _MalformedError(f"{name!r:.200}: {stop - start:,} bytes do not hold {dtype} {shape!r:.200}")
        if prod(max(side, 1) for side in shape) >= 1 << 48:
            raise _MalformedError(f"{name!r:.200} has a shape that no memory holds")
        yield name, Entry(DTYPES[dtype], tuple(shape), base + start, base + stop)


def _whole_numbers(values: object) -> bool:
    """Return whether it is a list of numbers that fit 48 bits, as the size of any file does."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def _tensor(mapped: mmap.mmap, entry: Entry) -> Tensor:
    if entry.start == entry.stop:
        return torch.empty(entry.shape, dtype=entry.dtype)
    if entry.start % ALIGNED:  # few of our own files, and all of other writers'
        copy = bytearray(mapped[entry.start : entry.stop])
        return torch.frombuffer(copy, dtype=entry.dtype).reshape(entry.shape).clone()
    count = (entry.stop - entry.start) // entry.dtype.itemsize
    return torch.frombuffer(mapped, dtype=entry.dtype, count=count, offset=entry.start).reshape(entry.shape)


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    record: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, tensor in tensors.items():
        end = at + tensor.numel() * tensor.element_size()
        record[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-(8 + len(text)) % ALIGNED)


def _place(item: tuple[str, Tensor]) -> tuple[bool, int, str]:
    """Return what a named tensor's place in a file is sorted by: where it is, it and those behind it are aligned.

    Tensors that fill whole blocks of :data:`ALIGNED` bytes come first, then the widest types: each of these starts at
    a multiple of its width, as safetensors lays them out.
    """
    name, tensor = item
    return tensor.numel() * tensor.element_size() % ALIGNED > 0, -tensor.element_size(), name


def _bytes(tensor: Tensor) -> memoryview:
    """Return the values as they stand in memory, row by row."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    content: memoryview = flat.view(torch.uint8).numpy().data
    return content
