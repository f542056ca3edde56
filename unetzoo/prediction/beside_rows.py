"""Further outputs of a mask that is written by rows, once all rows are done: objects, outlines, an overlay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unetzoo.config import ModelConfig
from unetzoo.prediction.geography import georeference
from unetzoo.prediction.inputs import Rows
from unetzoo.prediction.objects_by_rows import Save, numbered, write_labels, write_pieces
from unetzoo.prediction.outlines_by_rows import geojson_pieces
from unetzoo.prediction.overlay_by_rows import write_overlay
from unetzoo.prediction.partial import PartialMask


@dataclass(frozen=True)
class Beside:
    """The files written in addition to a mask that is written by rows.

    Attributes:
        labels: class → path of the label image of its objects; None → path of the label image of all objects.
        geojson: path for the outlines of the objects.
        overlay: path for the image with the mask laid over it, at a smaller size.
        outline: the overlay shows only outlines.
        save: writes its input to the path of a label image or GeoJSON.
    """

    labels: Mapping[int | None, Path] = field(default_factory=dict)
    geojson: Path | None = None
    overlay: Path | None = None
    outline: bool = False
    save: Save = write_pieces

    @property
    def has_objects(self) -> bool:
        """Whether objects are requested."""
        return bool(self.labels) or self.geojson is not None

    def write(
        self, mask: PartialMask, source: Rows, config: ModelConfig, split: float
    ) -> tuple[int | None, dict[str, int]]:
        """Write all of these files.

        Args:
            mask: the mask, with all rows done.
            source: the image.
            config: configuration of the model.
            split: see ``unetzoo.objects.instances``.

        Returns:
            The number of objects, or None if objects were not requested; and kind of file → its size in bytes.

        Raises:
            InputError: the image cannot be read.
            WriteError: a file cannot be written.
        """
        count, others = None, {}
        if self.has_objects:
            layers = numbered(mask, config, split)
            count = sum(map(len, layers))
            if self.labels:
                write_labels(mask, layers, config, self.labels, self.save, source.mpp)
                others["labels"] = sum(path.stat().st_size for path in self.labels.values())
            if self.geojson:
                place = georeference(source.place)
                pieces = geojson_pieces(layers, config, **place, scale=source.scale, mpp=source.mpp)
                self.save(self.geojson, pieces)
                others["geojson"] = self.geojson.stat().st_size
        if self.overlay is not None:
            write_overlay(mask, source, config, self.overlay, outline=self.outline)
            others["overlays-outline" if self.outline else "overlays"] = self.overlay.stat().st_size
        return count, others
