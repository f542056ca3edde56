"""Files that are damaged, forged or made for another purpose: each is one error of ours, at once, in little memory.

Files are taken apart and put together here by the format's description alone, and held against safetensors' own
library. The default run flips every bit of a header and some of the data; the longer form flips every bit of two files
and cuts them everywhere::

    pytest -m slow tests/test_damaged_files.py
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import pickle
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from conftest import needs_dev_full
from hostile import SECONDS, within
from torch import Tensor

import unetzoo
from unetzoo.errors import ConfigError, DamagedError, UnetzooError, WeightsError
from unetzoo.files.checkpoints import load_state_dict_file
from unetzoo.files.tensors import DTYPES, LONGEST_HEADER, read_header, write_tensors

pytestmark = pytest.mark.skipif(
    not (hasattr(signal, "SIGALRM") and hasattr(os, "pwrite")),
    reason="what hangs is broken off by SIGALRM, and bits are changed by pwrite, which are not here",
)

"""That any refusal may take."""


def refusal(action: Callable[[], object], kind: type[UnetzooError] = UnetzooError) -> str:
    """Return the message with which ``action`` is refused: one error of ours, soon."""
    with within(), pytest.raises(kind) as caught:
        action()
    return str(caught.value)


def take_apart(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return header and data of a safetensors file, as the format's description says."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put_together(path: Path, header: object, data: bytes = b"") -> Path:
    """Write a safetensors file; a header that is no bytes becomes JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def forge(path: Path, header: dict[str, Any], data: bytes) -> Path:
    """Write a file whose two digests fit, as a careful forger would, or an older or newer program."""
    zeros = "0" * 64
    metadata = {**header["__metadata__"], "unetzoo_data_sha256": hashlib.sha256(data).hexdigest()}
    blank = json.dumps({**header, "__metadata__": {**metadata, "unetzoo_header_sha256": zeros}}, separators=(",", ":"))
    digest = hashlib.sha256(blank.encode()).hexdigest()
    own = '"unetzoo_header_sha256":"{}"'
    assert blank.count(own.format(zeros)) == 1
    return put_together(path, blank.replace(own.format(zeros), own.format(digest)).encode(), data)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the smallest file that a network of ours makes: of floating-point tensors alone."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("saved") / "small.safetensors"
    unetzoo.save(unetzoo.create("unetpp", levels=1, base_channels=1, norm=None), path)
    return path


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with batch norms, and so with whole numbers too."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("counted") / "counted.safetensors"
    unetzoo.save(unetzoo.create("unetpp", levels=1, base_channels=2, num_classes=2), path)
    return path


def test_a_file_put_together_again_is_taken(saved: Path, tmp_path: Path) -> None:
    """What is refused below is refused for its damage, not for being put together here."""
    header, data = take_apart(saved)
    forged = forge(tmp_path / "model.safetensors", header, data)
    wanted = unetzoo.load(saved).state_dict()
    assert wanted
    for path in (forged, put_together(tmp_path / "bare.safetensors", header, data)):
        found = load_state_dict_file(path)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert unetzoo.verify(forged).config == unetzoo.load(forged, verify=True).config == unetzoo.verify(saved).config


# Bits


class Flipper:
    """A file of which one bit after another is another, and all the rest as it was."""

    def __init__(self, source: Path, path: Path) -> None:
        self.path = path
        self.content = source.read_bytes()
        path.write_bytes(self.content)
        self.stream = path.open("r+b", buffering=0)

    @contextlib.contextmanager
    def flipped(self, bit: int) -> Iterator[None]:
        at, mask = bit // 8, 1 << bit % 8
        os.pwrite(self.stream.fileno(), bytes([self.content[at] ^ mask]), at)
        try:
            yield
        finally:
            os.pwrite(self.stream.fileno(), self.content[at : at + 1], at)

    def undetected(self, bits: Sequence[int], check: Callable[[Path], object]) -> list[str]:
        """Return the bits that ``check`` takes no notice of, and what else than an error of ours it raises."""
        found = []
        for bit in bits:
            with self.flipped(bit):
                try:
                    with within():
                        check(self.path)
                except UnetzooError:
                    continue
                except Exception as error:
                    found.append(self._described(bit, repr(error)[:100]))
                else:
                    found.append(self._described(bit, "taken"))
        return found

    def _described(self, bit: int, what: str) -> str:
        at = bit // 8
        return f"byte {at} bit {bit % 8} after {self.content[max(8, at - 20) : at + 1]!r}: {what}"


@contextlib.contextmanager
def flipping(source: Path, folder: Path) -> Iterator[Flipper]:
    flipper = Flipper(source, folder / "flipped.safetensors")
    try:
        yield flipper
    finally:
        flipper.stream.close()
        assert flipper.path.read_bytes() == flipper.content


def head_and_data(path: Path) -> tuple[range, range]:
    """Return the numbers of the bits up to the end of the header, and of those of the data."""
    content = path.read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    return range(start * 8), range(start * 8, len(content) * 8)


def test_verify_notices_bits_of_length_and_header(saved: Path, tmp_path: Path) -> None:
    """Every eleventh, so that each of a byte's bits has its turn; all of them below, with all of the file."""
    head, _ = head_and_data(saved)
    assert len(head) > 15_000
    with flipping(saved, tmp_path) as flipper:
        assert flipper.undetected(head[::11], unetzoo.verify) == []


def test_verify_notices_the_first_and_last_bits_of_every_tensor_and_many_between(counted: Path, tmp_path: Path) -> None:
    header, _ = take_apart(counted)
    _, data = head_and_data(counted)
    edges = set()
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            edges |= {8 * at + bit for at in (start, stop - 1) for bit in (0, 7)}
    bits = {data.start, data.stop - 1, *(data.start + bit for bit in edges), *random.Random(0).sample(data, 100)}
    assert len(bits) > 150
    with flipping(counted, tmp_path) as flipper:
        assert flipper.undetected(sorted(bits), unetzoo.verify) == []


def test_load_with_verify_notices_bits_anywhere(counted: Path, tmp_path: Path) -> None:
    head, data = head_and_data(counted)
    chance = random.Random(1)
    bits = [*range(64), *chance.sample(head, 1500), data.start, data.stop - 1, *chance.sample(data, 150)]
    with flipping(counted, tmp_path) as flipper:
        assert flipper.undetected(bits, lambda path: unetzoo.load(path, verify=True)) == []


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_load_without_verify_takes_no_changed_header_for_another_model(step: int, saved: Path, tmp_path: Path) -> None:
    head, _ = head_and_data(saved)
    model = unetzoo.load(saved)
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    taken = 0
    with flipping(saved, tmp_path) as flipper:
        for bit in head[::step]:
            with flipper.flipped(bit):
                try:
                    found = unetzoo.load(flipper.path)
                except UnetzooError:
                    continue
                taken += 1
                assert found.config == model.config, bit
                state = found.state_dict()
                assert state.keys() == wanted.keys(), bit
                assert all(torch.equal(state[name], wanted[name]) for name in wanted), bit
    assert taken < 300 / step


