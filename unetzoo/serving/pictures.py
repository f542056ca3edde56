"""Pictures of a segmented image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unetzoo import images, sheets
from unetzoo.config import ModelConfig
from unetzoo.serving.answers import Segmented

SIDE = 1200
"""Longest side of a picture on the page, in pixels; files have the full size."""


@dataclass(frozen=True)
class Picture:
    """An image with its mask and its objects, as they are drawn.

    Attributes:
        image: (3, H, W) uint8.
        mask: as :class:`unetzoo.prediction.Prediction` has it.
        labels: int32, (H, W) or (classes, H, W), the object of each pixel; None: classes are coloured.
        config: of the model.
    """

    image: Tensor
    mask: Tensor
    labels: Tensor | None
    config: ModelConfig

    def overlaid(self, opacity: float, *, outline: bool = False) -> Tensor:
        """Return the image with the mask over it, (3, H, W) uint8, as ``Prediction.overlay`` writes it.

        Args:
            opacity: from 0 to 1.
            outline: draw only the outlines.
        """
        if self.labels is not None:
            return images.overlay_objects(self.image, self.labels, opacity, outline=outline)
        return images.overlay(self.image, self._masks(), opacity, outline=outline)

    def painted(self) -> Tensor:
        """Return the mask alone, (3, H, W) uint8: white on black for a binary model, else in the classes' colours."""
        masks = self._masks()
        if self.config.pixel_task == "binary":
            return (masks * 255).byte().expand(3, -1, -1)
        return images.overlay(torch.zeros_like(self.image), masks, 1)

    def fitted(self) -> Picture:
        """Return it with no side longer than a page shows."""
        image = sheets.shrunk(self.image, SIDE)
        labels = None if self.labels is None else sheets.nearest(self.labels, image.shape[1:])
        return replace(self, image=image, mask=sheets.nearest(self.mask, image.shape[1:]), labels=labels)

    def _masks(self) -> Tensor:
        return sheets.class_masks(self.mask, self.config.pixel_task, self.config.num_classes)


def picture(seen: Segmented) -> Picture:
    """Return the picture in full size."""
    found, objects = seen.prediction, seen.objects
    return Picture(found.image, found.mask, None if objects is None else objects.labels, found.config)
