"""Slides: images of several levels, whose pixels have a size in micrometres."""

from unetzoo.slides.asking import SLIDES as SLIDES, Slide as Slide, has_slide_suffix as has_slide_suffix
from unetzoo.slides.levels import Level as Level, Levels as Levels
from unetzoo.slides.microns import microns_in as microns_in
from unetzoo.slides.opening import can_be_slide as can_be_slide, open_slide as open_slide
from unetzoo.slides.pyramid import is_pyramid as is_pyramid, is_slide as is_slide, smaller_copies as smaller_copies
from unetzoo.slides.resampling import resampled as resampled, side_of as side_of, taps as taps
from unetzoo.slides.tissue import Tissue as Tissue, tissue_in as tissue_in