@pytest.mark.slow
@pytest.mark.parametrize("which", ["saved", "counted"])
def test_verify_notices_every_single_bit_of_a_file(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue(which)
    with flipping(source, tmp_path) as flipper:
        assert flipper.undetected(range(8 * len(flipper.content)), unetzoo.verify) == []


# Cut off, and grown

READERS: dict[str, Callable[[Path], object]] = {
    "load": unetzoo.load,
    "load, verify": lambda path: unetzoo.load(path, verify=True),
    "verify": unetzoo.verify,
    "from_pretrained": lambda path: unetzoo.from_pretrained(str(path)),
    "load_state_dict_file": load_state_dict_file,
    "read_header": lambda path: read_header(path).tensors(),
    "convert": lambda path: unetzoo.convert(path, path.with_name("converted.safetensors"), "unet"),
    "create": lambda path: unetzoo.create("resunet18", pretrained=path),
}
"""All that opens a safetensors file."""
HEADERS = [name for name in READERS if name != "create"]
"""Those that say no before they have built a network."""


def check_truncations(source: Path, path: Path, readers: Sequence[str], lengths: Sequence[int]) -> None:
    content = source.read_bytes()
    path.write_bytes(content)
    for length in sorted(lengths, reverse=True):
        os.truncate(path, length)
        for reader in readers:
            try:
                with within():
                    READERS[reader](path)
            except WeightsError:
                continue
            pytest.fail(f"{reader} takes a file cut at byte {length:,} of {len(content):,}")


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_a_file_cut_anywhere_in_its_header_or_data_is_refused_by_every_reader(
    step: int, saved: Path, tmp_path: Path
) -> None:
    size = saved.stat().st_size
    check_truncations(saved, tmp_path / "cut.safetensors", HEADERS, range(0, size, step))
    assert not (tmp_path / "converted.safetensors").exists()


@pytest.mark.slow
def test_a_larger_file_cut_anywhere_is_refused(counted: Path, tmp_path: Path) -> None:
    check_truncations(counted, tmp_path / "cut.safetensors", HEADERS, range(counted.stat().st_size))


@pytest.mark.parametrize("size", range(9))
@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"{", b"\x02"], ids=bytes.hex)
def test_a_file_of_no_or_a_few_bytes_is_refused_by_every_reader(tmp_path: Path, size: int, fill: bytes) -> None:
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(fill * size)
    for reader in READERS.values():
        assert str(path) in refusal(lambda reader=reader: reader(path), WeightsError)


@pytest.mark.parametrize(
    "more", [b"\0", b" ", b"\n", b"0" * 8, bytes(4096), b"{}", b"PK\x05\x06" + bytes(18)], ids=lambda more: len(more)
)
def test_a_file_with_bytes_behind_its_end_is_refused_by_every_reader(saved: Path, tmp_path: Path, more: bytes) -> None:
    path = tmp_path / "grown.safetensors"
    path.write_bytes(saved.read_bytes() + more)
    for name in HEADERS:
        assert "the file at" in refusal(lambda name=name: READERS[name](path), DamagedError)


def test_two_files_in_one_are_refused(saved: Path, counted: Path, tmp_path: Path) -> None:
    path = tmp_path / "both.safetensors"
    path.write_bytes(saved.read_bytes() + counted.read_bytes())
    for name in HEADERS:
        refusal(lambda name=name: READERS[name](path), DamagedError)


@pytest.mark.parametrize("length", [0, 1, 2**62, 2**63, 2**64 - 1, "file", "file + 1", "limit + 1"], ids=str)
def test_a_header_of_impossible_length_is_refused_without_memory_for_it(
    saved: Path, tmp_path: Path, length: int | str
) -> None:
    path = tmp_path / "long.safetensors"
    content = saved.read_bytes()
    path.write_bytes(content)
    number = {"file": len(content) - 7, "file + 1": len(content) + 1, "limit + 1": LONGEST_HEADER + 1}.get(
        str(length), length
    )
    with path.open("r+b") as stream:
        stream.write(struct.pack("<Q", number))
        if length == "limit + 1":
            stream.truncate(2 * LONGEST_HEADER)  # with holes
    for name in HEADERS:
        message = refusal(lambda name=name: READERS[name](path), DamagedError)
        assert "bytes long" in message or "not JSON" in message or "not a JSON object" in message


# Headers that lie

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DEEP = 100_000


def entry(**changes: object) -> dict[str, Any]:
    return {"x": {**ONE, **changes}}


def two(first: list[object], second: list[object]) -> dict[str, Any]:
    """Return the header of two tensors of two numbers each, and of eight bytes of data each."""
    return {"x": {**ONE, "data_offsets": first}, "y": {**ONE, "data_offsets": second}}


