"""What :func:`unetzoo.data.check` found, as a table, as JSON, or as one error."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unetzoo.data.labels import Labels
from unetzoo.errors import ConfigError
from unetzoo.printing import aligned, printable, said_once

Size = tuple[int, int]
_SHOWN = 20


@dataclass(frozen=True)
class SplitReport:
    """One split.

    Attributes:
        images: number of them, those that cannot be read included.
        groups: number of different groups; None where images are not grouped.
        smallest, median, largest: (height, width), by area; None without an image that can be read.
        sizes: number of different ones.
        class_pixels: share of the counted pixels, by class; those of multilabel overlap.
        class_images: in how many images the class occurs.
        ignored: share of pixels that do not count.
        empty: images without any class but background.
        outside: values outside the classes → pixels.
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


@dataclass(frozen=True)
class DataReport:
    """A data set. ``str()`` is a table, or what is wrong.

    Attributes:
        source: folder or file.
        understood: what it was taken for, and by which rule images and masks go together.
        labels: as given, with class names where folders tell them.
        splits: by name.
        channels: number of channels, an opaque alpha left out → images.
        dtypes: type of the pixels → images.
        in_channels: what a model of these images needs; None where they differ too much.
        mean, std: of each channel over all pixels of the training split, integers being scaled as
            ``unetzoo.images.scaled`` does; None where nothing could be read.
        problems: what keeps the data from being trained on, a sentence each.
        warnings: what may be meant, or not.
    """

    source: str
    understood: str
    labels: Labels
    splits: dict[str, SplitReport]
    channels: dict[int, int]
    dtypes: dict[str, int]
    in_channels: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of images by split."""
        return {name: split.images for name, split in self.splits.items()}

    def raise_for_problems(self) -> None:
        """Do nothing where there are no problems.

        Raises:
            ConfigError: lists them, twenty at most.
        """
        if self.problems:
            raise ConfigError(f"{self.source!r} cannot be trained on", _first(self.problems))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON-able values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        counted = ", ".join(map(printable, self.labels.counted))
        parts = [f"{printable(self.source)}: {self.labels.task}, {counted}\n{printable(self.understood)}"]
        # Of data that are refused, figures would be of what could be read of them, or 0.
        parts += [] if self.problems else self._tables()
        for title, lines in (("warnings", self.warnings), ("problems", self.problems)):
            if lines:
                parts.append("\n  - ".join([f"{title} ({len(lines)}):", *map(printable, _first(lines))]))
        return "\n\n".join([*parts, *([self._verdict()] * (not self.problems))])

    def _tables(self) -> list[str]:
        kinds = ", ".join(f"{kind} ({count})" for kind, count in self.dtypes.items())
        channels = ", ".join(f"{number} ({count})" for number, count in sorted(self.channels.items()))
        parts = [aligned(self._sizes()).rstrip(), aligned(self._classes()).rstrip()]
        parts.append(f"pixels: {kinds or '–'}; channels: {channels or '–'}")
        if self.mean is not None and self.std is not None:
            rows = [["channel", "mean", "std"]]
            rows += [[str(k), f"{m:.5g}", f"{s:.5g}"] for k, (m, s) in enumerate(zip(self.mean, self.std, strict=True))]
            parts[-1] += f"; in_channels={self.in_channels}"
            parts.append(aligned(rows).rstrip())
        return parts

    def _verdict(self) -> str:
        count = len(self.warnings)
        return f"no problems, {count} warning{'s' * (count != 1)}" if count else "no problems"

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


def _first(sentences: Sequence[str]) -> list[str]:
    lines = said_once(sentences)
    rest = [f"… and {len(lines) - _SHOWN} more; 'unetzoo data check --json' lists all"] * (len(lines) > _SHOWN)
    return [*lines[:_SHOWN], *rest]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
