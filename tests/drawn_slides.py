"""Slides as their scanners write them, drawn: for the tests of what reads them."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

GLASS = 243


def stained(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return glass with two pieces of tissue, pink, with violet nuclei in them: (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width, 3), GLASS, np.int16)
    for v, u, size in ((0.3, 0.25, 0.2), (0.65, 0.7, 0.17)):
        inside = ((y / height - v) / size) ** 2 + ((x / width - u) / size) ** 2 < 1
        image[inside] = (226, 150, 190)
        for _ in range(height * width // 9000):
            angle, share = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.8)
            middle = (v + size * share * np.sin(angle)) * height, (u + size * share * np.cos(angle)) * width
            radius = rng.uniform(4, 9)
            cut = tuple(slice(max(0, int(m - radius) - 1), int(m + radius) + 2) for m in middle)
            image[cut][(y[cut] - middle[0]) ** 2 + (x[cut] - middle[1]) ** 2 < radius**2] = (90, 60, 140)
    image += rng.integers(-3, 4, image.shape, np.int16)
    return image.clip(0, 255).astype(np.uint8)


def smaller(image: np.ndarray, step: int) -> np.ndarray:
    """Return a copy whose sides are cut to whole pixels, the mean of each square, as scanners make levels."""
    height, width = (side // step for side in image.shape[:2])
    cut = image[: height * step, : width * step].reshape(height, step, width, step, -1)
    return cut.mean((1, 3)).round().astype(image.dtype).reshape(height, width, *image.shape[2:])


def aperio(path: Path, image: np.ndarray, mpp: str | None = "0.2500", compression: str | None = "jpeg") -> Path:
    """Write an .svs: tiles, a thumbnail in strips, levels 4 and 16 times as small, a label and a macro."""
    height, width = image.shape[:2]
    said = f"Aperio Image Library v12.0.15\n{width}x{height} [0,0 {width}x{height}] (256x256) JPEG/RGB Q=70"
    said += "|AppMag = 40" + ("" if mpp is None else f"|MPP = {mpp}")
    how = {"photometric": "rgb", "metadata": None, "compression": compression}
    tiled = {**how, "tile": (256, 256)}
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, description=said, **tiled)
        writer.write(smaller(image, 8), description="Aperio Image Library", **how)
        for step in (4, 16):
            writer.write(smaller(image, step), description="Aperio Image Library", **tiled)
        writer.write(image[:40, :90], description="Aperio\nlabel 90x40", subfiletype=1, **how)
        writer.write(image[:60, :100], description="Aperio\nmacro 100x60", subfiletype=9, **how)
    return path


def ome(path: Path, image: np.ndarray, mpp: float = 0.5, **more: object) -> Path:
    """Write an OME-TIFF whose levels are sub-pages, 2 and 4 times as small; (H, W, 3) or (C, H, W)."""
    colour = image.shape[-1] == 3
    kind = {"photometric": "rgb" if colour else "minisblack", "tile": (64, 64)}
    said = {"axes": "YXS" if colour else "CYX", "PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm"}
    said |= {"PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm", **more}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(image, subifds=2, metadata=said, **kind)
        for step in (2, 4):
            part = smaller(image, step) if colour else np.stack([smaller(one, step) for one in image])
            writer.write(part, subfiletype=1, **kind)
    return path


def hamamatsu(path: Path, image: np.ndarray, mpp: float = 0.23) -> Path:
    """Write an .ndpi: JPEGs of whole levels, with Hamamatsu's tags."""
    with tifffile.TiffWriter(path) as writer:
        for lens, step in ((40.0, 1), (10.0, 4)):
            part = np.asarray(Image.fromarray(smaller(image, step)).convert("YCbCr"))
            tags = [(271, 2, 0, "Hamamatsu", True), (65420, 4, 1, 1, True), (65421, 11, 1, lens, True)]
            writer.write(
                part,
                photometric="ycbcr",
                subsampling=(1, 1),
                compression="jpeg",
                rowsperstrip=len(part),
                metadata=None,
                resolution=(1e4 / mpp / step,) * 2,
                resolutionunit="CENTIMETER",
                extratags=[*tags, *((tag, 9, 1, 0, True) for tag in (65422, 65423, 65424))],
            )
    return path