NO_NUMBERS = "not whole numbers"
FORGED: dict[str, tuple[object, int, str]] = {
    # title: (header, bytes of data, what the message says)
    "overlapping": (two([0, 8], [4, 12]), 12, "overlaps"),
    "the same bytes twice": (two([0, 8], [0, 8]), 8, "overlaps"),
    "inside another": ({"x": {**ONE, "shape": [4], "data_offsets": [0, 16]}, "y": ONE}, 16, "overlaps"),
    "a gap at the start": (entry(data_offsets=[4, 12]), 12, "gap"),
    "a gap between": (two([0, 8], [12, 20]), 20, "gap"),
    "a gap at the end": (entry(), 12, "the file at"),
    "data of no tensor": ({}, 8, "the file at"),
    "behind the end": (entry(data_offsets=[8, 16]), 8, "gap"),
    "too few data": (entry(), 4, "the file at"),
    "reversed offsets": (entry(data_offsets=[8, 0]), 8, "do not hold"),
    "reversed offsets of none": (entry(shape=[0], data_offsets=[8, 0]), 8, "do not hold"),
    "negative offsets": (entry(data_offsets=[-8, 0]), 8, NO_NUMBERS),
    "offsets that are floats": (entry(data_offsets=[0.0, 8.0]), 8, NO_NUMBERS),
    "offsets that are booleans": ({"x": {"dtype": "U8", "shape": [1], "data_offsets": [False, True]}}, 1, NO_NUMBERS),
    "offsets that are text": (entry(data_offsets=["0", "8"]), 8, NO_NUMBERS),
    "offsets that are null": (entry(data_offsets=None), 8, NO_NUMBERS),
    "offsets in a dictionary": (entry(data_offsets={"0": 0, "1": 8}), 8, NO_NUMBERS),
    "one offset": (entry(data_offsets=[8]), 8, NO_NUMBERS),
    "three offsets": (entry(data_offsets=[0, 4, 8]), 8, NO_NUMBERS),
    "offsets of 64 bits": (entry(data_offsets=[2**64 - 8, 2**64]), 8, NO_NUMBERS),
    "an offset of 4,000 digits": (entry(data_offsets=[0, 10**4000]), 8, NO_NUMBERS),
    "an infinite offset": (b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,1e999]}}', 8, NO_NUMBERS),
    "a negative shape": (entry(shape=[-2]), 8, NO_NUMBERS),
    "two negative lengths": (entry(shape=[-2, -1]), 8, NO_NUMBERS),
    "a shape of floats": (entry(shape=[2.0]), 8, NO_NUMBERS),
    "a shape of booleans": ({"x": {"dtype": "F64", "shape": [True], "data_offsets": [0, 8]}}, 8, NO_NUMBERS),
    "a shape that is a number": (entry(shape=2), 8, NO_NUMBERS),
    "a shape that is text": (entry(shape="2"), 8, NO_NUMBERS),
    "a shape of shapes": (entry(shape=[[2]]), 8, NO_NUMBERS),
    "a shape whose product overflows to the right size": (entry(shape=[2**32, 2**32, 2]), 8, "do not hold"),
    "a shape of 33 dimensions": (entry(shape=[1] * 32 + [2]), 8, NO_NUMBERS),
    "a shape of 100,000 dimensions": (entry(shape=[1] * 100_000 + [2]), 8, NO_NUMBERS),
    "a shape too large": (entry(shape=[3]), 8, "do not hold"),
    "a shape too small": (entry(shape=[1]), 8, "do not hold"),
    "an unknown type": (entry(dtype="F31"), 8, "is of type"),
    "a type of 8 bits that we do not take": ({"x": {**ONE, "dtype": "F8_E4M3", "shape": [8]}}, 8, "is of type"),
    "a type in small letters": (entry(dtype="f32"), 8, "is of type"),
    "a type that is a number": (entry(dtype=32), 8, "is of type"),
    "a type that is a list": (entry(dtype=["F32"]), 8, "is of type"),
    "no type": ({"x": {"shape": [2], "data_offsets": [0, 8]}}, 8, "not described by"),
    "no shape": ({"x": {"dtype": "F32", "data_offsets": [0, 8]}}, 8, "not described by"),
    "no offsets": ({"x": {"dtype": "F32", "shape": [2]}}, 8, "not described by"),
    "a further field": (entry(strides=[1]), 8, "not described by"),
    "a tensor that is a list": ({"x": ["F32", [2], [0, 8]]}, 8, "not described by"),
    "a tensor that is null": ({"x": None}, 8, "not described by"),
    "metadata that are a list": ({"__metadata__": [], "x": ONE}, 8, "metadata .*text"),
    "metadata that are null": ({"__metadata__": None, "x": ONE}, 8, "metadata .*text"),
    "metadata of a number": ({"__metadata__": {"a": 1}, "x": ONE}, 8, "metadata .*text"),
    "metadata of metadata": ({"__metadata__": {"a": {"b": "c"}}, "x": ONE}, 8, "metadata .*text"),
    "a tensor twice": (b'{"x":%b,"x":%b}' % ((json.dumps(ONE).encode(),) * 2), 8, "twice"),
    "a field twice": (b'{"x":{"dtype":"F64","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8, "twice"),
    "metadata twice": (b'{"__metadata__":{},"__metadata__":{},"x":%b}' % json.dumps(ONE).encode(), 8, "twice"),
    "a name twice in the metadata": (b'{"__metadata__":{"a":"b","a":"b"}}', 0, "twice"),
    "a name twice, once escaped": (b'{"__metadata__":{"a":"b","\\u0061":"b"}}', 0, "twice"),
    "deep lists": (b'{"x":' + b"[" * DEEP + b"]" * DEEP + b"}", 0, "too deep"),
    "deep lists without end": (b'{"x":' + b"[" * DEEP, 0, "too deep"),
    "deep dictionaries": (b'{"x":' * DEEP + b"1" + b"}" * DEEP, 0, "too deep"),
    "no UTF-8": (b'{"\xff":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8, "not JSON"),
    "a surrogate in UTF-8": (b'{"\xed\xa0\x80":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8, "not JSON"),
    "an overlong form of UTF-8": (b'{"\xc0\xaf":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8, "not JSON"),
    "UTF-16": ("{}".encode("utf-16"), 0, "not a JSON object"),
    "a byte-order mark": ("{}".encode("utf-8-sig"), 0, "not a JSON object"),
    "a space before": (b" {}", 0, "not a JSON object"),
    "a list": (b"[1]", 0, "not a JSON object"),
    "text": (b'"text"', 0, "not a JSON object"),
    "null": (b"null", 0, "not a JSON object"),
    "spaces alone": (b"        ", 0, "not a JSON object"),
    "zeros": (bytes(64), 0, "not a JSON object"),
    "half an object": (b'{"x":', 0, "not JSON"),
    "an object and more": (b'{"x":{}}}', 0, "not JSON"),
    "zeros behind": (b"{}\0\0\0\0", 0, "not JSON"),
    "a trailing comma": (b'{"__metadata__":{"a":"b",}}', 0, "not JSON"),
    "a comment": (b'{}/* "x" */', 0, "not JSON"),
    "single quotes": (b"{'x':1}", 0, "not JSON"),
    "a number of 5,000 digits": (b'{"x":%b}' % (b"9" * 5000), 0, "not JSON|not described by"),
    "a shape of 5,000 digits": (
        b'{"x":{"dtype":"F32","shape":[%b],"data_offsets":[0,8]}}' % (b"9" * 5000),
        8,
        "not JSON",
    ),
    "NaN": (b'{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', 8, "not a JSON number"),
    "Infinity": (b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,Infinity]}}', 8, "not a JSON number"),
    "-Infinity": (b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[-Infinity,8]}}', 8, "not a JSON number"),
    "a control character": (b'{"a\nb":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8, "not JSON"),
}


@pytest.mark.parametrize("title", FORGED)
def test_a_header_that_is_wrong_is_refused_by_every_reader_and_says_why(tmp_path: Path, title: str) -> None:
    header, size, why = FORGED[title]
    path = put_together(tmp_path / "forged.safetensors", header, bytes(size))
    for name in HEADERS:
        with within(), pytest.raises(DamagedError, match=why) as caught:
            READERS[name](path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "shape", [[0], [0, 2**40], [2**40, 0], [0, 2**47, 2**47], [2**47, 2**47, 0], [2**47, 0, 2**47, 2**47]], ids=str
)
def test_a_tensor_without_elements_is_read_or_refused_whatever_its_other_lengths_are(
    tmp_path: Path, shape: list[int]
) -> None:
    path = put_together(tmp_path / "empty.safetensors", entry(shape=shape, data_offsets=[0, 0]))
    try:
        with within():
            found = load_state_dict_file(path)
    except UnetzooError:
        return
    assert found["x"].shape == torch.Size(shape)


@pytest.mark.parametrize("times", [1, 10, 600_000])
def test_a_prefix_that_is_repeated_for_ever_does_not_take_for_ever(tmp_path: Path, times: int) -> None:
    path = put_together(tmp_path / "prefixed.safetensors", {"model." * times + "x": ONE}, struct.pack("<2f", 1, 2))
    with within():
        found = load_state_dict_file(path)
    assert found["x"].tolist() == [1, 2]


def test_a_lone_surrogate_in_a_digest_is_no_digest(saved: Path, tmp_path: Path) -> None:
    header, data = take_apart(saved)
    for name in ("unetzoo_header_sha256", "unetzoo_data_sha256", "unetzoo_config", "unetzoo_version"):
        metadata = {**header["__metadata__"], name: "\ud800" * 64}
        for changed in ({**header, "__metadata__": metadata},):
            path = put_together(tmp_path / "surrogate.safetensors", changed, data)
            refusal(lambda path=path: unetzoo.verify(path))
            if name == "unetzoo_header_sha256":
                refusal(lambda path=path: unetzoo.load(path))


@pytest.mark.parametrize(
    "digest", ["", "0", "0" * 64, "g" * 64, "\0", '"', "é" * 64, "unetzoo_header_sha256"], ids=repr
)
def test_a_digest_that_is_none_is_refused(saved: Path, tmp_path: Path, digest: str) -> None:
    header, data = take_apart(saved)
    for name in ("unetzoo_header_sha256", "unetzoo_data_sha256"):
        metadata = {**header["__metadata__"], name: digest}
        path = put_together(tmp_path / "digest.safetensors", {**header, "__metadata__": metadata}, data)
        refusal(lambda path=path: unetzoo.verify(path), DamagedError)


@pytest.mark.parametrize("lacking", ["unetzoo_header_sha256", "unetzoo_data_sha256", "unetzoo_config"])
def test_verify_does_not_vouch_for_a_file_that_lacks_what_it_would_check(
    saved: Path, tmp_path: Path, lacking: str
) -> None:
    header, data = take_apart(saved)
    del header["__metadata__"][lacking]
    path = put_together(tmp_path / "bare.safetensors", header, data)
    refusal(lambda: unetzoo.verify(path), WeightsError)


def test_an_upper_case_digest_or_one_moved_elsewhere_does_not_pass(saved: Path, tmp_path: Path) -> None:
    """A digest counts where it is written, and once: a second place that repeats it is a changed header."""
    content = saved.read_bytes()
    header, data = take_apart(saved)
    metadata = header["__metadata__"]
    own = f'"unetzoo_header_sha256":"{metadata["unetzoo_header_sha256"]}"'
    changed = {**header, "__metadata__": {"note": own, **metadata}}
    refusal(lambda: unetzoo.verify(put_together(tmp_path / "note.safetensors", changed, data)), DamagedError)
    upper = content.replace(own.encode(), own.replace(own[25:-1], own[25:-1].upper()).encode())
    assert upper != content
    (tmp_path / "upper.safetensors").write_bytes(upper)
    refusal(lambda: unetzoo.verify(tmp_path / "upper.safetensors"), DamagedError)


# Configs that lie, in files whose digests fit


def with_config(source: Path, path: Path, text: str) -> Path:
    header, data = take_apart(source)
    return forge(path, {**header, "__metadata__": {**header["__metadata__"], "unetzoo_config": text}}, data)


def config_of(path: Path) -> dict[str, Any]:
    return json.loads(take_apart(path)[0]["__metadata__"]["unetzoo_config"])


BROKEN_CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no JSON": (lambda config: "no JSON", "not JSON"),
    "empty": (lambda config: "", "not JSON"),
    "a list": (lambda config: [config], "is a dictionary"),
    "a number": (lambda config: 1, "is a dictionary"),
    "null": (lambda config: None, "is a dictionary"),
    "no version": (lambda config: {key: config[key] for key in config if key != "format_version"}, "format_version"),
    "a newer version": (lambda config: {**config, "format_version": 7}, "newer than.*upgrade unetzoo"),
    "a newer version of another form": (lambda config: {"format_version": 99, "networks": []}, "upgrade unetzoo"),
    "a version of 4,000 digits": (lambda config: {**config, "format_version": 10**4000}, "newer|format_version"),
    "version 0": (lambda config: {**config, "format_version": 0}, "format_version=0"),
    "version -1": (lambda config: {**config, "format_version": -1}, "format_version=-1"),
    "version 1.0": (lambda config: {**config, "format_version": 1.0}, "format_version=1.0"),
    "version true": (lambda config: {**config, "format_version": True}, "format_version=True"),
    "version null": (lambda config: {**config, "format_version": None}, "format_version=None"),
    "an unknown decoder": (lambda config: {**config, "decoder": "unetppp"}, "unknown decoder 'unetppp'.*'unetpp'"),
    "an unknown encoder": (lambda config: {**config, "encoder": "resnet19"}, "unknown encoder 'resnet19'"),
    "a decoder that is a list": (lambda config: {**config, "decoder": ["unetpp"]}, "unknown decoder"),
    "the options of another decoder": (
        lambda config: {**config, "decoder_options": {"branch_channels": 64}},
        "decoder_options.branch_channels: unknown",
    ),
    "options that are a list": (lambda config: {**config, "decoder_options": []}, "decoder_options.*dictionary"),
    "an unknown field": (lambda config: {**config, "activation": "gelu"}, "activation: unknown"),
    "a missing field": (lambda config: {key: config[key] for key in config if key != "norm"}, "norm: missing"),
    "no field": (lambda config: {"format_version": 1}, "15 things are wrong"),
    "no channels": (lambda config: {**config, "in_channels": 0}, "in_channels=0"),
    "2**62 channels": (lambda config: {**config, "in_channels": 2**62}, "in_channels="),
    "10**4000 channels": (lambda config: {**config, "in_channels": 10**4000}, "in_channels="),
    "channels that are floats": (lambda config: {**config, "in_channels": 3.0}, "in_channels=3.0"),
    "channels that are true": (lambda config: {**config, "num_classes": True}, "num_classes=True"),
    "a base of 2**40 channels": (
        lambda config: {**config, "encoder_options": {**config["encoder_options"], "base_channels": 2**40}},
        "base_channels=",
    ),
    "a dropout of 1": (lambda config: {**config, "dropout": 1}, "dropout=1"),
    "a norm that is a list": (lambda config: {**config, "norm": ["batch"]}, "norm="),
    "classes without names": (lambda config: {**config, "class_names": [1]}, "class_names="),
    "more names than classes": (lambda config: {**config, "class_names": ["a", "b"]}, "2 names"),
    "a mean of nothing": (lambda config: {**config, "mean": [None] * 3, "std": [1.0] * 3}, "mean="),
    "a mean of 400 digits": (lambda config: {**config, "mean": [10**400] * 3, "std": [1.0] * 3}, "mean="),
    "no channels, and no number for each": (
        lambda config: {**config, "in_channels": 0, "mean": [], "std": []},
        "in_channels=0",
    ),
    "a std of 0": (lambda config: {**config, "mean": [0.0] * 3, "std": [0.0] * 3}, "std="),
}


