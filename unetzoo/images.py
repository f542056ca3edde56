"""Pictures in and out: reading, drawing a test picture, laying a mask over one.

Pillow comes with torchvision, which needs it; torchvision's own decoders are on their way out.
"""

from __future__ import annotations

import io
import math
import os
from pathlib import Path

import torch
from torch import Tensor

from unetzoo.config import ModelConfig
from unetzoo.errors import InputError

COLOURS = ["#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6"]
"""Of the masks of an overlay, in the order of the classes."""


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Return a picture as (C, H, W), uint8, or uint16 where it has 16 bits, turned as its EXIF says.

    Reads what Pillow reads: PNG, JPEG, WebP, GIF, BMP, grey TIFF of 8 and 16 bits, and more. Palettes become RGB
    or RGBA, one bit becomes 0 and 255, CMYK becomes RGB. Of several frames the first is taken.

    Raises:
        InputError: no such file, no such picture, or a damaged one.
    """
    from PIL import Image, ImageOps
    from torchvision.transforms.functional import pil_to_tensor

    if not Path(path).is_file():
        raise InputError(f"{str(path)!r}: there is no such file")
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode in _CONVERSIONS:
                target = _CONVERSIONS[picture.mode]
                picture = picture.convert("RGBA" if picture.has_transparency_data else target)
            image: Tensor = pil_to_tensor(picture)
    # Damaged files raise whatever the decoder that stumbled knows: OSError, SyntaxError, struct.error and more.
    except Exception as error:
        raise InputError(f"{str(path)!r} cannot be read as a picture ({type(error).__name__}: {error})") from error
    if image.dtype not in (torch.uint8, torch.uint16):
        raise InputError(f"{str(path)!r} holds {image.dtype} pixels: 8 or 16 bits are needed")
    return image


_CONVERSIONS = {"P": "RGB", "PA": "RGBA", "1": "L", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB"}


def prepare(image: Tensor, config: ModelConfig) -> Tensor:
    """Return ``image`` (C, H, W) as a batch (1, in_channels, H, W) that the model expects.

    Integers are scaled by the largest value of their type, so that 8 and 16 bits become [0, 1]; floating point is
    taken to be there already. An alpha channel too many is dropped, grey is copied to RGB, and the channels
    normalised by ``config.mean`` and ``config.std`` where there are any.

    Raises:
        InputError: the channels do not fit.
    """
    if image.ndim != 3:
        raise InputError(f"an image of shape {tuple(image.shape)}: (channels, height, width) is needed")
    found, wanted = image.shape[0], config.in_channels
    image = image.float() / (1 if image.dtype.is_floating_point else torch.iinfo(image.dtype).max)
    if found == wanted + 1 and found in (2, 4):
        image = image[:wanted]
    elif found in (1, 2) and wanted == 3:
        image = image[:1].repeat(3, 1, 1)
    elif found != wanted:
        raise InputError(f"an image of {found} channels: {config.name} was created with in_channels={wanted}")
    if config.mean is not None and config.std is not None:
        mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
        image = (image - mean) / std
    return image[None]


def draw_nuclei(height: int = 256, width: int = 256, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw bright nuclei on a dark ground, as fluorescence microscopy shows them.

    Returns:
        The picture, (3, height, width) uint8, and its true mask, (height, width) bool.
    """
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    light = torch.full((height, width), 0.06)
    mask = torch.zeros(height, width, dtype=torch.bool)
    for _ in range(max(1, height * width // 2500)):
        cy, cx, radius, stretch, turn, glow = torch.rand(6, generator=generator).tolist()
        dy, dx = y - cy * height, x - cx * width
        turn *= math.pi
        along = (dx * math.cos(turn) + dy * math.sin(turn)) / (1 + 0.6 * stretch)
        across = dy * math.cos(turn) - dx * math.sin(turn)
        inside = 1 - (along**2 + across**2).sqrt() / (6 + 9 * radius)
        light = torch.maximum(light, (0.35 + 0.6 * glow) * (6 * inside).clamp(0, 1))
        mask |= inside > 0
    noise = 0.03 * torch.randn(height, width, generator=generator)
    grey = ((light + noise).clamp(0, 1) * 255).byte()
    return grey.expand(3, height, width).contiguous(), mask


def overlay(image: Tensor, masks: Tensor, alpha: float = 0.5) -> Tensor:
    """Return the picture as (3, H, W) uint8 with one colour laid over each mask.

    Args:
        image: (C, H, W), uint8, or uint16, which is stretched to its own darkest and brightest values; one channel
            is shown grey, of more than three the first three.
        masks: (H, W) or (classes, H, W), bool.
        alpha: how much of the colour covers.
    """
    from torchvision.utils import draw_segmentation_masks

    if image.dtype != torch.uint8:
        light = image.float() - image.float().min()
        image = (light / light.max().clamp(min=1) * 255).byte()
    rgb = image[:1].expand(3, -1, -1) if image.shape[0] < 3 else image[:3]
    colours = [COLOURS[k % len(COLOURS)] for k in range(1 if masks.ndim == 2 else len(masks))]
    shown: Tensor = draw_segmentation_masks(rgb.contiguous(), masks, alpha=alpha, colors=colours)
    return shown


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
