"""Folders of images: reading, computing and writing at the same time, and nothing done twice."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unetzoo import images, objects
from unetzoo.config import ModelConfig
from unetzoo.data.listing import IMAGE_SUFFIXES
from unetzoo.errors import ConfigError, InputError, UnetzooError
from unetzoo.files.writing import write_file
from unetzoo.prediction.inputs import Rows, as_image
from unetzoo.prediction.predictor import Predictor
from unetzoo.prediction.results import Prediction, mark_in as marked, mask_paths, write_masks
from unetzoo.prediction.stored import SUFFIXES, StoredRows, is_big
from unetzoo.saving.records import model_in

READ_AHEAD = 4
"""Images that wait for the network, and masks that wait to be written, at most."""
RECORD = ".unetzoo.json"


@dataclass(frozen=True)
class Job:
    """An image and where its mask goes.

    Attributes:
        source: its file, or zarr folder.
        name: of the mask, inside the folder of masks, with / and its ending.
    """

    source: Path
    name: str


@dataclass(frozen=True)
class Outcome:
    """What became of an image; all but ``job`` is None where it was there already.

    Attributes:
        found: what was found, None where it was written by rows.
        objects: how many objects, where they were asked for.
        error: what is wrong with it.
        rows: finished rows of an image that is written by rows, and all of them: it is not through yet where these
            differ.
    """

    job: Job
    found: Prediction | None = None
    objects: int | None = None
    error: str | None = None
    rows: tuple[int, int] | None = None


Tell = Callable[[Outcome], object]


class _Listener:
    """A listener whose own errors, of a closed pipe or a full disk, are told from those of images.

    Args:
        tell: what is called.

    Attributes:
        error: what it raised.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self.error: Exception | None = None

    def __call__(self, outcome: Outcome) -> None:
        try:
            self._tell(outcome)
        except Exception as error:
            self.error = error
            raise


@dataclass
class Report:
    """What became of a folder.

    Attributes:
        done: images that were segmented.
        skipped: those whose masks were there already.
        failed: image → what is wrong with it.
    """

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outputs:
    """What is written of each image.

    Attributes:
        folder: of the masks, which keep the images' names and sub-folders.
        overlays: also ``overlays/<name>.png``.
        probabilities: also ``probabilities/<name>.npy``.
        objects: also ``objects/<name>.geojson``.
    """

    folder: Path
    overlays: bool = False
    probabilities: bool = False
    objects: bool = False

    def mask(self, job: Job) -> Path:
        """Return where the mask goes, the name of the file for a model of several labels."""
        return self.folder / job.name

    def others(self, job: Job) -> dict[str, Path]:
        """Return what else is written, and where."""
        wanted = {"overlays": ".png", "probabilities": ".npy", "objects": ".geojson"}
        return {
            kind: (self.folder / kind / job.name).with_suffix(ending)
            for kind, ending in wanted.items()
            if getattr(self, kind)
        }


def find_jobs(sources: Sequence[str | os.PathLike[str]], inside: Path | None = None) -> list[Job]:
    """Return the images among files and folders, in the order given, those of a folder by name.

    Folders are searched with their sub-folders, of a data set only ``images/``. Hidden files, files without an
    image's ending, links that lead back to a folder above, and folders of masks, ``inside`` and those of earlier
    runs, are left out. Files that are named are always taken. A mask has its image's name with its own ending; of
    images that differ in their endings alone, the whole name before it. Wildcards, which not every shell expands,
    stand for the files that fit, by name; ``**`` for folders in folders.

    Raises:
        InputError: there is no such file or folder, no image in any, or two whose masks would have one name.
    """
    found: list[tuple[Path, Path]] = []
    problems = []
    for source in map(Path, (path for given in sources for path in _expanded(given))):
        if source.is_dir() and source.suffix.lower() != ".zarr":
            if model_in(source) is not None and (source / "config.yaml").exists():
                problems.append(f"{str(source)!r} is the folder of a run: several models go with commas between them")
            elif inside is not None and os.path.realpath(source) == os.path.realpath(inside):
                problems.append(f"{str(source)!r} is where masks go: give another --out")
            else:
                place = _images_of(source)
                found += [(path, path.relative_to(place)) for path in _inside(place, inside)]
        elif source.exists():
            found.append((source, Path(source.name)))
        else:
            problems.append(f"{str(source)!r}: there is no such file or folder")
    if problems:
        raise InputError("; ".join(problems))
    if not found:
        looked = ", ".join(map(repr, map(str, sources)))
        raise InputError(f"no images in {looked}: {', '.join(sorted(IMAGE_SUFFIXES | {'.zarr'}))} are looked for")
    kept = list({os.path.realpath(path): (path, name) for path, name in reversed(found)}.values())[::-1]
    stems = [name.with_suffix("").as_posix() for _, name in kept]
    twice = {stem for stem, count in Counter(stems).items() if count > 1}
    jobs = [
        Job(path, f"{name.as_posix() if stem in twice else stem}{_ending(path)}")
        for (path, name), stem in zip(kept, stems, strict=True)
    ]
    taken: dict[str, Path] = {}
    for job in jobs:
        other = taken.setdefault(job.name, job.source)
        if other != job.source:
            raise InputError(f"{other} and {job.source} would both have the mask {job.name}: give each its own --out")
    return jobs


