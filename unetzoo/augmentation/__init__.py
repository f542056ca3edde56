"""Random changes of an image together with its mask, composed of names and options from YAML.

A composition is a list whose entries are names, or mappings of one name to its options: the transforms here, those of
``torchvision.transforms.v2``, the presets, or dotted paths of your own classes::

    augmentation:
      - light
      - GaussianBlur: {kernel_size: 3}
      - RandomApply: {transforms: [{RandomRotation: {degrees: 15}}], p: 0.3}

Three rules hold for all of them. Images are interpolated bilinearly; masks take the nearest pixel. Pixels from outside
an image get the mean of each of its channels and are :data:`IGNORED` in the mask, so that training learns nothing from
them. All random numbers come from torch's global generator: the same seed gives the same result, bit for bit.

A crop is cut out as early as the entries allow, with the margin that later ones need: a large image is never warped
when only a corner of it is used.
"""

from unetzoo.augmentation.augmenting import Augmentation, build
from unetzoo.augmentation.composing import OURS, PRESETS
from unetzoo.augmentation.photometric import (
    RandomBlur,
    RandomBrightness,
    RandomContrast,
    RandomGamma,
    RandomLowResolution,
    RandomNoise,
)
from unetzoo.augmentation.warping import RandomQuarterTurn, RandomWarp
from unetzoo.augmentation.windows import IGNORED

__all__ = [
    "IGNORED",
    "OURS",
    "PRESETS",
    "Augmentation",
    "RandomBlur",
    "RandomBrightness",
    "RandomContrast",
    "RandomGamma",
    "RandomLowResolution",
    "RandomNoise",
    "RandomQuarterTurn",
    "RandomWarp",
    "build",
]
