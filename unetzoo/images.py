"""Pictures in and out: reading, preparing for a network, laying a mask over one.

Pillow comes with torchvision, which needs it; torchvision's own decoders are on their way out.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo.config import ModelConfig
from unetzoo.errors import InputError, UnetzooError

if TYPE_CHECKING:
    from PIL.Image import Exif, Image
    from PIL.ImageFile import ImageFile

CYAN = "#42d4f4"
COLOURS = ["#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", CYAN, "#f032e6"]
"""Of the masks of an overlay, in the order of the classes."""
BANDS = "CQS"
"""Axes, as tifffile calls them, that are channels of a picture: channels, unnamed ones, samples of a pixel."""


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Return a picture as (C, H, W), turned as its EXIF says.

    uint8, uint16 and float32 as they are stored, and of TIFFs also int8, int16, int32 and uint32; other floating
    point becomes float32. Reads what Pillow reads: PNG, JPEG, WebP, GIF, BMP, TIFF and more. Palettes become RGB or
    RGBA, one bit becomes 0 and 255, CMYK becomes RGB. Of several frames the first is taken. Colour PNGs of 16 bits
    come as 8: Pillow knows no other.

    TIFFs that Pillow does not read, or not all of, need ``tifffile``. Their bands are the samples of a pixel,
    planar or interleaved, and the pages that ImageJ, OME or tifffile call channels or one array; of time points,
    depths and all other pages the first is taken.

    Raises:
        InputError: no such file, no such picture, a damaged one, 64-bit integers, or numbers that are not finite.
    """
    image = _read(path, as_stored=False)
    if image.dtype in (torch.int64, torch.uint64):
        raise InputError(f"{str(path)!r} holds {image.dtype} pixels: integers of 8, 16 or 32 bits are needed")
    if image.is_floating_point() and not bool(image.isfinite().all()):
        wrong = int((~image.isfinite()).sum())
        raise InputError(
            f"{str(path)!r} has {wrong} values that are NaN or infinite: replace them, by the mean of their channel say"
        )
    return image


def read_values(path: str | os.PathLike[str]) -> Tensor:
    """Return what a file of labels stores, as (C, H, W): as :func:`read_image`, but indices of a palette stay indices.

    One bit becomes 0 and 1, and integers may have 64 bits.

    Raises:
        InputError: no such file, no such picture, or a damaged one.
    """
    return _read(path, as_stored=True)


def from_pil(picture: Image) -> Tensor:
    """Return an image of Pillow as :func:`read_image` returns that of a file.

    Raises:
        InputError: its pixels cannot be read.
    """
    try:
        return _decoded(picture, as_stored=False)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"a PIL image cannot be read ({type(error).__name__}: {error})") from error


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return height and width of the picture that :func:`read_image` returns, from the file's header alone.

    Raises:
        InputError: no such file, or no such picture.
    """
    with _opened(path) as file:
        if file is None:
            return _size_by_tifffile(path)
        tags = getattr(file, "tag_v2", {})  # some versions of Pillow have turned the size of a TIFF already
        width, height = (tags[_WIDTH], tags[_HEIGHT]) if tags else file.size
        return (width, height) if _exif(path, file).get(_ORIENTATION, 1) in _LYING else (height, width)


def nodata(path: str | os.PathLike[str]) -> float | None:
    """Return the value that a GeoTIFF has where nothing was measured, as GDAL writes it; None where it names none.

    Raises:
        InputError: it cannot be read.
    """
    _, text = tiff_tags(path, (_NODATA,)).get(_NODATA, (0, None))
    try:
        return float(text.strip("\0 ")) if isinstance(text, str) else None
    except ValueError:
        return None


def tiff_tags(path: str | os.PathLike[str], codes: Sequence[int]) -> dict[int, tuple[int, Any]]:
    """Return code → type and value of those tags that the first page of a TIFF has; nothing of other files.

    Raises:
        InputError: it cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    if not _is_tiff(path):
        return {}
    with explained(path):
        try:
            with Image.open(path) as file:
                tags: Any = getattr(file, "tag_v2", {})
                return {code: (tags.tagtype[code], tags[code]) for code in codes if code in tags}
        except (UnidentifiedImageError, Image.DecompressionBombError):  # many bands, or pixels: Pillow does not look
            with _tifffile_for(path).TiffFile(path) as whole:
                found = [whole.pages[0].tags.get(code) for code in codes]
                return {tag.code: (int(tag.dtype), tag.value) for tag in found if tag is not None}


