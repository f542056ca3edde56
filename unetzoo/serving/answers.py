"""The results for an image that a visitor sent. Nothing here depends on the page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from unetzoo import images, sheets
from unetzoo.errors import InputError
from unetzoo.objects import Instances
from unetzoo.prediction import Prediction, Predictor
from unetzoo.prediction.inputs import as_image
from unetzoo.prediction.remarks import Remark, ScaleError, kept
from unetzoo.prediction.results import mask_of, shows_objects
from unetzoo.serving import warnings
from unetzoo.serving.limits import Limits
from unetzoo.slides import is_pyramid


@dataclass(frozen=True)
class Segmented:
    """An image that a visitor sent, with the mask and the objects for one threshold.

    Attributes:
        prediction: the image as uint8 (3, H, W), and the mask; without probabilities.
        objects: of the mask; None if the model does not separate objects and ``split`` is not given, or if a package
            to find them is not installed.
        measured: the image as in its file, (C, H, W), in which intensities are measured; if there are no objects, or
            the file is 8-bit RGB, the image of ``prediction``.
    """

    prediction: Prediction
    objects: Instances | None
    measured: Tensor


class Answer:
    """The data kept for an image that a visitor sent: those needed for another threshold, and the last result.

    Args:
        found: with the image as uint8 (3, H, W). It takes 3 bytes per pixel, and 5 per pixel and class, or 1 per pixel
            if there is no threshold; objects take 4 per pixel and class, and their edges 4 per pixel.
        measured: the image as in its file, if objects are measured in it and it differs; it is kept, too.
        remarks: on its values, to be shown to the visitor.
    """

    def __init__(self, found: Prediction, measured: Tensor | None = None, remarks: Sequence[Remark] = ()) -> None:
        self.remarks = tuple(remarks)
        self._found = found
        self._measured = found.image if measured is None else measured
        self._last: tuple[float, Segmented] | None = None
        if found.config.pixel_task == "multiclass":
            self._last = 0.0, _segmented(found, self._measured)
            self._found = self._last[1].prediction

    def at(self, threshold: float) -> Segmented:
        """Return mask and objects for a threshold; a multi-class model has no threshold, and its mask never changes.

        The result for the last threshold is kept, so that drawing or writing it again does not find objects again.
        """
        found, last, config = self._found, self._last, self._found.config
        if last is None or (config.pixel_task != "multiclass" and last[0] != threshold):
            mask = mask_of(found.probabilities, config.task, (threshold,) * config.num_classes)
            self._found = replace(found, mask=mask)
            self._last = last = threshold, _segmented(self._found, self._measured)
        return last[1]

    @property
    def image(self) -> Tensor:
        """The image as it is shown, (3, H, W) uint8."""
        return self._found.image


def _segmented(found: Prediction, measured: Tensor) -> Segmented:
    objects = found.instances() if shows_objects(found.config, found.split) else None
    return Segmented(replace(found, probabilities=found.probabilities[:0].clone(), edges=None), objects, measured)


def answer(
    predictor: Predictor, path: str | os.PathLike[str], limits: Limits, *, pixels: int = 0, size_beside: int = 0
) -> Answer:
    """Segment an image that a visitor sent.

    Args:
        predictor: of the model.
        path: of the file.
        limits: of images.
        pixels, size_beside: of the visitor's other images, as :meth:`Limits.check` takes them.

    Raises:
        InputError: the image is refused; the message is one line without the name of a folder.
    """
    path = Path(path)
    try:
        limits.check(path, predictor.config.in_channels, pixels=pixels, size_beside=size_beside)
        if is_pyramid(path):
            raise InputError(f"{path.name} is a slide: send a part of it, saved as an ordinary image")
        image = as_image(path)
        with kept() as remarks:
            found = predictor(image)
    except ScaleError as error:
        raise InputError(
            f"{path.name}: {error.problem}; {warnings.saved_otherwise(predictor.config.pixels)}"
        ) from error
    except InputError as error:
        raise InputError(" ".join(str(error).replace(str(path), path.name).split())) from error
    visible = sheets.visible(found.image)
    shown = images.overlay(visible, torch.zeros(visible.shape[1:], dtype=torch.bool))
    known = not shows_objects(found.config, found.split) or torch.equal(shown, found.image)
    # The alpha channel is not measured, unless the model uses it.
    opaque = image.alpha and len(found.image) != found.config.in_channels
    measured = found.image[:-1] if opaque else found.image
    return Answer(replace(found, image=shown), None if known else measured, remarks)