def _expanded(source: str | os.PathLike[str]) -> list[str]:
    """Return what a path with wildcards stands for; a path that exists, or fits nothing, as it is."""
    path = os.fspath(source)
    # Path.glob takes no pattern that begins at the root.
    return ([] if Path(path).exists() else sorted(glob.glob(path, recursive=True))) or [path]  # noqa: PTH207


def _images_of(folder: Path) -> Path:
    """Return where the images of a folder are: of a data set in ``images/``, beside its masks."""
    masks = any((folder / name).is_dir() for name in ("masks", "labels"))
    return folder / "images" if masks and (folder / "images").is_dir() else folder


def predict_files(
    predictor: Predictor,
    jobs: Sequence[Job],
    outputs: Outputs,
    settings: dict[str, Any],
    *,
    overwrite: bool = False,
    tell: Tell = lambda outcome: None,
) -> Report:
    """Segment images into a folder: one bad file stops nothing, and what is there already is not done again.

    Images are read and masks written by threads of their own, at most ``READ_AHEAD`` of each waiting.

    Args:
        predictor: segments them.
        jobs: from :func:`find_jobs`.
        outputs: what is written, and where.
        settings: JSON-able; kept in the folder as ``.unetzoo.json``.
        overwrite: do all of them anew. Otherwise an image is skipped whose files are there and newer than itself.
        tell: is called for each image when it is through, and after each strip of one that is written by rows. What
            it raises ends the call: it is no image's failure.

    Raises:
        ConfigError: the folder holds masks made with other settings, or files of one's own.
    """
    _keep_record(outputs.folder, settings, overwrite)
    report, tell = Report(), _Listener(tell)
    left = []
    for job in jobs:
        with _reported(report, job, tell):
            if not overwrite and _is_done(job, outputs, predictor.config):
                report.skipped.append(job.source)
                tell(Outcome(job))
            else:
                left.append(job)
    with ThreadPoolExecutor(READ_AHEAD) as readers, ThreadPoolExecutor(2) as writers:
        writing: deque[tuple[Job, Prediction, Future[int | None]]] = deque()
        for job, reading in _read_ahead(readers, left):
            with _reported(report, job, tell):
                source = reading.result()
                if isinstance(source, StoredRows):
                    with source:
                        _write_by_rows(predictor, source, job, outputs, settings, tell)
                    report.done.append(job.source)
                else:
                    found = predictor(source)
                    writing.append((job, found, writers.submit(_write, found, job, outputs)))
            _settle(report, writing, READ_AHEAD, tell)
        _settle(report, writing, 0, tell)
    return report


def write_coco(path: str | os.PathLike[str], jobs: Sequence[Job], outputs: Outputs, config: ModelConfig) -> None:
    """Write the objects of all masks as one file of COCO JSON, see ``unetzoo.objects.to_coco``.

    Raises:
        WriteError: the file cannot be written.
    """

    def found() -> Iterator[tuple[str, objects.Instances]]:
        for job in jobs:
            layers = [images.read_values(path)[0] for path in mask_paths(outputs.mask(job), config)]
            mask = layers[0] if config.task == "multiclass" else torch.stack(layers).gt(0).byte()
            mask = mask[0] if config.task == "binary" else mask
            yield job.source.name, objects.instances(mask, config.task, config.num_classes)

    write_file(path, json.dumps(objects.to_coco(found(), config.class_names)))


def _read_ahead(readers: ThreadPoolExecutor, jobs: Sequence[Job]) -> Iterator[tuple[Job, Future[Rows]]]:
    """Give each job with its image being read, a few ahead of the one that is asked for."""
    waiting: deque[tuple[Job, Future[Rows]]] = deque()
    for job in jobs:
        waiting.append((job, readers.submit(_read, job)))
        if len(waiting) > READ_AHEAD:
            yield waiting.popleft()
    yield from waiting


