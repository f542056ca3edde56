"""Random changes of an image and its mask together, composed of names and options as YAML gives them.

A composition is a list whose entries are names or mappings of one name to its options: the transforms here, those of
``torchvision.transforms.v2``, the presets, or dotted paths of one's own classes::

    augmentation:
      - light
      - GaussianBlur: {kernel_size: 3}
      - RandomApply: {transforms: [{RandomRotation: {degrees: 15}}], p: 0.3}

Three rules hold for all of them. Images are interpolated bilinearly, masks take the nearest pixel. What comes from
outside of an image has the mean of each of its channels and is :data:`IGNORED` in the mask, so that nothing invented
is learned from. And chance is torch's global generator alone: the same seed gives the same result, bit for bit.

Where a crop is wanted, it is cut out as early as the entries allow, with the margin that later ones reach into: a
large image is never warped to use a corner of it.
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
