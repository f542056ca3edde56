"""Objects as labelling tools write them: one reader per file, behind one registry.

document = annotations.read(Path("instances.json"))
document.drawings["a.png"].annotations[0].region.pixels((512, 512))
"""

from unetzoo.data.annotations import (  # importing registers them
    coco as coco,
    cvat as cvat,
    geojson as geojson,
    imagej as imagej,
    labelme as labelme,
    parsing as parsing,
    regions as regions,
    yolo as yolo,
)
from unetzoo.data.annotations._base import (
    ANNOTATION_FORMATS as ANNOTATION_FORMATS,
    BACKGROUND as BACKGROUND,
    IGNORE as IGNORE,
    Annotation as Annotation,
    AnnotationFormat as AnnotationFormat,
    Document as Document,
    Drawing as Drawing,
    format_of as format_of,
    known_format as known_format,
    read as read,
    register_annotation_format as register_annotation_format,
    suffixes as suffixes,
)
from unetzoo.data.annotations.mask_files import MaskFile as MaskFile
from unetzoo.data.annotations.others import advice as advice, may_be_other as may_be_other
from unetzoo.data.annotations.regions import (
    Part as Part,
    Pixels as Pixels,
    Polygons as Polygons,
    Region as Region,
)
