"""Shows a prediction as an image: below a notebook cell, in a viewer, or in a file."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from unetzoo import images, sheets
from unetzoo.config import ModelConfig
from unetzoo.files.writing import write_file

SIDE = 480
"""Longest side, in pixels, of each of two images next to each other: a notebook does not show more."""
ENLARGED = 240
"""Side, in pixels, to which small images are enlarged."""


@dataclass(frozen=True)
class Look:
    """The visible parts of a prediction.

    Attributes:
        image: (C, H, W), of any type.
        mask: as in :class:`unetzoo.prediction.Prediction`.
        labels: (H, W) or (classes, H, W), the number of each pixel's object; neighbouring objects differ in colour.
            None: classes are coloured.
        config: configuration of the model.
    """

    image: Tensor
    mask: Tensor
    labels: Tensor | None
    config: ModelConfig

    def painted(self, *, outline: bool = False) -> Tensor:
        """Return the image with mask or objects, or only their outlines, laid over it, (3, H, W) uint8."""
        image, config = sheets.visible(self.image), self.config
        if self.labels is not None:
            return images.overlay_objects(image, self.labels, outline=outline)
        return images.overlay(
            image, sheets.class_masks(self.mask, config.pixel_task, config.num_classes), outline=outline
        )

    def sheet(self, title: str, *, outline: bool = False) -> Tensor:
        """Return the image next to its :meth:`painted` copy, below title and legend, (3, H, W) uint8.

        Large images are made smaller before they are painted, and small ones are enlarged: the result is at most two
        times :data:`SIDE` pixels wide.
        """
        small = self._fitted()
        tiles = [sheets.enlarged(tile, ENLARGED) for tile in (small.image, small.painted(outline=outline))]
        columns = ("image", "mask" if self.labels is None else "objects")
        return sheets.titled([sheets.Row(title, tiles)], small._keys(), columns)

    def _keys(self) -> list[sheets.Key]:
        """Return the legend: the classes that occur, or a note that objects are coloured."""
        config, objects = self.config, self.labels is not None
        keys = sheets.class_keys(
            [self.image], config.pixel_task, config.num_classes, config.class_names, objects=objects
        )
        if objects:
            return keys
        layers = sheets.class_masks(self.mask, config.pixel_task, config.num_classes)
        there = layers.reshape(len(keys), -1).any(dim=1).tolist()
        return [key for key, shown in zip(keys, there, strict=True) if shown]

    def _fitted(self) -> Look:
        """Return a copy with an image (3, H, W) uint8 whose sides are not too long."""
        plain = images.overlay(sheets.visible(self.image), torch.zeros(self.image.shape[1:], dtype=torch.bool))
        image = sheets.shrunk(plain, SIDE)
        size = image.shape[1:]
        labels = None if self.labels is None else sheets.nearest(self.labels, size)
        return Look(image, sheets.nearest(self.mask, size), labels, self.config)


def show(image: Tensor, title: str) -> None:
    """Show an image, (3, H, W) uint8, wherever this runs; see :meth:`unetzoo.prediction.Prediction.show`.

    Raises:
        WriteError: there is no screen, and no file can be written.
    """
    if _in_notebook():
        display = import_module("IPython.display")  # the kernel has it; this package does not need it
        display.display(display.Image(data=images.png_of(image), format="png"))
        return
    if _has_screen() and _viewed(image, title):
        return
    with tempfile.NamedTemporaryFile(prefix="unetzoo_", suffix=".png", delete=False) as file:
        path = Path(file.name)
    write_file(path, images.png_of(image))
    print(path)


def _in_notebook() -> bool:
    """Return whether this runs in a kernel: Jupyter, VS Code and Colab have one, IPython in a terminal does not."""
    ipython = sys.modules.get("IPython")  # always loaded in a kernel
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def _has_screen() -> bool:
    """Return whether a window would be visible: on Linux with a display, elsewhere unless connected through SSH."""
    if sys.platform in ("win32", "darwin"):
        return "SSH_CONNECTION" not in os.environ
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _viewed(image: Tensor, title: str) -> bool:
    """Show an image in a viewer, and return whether Pillow has found one."""
    from PIL import Image, ImageShow

    return bool(ImageShow.show(Image.fromarray(image.permute(1, 2, 0).numpy()), title))
