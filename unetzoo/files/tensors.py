"""Safetensors files: a header that is read defensively, and data that is memory-mapped, not copied.

Format: https://huggingface.co/docs/safetensors. Eight bytes with the header's length, the header (JSON), the data of
all tensors without gaps. safetensors' own reader accepts repeated names, notices no changed byte, and gives all tensors
one storage, so that a copy of one layer keeps the complete file in memory; its writer makes the file private to its
owner, replaces symbolic links and leaves temporary files behind. So this package has its own reader and writer, which
the tests compare with safetensors.
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
"""Most bytes: twenty times the header of the zoo's largest network. A longer one is not a network's, or an attack."""
ALIGNED = 64
"""Tensors in torch start at multiples of this many bytes: elsewhere, its matrix products round differently."""
DATA_DIGEST = "unetzoo_data_sha256"
HEADER_DIGEST = "unetzoo_header_sha256"
_CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """The place of a tensor: its type, its shape, and its first and last byte from the start of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class TensorFile:
    """The header of a well-formed file.

    Attributes:
        path: of the file.
        metadata: text by name.
        entries: name → place of the tensor.
        header: the bytes of the header.
        content: the complete file, mapped when it was opened: it does not change if another file is saved to its path.
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

        Each tensor has its own storage.
        """
        return {name: _tensor(self.content, entry) for name, entry in self.entries.items()}

    def check_header(self) -> None:
        """Compare the header with its digest, if it has one.

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
        """Compare every byte of the tensors with the digest in the header.

        Raises:
            WeightsError: there is no digest.
            DamagedError: the digests differ.
        """
        promised = self.metadata.get(DATA_DIGEST)
        if promised is None or HEADER_DIGEST not in self.metadata:
            raise WeightsError(f"{self.path} has no digests, so damage cannot be detected: unetzoo.save writes them")
        with memoryview(self.content) as content:
            found = hashlib.sha256(content[8 + len(self.header) :]).hexdigest()
        if found != promised:
            raise DamagedError(
                f"{self.path} is damaged: the sha256 of its tensors is {found[:12]}…, but was "
                f"{promised[:12]}… when it was saved; fetch or save it again"
            )


def read_header(path: str | os.PathLike[str]) -> TensorFile:
    """Return the header of a safetensors file, without reading its tensors.

    Raises:
        WeightsError: the file is missing, or not an ordinary file.
        DamagedError: it is not a complete and well-formed safetensors file.
    """
    path = Path(path)
    return read_mapped(path, _map(path))


def read_mapped(path: Path, content: mmap.mmap) -> TensorFile:
    """Return the header in the bytes of a safetensors file that came from ``path``, without reading its tensors.

    Raises:
        DamagedError: they are not a complete and well-formed safetensors file.
    """
    size, length = len(content), int.from_bytes(content[:8], "little")
    if content[:4] == b"PK\x03\x04":
        raise DamagedError(
            f"{path} was written by torch.save, but has another ending: rename it to .pth, and convert it"
        )
    if not 2 <= length <= min(LONGEST_HEADER, size - 8):
        raise DamagedError(
            f"{path} cannot be read: its header would be {length:,} bytes long, in a file of {size:,} "
            f"(at most {LONGEST_HEADER:,} are read); it is cut off, or not a safetensors file"
        )
    try:
        return _parse(path, content, content[8 : 8 + length])
    except _MalformedError as error:
        raise DamagedError(f"{path} cannot be read: {error}; it is damaged, or not a safetensors file") from error


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write a safetensors file, all or nothing, with digests of header and data; return that of the data.

    Its folder is created if it does not exist.

    Raises:
        WeightsError: a tensor has a type that cannot be stored.
        WriteError: the file cannot be written.
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
    """Refuse tensors of types that cannot be stored.

    Raises:
        WeightsError: lists them.
    """
    wrong = [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype not in _CODES]
    if wrong:
        raise WeightsError(f"cannot save: these types cannot be stored: {', '.join(wrong)}; cast the model first")


def header_digest(header: bytes, own: str) -> str:
    """Return the sha256 of a header with its own digest replaced by zeros."""
    if not re.fullmatch("[0-9a-f]{64}", own):
        return "none"
    own_entry = f'"{HEADER_DIGEST}":"{own}"'.encode()
    return hashlib.sha256(header.replace(own_entry, f'"{HEADER_DIGEST}":"{"0" * 64}"'.encode())).hexdigest()


class _MalformedError(Exception):
    """A problem of a header."""


def kind_of(path: Path) -> Literal["safetensors", "torch"] | None:
    """Return the kind of a file of tensors, whatever its name: ``torch`` means ``torch.save``; None: neither.

    A file named .safetensors must be one.

    Raises:
        WeightsError: the file is missing, or not an ordinary file.
    """
    if path.suffix == SUFFIX:
        return "safetensors"
    check_file(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(SEEN)
    except OSError:
        return None  # its reader reports why
    # A JSON object follows the length of the header. In a pickle, that length would be exabytes.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LONGEST_HEADER:
        return "safetensors"
    return "torch" if start.startswith((b"PK\3\4", b"\x80")) else None


def check_file(path: Path) -> None:
    """Refuse anything but an ordinary file: reading a pipe or a device might never end.

    Raises:
        WeightsError: says what it is.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not an ordinary file"
        raise WeightsError(f"{path} cannot be read: it is {kind}")