@pytest.mark.parametrize("title", BROKEN_CONFIGS)
@pytest.mark.parametrize("reader", ["load", "load, verify", "verify", "from_pretrained", "convert"])
def test_a_config_that_is_wrong_is_refused_though_all_digests_fit(
    saved: Path, tmp_path: Path, title: str, reader: str
) -> None:
    change, why = BROKEN_CONFIGS[title]
    changed = change(config_of(saved))
    text = changed if isinstance(changed, str) else json.dumps(changed)
    path = with_config(saved, tmp_path / "config.safetensors", text)
    with within(), pytest.raises(WeightsError, match=why) as caught:
        READERS[reader](path)
    assert str(path) in str(caught.value)


RAW_CONFIGS = {
    "a name twice": ('{"format_version": 1, "format_version": 1}', "twice"),
    "a name twice inside": ('{"format_version": 1, "encoder_options": {"a": 1, "a": 2}}', "twice"),
    "NaN": ('{"format_version": NaN}', "not a JSON number"),
    "Infinity": ('{"format_version": 1, "dropout": Infinity}', "not a JSON number"),
    "deep": ("[" * DEEP + "]" * DEEP, "too deep"),
    "deep inside": ('{"format_version": 1, "decoder": ' + "[" * DEEP + "]" * DEEP + "}", "too deep"),
    "5,000 digits": ('{"format_version": ' + "9" * 5000 + "}", "not JSON"),
    "1e999 for the version": ('{"format_version": 1e999}', "format_version=inf"),
}


@pytest.mark.parametrize("title", RAW_CONFIGS)
def test_a_config_that_no_json_writer_makes_is_refused(saved: Path, tmp_path: Path, title: str) -> None:
    text, why = RAW_CONFIGS[title]
    path = with_config(saved, tmp_path / "config.safetensors", text)
    for reader in ("load", "verify", "from_pretrained"):
        with within(), pytest.raises(WeightsError, match=why):
            READERS[reader](path)


def test_a_config_with_a_hundred_thousand_unknown_fields_is_refused_soon(saved: Path, tmp_path: Path) -> None:
    config = config_of(saved) | {f"norm_{number}": 0 for number in range(100_000)}
    path = with_config(saved, tmp_path / "config.safetensors", json.dumps(config))
    assert path.stat().st_size < LONGEST_HEADER
    assert "norm_0" in refusal(lambda: unetzoo.load(path), WeightsError)


def test_the_largest_network_that_a_config_may_ask_for_costs_no_memory(saved: Path, tmp_path: Path) -> None:
    config = config_of(saved) | {"num_classes": 1 << 20}
    config |= {"encoder_options": {**config["encoder_options"], "base_channels": 1 << 20}}
    config |= {"task": "multiclass", "in_channels": 1 << 20}
    path = with_config(saved, tmp_path / "config.safetensors", json.dumps(config))
    for reader in ("load", "verify"):
        assert "instead of (1048576, 1048576, 3, 3)" in refusal(lambda reader=reader: READERS[reader](path))


# Tensors that do not belong


def flat(tensors: dict[str, Tensor]) -> tuple[dict[str, Any], bytes]:
    """Return header entries and data of tensors in the order given."""
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, Any] = {}
    data = b""
    for name, tensor in tensors.items():
        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": codes[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        data += content
    return header, data


def with_tensors(source: Path, path: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """Write the model in ``source`` with other tensors, digests fitting."""
    tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(source).items()}
    change(tensors)
    header, data = flat(tensors)
    return forge(path, {"__metadata__": take_apart(source)[0]["__metadata__"], **header}, data)


def test_all_tensors_that_do_not_belong_are_listed_in_one_error(counted: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        names = [name for name in tensors if name.endswith("conv.weight")]
        lost.extend(names[:2])
        for name in lost:
            del tensors[name]
        tensors["head.conv.weight"] = tensors["head.conv.weight"].reshape(-1)
        tensors["head.conv.bias"] = tensors["head.conv.bias"].to(torch.int32)
        counter = next(name for name in tensors if name.endswith("num_batches_tracked"))
        tensors[counter] = tensors[counter].float() + 0.5
        lines.extend(f"missing: {name}" for name in lost)
        lines.append("head.conv.weight: (4,) instead of (2, 2, 1, 1)")
        lines.append("head.conv.bias: torch.int32 instead of torch.float32")
        lines.append(f"{counter}: torch.float32 instead of torch.int64")
        for name in ("stranger", "encoder.levels.9.weight"):
            tensors[name] = torch.zeros(3)
            lines.append(f"unexpected: {name}")

    lost: list[str] = []
    lines: list[str] = []
    path = with_tensors(counted, tmp_path / "tensors.safetensors", change)
    assert len(lines) == 7
    for reader in ("load", "load, verify", "verify", "from_pretrained"):
        message = refusal(lambda reader=reader: READERS[reader](path), WeightsError)
        assert sorted(line.removeprefix("  - ") for line in message.splitlines() if line.startswith("  - ")) == sorted(
            lines
        )
    header, data = take_apart(path)
    del header["__metadata__"]
    stranger = put_together(tmp_path / "stranger.safetensors", header, data)
    message = refusal(
        lambda: unetzoo.convert(
            stranger, tmp_path / "out.safetensors", "unetpp", levels=1, base_channels=2, num_classes=2
        ),
        WeightsError,
    )
    # What has no name of ours at all is left, whatever it is: a loss beside the network, say.
    assert all((line in message) == (line != "unexpected: stranger") for line in lines)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool], ids=str)
