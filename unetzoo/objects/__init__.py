"""From masks to objects: cleaning, connected components, matching, outlines, and formats of labelling tools.

Plain functions of masks in memory, usable without any model::

    mask = objects.cleaned(mask, "binary", 1, smallest=30, holes="all")
    found = objects.instances(mask, "binary", 1, probabilities=probabilities)
    record = objects.to_geojson(found, ["nucleus"])

Coordinates run along the edges of pixels, x to the right and y down: the upper left pixel covers 0…1 in both, and has
its centre at (0.5, 0.5). Masks are as models of a task give them: (H, W) of 0 and 1 for binary, (H, W) of class indices
for multiclass, where class 0 is background and has no objects, and (classes, H, W) of 0 and 1 for multilabel.
Needs ``pip install "unetzoo[objects]"``.
"""

from unetzoo.objects import label_images as label_images  # it registers its formats
from unetzoo.objects.cleaning import cleaned
from unetzoo.objects.coco import to_coco
from unetzoo.objects.counting import counts
from unetzoo.objects.finding import Instances, instances
from unetzoo.objects.geojson import to_geojson
from unetzoo.objects.labelme import to_labelme
from unetzoo.objects.matching import matched
from unetzoo.objects.outlines import polygons
from unetzoo.objects.rois import to_rois
from unetzoo.objects.scores import ClassObjects, ObjectScores
from unetzoo.objects.table import table
from unetzoo.objects.writing import WRITERS, Annotated, Writer, register_writer, writers
from unetzoo.objects.yolo import to_yolo

__all__ = [
    "WRITERS",
    "Annotated",
    "ClassObjects",
    "Instances",
    "ObjectScores",
    "Writer",
    "cleaned",
    "counts",
    "instances",
    "matched",
    "polygons",
    "register_writer",
    "table",
    "to_coco",
    "to_geojson",
    "to_labelme",
    "to_rois",
    "to_yolo",
    "writers",
]
