"""Finds the images in files and folders, and names their masks."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unetzoo.errors import InputError, UnetzooError
from unetzoo.files.absent import absent
from unetzoo.images import IMAGE_SUFFIXES, is_image
from unetzoo.prediction.opened import OpenedRows
from unetzoo.prediction.outputs import RECORD, Job
from unetzoo.prediction.pixel_size import size_of
from unetzoo.prediction.slides import SlideRows, microns_of
from unetzoo.prediction.stored import SUFFIXES, StoredRows, count_planes, is_big
from unetzoo.printing import counted
from unetzoo.saving.records import model_in
from unetzoo.slides import SLIDES, Slide, can_be_slide, has_slide_suffix, is_slide, microns_in


def find_jobs(
    sources: Sequence[str | os.PathLike[str]],
    inside: Path | None = None,
    planes: str | None = None,
    slides: Mapping[str, Any] | None = None,
) -> list[Job]:
    """Return the images in files and folders, in the given order; those of a folder are sorted by name.

    Folders are searched with their sub-folders; in a data set, only ``images/`` is. Left out are hidden files, files
    without the ending of an image, links that lead back to a folder above, and folders of masks: ``inside`` and those
    of earlier runs. Files that are named are always taken. A mask has the name of its image with its own ending; if
    images differ only in their endings, the mask's name keeps the image's ending too. Wildcards, which not every shell
    expands, stand for the matching files, sorted by name; ``**`` matches folders inside folders.

    ``planes`` selects from a file of several planes, see ``unetzoo.images.read_image``; with "split" each plane is a
    separate image, and the number follows the name of its mask: "a_0.tif", "a_1.tif".

    ``slides`` has arguments of :class:`unetzoo.slides.Slide`. With "mpp" or "level" among them, all images are read as
    slides; without, only files that are slides by name or content. For other images too, "mpp_stored" is the size of a
    pixel if the file does not state it.

    Raises:
        ConfigError: an argument for slides is wrong.
        InputError: a file or folder does not exist, no images were found, or none is the slide that "mpp" or "level"
            is for.
    """
    found: list[tuple[Path, Path]] = []
    problems = []
    for source in map(Path, (path for given in sources for path in _expanded(given))):
        if source.is_dir() and source.suffix.lower() != ".zarr":
            if model_in(source) is not None and (source / "config.yaml").exists():
                problems.append(f"{str(source)!r} is the folder of a run: separate several models by commas")
            elif inside is not None and os.path.realpath(source) == os.path.realpath(inside):
                problems.append(f"{str(source)!r} is where masks are written: give another out=…")
            else:
                place = _images_of(source)
                found += [(path, path.relative_to(place)) for path in _inside(place, inside)]
        elif source.exists():
            found.append((source, Path(source.name)))
        else:
            problems.append(absent(source, "file or folder"))
    if problems:
        raise InputError("; ".join(problems))
    if not found:
        looked = ", ".join(map(repr, map(str, sources)))
        raise InputError(
            f"no images in {looked}: known endings are {', '.join(sorted({*IMAGE_SUFFIXES, '.zarr', *SLIDES}))}"
        )
    kept = list({os.path.realpath(path): (path, name) for path, name in reversed(found)}.values())[::-1]
    asked = {key: value for key, value in (slides or {}).items() if value is not None}
    as_slides = bool({"mpp", "level"} & set(asked))
    Slide("", **asked)  # or an error, before any work
    if as_slides and not any(can_be_slide(path) for path, _ in kept):
        raise InputError(_no_slides(kept[0][0], len(kept) - 1, asked))
    stems = [name.as_posix().removesuffix(suffix_of(name)) for _, name in kept]
    twice = {stem for stem, count in Counter(stems).items() if count > 1}
    return [
        Job(
            path,
            f"{name.as_posix() if stem in twice else stem}{number}{_ending(path)}",
            f"{stem}{number}{suffix_of(name)}",
            part,
            Slide(path, **asked) if as_slides or is_slide(path) else None,
            asked.get("mpp_stored"),
        )
        for (path, name), stem in zip(kept, stems, strict=True)
        for part, number in _planes(path, planes)
    ]


def _no_slides(first: Path, more: int, asked: Mapping[str, Any]) -> str:
    """Return the message about images that are to be read as slides, where none is a slide."""
    named = f"{str(first)!r} is no slide" if not more else f"{str(first)!r} and {counted(more, 'other')} are no slides"
    if "mpp" not in asked:
        return f"{named}: leave level={asked['level']} out"
    size = asked.get("mpp_stored") or asked["mpp"]
    return (
        f"{named}, and mpp={asked['mpp']:g} is the resolution at which slides are read: give mpp_stored={size:g} "
        "instead, the size of the pixels of an image that is no slide"
    )


def is_by_rows(job: Job) -> bool:
    """Return whether an image is read and written by rows: a slide, or an image too large for memory."""
    return job.slide is not None or is_big(job.source)


def opened(job: Job) -> OpenedRows:
    """Open an image that is read by rows; the caller must ``close`` it.

    Raises:
        ConfigError: the package that reads it is not installed.
        InputError: it cannot be read by rows.
    """
    if job.slide is not None:
        return SlideRows(job.slide, job.planes)
    rows = StoredRows(job.source, job.planes)
    rows.mpp = size_of(rows.name, rows.mpp, job.mpp)
    return rows


def microns(job: Job) -> tuple[float, float] | None:
    """Return µm per pixel of an image, down and across; None if unknown.

    Raises:
        ConfigError: the package that reads it is not installed.
        InputError: it cannot be read.
    """
    if job.slide is not None:
        return microns_of(job.slide, job.planes)
    return size_of(job.source.name, microns_in(job.source), job.mpp)


def _planes(path: Path, planes: str | None) -> list[tuple[str | int | None, str]]:
    """Return the planes of a file that are separate images, and how the names of their masks end."""
    if planes != "split":
        return [(planes, "")]
    try:
        count = count_planes(path)
    except UnetzooError:  # reading will report why
        return [(None, "")]
    digits = len(str(count - 1))
    return [(k, f"_{k:0{digits}}") for k in range(count)] if count > 1 else [(None, "")]


def _expanded(source: str | os.PathLike[str]) -> list[str]:
    """Return the paths that match wildcards; a path that exists, or matches nothing, is returned unchanged."""
    path = os.fspath(source)
    # Path.glob takes no pattern that begins at the root.
    return ([] if Path(path).exists() else sorted(glob.glob(path, recursive=True))) or [path]  # noqa: PTH207


def _images_of(folder: Path) -> Path:
    """Return where the images of a folder are: in a data set they are in ``images/``, next to the masks."""
    masks = any((folder / name).is_dir() for name in ("masks", "labels", "instances"))
    return folder / "images" if masks and (folder / "images").is_dir() else folder


def _inside(folder: Path, left_out: Path | None) -> Iterator[Path]:
    """Give the images of a folder and its sub-folders, sorted by name; each folder once, whatever links lead to it."""
    seen: set[Path] = set()
    for place, folders, names in os.walk(folder, onerror=_raised, followlinks=True):
        here = Path(place)
        real = here.resolve()
        root = real == folder.resolve()
        above = not root and folder.resolve().is_relative_to(real)
        masks = not root and ((here / RECORD).exists() or (left_out is not None and real == left_out.resolve()))
        if above or masks or real in seen:
            folders.clear()
            continue
        seen.add(real)
        arrays = sorted(name for name in folders if name.lower().endswith(".zarr") and not name.startswith("."))
        folders[:] = sorted(name for name in folders if name not in arrays and not name.startswith("."))
        files = (name for name in names if (is_image(name) or has_slide_suffix(name)) and not name.startswith("."))
        yield from (here / name for name in sorted((*files, *arrays)))


def suffix_of(name: Path) -> str:
    """Return an image's ending, with its dot; the ending of compressed NIfTI has two."""
    return name.name[-7:] if name.name.lower().endswith(".nii.gz") else name.suffix


def _ending(path: Path) -> str:
    """Return the ending of an image's mask: TIFF and zarr stay as they are, slides become TIFF, others PNG."""
    suffix = path.suffix.lower()
    if has_slide_suffix(path):
        return ".tif"
    return suffix if suffix in SUFFIXES else ".png"


def _raised(error: OSError) -> None:
    """Stop at a folder that cannot be read, whose images would otherwise be left out silently."""
    raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error