def test_whole_numbers_where_weights_are_needed_are_refused(saved: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(dtype)

    path = with_tensors(saved, tmp_path / "whole.safetensors", change)
    for reader in ("load", "verify"):
        message = refusal(lambda reader=reader: READERS[reader](path), WeightsError)
        assert message.count(f"{dtype} instead of torch.float32") == len(take_apart(saved)[0]) - 1


VALUES = {"NaN": torch.nan, "infinity": torch.inf, "minus infinity": -torch.inf}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("where", [0, -1], ids=["first", "last"])
def test_weights_that_are_not_finite_are_found_though_all_digests_fit(
    saved: Path, tmp_path: Path, value: str, dtype: torch.dtype, where: int
) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(dtype)
        tensors["encoder.levels.1.0.conv.weight"].view(-1)[where] = VALUES[value]

    path = with_tensors(saved, tmp_path / "broken.safetensors", change)
    for reader in ("load, verify", "verify"):
        message = refusal(lambda reader=reader: READERS[reader](path), WeightsError)
        assert re.search(r"NaN or infinity .*1 of 16 tensors.*encoder\.levels\.1\.0\.conv\.weight", message)
    assert unetzoo.load(path).encoder.levels[1][0].conv.weight.isfinite().logical_not().sum() == 1


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_save_refuses_weights_that_are_not_finite(tmp_path: Path, value: str, dtype: torch.dtype) -> None:
    model = unetzoo.create("unet", base_channels=1).to(dtype).requires_grad_(False)
    path = tmp_path / "model.safetensors"
    for tensor in (model.head.conv.bias, model.encoder.levels[0][0].norm.running_mean):
        kept = tensor[0].item()
        tensor[0] = VALUES[value]
        message = refusal(lambda: unetzoo.save(model, path), WeightsError)
        assert re.search("NaN or infinity .*1 of 114 tensors", message)
        assert not path.exists()
        tensor[0] = kept
    unetzoo.save(model, path)
    assert unetzoo.verify(path).dtypes == (str(dtype).removeprefix("torch."),)


FLOAT8 = [
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e8m0fnu")
    if hasattr(torch, name)
]


@pytest.mark.parametrize("dtype", FLOAT8, ids=str)
def test_save_refuses_types_that_its_files_cannot_hold(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "model.safetensors"
    model = unetzoo.create("unet", base_channels=1).to(dtype)
    assert str(dtype) in refusal(lambda: unetzoo.save(model, path), UnetzooError)
    assert list(tmp_path.iterdir()) == []


# Pickles: nothing in them runs


class Payload:
    """Makes a file as soon as it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


class Evaluated(Payload):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"__import__('os').mkdir({str(self.marker)!r})",)


class Rebuilt(Payload):
    """Hides the call in what torch's own tensors are pickled with."""

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, (Evaluated(self.marker), 0, (1,), (1,), False, {})


def legacy(content: object) -> bytes:
    """Return what ``torch.save`` wrote before it wrote archives, without storages."""
    parts = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}, content, [])
    return b"".join(pickle.dumps(part, protocol=2) for part in parts)


def pickles(marker: Path) -> dict[str, bytes]:
    """Return files that make ``marker`` when they are unpickled by a program that trusts them."""
    found: dict[str, bytes] = {}
    for payload in (Payload(marker), Evaluated(marker), Rebuilt(marker)):
        title = type(payload).__name__
        contents = {"alone": payload, "among tensors": {"head.conv.weight": torch.zeros(1), "x": payload}}
        for where, content in contents.items():
            for protocol in (0, 2, 4):
                found[f"{title} {where}, protocol {protocol}"] = pickle.dumps(content, protocol=protocol)
            found[f"{title} {where}, legacy"] = legacy(content)
            archive = marker.with_name("archive.tmp")
            torch.save(content, archive)
            found[f"{title} {where}, zip"] = archive.read_bytes()
            torch.save({"state_dict": {"x": torch.zeros(1)}, "optimizer": content}, archive)
            found[f"{title} {where}, beside a state dict"] = archive.read_bytes()
            archive.unlink()
    return found


def test_the_payloads_are_live(tmp_path: Path) -> None:
    """They run where a program trusts them: what is shown below is not that they are duds."""
    marker = tmp_path / "ran"
    ran = 0
    for title, content in pickles(marker).items():
        (tmp_path / "pickle.bin").write_bytes(content)
        with contextlib.suppress(Exception):
            if "protocol" in title:
                pickle.loads(content)
            else:
                torch.load(tmp_path / "pickle.bin", weights_only=False)
        assert marker.is_dir(), title
        marker.rmdir()
        ran += 1
    assert ran == 36


SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".pkl", ".safetensors", "")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_pickle_runs_whatever_opens_it(tmp_path: Path, suffix: str) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / f"model{suffix}"
    target = tmp_path / "converted.safetensors"
    readers = {
        **READERS,
        "convert": lambda path: unetzoo.convert(path, target, "unet"),
        "create, 1 channel": lambda path: unetzoo.create("resunet18", pretrained=path, in_channels=1),
        "create, a string": lambda path: unetzoo.create("resunet18", pretrained=str(path)),
        "from_pretrained, a path": unetzoo.from_pretrained,
    }
    for title, content in pickles(marker).items():
        path.write_bytes(content)
        for name, reader in readers.items():
            refusal(lambda reader=reader: reader(path))
            assert not marker.exists(), f"{name} ran {title}"
            assert not target.exists()


