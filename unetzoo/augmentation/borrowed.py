"""Transforms of torchvision: which of them can be used, and how they are made to follow this package's rules."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from unetzoo.augmentation._base import bare
from unetzoo.augmentation.windows import IGNORED

CONTAINERS = (v2.Compose, v2.RandomApply, v2.RandomChoice, v2.RandomOrder)
"""Transforms that take a list of transforms."""
REFUSED = {
    name: reason
    for reason, names in {
        "mixes the images of a batch": "CutMix MixUp",
        "takes no masks": "AutoAugment AugMix RandAugment TrivialAugmentWide",
        "does not change the mask where it erases": "RandomErasing",
        "takes only 8-bit images": "JPEG",
        "makes several images from one": "FiveCrop TenCrop",
        "is made for boxes and points": "ClampBoundingBoxes ClampKeyPoints ConvertBoundingBoxFormat RandomIoUCrop "
        "SanitizeBoundingBoxes SanitizeKeyPoints SetClampingMode",
        "is made for videos": "UniformTemporalSubsample",
        "changes the type of the image": "ConvertImageDtype PILToTensor ToDtype ToImage ToPILImage ToPureTensor "
        "ToTensor",
        "changes the number of channels": "Grayscale RGB",
        "would normalise before the data set does": "Normalize",
        "takes arguments that a list of names cannot express": "Lambda LinearTransformation Transform",
    }.items()
    for name in names.split()
}
"""Name → why it cannot be used."""
TORCHVISION: dict[str, type[nn.Module]] = {
    name: found
    for name, found in vars(v2).items()
    if inspect.isclass(found) and issubclass(found, nn.Module) and name not in REFUSED
}
"""Name → class of those that can be used."""
CLIPPING = (
    v2.ColorJitter,
    v2.GaussianNoise,
    v2.RandomAdjustSharpness,
    v2.RandomAutocontrast,
    v2.RandomEqualize,
    v2.RandomInvert,
    v2.RandomPhotometricDistort,
    v2.RandomPosterize,
    v2.RandomSolarize,
)
"""Transforms that take 0 as black and 1 as white, and clip to this range, stretch to it, or convert to 8 bits."""
INSTEAD = (
    "use RandomBrightness, RandomContrast, RandomNoise and RandomBlur, which are relative to the image's own standard "
    "deviation and do not clip"
)
"""What to use instead."""


class Framed(nn.Module):
    """Replaces what a torchvision transform fills with 0 by the image's mean, and by IGNORED in the mask."""

    def __init__(self, transform: nn.Module, by_mean: bool) -> None:
        super().__init__()
        self.transform = transform
        self.by_mean = by_mean

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Shift the mean, and IGNORED, to 0 before the transform, and back after it."""
        mean = bare(image).mean((-2, -1), keepdim=True) if self.by_mean else 0
        image, mask = self.transform(tv_tensors.Image(image - mean), tv_tensors.Mask(mask - IGNORED))
        return tv_tensors.Image(image + mean), tv_tensors.Mask(mask + IGNORED)


def clipping(transform: nn.Module) -> list[str]:
    """Return the names of the transforms in this one, including itself, that need values from 0 to 1."""
    if isinstance(transform, CONTAINERS):
        return [name for child in transform.transforms for name in clipping(child)]
    whole = isinstance(transform, v2.GaussianNoise) and not transform.clip
    return [type(transform).__name__] if isinstance(transform, CLIPPING) and not whole else []


def construct(made: type[nn.Module], arguments: dict[str, Any]) -> nn.Module:
    """Return a transform that follows this package's rules where torchvision's defaults do not."""
    if made not in TORCHVISION.values():
        return made(**arguments)
    known = inspect.signature(made).parameters
    if "interpolation" in known:
        # Some of torchvision's transforms take the nearest pixel by default, for images too.
        arguments["interpolation"] = v2.InterpolationMode(arguments.get("interpolation", "bilinear"))
    by_mean = arguments.get("fill") is None
    if "fill" in known:
        arguments["fill"] = {tv_tensors.Mask: 0, "others": 0 if by_mean else arguments["fill"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning of torchvision's constructor means a wrong option
        transform = made(**arguments)
    return Framed(transform, by_mean) if "fill" in known or made is v2.CenterCrop else transform
