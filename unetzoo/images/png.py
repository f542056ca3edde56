"""Images as PNG files."""

from __future__ import annotations

import io
import os

from torch import Tensor

from unetzoo.files.writing import write_file


def write_png(image: Tensor, path: str | os.PathLike[str], said: str = "") -> None:
    """Write an image as a PNG file, and make its folder if it is missing.

    Args:
        image: uint8, (3, H, W), or (H, W), which is grey; 16 bits if it is uint16.
        path: of the file.
        said: text that is stored in the file as "Description".

    Raises:
        WriteError: the file cannot be written.
    """
    write_file(path, png_of(image, said))


def png_of(image: Tensor, said: str = "") -> bytes:
    """Return the PNG file of an image, as :func:`write_png` takes it."""
    from PIL import Image, PngImagePlugin

    file, texts = io.BytesIO(), PngImagePlugin.PngInfo()
    if said:
        texts.add_itxt("Description", said)
    pixels = (image if image.ndim == 2 else image.permute(1, 2, 0)).numpy()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=texts)
    return file.getvalue()