@pytest.mark.parametrize(
    "names",
    [
        ("pytorch_model.bin",),
        ("model.safetensors",),
        ("config.json", "pytorch_model.bin"),
        ("config.json", "model.safetensors"),
        ("model.safetensors", "config.json", "README.md", "pytorch_model.bin", "training_args.bin", "model.pth"),
        ("model.safetensors", "model.safetensors.index.json", "__init__.py", "conftest.py"),
    ],
    ids=" ".join,
)
def test_no_pickle_in_a_folder_runs(saved: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    marker = tmp_path / "ran"
    folder = tmp_path / "folder"
    folder.mkdir()
    for title, content in pickles(marker).items():
        for name in names:
            (folder / name).write_bytes(content)
        for reader in (
            unetzoo.load,
            unetzoo.verify,
            lambda folder: unetzoo.load(folder, verify=True),
            lambda folder: unetzoo.from_pretrained(str(folder)),
            unetzoo.from_pretrained,
        ):
            refusal(lambda reader=reader: reader(folder))
            assert not marker.exists(), title


def test_pickles_beside_a_good_file_are_not_opened(saved: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    folder = tmp_path / "folder"
    folder.mkdir()
    for title, content in pickles(marker).items():
        for name in ("pytorch_model.bin", "training_args.bin", "model.pth", "optimizer.pt"):
            (folder / name).write_bytes(content)
        shutil.copy(saved, folder / "model.safetensors")
        assert unetzoo.load(folder, verify=True).config == unetzoo.from_pretrained(folder).config
        assert not marker.exists(), title


def test_a_script_that_torch_compiled_is_not_run(tmp_path: Path) -> None:
    class Identity(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    path = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        torch.jit.save(torch.jit.trace(Identity(), torch.zeros(1)), path)
    refusal(lambda: load_state_dict_file(path), WeightsError)


# Tensors that torch can save and no network of ours takes


def strange_tensors() -> dict[str, Tensor]:
    return {
        "sparse": torch.eye(3).to_sparse(),
        "expanded": torch.zeros(1).expand(10**9),
        "expanded a little": torch.zeros(3, 1).expand(3, 2),
        "meta": torch.empty(3, 3, device="meta"),
        "large meta": torch.empty(10**9, 10**9, device="meta"),
    }


@pytest.mark.parametrize("kind", strange_tensors())
def test_tensors_without_plain_values_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "strange.pth"
    torch.save({"head.conv.weight": strange_tensors()[kind], "other": torch.zeros(3)}, path)
    assert path.stat().st_size < 10_000
    refusal(lambda: load_state_dict_file(path), WeightsError)
    refusal(lambda: unetzoo.convert(path, tmp_path / "out.safetensors", "unet"), WeightsError)
    assert [file.name for file in tmp_path.iterdir()] == ["strange.pth"]


CASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "int64": Tensor.long,
    "bool": Tensor.bool,
    "complex64": lambda tensor: tensor.to(torch.complex64),
    "meta": lambda tensor: tensor.to("meta"),
    **{str(dtype).removeprefix("torch."): lambda tensor, dtype=dtype: tensor.to(dtype) for dtype in FLOAT8},
}


@pytest.fixture(scope="module")
def resnet18() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return unetzoo.create("unetpp_resnet18", levels=1).encoder.state_dict()


@pytest.mark.parametrize(
    ("channels", "policy", "cast"),
    [
        # each type as it is, and each way of adapting it with a type that is taken and with one that is not
        pytest.param(*way, cast, marks=[] if way[0] == 3 or cast in ("int64", "float8_e4m3fn") else pytest.mark.slow)
        for way in ((3, None), (1, None), (4, None), (4, "mean"), (2, "keep_rgb"))
        for cast in CASTS
        if cast not in ("float8_e5m2", "float8_e4m3fnuz")
    ],
)
def test_pretrained_weights_of_another_type_are_taken_or_refused_by_an_error_of_ours(
    tmp_path: Path, resnet18: dict[str, Tensor], cast: str, channels: int, policy: str | None
) -> None:
    """The first convolution alone has the type: it is the one that is adapted, before it is compared."""
    path = tmp_path / "weights.pth"
    torch.save({**resnet18, "conv1.weight": CASTS[cast](resnet18["conv1.weight"])}, path)
    try:
        with within():
            model = unetzoo.create(
                "unetpp_resnet18", levels=1, pretrained=path, in_channels=channels, input_policy=policy
            )
    except UnetzooError as error:
        assert "conv1.weight" in str(error) or "weights.pth" in str(error)  # noqa: PT017
        return
    assert cast.startswith("float8"), "these are no weights"
    assert model.encoder.state_dict()["conv1.weight"].isfinite().all()


@pytest.mark.parametrize("cast", CASTS)
def test_converted_weights_of_another_type_are_refused_by_an_error_of_ours(tmp_path: Path, cast: str) -> None:
    path, target = tmp_path / "weights.pth", tmp_path / "out.safetensors"
    state = unetzoo.create("unet", base_channels=1).state_dict()
    weight = "decoder.convs.0.body.0.conv.weight"
    torch.save({**state, weight: CASTS[cast](state[weight])}, path)
    message = refusal(lambda: unetzoo.convert(path, target, "unet", base_channels=1), WeightsError)
    assert weight in message
    assert not target.exists()


# Archives that unpack to more than the machine has

ARCHIVE = "archive"


def archive(path: Path, script: bytes, records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    """Write what ``torch.save`` writes, of a pickle and storages given."""
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as stream:
        stream.writestr(f"{ARCHIVE}/data.pkl", script)
        stream.writestr(f"{ARCHIVE}/byteorder", b"little")
        for name, content in records.items():
            stream.writestr(f"{ARCHIVE}/data/{name}", content)
        stream.writestr(f"{ARCHIVE}/version", b"3\n")
    return path


def script_of(storages: dict[str, tuple[str, int]]) -> bytes:
    """Return the pickle of a dictionary of 1-d float tensors: name → (key of the storage, number of elements)."""
    out = b"\x80\x02}("
    for name, (key, count) in storages.items():
        out += b"X" + struct.pack("<I", len(name)) + name.encode()
        out += b"ctorch._utils\n_rebuild_tensor_v2\n(("
        out += b"X\x07\0\0\0storagectorch\nFloatStorage\nX" + struct.pack("<I", len(key)) + key.encode()
        number = b"\x8a\x08" + struct.pack("<q", count)
        out += b"X\x03\0\0\0cpu" + number + b"tQK\0" + number + b"\x85K\x01\x85\x89}tR"
    return out + b"u."


@functools.cache
def deflated() -> bytes:
    """Return an archive of 200 MB of zeros in 0.9 MB."""
    count = 50_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bomb.pth"
        archive(path, script_of({"x": ("0", count)}), {"0": bytes(4 * count)}, zipfile.ZIP_DEFLATED)
        return path.read_bytes()


def bomb_deflated_storage(path: Path) -> None:
    path.write_bytes(deflated())


def bomb_deflated_pickle(path: Path) -> None:
    """A pickle of 200 MB, which is an empty dictionary in the end."""
    archive(path, b"\x80\x02" + b"}0" * 100_000_000 + b"}.", {}, zipfile.ZIP_DEFLATED)


def directory(entries: Sequence[tuple[str, int, int, int, int, int]]) -> bytes:
    """Return a central directory of (name, method, checksum, size there, size unpacked, offset)."""
    return b"".join(
        struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, method, 0, 0, checksum, packed, unpacked, len(name), 0, 0, 0, 0, 0, at
        )
        + name.encode()
        for name, method, checksum, packed, unpacked, at in entries
    )


def entries_of(path: Path) -> list[tuple[str, int, int, int, int, int]]:
    with zipfile.ZipFile(path) as stream:
        return [
            (i.filename, i.compress_type, i.CRC, i.compress_size, i.file_size, i.header_offset)
            for i in stream.infolist()
        ]


def ending(entries: int, size: int, offset: int) -> bytes:
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, entries, entries, size, offset, 0)


def body_of(path: Path) -> bytes:
    """Return what stands before an archive's directory."""
    with zipfile.ZipFile(path) as stream:
        return path.read_bytes()[: stream.start_dir]


def bomb_overlapping(path: Path) -> None:
    """500 storages of 2 MB, one GB together, all of them the same bytes: nothing is compressed."""
    count, copies = 500_000, 500
    script = script_of({f"x{k}": (str(k), count) for k in range(copies)})
    archive(path, script, {"0": bytes(4 * count)})
    body, entries = body_of(path), entries_of(path)
    (shared,) = (entry for entry in entries if entry[0].endswith("data/0"))
    entries += [(f"{ARCHIVE}/data/{k}", *shared[1:]) for k in range(1, copies)]
    listing = directory(entries)
    path.write_bytes(body + listing + ending(len(entries), len(listing), len(body)))


def bomb_two_directories(path: Path) -> None:
    """Two directories of one length: one where the end says it is, the other where Python's reader looks.

    Python's reader takes what stands before the end, for there may be a program before the archive. The one that it
    sees is of small stored files.
    """
    bomb_deflated_storage(path)
    body, entries = body_of(path), entries_of(path)
    true = directory(entries)
    shown = directory([(name, 0, checksum, 1, 1, 0) for name, _, checksum, _, _, _ in entries])
    assert len(true) == len(shown)
    path.write_bytes(body + true + shown + ending(len(entries), len(true), len(body)))
    with zipfile.ZipFile(path) as stream:
        assert sum(info.file_size for info in stream.infolist()) < 100


def bomb_two_endings(path: Path) -> None:
    """An end in the comment of another."""
    bomb_deflated_storage(path)
    body, entries = body_of(path), entries_of(path)
    listing = directory(entries)
    decoy = directory([(f"{ARCHIVE}/version", 0, 0, 1, 1, 0)])
    outer = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(entries), len(entries), len(listing), len(body), 22)
    at = len(body) + len(listing)
    path.write_bytes(body + listing + decoy + outer + ending(1, len(decoy), at))


