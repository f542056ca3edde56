"""Images of strangers: no program is run, no other file is read, and nothing is believed that the file cannot hold."""

from __future__ import annotations

import functools
import io
import os
import random
import re
import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hostile import within
from PIL import EpsImagePlugin, Image

import unetzoo
from unetzoo import InputError, images
from unetzoo.data import Labels, check
from unetzoo.images.formats import FORMATS
from unetzoo.images.tiff import TiffImage
from unetzoo.prediction import Predictor
from unetzoo.prediction.stored import StoredRows

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n0 0 20 20 rectfill\nshowpage\n%%EOF\n"
DOORS: dict[str, Callable[[Path], object]] = {
    "read_image": images.read_image,
    "read_values": images.read_values,
    "image_size": images.image_size,
    "orientation": images.orientation,
    "planes_of": images.planes_of,
    "palette_of": images.palette_of,
    "Predictor": lambda path: network()(path),
    "StoredRows": lambda path: StoredRows(path).close(),
}
"""Each way in for a file that is named an image."""


@functools.cache
def network() -> Predictor:
    return Predictor(unetzoo.create("unet", base_channels=1))


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a ``gs`` on PATH that leaves a file where it was called; return where."""
    called, folder = tmp_path / "called", tmp_path / "bin"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\necho $@ >> {called}\n", encoding="utf-8")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return called


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for Ghostscript is a shell script")
def test_postscript_is_no_image_whatever_its_name(tmp_path: Path, ghostscript: Path) -> None:
    for name in ("a.png", "a.tif", "a.jpg", "a.eps"):
        (tmp_path / name).write_bytes(POSTSCRIPT)
        for door, read in DOORS.items():
            with pytest.raises(InputError, match=re.escape(name) + ".*(PostScript|cannot be read)"):
                read(tmp_path / name)
            assert not ghostscript.exists(), door
    for folder, content in (("images", POSTSCRIPT), ("masks", POSTSCRIPT)):
        (tmp_path / folder).mkdir()
        for k in range(10):
            (tmp_path / folder / f"{k}.png").write_bytes(content)
    assert len(check(tmp_path, Labels()).problems) >= 10
    assert not ghostscript.exists()
    with pytest.raises(OSError, match=r"."), Image.open(tmp_path / "a.png") as file:  # what Pillow does by itself
        file.load()
    assert ghostscript.exists()


def test_of_all_that_pillow_knows_only_the_list_is_opened(tmp_path: Path, ghostscript: Path) -> None:
    Image.init()
    opened = set()
    for kind in sorted({*Image.SAVE} - {"IM"}):  # Pillow warns that it will be gone
        for mode in ("RGB", "L", "1", "P", "F"):
            written = io.BytesIO()
            try:
                Image.new(mode, (16, 16)).save(written, kind)
            except (OSError, ValueError, KeyError, AttributeError, TypeError):
                continue
            (tmp_path / "a.png").write_bytes(written.getvalue())
            try:
                images.read_image(tmp_path / "a.png")
                opened.add(kind)
            except InputError:
                pass
            break
    assert opened - {"MPO"} <= {*FORMATS}  # MPO is a JPEG with previews behind it
    assert {"PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "TGA"} <= opened
    assert not ghostscript.exists()
    sources = Path(unetzoo.__file__).parent.rglob("*.py")
    doors = [path.name for path in sources if "Image.open(" in path.read_text(encoding="utf-8")]
    assert doors == ["formats.py"]


def ome(parts: str, **sizes: int) -> str:
    lengths = " ".join(f'Size{axis}="{sizes.get(axis, 1)}"' for axis in "ZCT")
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="23" SizeY="20" '
        f"{lengths}>"
        f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{parts}</Pixels></Image></OME>'
    )


def test_no_other_file_is_read_for_ome(tmp_path: Path) -> None:
    secret, own = np.full((2, 20, 23), 77, np.uint8), np.full((20, 23), 5, np.uint8)
    tifffile.imwrite(tmp_path / "secret.tif", secret, metadata=None, photometric="minisblack")
    parts = "".join(
        f'<TiffData FirstZ="{k}" IFD="{k}" PlaneCount="1"><UUID FileName="secret.tif">urn:uuid:'
        f"{k}{k}d8b9a2-0000-0000-0000-000000000000</UUID></TiffData>"
        for k in range(2)
    )
    tifffile.imwrite(tmp_path / "own.ome.tif", own, description=ome(parts, Z=2), metadata=None)
    assert 77 in tifffile.imread(tmp_path / "own.ome.tif")  # what tifffile does by itself
    assert torch.equal(images.read_image(tmp_path / "own.ome.tif")[0], torch.from_numpy(own))
    with StoredRows(tmp_path / "own.ome.tif") as rows:
        assert torch.equal(rows.rows(0, 20)[0], torch.from_numpy(own))


@pytest.mark.parametrize("planes", [60_000_000, 2**40])
def test_counts_of_ome_fill_no_memory(tmp_path: Path, planes: int) -> None:
    path = tmp_path / "a.ome.tif"
    text = ome(f'<TiffData IFD="0" PlaneCount="{planes}"/>', Z=planes)
    tifffile.imwrite(path, np.zeros((20, 23), np.uint8), description=text, metadata=None)
    tracemalloc.start()
    try:
        for door in DOORS.values():
            door(path)
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size + 64 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ["ImageJ=1.53\nimages=10000\nslices=10000\n", "many parts of OME", '{"shape": [[[', ""]
)
def test_many_pages_take_no_longer_than_they_are_many(tmp_path: Path, text: str) -> None:
    """Of 840 kB and 10,000 pages, which tifffile as a whole took minutes for."""
    if "OME" in text:
        text = ome('<TiffData PlaneCount="10000"/>' * 10_000, Z=10_000)
    nested = '{"shape": ' + "[" * 100_000 if text.startswith("{") else text
    pages, start = 10_000, 8 + len(nested) + 1
    entries = [(256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 1)]
    first = [*entries[:4], (270, 2, len(nested) + 1, 8), *entries[4:]]
    parts, place = [], start
    for k in range(pages):
        tags = first if k == 0 else entries
        size = 6 + 12 * len(tags)
        following = place + size if k + 1 < pages else 0
        parts += [struct.pack("<H", len(tags)), *(struct.pack("<HHII", *tag) for tag in tags)]
        parts.append(struct.pack("<I", following))
        place += size
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0" + struct.pack("<I", start) + nested.encode() + b"\0" + b"".join(parts))
    with within(20):
        assert images.planes_of(path).count == pages
        if "OME" not in text:
            return  # whatever is said in it, pages are read alike
        assert images.read_image(path, "first").shape == (1, 1, 1)
        with pytest.raises(InputError, match="10000"):
            images.read_image(path)
        with pytest.raises(InputError, match="10000"):
            StoredRows(path)


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}, {"description": "Aperio Image Library"}], ids=str)
def test_no_file_says_what_program_it_is_of(tmp_path: Path, options: dict[str, object]) -> None:
    """For each such program tifffile follows what the file says; of some, releases refuse to leave that out."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((32, 32), np.uint8), tile=None if "imagej" in options else (16, 16), **options)
    with tifffile.TiffFile(path) as plain, TiffImage(path).opened(tifffile) as ours:
        assert plain.is_imagej or plain.is_ome or plain.is_svs
        assert not ours.flags
        assert ours.asarray().shape == (32, 32)


