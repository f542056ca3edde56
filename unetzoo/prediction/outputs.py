"""Where the outputs of each image are written, and a check that no two go to the same place."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unetzoo import checks
from unetzoo.config import ModelConfig
from unetzoo.errors import InputError
from unetzoo.files.names import place_key
from unetzoo.files.writing import check_place
from unetzoo.objects import WRITERS, Writer, writers
from unetzoo.objects.components import ndimage
from unetzoo.objects.counting import check_counts
from unetzoo.objects.separating import check_separable, separable
from unetzoo.objects.table import check_table
from unetzoo.objects.writing import object_classes
from unetzoo.printing import printable
from unetzoo.slides import Slide

RECORD = ".unetzoo.json"
"""The file by which a folder of masks is recognised; it has the settings with which they were made."""
LEDGER = ".unetzoo.written"
"""Next to it: digests of the annotations that were written, which show whether somebody corrected them."""
KINDS = {"overlays": ".png", "probabilities": ".npy"}
"""Folders next to the masks → endings of their files; each annotation format has a folder with its name, too."""


@dataclass(frozen=True)
class Job:
    """An image, and where its mask is written.

    Attributes:
        source: the image's file, or zarr folder.
        name: path of the mask in the folder of masks, with / and its ending.
        image: path of the image in the folder that was given, with / and its ending.
        planes: which planes of its file are meant, as in ``unetzoo.images.read_image``.
        slide: how to read it, if it is a slide.
        mpp: µm per pixel, given for images whose files do not state it.
    """

    source: Path
    name: str
    image: str
    planes: str | int | None = None
    slide: Slide | None = None
    mpp: float | None = None


@dataclass(frozen=True)
class Outputs:
    """What is written for each image.

    Attributes:
        folder: folder of the masks, which keep the images' names and sub-folders.
        overlays: also write ``overlays/<name>.png``.
        probabilities: also write ``probabilities/<name>.npy``.
        formats: also write the objects in these formats, names of ``unetzoo.objects.WRITERS``:
            ``<format>/<name>.<suffix>`` and further files that they need, or one file for all images. For
            ``task="instances"``, "labels" is always written, see :meth:`of_model`.
        table: a CSV file with a row for each object of all images, see ``unetzoo.objects.table``; None: no table.
        outline: overlays show only outlines.
        counts: a CSV file with a row for each image, see ``unetzoo.objects.counts``; None: no such file.
    """

    folder: Path
    overlays: bool = False
    probabilities: bool = False
    formats: tuple[str, ...] = ()
    table: Path | None = None
    outline: bool = False
    counts: Path | None = None

    def of_model(self, config: ModelConfig, split: float) -> Outputs:
        """Return the outputs for a model: for ``task="instances"`` with label images, as masks do not separate objects.

        If the package that separates objects is not installed, and no format is requested, the label images are left
        out; the predictor has warned about this.

        Raises:
            ConfigError: the package is not installed, and formats are requested.
        """
        if config.task != "instances":
            return self
        if self.formats:
            check_separable(split)
        if "labels" in self.formats or not separable(split):
            return self
        return replace(self, formats=(*self.formats, "labels"))

    def mask(self, job: Job) -> Path:
        """Return the path of the mask; for a multi-label model see :func:`mask_paths`."""
        return self.folder / job.name

    def others(self, job: Job, config: ModelConfig) -> dict[str, list[Path]]:
        """Return what else is written for an image, and where."""
        found = {
            kind: [(self.folder / kind / job.name).with_suffix(ending)]
            for kind, ending in KINDS.items()
            if getattr(self, kind)
        }
        return found | {kind: list(paths.values()) for kind, paths in self.annotations(job, config).items()}

    def annotations(self, job: Job, config: ModelConfig) -> dict[str, dict[int | None, Path]]:
        """Return the paths of each format for the objects of an image, see :func:`annotation_paths`.

        Formats with one file for all images are left out.
        """
        return {
            kind: annotation_paths(
                (self.folder / kind / writer.folder / job.name).with_suffix(writer.suffix), writer, config
            )
            for kind, writer in self.writers().items()
            if not writer.many
        }

    def marked(self, kind: str, objects: bool) -> str:
        """Return the name of a kind of files in marks; for overlays it includes what they show, so that none mix."""
        if kind != "overlays":
            return kind
        return "-".join(["overlays", *(["objects"] if objects else []), *(["outline"] if self.outline else [])])

    def shared(self) -> dict[str, tuple[str, Path]]:
        """Return the files about all images: name of the format → its title, and the path of the file."""
        return {
            kind: (writer.title, self.folder / kind / f"{writer.folder}{writer.suffix}")
            for kind, writer in self.writers().items()
            if writer.many
        }

    def places(self) -> dict[str, Path]:
        """Return where everything but the masks is written: kind → its folder, or its file."""
        kinds = [kind for kind in KINDS if getattr(self, kind)]
        found = {kind: self.folder / kind for kind in (*kinds, *self.formats)}
        tables = {"objects": self.table, "counts": self.counts}
        return found | {kind: path for kind, path in tables.items() if path is not None}

    def check_tables(self) -> None:
        """Raise if a table cannot be written, which would otherwise be an error hours later.

        Raises:
            InputError: its name does not end in .csv, or both tables have one name.
            ConfigError: a package that it needs is not installed.
            WriteError: there is no such place.
        """
        if self.table is not None:
            check_table(self.table)
            check_place(self.table)
        if self.counts is not None:
            check_counts(self.counts)
            check_place(self.counts)
            ndimage()
        if None not in (self.table, self.counts) and _same_place(self.table, self.counts):
            raise InputError(f"table=… and counts=… would both be {printable(self.counts)}: give two names")

    @property
    def shown(self) -> str | None:
        """How overlays show masks and objects: "filled" or "outline"; None if there are no overlays."""
        return None if not self.overlays else "outline" if self.outline else "filled"

    def beside(self, config: ModelConfig) -> dict[Path, str]:
        """Return the additional files in the folders of formats: path → text."""
        names = list(object_classes(config.pixel_task, config.num_classes, config.class_names).values())
        return {
            self.folder / kind / name: text
            for kind, writer in self.writers().items()
            if writer.beside is not None
            for name, text in writer.beside(names).items()
        }

    def writers(self) -> dict[str, Writer]:
        """Return the formats.

        Raises:
            ConfigError: a format is unknown, or a package that it needs is not installed.
        """
        return writers(self.formats)


def _same_place(one: Path | None, other: Path | None) -> bool:
    return len({place_key(os.path.realpath(path)) for path in (one, other) if path is not None}) == 1


def mask_paths(path: str | os.PathLike[str], config: ModelConfig) -> list[Path]:
    """Return the files of a mask: for a multi-label model ``<folder>/<class>/<name>`` in place of ``<folder>/<name>``.

    A class whose name cannot be the name of a folder, or belongs to another folder, is "class_<number>" instead: a
    model's class names must not decide where files are written. On some systems, names that differ only in case are
    the same.
    """
    path = Path(path)
    if config.pixel_task != "multilabel":
        return [path]
    return [path.parent / folder / path.name for folder in class_folders(config)]


def annotation_paths(path: str | os.PathLike[str], writer: Writer, config: ModelConfig) -> dict[int | None, Path]:
    """Return the files of a format for ``path``: one for all classes (None), or one for each class, as for masks."""
    path = Path(path)
    if not writer.by_class or config.pixel_task == "binary":
        return {None: path}
    folders = class_folders(config)
    return {
        k: path.parent / folders[k] / path.name for k in object_classes(config.pixel_task, config.num_classes, None)
    }


def class_folders(config: ModelConfig) -> list[str]:
    """Return a folder for each class, see :func:`mask_paths`."""
    numbered = checks.class_names_of(None, config.task, config.num_classes)
    names = config.class_names or numbered
    count = Counter(map(place_key, names))
    taken = set(map(place_key, (*numbered, *KINDS, *WRITERS)))
    return [
        name if _is_plain(name) and count[place_key(name)] == 1 and place_key(name) not in taken else number
        for name, number in zip(names, numbered, strict=True)
    ]


def _is_plain(name: str) -> bool:
    return bool(re.fullmatch(r"[^\W_][\w ()+,-]*", name)) and len(os.fsencode(name)) <= 200


def check_outputs(jobs: Sequence[Job], outputs: Outputs, config: ModelConfig) -> None:
    """Raise if two files would be written to the same place, or if a file would overwrite an image.

    Names with the same :func:`~unetzoo.files.names.place_key` are the same place, so that a folder of masks can be
    copied to any system.

    Raises:
        InputError: lists the files that clash, and the fix.
    """
    sources = {os.path.realpath(job.source) for job in jobs}
    folder = Path(os.path.realpath(outputs.folder))
    files = {RECORD: ("record", "the settings"), LEDGER: ("record", "what was written")}
    folders: dict[str, tuple[str, str]] = {}
    problems: list[str] = []
    for what, of, name in _written(jobs, outputs, config):
        if str(folder / name) in sources:
            problems.append(f"the {what} of {of} would overwrite the image {printable(folder / name)}")
        key = place_key(name)
        others = [files.setdefault(key, (what, of))] if key not in folders else [folders[key]]
        while "/" in key:
            key = key.rpartition("/")[0]
            folders.setdefault(key, (what, of))
            others += [files[key]] if key in files else []
        problems += [_clash(other, (what, of), name) for other in others if other != (what, of)]
    if problems:
        fix = "rename the images, or predict each with its own out=…"
        if len(problems) == 1:
            raise InputError(f"{problems[0]}: {fix}")
        more = [f"and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        lines = "".join(f"\n  - {problem}" for problem in [*problems[:_LISTED], *more])
        raise InputError(f"some outputs would overwrite other files; {fix}:{lines}")


_LISTED = 10


def _written(jobs: Sequence[Job], outputs: Outputs, config: ModelConfig) -> Iterator[tuple[str, str, str]]:
    """Give each kind of output, its image, and its path in the folder, with /."""
    for job in jobs:
        # The mask of a multi-label model is one file if it is written by rows.
        for path in dict.fromkeys((*mask_paths(job.name, config), Path(job.name))):
            yield "mask", printable(job.source), path.as_posix()
        for kind, others in outputs.others(job, config).items():
            for path in others:
                yield kind, printable(job.source), path.relative_to(outputs.folder).as_posix()
    for title, path in outputs.shared().values():
        yield title, "all images", path.relative_to(outputs.folder).as_posix()
    for path in outputs.beside(config):
        yield "description", "all images", path.relative_to(outputs.folder).as_posix()


def _clash(one: tuple[str, str], other: tuple[str, str], name: str) -> str:
    if one[0] == other[0]:
        return f"{one[1]} and {other[1]} would both have the {one[0]} {printable(name)}"
    return f"the {one[0]} of {one[1]} and the {other[0]} of {other[1]} would both be {printable(name)}"
