"""Images in and out: reading, preparing for a network, overlays of masks, writing."""

from unetzoo.images.bands import write_bands as write_bands
from unetzoo.images.failing import explained as explained
from unetzoo.images.formats import (
    IMAGE_SUFFIXES as IMAGE_SUFFIXES,
    is_image as is_image,
    open_png as open_png,
    open_raster as open_raster,
)
from unetzoo.images.ifd import NODATA as NODATA, pages_of as pages_of
from unetzoo.images.medical import nifti_header as nifti_header
from unetzoo.images.missing import (
    blanked as blanked,
    darkened as darkened,
    fitted as fitted,
    may_lack as may_lack,
    missing_in as missing_in,
)
from unetzoo.images.moments import Moments as Moments, merged as merged, moments as moments
from unetzoo.images.overlays import (
    COLOURS as COLOURS,
    CYAN as CYAN,
    colours_on as colours_on,
    object_colours as object_colours,
    object_palette as object_palette,
    overlay as overlay,
    overlay_objects as overlay_objects,
)
from unetzoo.images.planes import CHOICES as CHOICES, Stack as Stack, stack_along as stack_along
from unetzoo.images.png import png_of as png_of, write_png as write_png
from unetzoo.images.preparing import (
    TWINS as TWINS,
    Levels as Levels,
    filled as filled,
    fit_channels as fit_channels,
    fits as fits,
    has_dead_alpha as has_dead_alpha,
    levels as levels,
    normalised as normalised,
    own_channels as own_channels,
    prepare as prepare,
    scaled as scaled,
    white as white,
)
from unetzoo.images.raster import Raster as Raster
from unetzoo.images.reading import (
    from_pil as from_pil,
    image_size as image_size,
    joined as joined,
    orientation as orientation,
    palette_of as palette_of,
    planes_of as planes_of,
    read as read,
    read_image as read_image,
    read_values as read_values,
    stored as stored,
)
from unetzoo.images.resizing import (
    mirrored as mirrored,
    resized as resized,
    resized_labels as resized_labels,
    resized_side as resized_side,
)
from unetzoo.images.tiff import TiffImage as TiffImage, nodata as nodata, upright as upright
