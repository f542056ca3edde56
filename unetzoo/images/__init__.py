"""Images in and out: reading, preparing for a network, laying a mask over one, writing."""

from unetzoo.images.failing import explained as explained
from unetzoo.images.overlays import COLOURS as COLOURS, CYAN as CYAN, colours_on as colours_on, overlay as overlay
from unetzoo.images.png import write_png as write_png
from unetzoo.images.preparing import (
    fit_channels as fit_channels,
    has_dead_alpha as has_dead_alpha,
    normalised as normalised,
    prepare as prepare,
    scaled as scaled,
)
from unetzoo.images.reading import (
    from_pil as from_pil,
    image_size as image_size,
    orientation as orientation,
    palette_of as palette_of,
    read_image as read_image,
    read_values as read_values,
)
from unetzoo.images.tiff import BANDS as BANDS, nodata as nodata, tiff_tags as tiff_tags
