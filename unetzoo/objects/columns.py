"""The columns of a table of objects: their meanings and units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PIXELS, AREA = "pixels", "pixels²"


@dataclass(frozen=True)
class Column:
    """A column of a table of objects.

    Attributes:
        name: its name in the table; for shapes and intensities the name in scikit-image.
        unit: "" if there is none.
        said: its meaning.
    """

    name: str
    unit: str
    said: str

    @property
    def in_microns(self) -> Column | None:
        """The same column in µm or µm², for images with a known pixel size; None if it has no such unit."""
        if self.name.startswith("bbox") or self.unit not in (PIXELS, AREA):
            return None
        name, unit = (f"{self.name}_um", "µm") if self.unit == PIXELS else (f"{self.name}_um2", "µm²")
        return Column(name, unit, f"`{self.name}` in {unit}")


NAMED = (
    Column("label", "", "the object's number in its image"),
    Column("class", "", "the name of its class"),
)
SHAPES = (
    Column("area", AREA, "the number of its pixels"),
    Column("centroid-0", PIXELS, "row of its centre, counted from the centre of the first row"),
    Column("centroid-1", PIXELS, "column of its centre, counted from the centre of the first column"),
    Column("bbox-0", PIXELS, "its first row"),
    Column("bbox-1", PIXELS, "its first column"),
    Column("bbox-2", PIXELS, "the row after its last"),
    Column("bbox-3", PIXELS, "the column after its last"),
    Column("axis_major_length", PIXELS, "the long axis of the ellipse that has the same second moments"),
    Column("axis_minor_length", PIXELS, "the short axis of that ellipse"),
    Column("eccentricity", "", "of that ellipse: 0 is a circle, near 1 is a line"),
    Column("orientation", "radian", "from the axis of rows to the long axis, counter-clockwise, −π/2 … π/2"),
    Column("perimeter", PIXELS, "a line through the centres of the pixels at its edge"),
    Column("equivalent_diameter_area", PIXELS, "the diameter of the circle of the same area"),
    Column("feret_diameter_max", PIXELS, "the greatest distance between two points of its outline"),
    Column("extent", "", "its area as a share of its box"),
    Column("area_convex", AREA, "the area of its convex hull"),
    Column("solidity", "", "its area as a share of its convex hull: 1 has no dents"),
    Column("euler_number", "", "how many parts it has, less its holes"),
)
INTENSITIES = (
    Column("intensity_mean", "", "the mean of a channel over its pixels, in the numbers of the file"),
    Column("intensity_std", "", "their standard deviation"),
    Column("intensity_min", "", "the smallest of them"),
    Column("intensity_max", "", "the largest of them"),
)
MICRONS = tuple(found for column in SHAPES if (found := column.in_microns) is not None)


def columns_of(channels: int, *, microns: bool) -> list[Column]:
    """Return the columns of a table, in their order.

    Args:
        channels: number of channels of the image, each with its intensities; "intensity_mean-0" is for the first.
        microns: whether to include columns in µm.
    """
    intensities = [
        Column(f"{column.name}-{k}", column.unit, column.said) for column in INTENSITIES for k in range(channels)
    ]
    return [*NAMED, *SHAPES, *intensities, *(MICRONS if microns else ())]


def properties_of(columns: Sequence[Column]) -> tuple[str, ...]:
    """Return the names in scikit-image: "centroid" for "centroid-0" and "centroid-1"."""
    return tuple(dict.fromkeys(column.name.partition("-")[0] for column in columns))