def _map(path: Path) -> mmap.mmap:
    check_file(path)
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            instead = no_weights(stream.read(SEEN))
            if instead is not None:
                raise DamagedError(f"{path} is not a safetensors file: {instead}")
            if size < 8:
                raise DamagedError(f"{path} cannot be read: it has {size} bytes, too few for a tensor file")
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error


def _parse(path: Path, content: mmap.mmap, header: bytes) -> TensorFile:
    if not header.startswith(b"{"):
        raise _MalformedError("its header is not a JSON object")
    try:
        record = strict_json.loads(header.decode())
    except ValueError as error:
        raise _MalformedError(f"its header is not JSON ({error!s:.200})") from error
    metadata = record.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _MalformedError("its metadata does not map names to text")
    entries = dict(_entries(record, 8 + len(header)))
    at = 8 + len(header)
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != at:
            what = "overlaps another tensor" if entry.start < at else "leaves a gap before it"
            raise _MalformedError(f"{name!r:.200} {what}")
        at = entry.stop
    if at != len(content):
        raise _MalformedError(f"its tensors end at byte {at:,}, but the file at {len(content):,}")
    return TensorFile(path, metadata, entries, header, content)


def _entries(record: Mapping[str, Any], base: int) -> Iterator[tuple[str, Entry]]:
    for name, value in record.items():
        if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
            raise _MalformedError(f"{name!r:.200} is not described by dtype, shape and data_offsets")
        dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise _MalformedError(f"{name!r:.200} is of type {dtype!r:.50}; known types are {', '.join(DTYPES)}")
        if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2 or len(shape) > 32:
            raise _MalformedError(f"{name!r:.200} has a shape or offsets that are not whole numbers")
        start, stop = offsets
        if stop - start != prod(shape) * DTYPES[dtype].itemsize:
            raise _MalformedError(f"{name!r:.200}: {stop - start:,} bytes do not hold {dtype} {shape!r:.200}")
        if prod(max(side, 1) for side in shape) >= 1 << 48:
            raise _MalformedError(f"{name!r:.200} has a shape too large for any memory")
        yield name, Entry(DTYPES[dtype], tuple(shape), base + start, base + stop)


def _whole_numbers(values: object) -> bool:
    """Return whether values are a list of whole numbers that fit in 48 bits, as the size of any file does."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def _tensor(mapped: mmap.mmap, entry: Entry) -> Tensor:
    if entry.start == entry.stop:
        return torch.empty(entry.shape, dtype=entry.dtype)
    if entry.start % ALIGNED:  # in few of our own files, and in all files of other writers
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
    """Return the sort key of a named tensor in a file, which aligns as many tensors as possible.

    Tensors whose size is a multiple of :data:`ALIGNED` bytes come first, then the widest types: each of these starts at
    a multiple of its width, as in files of safetensors.
    """
    name, tensor = item
    return tensor.numel() * tensor.element_size() % ALIGNED > 0, -tensor.element_size(), name


def _bytes(tensor: Tensor) -> memoryview:
    """Return the values as bytes, row by row."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    content: memoryview = flat.view(torch.uint8).numpy().data
    return content