BYTEARRAY = b"\x80\x02cbuiltins\nbytearray\nJ" + struct.pack("<i", 1_500_000_000) + b"\x85R."
"""A pickle of 40 bytes that is 1.5 GB: torch allows what it calls."""


def bomb_bytearray(path: Path) -> None:
    archive(path, BYTEARRAY, {})


def bomb_bytearray_legacy(path: Path) -> None:
    parts = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts) + BYTEARRAY)


def bomb_claim(path: Path) -> None:
    """A storage of which the pickle says that it is 4 TB long."""
    archive(path, script_of({"x": ("0", 10**12)}), {"0": bytes(4000)})


def bomb_claim_legacy(path: Path) -> None:
    state = {"x": torch.zeros(1000)}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    changed = content.replace(b"M\xe8\x03", b"J\x00\x00\x00\x7f")  # 1,000 → 2**31 - 2**24 elements
    assert changed != content
    path.write_bytes(changed)


def bomb_device(path: Path) -> None:
    """A file without end, that says nothing but zeros."""
    path.symlink_to("/dev/zero")


def bomb_sparse_file(path: Path) -> None:
    """8 GB of holes."""
    with path.open("wb") as stream:
        stream.truncate(8 << 30)


BOMBS = (
    bomb_deflated_storage,
    bomb_deflated_pickle,
    bomb_overlapping,
    bomb_two_directories,
    bomb_two_endings,
    bomb_bytearray,
    bomb_bytearray_legacy,
    bomb_claim,
    bomb_claim_legacy,
    bomb_device,
    bomb_sparse_file,
)

