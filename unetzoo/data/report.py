"""The findings of :func:`unetzoo.data.check`, as a table, as JSON, or as one error."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from unetzoo.data.counting import TOLD, ObjectsReport
from unetzoo.data.examples import Example
from unetzoo.data.histograms import Histogram
from unetzoo.data.labels import Labels
from unetzoo.data.page import Page
from unetzoo.errors import ConfigError
from unetzoo.files.writing import write_file
from unetzoo.printing import aligned, printable, said_by_kind

Size = tuple[int, int]
_ALL = "'unetzoo data check --json' lists all"
_SHOWN = 6
"""Images in a notebook."""


@dataclass(frozen=True)
class SplitReport:
    """One split.

    Attributes:
        images: number of images, including those that cannot be read.
        groups: number of different groups; None where images are not grouped.
        smallest, median, largest: image sizes (height, width), by area; None if no image can be read.
        sizes: number of different image sizes.
        class_pixels: share of the counted pixels, by class; those of multilabel overlap.
        class_images: number of images in which each class occurs.
        ignored: share of pixels that do not count.
        empty: number of images with background only.
        outside: values outside the classes → number of pixels.
        objects: the counted objects; None where they were not counted.
    """

    images: int
    groups: int | None
    smallest: Size | None
    median: Size | None
    largest: Size | None
    sizes: int
    class_pixels: dict[str, float]
    class_images: dict[str, int]
    ignored: float
    empty: int
    outside: dict[str, int]
    objects: ObjectsReport | None


@dataclass(frozen=True, repr=False)
class DataReport:
    """Report on a data set. ``str()`` is tables and facts, or the problems.

    Attributes:
        source: folder or file.
        understood: the layout that was recognised, and the rule that pairs images with masks.
        labels: as given, with class names where folders give them.
        splits: by name.
        channels: number of channels, without an opaque alpha channel → number of images.
        dtypes: pixel type → number of images.
        stacks: number of planes, from 2 on → number of files.
        in_channels: the number that a model of these images needs; None where they differ too much.
        mean, std: of each channel over all pixels of the training split, with integers scaled as
            ``unetzoo.images.scaled`` does; None where nothing could be read.
        problems: what prevents training on the data, a sentence each.
        warnings: what may be intended or a mistake, a sentence each.
        histograms: distributions of sizes, values and objects; empty without a close check.
        examples: images for :meth:`write_html`; empty without a close check.
        command: the shell command that trains on the data; "" without a close check, where there are problems, or where
            options cannot express what the masks mean.
        call: the same in Python, which a notebook shows.
    """

    source: str
    understood: str
    labels: Labels
    splits: dict[str, SplitReport]
    channels: dict[int, int]
    dtypes: dict[str, int]
    stacks: dict[int, int]
    in_channels: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    histograms: tuple[Histogram, ...]
    examples: tuple[Example, ...]
    command: str
    call: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """Number of images by split."""
        return {name: split.images for name, split in self.splits.items()}

    def raise_for_problems(self) -> None:
        """Raise an error if there are problems.

        Raises:
            ConfigError: lists the problems, at most ten of a kind.
        """
        if self.problems:
            said, total = said_by_kind(self.problems, _ALL), len(self.problems)
            raise ConfigError(f"{self.source!r} cannot be trained on", said, total=total)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the examples, as values that JSON can hold."""
        found = dataclasses.asdict(dataclasses.replace(self, examples=()))
        return {name: value for name, value in found.items() if name != "examples"}

    def write_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report as one HTML page, with histograms, and with images under their masks as overlays.

        The page is self-contained: no scripts, no network. It has at most 24 images, of up to 256 pixels a side, which
        are read again.

        Args:
            path: of the file.

        Raises:
            WriteError: the file cannot be written.
        """
        write_file(path, self._page(self.examples, self.command).html())

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the page, with only a few of its images."""
        return self._page(self.examples[:_SHOWN], self.call).shown()

    def _page(self, examples: tuple[Example, ...], command: str) -> Page:
        problems, warnings = (said_by_kind(said, _ALL) for said in (self.problems, self.warnings))
        return Page(
            title=self.source,
            said=(self.labels.told, self.understood, self.verdict),
            sections={"Problems": problems, "Warnings": warnings, "Facts": [] if problems else self.facts()},
            command=command,
            tables=[] if problems else self.tables(),
            histograms=self.histograms,
            examples=examples,
            labels=self.labels,
        )

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return f"DataReport({self.source!r}: {counts or 'no images'}; {self.verdict})"

    def __str__(self) -> str:
        parts = [f"{printable(self.source)}: {printable(self.labels.told)}\n{printable(self.understood)}"]
        # For data that are refused, figures would describe only what could be read, or be 0.
        if not self.problems:
            parts += [aligned(table).rstrip() for table in self.tables()] + ["\n".join(map(printable, self.facts()))]
        for title, lines in (("warnings", self.warnings), ("problems", self.problems)):
            if lines:
                shown = [*map(printable, said_by_kind(lines, _ALL))]
                together = ", grouped by kind" if len(shown) < len(lines) else ""
                parts.append("\n  - ".join([f"{title} ({len(lines)}{together}):", *shown]))
        parts += [] if self.problems else [self.verdict]
        return "\n\n".join([*parts, *([f"train with\n{printable(self.command)}"] * bool(self.command))])

    @property
    def verdict(self) -> str:
        """The numbers of problems and warnings, in a line."""
        wrong, odd = len(self.problems), len(self.warnings)
        said = f"{wrong or 'no'} problem{'s' * (wrong != 1)}"
        return f"{said}, {odd} warning{'s' * (odd != 1)}" if odd else said

    def tables(self) -> list[list[list[str]]]:
        """Return tables of sizes, classes, objects and channels, each with a header row."""
        found = [self._sizes(), self._classes()]
        found += [self._objects()] if any(split.objects is not None for split in self.splits.values()) else []
        if self.mean is not None and self.std is not None:
            rows = [[str(k), f"{m:.5g}", f"{s:.5g}"] for k, (m, s) in enumerate(zip(self.mean, self.std, strict=True))]
            found.append([["channel", "mean", "std"], *rows])
        return found

    def facts(self) -> list[str]:
        """Return the facts outside the tables, a line each."""
        kinds = ", ".join(f"{kind} ({count})" for kind, count in self.dtypes.items())
        channels = ", ".join(f"{number} ({count})" for number, count in sorted(self.channels.items()))
        said = [f"pixels: {kinds or '–'}; channels: {channels or '–'}"]
        said[0] += f"; in_channels={self.in_channels}" if self.mean is not None else ""
        if self.stacks:
            files = ", ".join(f"{planes} ({count})" for planes, count in self.stacks.items())
            said.append(f"files with several planes: {files}; planes={self.labels.planes!r}")
        objects = [split.objects for split in self.splits.values() if split.objects is not None]
        if objects:
            how = " and ".join(sorted({one.how for one in objects}))
            total, counted = sum(self.counts.values()), sum(one.images for one in objects)
            joined = "" if how == TOLD else ", so objects that touch count as one"
            said.append(
                f"objects: {how}{joined}; counted in {counted} of {total} images; 'per image' and 'area' are medians, "
                "areas are in pixels"
            )
        elif self.histograms:
            said.append(
                "objects: not counted, as masks do not tell them apart; to count connected components, "
                "pip install 'unetzoo[objects]'"
            )
        return said

    def _sizes(self) -> list[list[str]]:
        header = ["split", "images", "smallest", "median", "largest", "sizes", "empty", "ignored"]
        grouped = any(split.groups is not None for split in self.splits.values())
        rows = [header + ["groups"] * grouped]
        for name, split in self.splits.items():
            sizes = ["–" if s is None else f"{s[0]}×{s[1]}" for s in (split.smallest, split.median, split.largest)]
            row = [name, str(split.images), *sizes, str(split.sizes), str(split.empty), _percent(split.ignored)]
            rows.append(row + [str(split.groups)] * grouped)
        return rows

    def _classes(self) -> list[list[str]]:
        splits = {name: split for name, split in self.splits.items() if split.images}
        rows = [["class", *(f"{name} {what}" for name in splits for what in ("pixels", "images"))]]
        for name in self.labels.counted:
            cells = ((_percent(s.class_pixels[name]), str(s.class_images[name])) for s in splits.values())
            rows.append([name, *(cell for pair in cells for cell in pair)])
        return rows

    def _objects(self) -> list[list[str]]:
        rows = [["split", "objects", "per image", "most", "area", "touching"]]
        for name, split in self.splits.items():
            found = split.objects
            if found is not None:
                area, touching = ("–" if x is None else f"{x:g}" for x in (found.area, found.touching))
                rows.append([name, str(found.total), f"{found.median:g}", str(found.most), area, touching])
        return rows


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