def _read(job: Job) -> Rows:
    return StoredRows(job.source) if is_big(job.source) else as_image(job.source)


def _settle(
    report: Report, writing: deque[tuple[Job, Prediction, Future[int | None]]], most: int, tell: _Listener
) -> None:
    """Wait until at most so many masks are still being written."""
    while len(writing) > most:
        job, found, written = writing.popleft()
        with _reported(report, job, tell):
            count = written.result()
            report.done.append(job.source)
            tell(Outcome(job, found, count))


@contextlib.contextmanager
def _reported(report: Report, job: Job, tell: _Listener) -> Iterator[None]:
    try:
        yield
    # What one image cannot do, for want of memory as well, the next may: all of it is in the report.
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        if tell.error is not None:
            raise tell.error from None  # perhaps behind another error, of the file that was being written
        message = str(error) if isinstance(error, UnetzooError) else f"{type(error).__name__}: {error}"
        # Many messages begin with the file's name, which stands before all of them.
        report.failed[job.source] = message.removeprefix(repr(str(job.source))).lstrip(": ").partition("\n")[0]
        tell(Outcome(job, error=report.failed[job.source]))


def _write(found: Prediction, job: Job, outputs: Outputs) -> int | None:
    """Write all that is wanted of an image, the mask last: where it is, all is. Return the number of objects."""
    others, count = outputs.others(job), None
    if "overlays" in others:
        found.overlay(others["overlays"])
    if "probabilities" in others:
        found.save_probabilities(others["probabilities"])
    if "objects" in others:
        record = found.geojson()
        count = len(record["features"])
        write_file(others["objects"], json.dumps(record))
    write_masks(outputs.mask(job), found, mark_of(job.source))
    return count


def _write_by_rows(
    predictor: Predictor, source: StoredRows, job: Job, outputs: Outputs, settings: dict[str, Any], tell: Tell
) -> None:
    asked = [*outputs.others(job), *(name for name in ("smallest", "holes") if getattr(predictor, name))]
    if asked:
        raise InputError(f"so large an image is written by rows, without {', '.join(asked)}: leave that out for it")

    def finished(rows: int) -> None:
        tell(Outcome(job, rows=(rows, source.height)))

    predictor.write_rows(source, outputs.mask(job), settings, finished)


def mark_of(source: Path) -> str:
    """Return what is written into a mask to know its image again: a digest of where it lies."""
    return f"unetzoo {hashlib.sha256(os.path.realpath(source).encode()).hexdigest()[:24]}"


def _keep_record(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    path = folder / RECORD
    if not path.exists() and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds files that are not this command's, true masks perhaps: give a new --out")
    try:
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() and not overwrite else settings
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): give another --out, or --overwrite") from error
    now = json.loads(json.dumps(settings))
    changed = [
        f"{name}: {before.get(name)!r} there, {now.get(name)!r} now" for name in now if before.get(name) != now[name]
    ]
    if changed and before is not settings:
        raise ConfigError(f"{folder} holds masks made with other settings: give another --out, or --overwrite", changed)
    write_file(path, json.dumps(settings, indent=2))


def _is_done(job: Job, outputs: Outputs, config: ModelConfig) -> bool:
    mask = outputs.mask(job)
    masks = mask_paths(mask, config)
    if job.source.suffix.lower() in SUFFIXES and mask.exists():
        masks = [mask]  # one file, written by rows
    there = [path for path in masks if path.exists()]
    if any(marked(path) not in (None, mark_of(job.source)) for path in there):
        raise InputError(f"{there[0]} is there, of another image: give another --out, or --overwrite")
    with contextlib.suppress(OSError):
        changed = job.source.stat().st_mtime
        wanted = (*masks, *outputs.others(job).values())
        return all(path.exists() and path.stat().st_mtime >= changed for path in wanted)
    return False  # and reading it will say why


def _inside(folder: Path, left_out: Path | None) -> Iterator[Path]:
    """Give the images of a folder and of its sub-folders, by name; each folder once, whatever links lead to it."""
    seen: set[Path] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
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
        files = (name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."))
        yield from (here / name for name in sorted((*files, *arrays)))


def _ending(path: Path) -> str:
    """Return how the mask of an image ends: TIFF and zarr stay what they are, others become PNG."""
    suffix = path.suffix.lower()
    return suffix if suffix in SUFFIXES else ".png"