MEASURE = """
import json, resource, signal, sys, time
import unetzoo, torch
from unetzoo.files.checkpoints import load_state_dict_file

class Overtime(BaseException):
    pass

def ring(*arguments):
    raise Overtime

signal.signal(signal.SIGALRM, ring)

def status(name):
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith(name)) * 1024

good, *paths = sys.argv[1:]
assert load_state_dict_file(good)
limit = status("VmSize") + (4 << 30)  # for the machine's sake
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in paths:
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")  # the peak starts anew
    before, started = status("VmRSS"), time.perf_counter()
    signal.alarm(8)
    try:
        load_state_dict_file(path)
        said = "taken"
    except unetzoo.UnetzooError as error:
        said = f"refused: {error}"
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    signal.alarm(0)
    print(json.dumps([said, time.perf_counter() - started, status("VmHWM") - before]), flush=True)
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float, int]]:
    """Return what a process said of each bomb, after how many seconds, and by how much its memory grew."""
    folder = tmp_path_factory.mktemp("bombs")
    torch.save({"x": torch.zeros(3)}, folder / "good.pth")
    paths = [folder / f"{bomb.__name__}.pth" for bomb in BOMBS]
    for bomb, path in zip(BOMBS, paths, strict=True):
        bomb(path)
    command = [sys.executable, "-c", MEASURE, str(folder / "good.pth"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for path in paths:
        path.unlink()
    assert len(lines) == len(BOMBS), f"it ended at {paths[len(lines)].name}: {done.stderr[-2000:]}"
    return {bomb.__name__: tuple(line) for bomb, line in zip(BOMBS, lines, strict=True)}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in /proc")
@pytest.mark.parametrize("bomb", [bomb.__name__ for bomb in BOMBS])
def test_an_archive_that_would_fill_the_memory_is_refused_in_little_of_it(
    measured: dict[str, tuple[str, float, int]], bomb: str
) -> None:
    said, seconds, grown = measured[bomb]
    assert said.startswith("refused: "), said
    assert seconds < SECONDS
    assert grown < 80e6, f"{grown / 1e6:.0f} MB"


def test_what_the_bombs_are_made_of_is_read_where_it_is_honest(tmp_path: Path) -> None:
    """The archives made here are such as torch reads: the bombs are not refused for being badly made."""
    path = archive(tmp_path / "honest.pth", script_of({"x": ("0", 3)}), {"0": struct.pack("<3f", 1, 2, 3)})
    assert load_state_dict_file(path)["x"].tolist() == [1, 2, 3]
    entries, body = entries_of(path), body_of(path)
    listing = directory(entries)
    path.write_bytes(body + listing + ending(len(entries), len(listing), len(body)))
    assert load_state_dict_file(path)["x"].tolist() == [1, 2, 3]
    bomb_overlapping(path)
    assert len(torch.load(path, weights_only=True)) == 500


# What is no file


@pytest.mark.parametrize("name", ["pipe.safetensors", "pipe.pth", "pipe"])
def test_a_fifo_is_refused_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    for reader in READERS.values():
        refusal(lambda reader=reader: reader(path))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md"])
def test_a_fifo_in_a_folder_does_not_hang(saved: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(saved, tmp_path / "model.safetensors")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    for reader in (unetzoo.load, unetzoo.verify, lambda folder: unetzoo.from_pretrained(str(folder))):
        with contextlib.suppress(UnetzooError), within():
            reader(tmp_path)
    model = unetzoo.load(saved)
    refusal(lambda: unetzoo.save_pretrained(model, tmp_path))


@pytest.mark.parametrize("name", ["folder.safetensors", "folder.pth", "folder"])
def test_a_folder_without_a_model_is_refused_by_every_reader(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir()
    for reader in READERS.values():
        assert str(path) in refusal(lambda reader=reader: reader(path))


@pytest.mark.parametrize(
    "name", ["none.safetensors", "none.pth", "no/file.safetensors", "n\0l.safetensors", "n\0l.pth"]
)
def test_what_is_not_there_is_named_by_every_reader(tmp_path: Path, name: str) -> None:
    for reader in READERS.values():
        refusal(lambda reader=reader: reader(tmp_path / name))


@pytest.mark.parametrize("device", ["/dev/null", pytest.param("/dev/full", marks=needs_dev_full)])
@pytest.mark.parametrize("name", ["device.safetensors", "device.pth"])
def test_a_device_is_refused_by_every_reader_of_headers(tmp_path: Path, device: str, name: str) -> None:
    path = tmp_path / name
    path.symlink_to(device)
    for reader in READERS if name.endswith(".safetensors") or device == "/dev/null" else ():
        refusal(lambda reader=reader: READERS[reader](path))


def test_a_link_that_leads_nowhere_is_refused_by_every_reader(tmp_path: Path) -> None:
    path = tmp_path / "link.safetensors"
    path.symlink_to("nowhere.safetensors")
    (tmp_path / "circle.safetensors").symlink_to("circle.safetensors")
    for reader in READERS.values():
        refusal(lambda reader=reader: reader(path))
        refusal(lambda reader=reader: reader(tmp_path / "circle.safetensors"))


def test_other_formats_under_our_suffix_are_refused(tmp_path: Path) -> None:
    state = {"x": torch.zeros(3)}
    path = tmp_path / "other.safetensors"
    torch.save(state, path)
    contents = [path.read_bytes(), b"\x89PNG\r\n\x1a\n" + bytes(100), b"\x7fELF" + bytes(100), b"<html></html>" * 10]
    contents += [b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n", b"GGUF" * 30]
    for content in contents:
        path.write_bytes(content)
        for name in HEADERS:
            message = refusal(lambda name=name: READERS[name](path), DamagedError)
            assert "not a safetensors file" in message or "written by torch.save" in message


# A state dict's wrappings


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        None,
        torch.zeros(3),
        [torch.zeros(3)],
        {"x": 1},
        {"x": [torch.zeros(3)]},
        {1: torch.zeros(3)},
        {"state_dict": {"x": torch.zeros(3)}, "model": {"y": torch.zeros(3)}},
        "x" * 1000,
        {"x" * 100_000: 1},
    ],
    ids=lambda content: repr(content)[:40].replace(" ", ""),
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_holds_no_state_dict_or_several_is_refused_in_a_short_message(
    tmp_path: Path, content: object, zipped: bool
) -> None:
    path = tmp_path / "content.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    message = refusal(lambda: load_state_dict_file(path), WeightsError)
    assert len(message) < 1000


# Against safetensors' own library


def every_dtype() -> dict[str, Tensor]:
    """Return tensors of every type, with the patterns of bits that a careless reader would lose."""
    torch.manual_seed(0)
    found: dict[str, Tensor] = {}
    for dtype in DTYPES.values():
        size = dtype.itemsize
        title = str(dtype).removeprefix("torch.")
        noise = torch.randint(0, 2 if dtype is torch.bool else 256, (3, 5, 7 * size), dtype=torch.uint8)
        found[f"{title}.noise"] = noise.view(dtype)
        found[f"{title}.scalar"] = noise.reshape(-1)[:size].clone().view(dtype).reshape(())
        found[f"{title}.empty"] = torch.empty(0, dtype=dtype)
        found[f"{title}.empty.too"] = torch.empty(2, 0, 3, dtype=dtype)
        found[f"{title}.one"] = noise.reshape(-1)[:size].clone().view(dtype)
    found["schräg.模型"] = torch.arange(6.0)
    return found


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Bit by bit: NaN is not equal to itself."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert raw(found[name]) == raw(tensor), name


def test_our_files_are_read_by_safetensors_with_equal_tensors_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    wanted = every_dtype()
    write_tensors(path, wanted, {"format": "pt", "schräg": 'a "quoted"\n模型\0'})
    assert_same(safetensors.torch.load_file(path), wanted)
    with safetensors.safe_open(path, "pt") as stream:
        metadata = stream.metadata()
        assert set(stream.keys()) == set(wanted)
        assert_same({name: stream.get_tensor(name) for name in stream.keys()}, wanted)  # noqa: SIM118
    assert metadata["format"] == "pt"
    assert metadata["schräg"] == 'a "quoted"\n模型\0'
    header, data = take_apart(path)
    assert metadata == header["__metadata__"]
    assert metadata["unetzoo_data_sha256"] == hashlib.sha256(data).hexdigest()


def test_a_saved_model_is_read_by_safetensors(counted: Path) -> None:
    model = unetzoo.load(counted)
    assert_same(safetensors.torch.load_file(counted), model.state_dict())
    with safetensors.safe_open(counted, "pt") as stream:
        metadata = stream.metadata()
    assert json.loads(metadata["unetzoo_config"]) == model.config.to_dict()
    assert metadata["format"] == "pt"


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt", "schräg": '"\n\0'}], ids=str)
def test_files_of_safetensors_own_writer_are_read_with_equal_tensors(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "theirs.safetensors"
    wanted = every_dtype()
    safetensors.torch.save_file(wanted, path, metadata=metadata)
    file = read_header(path)
    assert_same(file.tensors(), wanted)
    assert dict(file.metadata) == (metadata or {})
    assert_same(load_state_dict_file(path), wanted)


def test_a_file_without_tensors_is_read(tmp_path: Path) -> None:
    safetensors.torch.save_file({}, tmp_path / "none.safetensors")
    assert read_header(tmp_path / "none.safetensors").tensors() == {}
    assert read_header(put_together(tmp_path / "least.safetensors", b"{}")).tensors() == {}


@pytest.mark.parametrize("shift", range(8))
def test_tensors_at_any_alignment_are_read(tmp_path: Path, shift: int) -> None:
    """Other writers neither pad the header nor sort the tensors."""
    header: dict[str, Any] = {}
    data = b""
    wanted = {}
    chance = random.Random(shift)
    for code, dtype in DTYPES.items():
        for count in (1, 3):
            content = bytes(chance.randrange(2 if code == "BOOL" else 256) for _ in range(count * dtype.itemsize))
            shape = [] if count == 1 else [1, 3, 1]
            header[f"{code}.{count}"] = {
                "dtype": code,
                "shape": shape,
                "data_offsets": [len(data), len(data) + len(content)],
            }
            data += content
            wanted[f"{code}.{count}"] = content
            pad = chance.randbytes(1)
            header[f"{code}.{count}.pad"] = {"dtype": "U8", "shape": [1], "data_offsets": [len(data), len(data) + 1]}
            data += pad
            wanted[f"{code}.{count}.pad"] = pad
    text = json.dumps(header, indent=1).encode()
    text += b" " * ((shift - len(text)) % 8)
    path = put_together(tmp_path / "odd.safetensors", text, data)
    assert (8 + len(text)) % 8 == shift
    found = read_header(path).tensors()
    assert {name: raw(tensor) for name, tensor in found.items()} == wanted
    assert {name: list(tensor.shape) for name, tensor in found.items()} == {
        name: header[name]["shape"] for name in header
    }
    for name, tensor in found.items():
        assert tensor.dtype == DTYPES[header[name]["dtype"]]
        assert tensor.untyped_storage().nbytes() == len(wanted[name])
        assert tensor.data_ptr() % tensor.dtype.itemsize == 0


# What is read belongs to the reader


@pytest.mark.parametrize("writer", ["ours", "theirs"])
def test_each_tensor_has_a_storage_of_its_own_and_drags_nothing_along(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "file.safetensors"
    if writer == "ours":
        write_tensors(path, every_dtype(), {})
    else:
        safetensors.torch.save_file(every_dtype(), path)
    tensors = read_header(path).tensors()
    for name, tensor in tensors.items():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size(), name
        assert tensor.storage_offset() == 0
        assert tensor.is_contiguous()
    torch.save(tensors["float32.scalar"], tmp_path / "one.pth")
    torch.save(torch.zeros(()), tmp_path / "new.pth")
    assert (tmp_path / "one.pth").stat().st_size == (tmp_path / "new.pth").stat().st_size


def test_changing_what_was_loaded_changes_neither_the_file_nor_what_is_loaded_next(
    counted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    shutil.copy(counted, path)
    content = path.read_bytes()
    first, second = unetzoo.load(path), unetzoo.load(path)
    kept = {name: tensor.clone() for name, tensor in second.state_dict().items()}
    with torch.no_grad():
        for tensor in first.state_dict().values():
            tensor.fill_(7)
    assert path.read_bytes() == content
    assert_same(second.state_dict(), kept)
    assert_same(unetzoo.load(path, verify=True).state_dict(), kept)
    assert all((tensor == 7).all() for tensor in first.state_dict().values())


def test_changing_one_tensor_changes_no_other(counted: Path) -> None:
    tensors = read_header(counted).tensors()
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        tensor.fill_(3)
        kept[name].fill_(3)
        assert_same(tensors, kept)


def test_a_model_saved_over_the_file_it_is_mapped_from_keeps_its_values(counted: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    shutil.copy(counted, path)
    model = unetzoo.load(path)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    unetzoo.save(model, path)
    assert path.read_bytes() == counted.read_bytes()
    with torch.no_grad():
        model.head.conv.bias.fill_(5)
    unetzoo.save(model, path)
    kept["head.conv.bias"].fill_(5)
    assert_same(unetzoo.load(path).state_dict(), kept)
    torch.manual_seed(1)
    unetzoo.save(unetzoo.create("unet", base_channels=4), path)
    assert_same(model.state_dict(), kept)
    path.unlink()
    assert_same(model.state_dict(), kept)


def test_a_config_beside_the_file_that_says_another_thing_is_noticed_by_verify(saved: Path, tmp_path: Path) -> None:
    shutil.copy(saved, tmp_path / "model.safetensors")
    config = config_of(saved)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert unetzoo.verify(tmp_path).config.to_dict() == config
    for text in (json.dumps(config | {"dropout": 0.5}), "{}", "", "\xff", '{"a":1,"a":1}', "[" * DEEP):
        (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
        assert "config.json" in refusal(lambda: unetzoo.verify(tmp_path), WeightsError)
        assert unetzoo.load(tmp_path).config.to_dict() == config


def test_a_huge_config_beside_the_file_is_refused_in_little_memory(saved: Path, tmp_path: Path) -> None:
    shutil.copy(saved, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(b"")
    os.truncate(tmp_path / "config.json", 200_000_000)  # of holes
    tracemalloc.start()
    try:
        refusal(lambda: unetzoo.verify(tmp_path), WeightsError)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50e6


def test_arguments_are_still_checked_for_a_good_file(saved: Path) -> None:
    for options in ({"num_classes": 0}, {"in_channels": 2**62}, {"device": "meta"}, {"dtype": torch.int64}):
        refusal(lambda options=options: unetzoo.load(saved, **options), ConfigError)
