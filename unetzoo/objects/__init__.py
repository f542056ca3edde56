"""From masks to objects: cleaning, connected components, matching, outlines, GeoJSON and COCO JSON.

Plain functions of masks in memory, usable without any model::

    mask = objects.cleaned(mask, "binary", 1, smallest=30, holes="all")
    found = objects.instances(mask, "binary", 1, probabilities=probabilities)
    record = objects.to_geojson(found, ["nucleus"])

Coordinates run along the edges of pixels, x to the right and y down: the upper left pixel covers 0…1 in both, and has
its centre at (0.5, 0.5). Masks are as models of a task give them: (H, W) of 0 and 1 for binary, (H, W) of classes
for multiclass, where class 0 is background and makes no objects, and (classes, H, W) of 0 and 1 for multilabel.
Needs ``pip install "unetzoo[objects]"``.
"""

from unetzoo.objects.cleaning import cleaned
from unetzoo.objects.coco import to_coco
from unetzoo.objects.finding import Instances, instances
from unetzoo.objects.geojson import to_geojson
from unetzoo.objects.matching import Matches, matched
from unetzoo.objects.outlines import polygons

__all__ = ["Instances", "Matches", "cleaned", "instances", "matched", "polygons", "to_coco", "to_geojson"]
