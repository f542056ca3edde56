"""What is written beside a mask by rows, when its rows are all done: objects, outlines, an overlay."""

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
    """What is written beside a mask by rows.

    Attributes:
        labels: class → label image of its objects, or None → of all.
        geojson: for their outlines.
        overlay: for image and mask in a smaller size.
        outline: the overlay has outlines alone.
        save: writes what it is given to the path of a label image or GeoJSON.
    """

    labels: Mapping[int | None, Path] = field(default_factory=dict)
    geojson: Path | None = None
    overlay: Path | None = None
    outline: bool = False
    save: Save = write_pieces

    @property
    def has_objects(self) -> bool:
        """Whether objects are asked for."""
        return bool(self.labels) or self.geojson is not None

    def write(
        self, mask: PartialMask, source: Rows, config: ModelConfig, split: float
    ) -> tuple[int | None, dict[str, int]]:
        """Write it all.

        Args:
            mask: whose rows are all done.
            source: the image.
            config: of the model.
            split: see ``unetzoo.objects.instances``.

        Returns:
            The number of objects, None where none were asked for; and what was written → its bytes.

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
                self.save(self.geojson, geojson_pieces(layers, config, **place, scale=source.scale))
                others["geojson"] = self.geojson.stat().st_size
        if self.overlay is not None:
            write_overlay(mask, source, config, self.overlay, outline=self.outline)
            others["overlays-outline" if self.outline else "overlays"] = self.overlay.stat().st_size
        return count, others
