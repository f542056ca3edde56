"""What is read of files that other programs wrote: the array that was given to them, or a refusal by name.

Written by tifffile, GDAL (through rasterio), Pillow and imagecodecs, and byte by byte after the formats' own papers.
Each row of the table in docs/what_is_read.md is counted here.
"""

from __future__ import annotations

import itertools
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import rasterio
import tifffile
import torch
from conftest import ROOT, chunk, tried
from PIL import Image

from unetzoo import InputError, images

SIZE = (20, 23)
NUMBERS = ["uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"]
PAGE = (ROOT / "docs" / "what_is_read.md").read_text(encoding="utf-8")


def drawn(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return an array of all values that a type has, its smallest and largest among them."""
    generator = np.random.default_rng(seed)
    if kind == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    if kind.startswith("float"):
        return generator.normal(-20, 5, shape).astype(kind)
    info = np.iinfo(kind)
    array = generator.integers(info.min, info.max, shape, dtype=kind, endpoint=True)
    array.flat[:2] = [info.min, info.max][: array.size]
    return array


def below(limit: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return whole numbers from 0 to below a limit, both ends among them where there is room."""
    array = np.random.default_rng(1).integers(0, limit, shape)
    array.flat[:2] = [0, limit - 1][: array.size]
    return array


def same(found: torch.Tensor, expected: np.ndarray) -> bool:
    """Return whether values and type are the ones stored; floating point becomes float32, bits become uint8."""
    kind = {"b": np.dtype(np.uint8), "f": np.dtype(np.float32)}.get(expected.dtype.kind, expected.dtype)
    array = found.numpy()
    return array.dtype == kind and np.array_equal(array, expected.astype(kind))


def told(row: str, count: int) -> None:
    """Assert that the docs have a row with this count."""
    line = next((line for line in PAGE.splitlines() if line.startswith(f"| {row} |")), None)
    assert line is not None, f"docs/what_is_read.md has no row {row!r}"
    found = re.fullmatch(r"\|.*\| ([\d,]+) \|", line)
    assert found, line
    assert int(found[1].replace(",", "")) == count, f"{row}: {count} combinations"


LAYOUTS = [
    ("minisblack", 1, "contig"), ("miniswhite", 1, "contig"), ("rgb", 3, "contig"), ("rgb", 3, "separate"),
    ("minisblack", 2, "contig"), ("minisblack", 4, "separate"), ("rgb", 4, "contig"),
]  # fmt: skip
PACKED = [None, "lzw", "adobe_deflate", "packbits", "zstd"]


# Most kinds that both of these write are read from one of them by default: more than 2,000 files as it is.
@pytest.mark.parametrize("kind", tried(["bool", *NUMBERS], {"bool", *NUMBERS} - {"uint32", "int32", "float64"}))
def test_tiffs_of_tifffile(tmp_path: Path, kind: str) -> None:
    path, count = tmp_path / "a.tif", 0
    layouts = [layout for layout in LAYOUTS if layout[1] == 1] if kind == "bool" else LAYOUTS
    for order, layout, packed, tile, predicted in itertools.product("<>", layouts, PACKED, (None, (16, 16)), (0, 1)):
        photometric, bands, planar = layout
        if predicted and (packed in (None, "packbits") or kind == "bool" or tile is None):
            continue
        array = drawn(kind, (bands, *SIZE))
        stored = array[0] if bands == 1 else array if planar == "separate" else array.transpose(1, 2, 0)
        tifffile.imwrite(
            path, stored, photometric=photometric, planarconfig=planar if bands > 1 else None, byteorder=order,
            compression=packed, tile=tile, predictor=bool(predicted), metadata=None,
            extrasamples=["unassalpha"] if (photometric, bands) == ("rgb", 4) else None,
        )  # fmt: skip
        said = (kind, order, layout, packed, tile, predicted)
        assert same(images.read_values(path), array), said
        raster = images.read(path)
        assert raster.alpha == ((photometric, bands) == ("rgb", 4)), said
        assert same(raster.pixels, array * np.uint8(255) if kind == "bool" else array), said
        assert images.image_size(path) == SIZE
        count += 1
    told(f"TIFF of tifffile, {'1 bit' if kind == 'bool' else kind}", count)


@pytest.mark.parametrize(
    "kind",
    tried(
        [*(kind for kind in NUMBERS if kind != "float16"), "bits"], ["uint32", "int32", "float32", "float64", "bits"]
    ),
)
def test_tiffs_of_gdal(tmp_path: Path, kind: str) -> None:
    path, count = tmp_path / "a.tif", 0
    for order, packed, interleave, bands, depth in itertools.product(
        ("LITTLE", "BIG"), ("NONE", "LZW", "DEFLATE", "PACKBITS", "ZSTD"), ("BAND", "PIXEL"), (1, 3, 4),
        (1, 2, 4) if kind == "bits" else (None,),
    ):  # fmt: skip
        array = below(2**depth, (bands, *SIZE)).astype(np.uint8) if depth else drawn(kind, (bands, *SIZE))
        options: dict[str, Any] = {"NBITS": depth} if depth else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(
                path, "w", "GTiff", SIZE[1], SIZE[0], bands, dtype=array.dtype, endianness=order, compress=packed,
                interleave=interleave, photometric="MINISBLACK", **options,
            ) as file:  # fmt: skip
                file.write(array)
            with rasterio.open(path) as file:
                assert np.array_equal(file.read(), array)
        said = (kind, order, packed, interleave, bands, depth)
        assert same(images.read_values(path), array), said
        assert not images.read(path).alpha
        assert same(images.read_image(path), array * np.uint8(255 // (2**depth - 1)) if depth else array), said
        count += 1
    told(f"TIFF of GDAL, {'1, 2 and 4 bits' if kind == 'bits' else kind}", count)


def test_tiffs_of_pillow(tmp_path: Path) -> None:
    count = 0
    for mode, packed in itertools.product(
        ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16", "I", "F"),
        (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "group3", "group4"),
    ):
        if packed in ("group3", "group4") and mode != "1":
            continue
        kind = {"1": "bool", "I;16": "uint16", "I": "int32", "F": "float32"}.get(mode, "uint8")
        bands = len(Image.new(mode, (1, 1)).getbands())
        array = drawn(kind, (*SIZE, bands) if bands > 1 else SIZE)
        written = Image.fromarray(array) if mode == "1" else Image.frombytes(mode, SIZE[::-1], array.tobytes())
        if mode == "P":
            written.putpalette(drawn("uint8", (768,), seed=1).tobytes())
        written.save(tmp_path / "a.tif", compression=packed)
        expected = array[None] if bands == 1 else array.transpose(2, 0, 1)
        rgb = np.asarray(written.convert("RGB")).transpose(2, 0, 1) if mode in ("P", "CMYK") else expected
        values = images.read_values(tmp_path / "a.tif")
        assert same(values, expected), (mode, packed)
        raster = images.read(tmp_path / "a.tif")
        assert same(raster.pixels, rgb * np.uint8(255) if mode == "1" else rgb), (mode, packed)
        assert raster.alpha == (mode in ("LA", "RGBA"))
        count += 1
    told("TIFF of Pillow", count)


@pytest.mark.parametrize("writer", ["ImageJ", "OME", "tifffile", "plain"])
def test_pages_are_planes_or_channels(tmp_path: Path, writer: str) -> None:
    """The axes that were written say which pages are channels; every plane is read by itself."""
    path, count = tmp_path / "a.tif", 0
    wanted = ["ZYX", "TYX", "CYX", "TZYX", "TCYX", "ZCYX", "TZCYX"] if writer != "plain" else ["IYX"]
    lengths = {"T": 3, "Z": 4, "C": 2, "I": 5}
    for axes, kind, order, packed in itertools.product(
        wanted, ("uint8", "uint16", "float32"), "<>", (None, "adobe_deflate")
    ):
        if writer == "ImageJ" and (order == "<" or packed):
            continue  # it writes big-endian alone
        array = drawn(kind, (*(lengths[axis] for axis in axes[:-2]), *SIZE))
        options: dict[str, Any] = {"imagej": True} if writer == "ImageJ" else {"ome": True} if writer == "OME" else {}
        metadata = None if writer == "plain" else {"axes": axes}
        kinds = {} if writer == "ImageJ" else {"byteorder": order}
        tifffile.imwrite(
            path, array, photometric="minisblack", compression=packed, metadata=metadata, **kinds, **options
        )
        outer = [axis for axis in axes[:-2] if axis != "C"]
        stack = images.planes_of(path)
        name = "pages" if writer == "plain" else None
        assert [*stack.axes] == [(name or axis, lengths[axis]) for axis in outer], axes
        planes = np.moveaxis(array, axes.index("C"), -3) if "C" in axes else array[..., None, :, :]
        planes = planes.reshape(-1, *planes.shape[-3:])
        assert stack.count == len(planes)
        if len(planes) > 1:
            with pytest.raises(InputError, match="which are meant"):
                images.read_image(path)
        for k, plane in enumerate(planes):
            assert same(images.read_image(path, k), plane), (axes, kind, order, packed, k)
        assert same(images.read_image(path, "first"), planes[0])
        assert same(images.read_image(path, "max"), planes.max(0))
        assert same(images.read_image(path, "channels"), planes.reshape(-1, *SIZE))
        count += 1
    told(f"TIFF of several pages, {writer}", count)


def png(array: np.ndarray, depth: int, colour: int, chunks: bytes = b"") -> bytes:
    """Return a PNG of (H, W, samples), written after its specification: no filter, no interlace."""
    height, width = array.shape[:2]
    bits = array.reshape(height, -1)
    if depth == 16:
        rows = bits.astype(">u2").view(np.uint8).reshape(height, -1)
    elif depth == 8:
        rows = bits.astype(np.uint8)
    else:
        single = (bits[..., None] >> np.arange(depth)[::-1] & 1).astype(np.uint8).reshape(height, -1)
        rows = np.packbits(single, axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunks + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def palette_chunk(colours: np.ndarray) -> bytes:
    body = colours.astype(np.uint8).tobytes()
    return chunk(b"PLTE", body)


def test_pngs_of_every_kind(tmp_path: Path) -> None:
    path, count = tmp_path / "a.png", 0
    kinds = [(0, depth) for depth in (1, 2, 4, 8, 16)] + [(3, depth) for depth in (1, 2, 4, 8)]
    kinds += [(colour, depth) for colour in (2, 4, 6) for depth in (8, 16)]
    for (colour, depth), size in itertools.product(kinds, ((20, 23), (1, 1), (7, 8))):
        samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
        array = below(2**depth, (*size, samples))
        colours = drawn("uint8", (2**depth if colour == 3 else 1, 3), seed=2)
        path.write_bytes(png(array, depth, colour, palette_chunk(colours) if colour == 3 else b""))
        stored = array.transpose(2, 0, 1).astype(np.uint16 if depth == 16 else np.uint8)
        assert same(images.read_values(path), stored), (colour, depth, size)
        shown = colours[array[..., 0]].transpose(2, 0, 1) if colour == 3 else stored
        shown = stored * np.uint8(255 // (2**depth - 1)) if colour == 0 and depth < 8 else shown
        raster = images.read(path)
        assert same(raster.pixels, shown), (colour, depth, size)
        assert raster.alpha == (colour in (4, 6))
        count += 1
    told("PNG", count)


def test_netpbm_of_every_kind(tmp_path: Path) -> None:
    """Values of an image are shares of the largest, which is white; labels are what stands in the file."""
    path, count = tmp_path / "a.pnm", 0
    for kind, largest, comment in itertools.product("2356", (1, 15, 100, 255, 1000, 4095, 65535), (b"", b"# one\n")):
        samples = 3 if kind in "36" else 1
        array = below(largest + 1, (*SIZE, samples))
        head = f"P{kind}\n".encode() + comment + f"{SIZE[1]} {SIZE[0]}\n{largest}\n".encode()
        if kind in "23":
            body = " ".join(map(str, array.ravel())).encode() + b"\n"
        else:
            body = array.astype(">u2" if largest > 255 else np.uint8).tobytes()
        path.write_bytes(head + body)
        stored = array.transpose(2, 0, 1).astype(np.uint16 if largest > 255 else np.uint8)
        count += 1
        if samples == 3 and largest > 255:
            with pytest.raises(InputError, match="PPM of values up to"):
                images.read_values(path)
            continue
        assert same(images.read_values(path), stored), (kind, largest)
        white = 65535 if largest > 255 else 255
        shown = np.floor(stored.astype(np.float64) * white / largest + 0.5)
        assert np.abs(images.read_image(path).numpy().astype(np.float64) - shown).max() <= (white % largest > 0), kind
        assert images.read_image(path).dtype == (torch.uint16 if largest > 255 else torch.uint8)
    for kind in "14":
        array = drawn("bool", SIZE)
        body = " ".join(map(str, array.astype(int).ravel())).encode()
        body = np.packbits(array, axis=1).tobytes() if kind == "4" else body + b"\n"
        path.write_bytes(f"P{kind}\n{SIZE[1]} {SIZE[0]}\n".encode() + body)
        assert same(images.read_image(path), (~array[None]) * np.uint8(255))  # 1 is black (man page of pbm)
        count += 1
    told("PGM, PPM and PBM", count)


def bmp(array: np.ndarray, bits: int, colours: np.ndarray | None, down: bool) -> bytes:
    """Return a BMP of (H, W) indices or (H, W, 3 or 4) RGB, of the second version of its header, by hand."""
    height, width = array.shape[:2]
    if bits == 24:
        rows = array[..., ::-1].reshape(height, -1)
    elif bits == 32:
        rows = array[..., [2, 1, 0, 3]].reshape(height, -1)
    else:
        single = (array[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).reshape(height, -1)
        rows = np.packbits(single, axis=1)
    rows = np.pad(rows.astype(np.uint8), ((0, 0), (0, -rows.shape[1] % 4)))
    body = (rows if down else rows[::-1]).tobytes()
    table = b"" if colours is None else np.pad(colours[:, ::-1], ((0, 0), (0, 1))).astype(np.uint8).tobytes()
    start = 54 + len(table)
    head = struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start)
    high = -height if down else height
    count = 0 if colours is None else len(colours)
    return head + struct.pack("<IiiHHIIiiII", 40, width, high, 1, bits, 0, len(body), 0, 0, count, 0) + table + body


def test_bmps_of_every_kind(tmp_path: Path) -> None:
    path, count = tmp_path / "a.bmp", 0
    for bits, down, size in itertools.product((1, 4, 8, 24, 32), (False, True), (SIZE, (1, 1), (7, 8))):
        colours = drawn("uint8", (2**bits, 3), seed=3) if bits <= 8 else None
        array = below(2 ** min(bits, 8), size if bits <= 8 else (*size, bits // 8)).astype(np.uint8)
        path.write_bytes(bmp(array, bits, colours, down))
        shown = (colours[array] if colours is not None else array[..., :3]).transpose(2, 0, 1)
        assert same(images.read_image(path), shown), (bits, down)
        if colours is not None:
            assert same(images.read_values(path), array[None]), (bits, down)
        count += 1
    for bits, greys, down, size in itertools.product((1, 4, 8), (2, 16, 256), (False, True), (SIZE, (1, 1), (7, 8))):
        if greys > 2**bits:
            continue
        table = np.repeat(np.linspace(0, 255, 2) if greys == 2 else np.arange(greys), 3).reshape(-1, 3)
        array = below(greys, size).astype(np.uint8)
        path.write_bytes(bmp(array, bits, table.astype(np.uint8), down))
        shown = table[array].transpose(2, 0, 1).astype(np.uint8)
        assert np.array_equal(images.read_image(path).expand(3, -1, -1), shown), (bits, greys, down)
        assert same(images.read_values(path), array[None]), (bits, greys, down)
        count += 1
    told("BMP", count)


def test_gifs_of_every_kind(tmp_path: Path) -> None:
    path, count = tmp_path / "a.gif", 0
    for colours, interlace, size in itertools.product((2, 4, 16, 200, 256), (0, 1), (SIZE, (1, 1))):
        table = drawn("uint8", (colours, 3), seed=colours)
        array = below(colours, size)
        written = Image.frombytes("P", size[::-1], array.astype(np.uint8).tobytes())
        written.putpalette(table.tobytes())
        written.save(path, interlace=interlace)
        expected = imagecodecs.gif_decode(path.read_bytes(), asrgb=True)
        assert np.array_equal(expected.reshape(*size, -1)[..., :3], table[array])
        assert same(images.read_image(path), table[array].transpose(2, 0, 1)), (colours, interlace)
        count += 1
    told("GIF", count)


def test_jpegs_of_every_kind(tmp_path: Path) -> None:
    """Against libjpeg-turbo by another way, to the last bit; CMYK against the plain formula of its printers."""
    path, count = tmp_path / "a.jpg", 0
    smooth = np.linspace(0, 255, SIZE[0] * SIZE[1]).reshape(SIZE)
    for mode, quality, subsampling, progressive in itertools.product(("L", "RGB", "CMYK"), (60, 95), (0, 2), (0, 1)):
        bands = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
        array = np.stack([np.roll(smooth, 40 * k) for k in range(bands)], -1).astype(np.uint8)
        written = Image.frombytes(mode, SIZE[::-1], array.tobytes())
        written.save(path, quality=quality, subsampling=subsampling, progressive=bool(progressive))
        decoded = imagecodecs.jpeg8_decode(path.read_bytes()).reshape(*SIZE, bands)
        if mode == "CMYK":  # stored inverted, as Adobe does
            cmyk = decoded.astype(int)
            black = 255 - cmyk[..., 3:]
            direct = np.clip(black - (cmyk[..., :3] * black + 127) // 255, 0, 255)
            inverse = 255 - cmyk
            black = 255 - inverse[..., 3:]
            turned = np.clip(black - (inverse[..., :3] * black + 127) // 255, 0, 255)
            found = images.read_image(path).numpy().transpose(1, 2, 0).astype(int)
            assert min(np.abs(found - direct).max(), np.abs(found - turned).max()) <= 1
        else:
            assert same(images.read_image(path), decoded.transpose(2, 0, 1)), (mode, quality, subsampling)
        count += 1
    told("JPEG", count)


def test_jpeg_2000_keeps_its_bits(tmp_path: Path) -> None:
    """Pillow spreads 12 and 15 bits over 16, and cuts colours to 8."""
    path, count = tmp_path / "a.jp2", 0
    for bits, bands in itertools.product((8, 10, 12, 15, 16), (1, 3)):
        array = below(2**bits, (64, 64, bands) if bands > 1 else (64, 64))
        array = array.astype(np.uint8 if bits == 8 else np.uint16)
        path.write_bytes(imagecodecs.jpeg2k_encode(array, level=0, reversible=True, bitspersample=bits, mct=False))
        assert same(images.read_image(path), array.transpose(2, 0, 1) if bands > 1 else array[None]), (bits, bands)
        count += 1
    told("JPEG 2000", count)


def test_the_table_has_its_thousands() -> None:
    counts = [int(found.replace(",", "")) for found in re.findall(r"\| ([\d,]+) \|$", PAGE, flags=re.MULTILINE)]
    assert sum(counts) >= 2000