def leica(path: Path, image: np.ndarray, mpp: float = 0.5) -> Path:
    """Write an .scn: tiles, three levels, of a slide that lies 80 rows and 120 columns inside of the glass."""
    height, width = image.shape[:2]
    nm, steps = round(mpp * 1000), (1, 2, 4)
    sizes = "".join(
        f'<dimension sizeX="{width // step}" sizeY="{height // step}" r="{k}" ifd="{k}"/>'
        for k, step in enumerate(steps)
    )
    said = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="a" uuid="b" barcode="" sizeX="{(width + 300) * nm}" sizeY="{(height + 200) * nm}">'
        '<image name="i" uuid="c"><creationDate>2020-01-01T00:00:00Z</creationDate><device model="m" version="1"/>'
        f'<pixels sizeX="{width}" sizeY="{height}">{sizes}</pixels>'
        f'<view sizeX="{width * nm}" sizeY="{height * nm}" offsetX="{120 * nm}" offsetY="{80 * nm}" spacingZ="0"/>'
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.5</numericalAperture><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image></collection></scn>"
    )
    how = {"photometric": "rgb", "tile": (256, 256), "metadata": None, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for k, step in enumerate(steps):
            resolution = (1e4 / mpp / step,) * 2
            writer.write(smaller(image, step), description=None if k else said, resolution=resolution, **how)
    return path


def mirax(path: Path, image: np.ndarray, mpp: float = 0.25, side: int = 128, levels: int = 3) -> Path:
    """Write an .mrxs and its folder: PNGs of ``side`` pixels, each level half of that before it."""
    height, width = image.shape[:2]
    across, down = -(-width // side), -(-height // side)
    folder = path.with_suffix("")
    folder.mkdir()
    path.write_bytes(b"")
    data, pages = bytearray(), []
    for level in range(levels):
        part, step, entries = smaller(image, 2**level), 2**level, []
        for y in range(0, down, step):
            for x in range(0, across, step):
                tile = np.full((side, side, 3), GLASS, np.uint8)
                cut = part[y // step * side :, x // step * side :][:side, :side]
                tile[: cut.shape[0], : cut.shape[1]] = cut
                stream = io.BytesIO()
                Image.fromarray(tile).save(stream, "PNG")
                entries.append(struct.pack("<4i", y * across + x, len(data), len(stream.getvalue()), 0))
                data += stream.getvalue()
        pages.append(struct.pack("<2i", len(entries), 0) + b"".join(entries))
    (folder / "Data0000.dat").write_bytes(data)
    name = "0123456789ABCDEF0123456789ABCDEF"
    head = f"01.02{name}".encode()
    roots = len(head) + 8
    heads = roots + 4 * levels
    index, at = bytearray(), heads + 8 * levels
    index += head + struct.pack("<2i", roots, 0)
    index += b"".join(struct.pack("<i", heads + 8 * k) for k in range(levels))
    for page in pages:
        index += struct.pack("<2i", 0, at)
        at += len(page)
    (folder / "Index.dat").write_bytes(index + b"".join(pages))
    sections = "".join(f"HIER_0_VAL_{k}_SECTION = LAYER_{k}\n" for k in range(levels))
    layers = "".join(
        f"[LAYER_{k}]\nOVERLAP_X = 0\nOVERLAP_Y = 0\nMICROMETER_PER_PIXEL_X = {mpp * 2**k}\n"
        f"MICROMETER_PER_PIXEL_Y = {mpp * 2**k}\nIMAGE_FORMAT = PNG\nIMAGE_FILL_COLOR_BGR = 16777215\n"
        f"DIGITIZER_WIDTH = {side}\nDIGITIZER_HEIGHT = {side}\nIMAGE_CONCAT_FACTOR = {min(k, 1)}\n"
        for k in range(levels)
    )
    (folder / "Slidedat.ini").write_text(
        f"[GENERAL]\nSLIDE_VERSION = 01.02\nSLIDE_ID = {name}\nIMAGENUMBER_X = {across}\nIMAGENUMBER_Y = {down}\n"
        f"OBJECTIVE_MAGNIFICATION = 40\n[HIERARCHICAL]\nINDEXFILE = Index.dat\nHIER_COUNT = 1\nNONHIER_COUNT = 0\n"
        f"HIER_0_NAME = Slide zoom level\nHIER_0_COUNT = {levels}\n{sections}"
        f"[DATAFILE]\nFILE_COUNT = 1\nFILE_0 = Data0000.dat\n{layers}"
    )
    return path


def resized(image: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    """Return a part of an image at another size, (width, height), by Pillow."""
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box=box))