def test_entities_of_xml_are_not_followed(tmp_path: Path) -> None:
    inner = "".join(f'<!ENTITY {chr(98 + k)} "{f"&{chr(97 + k)};" * 10}">' for k in range(9))
    text = ome("", Z=2).replace(
        '<?xml version="1.0"?>', f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a "aaaaaaaaaa">{inner}]>'
    )
    pages = np.zeros((2, 20, 23), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pages, description=text, metadata=None, photometric="minisblack")
    assert images.planes_of(tmp_path / "a.tif").axes == (("pages", 2),)  # as if nothing had been said


def test_pixels_that_a_file_cannot_hold_are_not_allocated(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((20, 23), np.uint8), metadata=None)
    content = bytearray(path.read_bytes())
    for code, value in ((256, 13_000), (257, 13_000), (278, 13_000), (279, 169_000_000)):
        place = next(
            k for k in range(8, len(content), 2) if struct.unpack_from("<HH", content, k) in ((code, 3), (code, 4))
        )
        struct.pack_into("<HHII", content, place, code, 4, 1, value)
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"a\.tif.*(cut off|169,000,000)"):
            images.read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


# Inputs that were changed at random


@functools.cache
def whole_files() -> tuple[bytes, ...]:
    """Return small files of every kind that is read."""
    grey = np.arange(20 * 23, dtype=np.uint16).reshape(20, 23)
    found = []

    def tiff(array: np.ndarray, **options: object) -> None:
        stream = io.BytesIO()
        tifffile.imwrite(stream, array, **options)
        found.append(stream.getvalue())

    for options in (
        {}, {"compression": "lzw"}, {"compression": "zstd", "tile": (16, 16)}, {"bigtiff": True},
        {"byteorder": ">", "compression": "adobe_deflate", "predictor": True},
    ):  # fmt: skip
        tiff(grey, **options)
    for options in (
        {"imagej": True, "metadata": {"axes": "ZYX"}}, {"ome": True, "metadata": {"axes": "ZYX"}},
        {"ome": True, "metadata": {"axes": "CYX"}}, {"metadata": {"axes": "ZYX"}}, {"metadata": None},
    ):  # fmt: skip
        tiff(np.stack([grey] * 6), photometric="minisblack", **options)
    planar = {"photometric": "rgb", "planarconfig": "separate", "compression": "packbits"}
    tiff(np.stack([grey.astype(np.uint8)] * 3), **planar)
    for mode, kind in (
        ("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "TIFF"), ("P", "TIFF"), ("CMYK", "TIFF"), ("P", "GIF"),
        ("RGB", "BMP"), ("L", "PPM"), ("RGB", "JPEG"), ("RGB", "WEBP"), ("L", "JPEG2000"), ("RGB", "TGA"),
    ):  # fmt: skip
        stream = io.BytesIO()
        Image.frombytes("RGB", (23, 20), bytes(range(256)) * 5 + bytes(100)).convert(mode).save(stream, kind)
        found.append(stream.getvalue())
    stream = io.BytesIO()
    Image.fromarray(grey > 200).save(stream, "TIFF", compression="group4")
    return (*found, stream.getvalue())


def changed(number: int) -> bytes:
    """Return a file of :func:`whole_files`, changed at some places, most of them in its header."""
    rng = random.Random(f"image {number}")
    content = bytearray(rng.choice(whole_files()))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        place = rng.randrange(max(1, min(len(content), 600) if rng.random() < 0.7 else len(content)))
        match rng.randrange(6):
            case 0 | 1:
                content[place : place + 1] = bytes([rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))])
            case 2:
                numbers = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4), b"\0\0\1\0", rng.randbytes(4))
                content[place : place + 4] = rng.choice(numbers)
            case 3:
                content[place : place + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
            case 4:
                del content[place : place + rng.choice((1, 2, 4, len(content)))]
            case _:
                texts = [*re.finditer(rb"\d+", bytes(content[:3000]))]
                if texts:
                    text = rng.choice(texts)
                    content[text.start() : text.end()] = rng.choice((b"0", b"-1", b"60000000", b"9" * 20, b"2"))
    return bytes(content)


def peak() -> int:
    """Return the most bytes that this process has had at once since :func:`forget_peak`."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


@pytest.mark.parametrize(
    "cases", [range(500), pytest.param(range(500, 20_500), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_changed_headers_meet_our_errors_alone(tmp_path: Path, cases: range, capfd: pytest.CaptureFixture[str]) -> None:
    measured = sys.platform == "linux"
    images.read_image(_first(tmp_path))
    refused = 0
    for number in cases:
        content = changed(number)
        path = tmp_path / "a.img"
        path.write_bytes(content)
        pixels = 0
        if measured:
            forget_peak()
        before = peak() if measured else 0
        for read in (images.read_image, functools.partial(images.read_values, planes="max"), images.planes_of):
            with within(10):
                try:
                    found = read(path)
                except InputError:
                    refused += 1
                else:
                    pixels = max(pixels, found.nbytes if isinstance(found, torch.Tensor) else 0)
        try:
            height, width = images.image_size(path)
            pixels = max(pixels, height * width * 16)
        except InputError:
            pass
        assert not measured or peak() - before < len(content) + 64 * 2**20 + pixels, f"changed({number})"
    assert 0.2 < refused / (3 * len(cases)) < 0.95  # the changes neither miss nor break everything


def _first(folder: Path) -> Path:
    (folder / "first.tif").write_bytes(whole_files()[2])
    return folder / "first.tif"