def scaled(image: Tensor) -> Tensor:
    """Return float32: integers divided by the largest value of their type, floating point as it is."""
    return image.float() / (1 if image.dtype.is_floating_point else torch.iinfo(image.dtype).max)


def fit_channels(image: Tensor, in_channels: int) -> Tensor:
    """Return ``image`` (C, H, W) with ``in_channels`` channels: an alpha too many is dropped, grey is copied to RGB.

    Raises:
        InputError: the channels do not fit.
    """
    found = image.shape[0]
    if found == in_channels + 1 and found in (2, 4):
        return image[:in_channels]
    if found in (1, 2) and in_channels == 3:
        return image[:1].repeat(3, 1, 1)
    if found != in_channels:
        raise InputError(f"an image of {found} channels does not fit in_channels={in_channels}")
    return image


def has_dead_alpha(image: Tensor) -> bool:
    """Return whether the last of 2 or 4 channels (C, H, W) of integers is opaque everywhere."""
    if image.shape[0] not in (2, 4) or image.dtype.is_floating_point:
        return False
    return bool((image[-1].long() == torch.iinfo(image.dtype).max).all())


def normalised(image: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Tensor:
    """Return (image - mean) / std for each channel of ``image`` (C, H, W); as it is where there is neither."""
    if mean is None or std is None:
        return image
    return (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def prepare(image: Tensor, config: ModelConfig) -> Tensor:
    """Return ``image`` (C, H, W) as a batch (1, in_channels, H, W) that the model expects.

    Integers are scaled by the largest value of their type, so that 8 and 16 bits become [0, 1]; floating point is
    taken as it is. An alpha channel too many is dropped, grey is copied to RGB, and the channels normalised by
    ``config.mean`` and ``config.std`` where there are any. Training sees pictures through the same functions.

    Raises:
        InputError: the channels do not fit.
    """
    if image.ndim != 3:
        raise InputError(f"an image of shape {tuple(image.shape)}: (channels, height, width) is needed")
    return normalised(fit_channels(scaled(image), config.in_channels), config.mean, config.std)[None]


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[ImageFile | None]:
    """Give the picture as Pillow opened it, None for a TIFF that tifffile has to read.

    Raises:
        InputError: no such file, no such picture; and for whatever fails inside the block.
    """
    from PIL import Image, UnidentifiedImageError

    if not Path(path).is_file():
        raise InputError(f"{str(path)!r}: there is no such file")
    with explained(path):
        try:
            file = Image.open(path)
        except UnidentifiedImageError:
            if not _is_tiff(path):
                raise
            yield None
            return
        with file:
            yield file if _is_whole(file) else None


@contextlib.contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever reading a picture raises into one error.

    Raises:
        InputError: with the file's name.
    """
    try:
        yield
    except UnetzooError:
        raise
    # Damaged files raise whatever the decoder that stumbled knows: OSError, SyntaxError, struct.error and more.
    except Exception as error:
        raise InputError(f"{str(path)!r} cannot be read as a picture ({type(error).__name__}: {error})") from error


def _read(path: str | os.PathLike[str], as_stored: bool) -> Tensor:
    with _opened(path) as file:
        return _read_by_tifffile(path) if file is None else _decoded(file, as_stored)


def _decoded(file: Image, as_stored: bool) -> Tensor:
    """Return the pixels of what Pillow reads whole."""
    from PIL import ImageOps
    from torchvision.transforms.functional import pil_to_tensor

    tags = getattr(file, "tag_v2", {})
    depth, signed = (tags.get(_BITS) or (0,))[0], tags.get(_FORMAT) == (2,)
    picture = ImageOps.exif_transpose(file)
    stored = picture.mode
    if stored in _CONVERSIONS and not (as_stored and stored in ("1", "P")):
        target = _CONVERSIONS[stored]
        picture = picture.convert("RGBA" if picture.has_transparency_data else target)
    elif stored == "I;16B":  # torch knows its own machine's order of bytes alone
        picture = picture.convert("I")
    image: Tensor = pil_to_tensor(picture)
    if as_stored and stored == "1":
        return (image > 0).byte()
    if stored == "I" and depth == 32 and not signed:
        return image.view(torch.uint32)
    return image.to({"I;16B": torch.uint16, "I": torch.int16 if depth == 16 else torch.int32}.get(stored, image.dtype))


def _exif(path: str | os.PathLike[str], file: ImageFile) -> Exif:
    """Return EXIF, without decoding the picture: Pillow would, as a PNG may have some after its pixels."""
    from PIL import Image

    return file.getexif() if file.format != "PNG" or _has_late_texts(path) else Image.Image.getexif(file)


def _has_late_texts(path: str | os.PathLike[str]) -> bool:
    """Return whether a PNG has chunks after its pixels in which EXIF can be."""
    pixels = False
    with Path(path).open("rb") as stream:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            kind = head[4:]
            pixels |= kind == b"IDAT"
            if pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            stream.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def _is_tiff(path: str | os.PathLike[str]) -> bool:
    if not Path(path).is_file():  # a zarr array is a folder
        return False
    with Path(path).open("rb") as stream:
        return stream.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _is_whole(file: ImageFile) -> bool:
    """Return whether Pillow reads all bands and all bits; of a TIFF it may leave some out without a word."""
    tags = getattr(file, "tag_v2", None)
    if tags is None:
        return True
    if tags.get(_ORIENTATION, 1) in _LYING and tags.get(_COMPRESSION, 1) == 1:
        return False  # Pillow 13 reads their rows as columns
    described = any(mark in str(tags.get(_DESCRIPTION, "")) for mark in ('"shape"', "ImageJ=", "<OME"))
    if described and getattr(file, "n_frames", 1) > 1:
        return False
    unsigned = set(tags.get(_FORMAT) or (1,)) == {1}
    if max(tags.get(_BITS) or (1,)) <= 8:
        return unsigned and tags.get(_SAMPLES, 1) == len(file.getbands())
    return bool(tags.get(_SAMPLES, 1) == 1)


def _read_by_tifffile(path: str | os.PathLike[str]) -> Tensor:
    with _tifffile_for(path).TiffFile(path) as file:
        series = file.series[0]
        _refuse_bomb(series)
        array, axes, orientation = series.asarray(), series.axes, _orientation(series)
    for axis in range(len(axes) - 1, -1, -1):
        if axes[axis] not in f"{BANDS}YX":
            array, axes = array.take(0, axis), axes[:axis] + axes[axis + 1 :]
    bands = [axis for axis, letter in enumerate(axes) if letter not in "YX"]
    array = array.transpose(*bands, axes.index("Y"), axes.index("X"))
    array = array.reshape(-1, *array.shape[-2:])
    image = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    image = image.byte() * 255 if image.dtype == torch.bool else image
    image = image.float() if image.is_floating_point() else image
    image = image.mT if orientation in _LYING else image
    flips = [axis for axis, known in ((1, (3, 4, 7, 8)), (2, (2, 3, 6, 7))) if orientation in known]
    return image.flip(flips).contiguous()


def _size_by_tifffile(path: str | os.PathLike[str]) -> tuple[int, int]:
    with _tifffile_for(path).TiffFile(path) as file:
        series = file.series[0]
        size = series.shape[series.axes.index("Y")], series.shape[series.axes.index("X")]
        return size[::-1] if _orientation(series) in _LYING else size


def _orientation(series: Any) -> int:
    tag = series.keyframe.tags.get(_ORIENTATION)
    return 1 if tag is None else int(tag.value)


def _tifffile_for(path: str | os.PathLike[str]) -> Any:
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise InputError(
            f"{str(path)!r}: Pillow does not read this TIFF, or not all of its bands and bits; tifffile does: "
            'pip install "unetzoo[tiff]"'
        ) from error
    return tifffile


def _refuse_bomb(series: Any) -> None:
    """Keep to Pillow's bound on what a small file may unfold to."""
    from PIL import Image

    pixels = series.shape[series.axes.index("Y")] * series.shape[series.axes.index("X")]
    if Image.MAX_IMAGE_PIXELS is not None and pixels > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(f"{pixels} pixels, over {2 * Image.MAX_IMAGE_PIXELS}")


_CONVERSIONS = {"P": "RGB", "PA": "RGBA", "1": "L", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _DESCRIPTION = 256, 257, 258, 259, 270
_ORIENTATION, _SAMPLES, _FORMAT, _NODATA = 274, 277, 339, 42113
"""Tags of TIFF; the orientation is EXIF's too, the last is GDAL's."""
_LYING = (5, 6, 7, 8)
"""Orientations whose rows are stored as columns."""


def colours_on(image: Tensor, count: int) -> list[str]:
    """Return the colours of masks laid over a picture: :data:`COLOURS` in turn; of one alone cyan where all is red.

    Args:
        image: (C, H, W). It is red if that channel's mean is above one and a half times those of the others: retinas
            and endoscopy are, stained tissue is not.
        count: of masks.
    """
    if count == 1 and image.shape[0] >= 3:
        red, green, blue = image[:3].float().mean((-2, -1)).tolist()
        if red > 1.5 * max(green, blue):
            return [CYAN]
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


def overlay(image: Tensor, masks: Tensor, alpha: float = 0.5) -> Tensor:
    """Return the picture as (3, H, W) uint8 with one colour laid over each mask, and twice as much along its rim.

    The colours are those of :func:`colours_on`; where masks overlap, they are laid over each other. The rim lies inside
    of the mask; it is as wide as the 512th part of the picture's shorter side, a pixel at least.

    Args:
        image: (C, H, W), uint8, or uint16, which is stretched to its own darkest and brightest values; one channel
            is shown grey, of more than three the first three.
        masks: (H, W) or (classes, H, W), bool.
        alpha: how much of the colour covers, from 0 to 1; from 0.5 the rim has nothing but its colour.
    """
    if image.dtype != torch.uint8:
        light = image.float() - image.float().min()
        image = (light / light.max().clamp(min=1) * 255).byte()
    rgb = image[:1].expand(3, -1, -1) if image.shape[0] < 3 else image[:3]
    shown = rgb.float()
    layers = masks.reshape(-1, *masks.shape[-2:])
    width = max(1, min(masks.shape[-2:]) // 512)
    outside = F.max_pool2d((~layers)[:, None].float(), 2 * width + 1, stride=1, padding=width)[:, 0] > 0
    for mask, rim, name in zip(layers, layers & outside, colours_on(rgb, len(layers)), strict=True):
        colour = torch.tensor([*bytes.fromhex(name[1:])])[:, None, None]
        cover = alpha * (1 + rim.float()).clamp(max=1 / alpha if alpha else 1)
        shown = torch.where(mask, (1 - cover) * shown + cover * colour, shown)
    return shown.byte()


def write_png(image: Tensor, path: str | os.PathLike[str]) -> None:
    """Write (3, H, W) uint8 as a PNG file.

    Raises:
        InputError: the file cannot be written.
    """
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    try:
        Path(path).write_bytes(file.getvalue())
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written: {error.strerror}") from error
