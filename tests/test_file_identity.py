"""What tells a file from another that took its name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from unetzoo.files.identity import BLOCK, BLOCKS, fingerprint, identity


def written(path: Path, content: bytes, time: int = 1_700_000_000_123_456_789) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(time, time))
    return path


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK * BLOCKS, BLOCK * BLOCKS + 1, 3_000_000])
def test_a_copy_has_the_same_fingerprint(size: int, tmp_path: Path) -> None:
    content = np.random.default_rng(size).bytes(size)
    one, two = written(tmp_path / "a.png", content), written(tmp_path / "b" / "other.png", content, 5)
    assert fingerprint(one) == fingerprint(two)
    assert identity(one) != identity(two)
    assert identity(one) == identity(Path(shutil.copy2(one, tmp_path / "kept.png")))


@pytest.mark.parametrize("place", [0, 1_500_000 // 15 * 4 + 7, -1])
def test_other_bytes_are_another_file(place: int, tmp_path: Path) -> None:
    content = bytearray(1_500_000 + BLOCK - 1)
    path = written(tmp_path / "a.tif", content)
    before = fingerprint(path), identity(path)
    content[place] ^= 1
    written(path, content)
    assert fingerprint(path) != before[0]
    assert identity(path) != before[1]


@pytest.mark.parametrize("later", [-1, 1, -(10**15)])
def test_any_other_time_is_another_identity(later: int, tmp_path: Path) -> None:
    time = 1_700_000_000_000_000_000
    path = written(tmp_path / "a.tif", bytes(10**6), time)
    before = fingerprint(path), identity(path)
    os.utime(path, ns=(time, time + later))
    if path.stat().st_mtime_ns == time:
        pytest.skip("times are coarser here")
    assert fingerprint(path) == before[0]
    assert identity(path) != before[1]


def test_a_longer_file_is_another(tmp_path: Path) -> None:
    assert fingerprint(written(tmp_path / "a", bytes(10**6))) != fingerprint(written(tmp_path / "b", bytes(10**6 + 1)))


def zarr_like(folder: Path, chunks: int = 100) -> Path:
    written(folder / "zarr.json", b'{"shape": [100]}')
    for k in range(chunks):
        written(folder / "c" / str(k), bytes([k]) * 10)
    return folder


@pytest.mark.parametrize("change", ["metadata", "first chunk", "one more", "one less", "renamed", "longer", "nested"])
def test_other_chunks_are_another_zarr(change: str, tmp_path: Path) -> None:
    one, two = zarr_like(tmp_path / "a.zarr"), zarr_like(tmp_path / "b.zarr")
    assert (fingerprint(one), identity(one)) == (fingerprint(two), identity(two))
    match change:
        case "metadata":
            written(two / "zarr.json", b'{"shape": [101]}')
        case "first chunk":
            written(two / "c" / "0", bytes(10)[:-1] + b"1")
        case "one more":
            written(two / "c" / "100", bytes(10))
        case "one less":
            (two / "c" / "50").unlink()
        case "renamed":
            (two / "c" / "50").rename(two / "c" / "x")
        case "longer":
            written(two / "c" / "50", bytes(11))
        case "nested":
            (two / "c").rename(two / "d")
    assert fingerprint(one) != fingerprint(two)
    assert identity(one) != identity(two)


def test_any_chunk_s_time_is_another_identity_of_a_zarr(tmp_path: Path) -> None:
    one, two = zarr_like(tmp_path / "a.zarr"), zarr_like(tmp_path / "b.zarr")
    written(two / "c" / "51", bytes([51]) * 10, 7)
    assert fingerprint(one) == fingerprint(two)
    assert identity(one) != identity(two)


def test_names_that_are_no_text_have_an_identity(tmp_path: Path) -> None:
    try:
        path = written(tmp_path / os.fsdecode(b"caf\xe9.png"), b"content")
        zarr = written(tmp_path / "a.zarr" / os.fsdecode(b"\xff"), b"content").parent
    except (OSError, UnicodeError):
        pytest.skip("names are text here")
    assert len(identity(path)) == len(identity(zarr)) == 24


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert len(identity(tmp_path / "pipe.png")) == 24


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        identity(tmp_path / "a.png")
