"""Folders of images: reading, computing and writing at the same time, and nothing done twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unetzoo import images
from unetzoo.config import ModelConfig
from unetzoo.errors import ConfigError, InputError, UnetzooError
from unetzoo.files import identity, strict_json
from unetzoo.files.writing import check_place, write_file
from unetzoo.objects.table import check_table
from unetzoo.prediction.annotations import check_shared, write_of_all, write_of_image, write_table
from unetzoo.prediction.beside_rows import Beside
from unetzoo.prediction.inputs import Rows, as_image
from unetzoo.prediction.jobs import find_jobs as find_jobs, is_by_rows, opened
from unetzoo.prediction.ledger import Ledger
from unetzoo.prediction.marks import Mark, is_cut_off, mark_in
from unetzoo.prediction.opened import OpenedRows
from unetzoo.prediction.outputs import (
    LEDGER,
    RECORD as RECORD,
    Job as Job,
    Outputs as Outputs,
    check_outputs as check_outputs,
    mask_paths,
)
from unetzoo.prediction.overlay_by_rows import shrinking
from unetzoo.prediction.predictor import Predictor
from unetzoo.prediction.remarks import told_together
from unetzoo.prediction.results import Prediction, shows_objects, write_masks
from unetzoo.prediction.stored import SUFFIXES, is_big
from unetzoo.printing import printable

SETTINGS = "settings"
"""In marks of masks: a number that is another for other settings."""
SHOWN = "overlay"
"""Beside the settings in a folder's record: how its overlays show masks and objects, so that none are mixed."""
READ_AHEAD = 4
"""Images that wait for the network, and masks that wait to be written, at most."""


@dataclass(frozen=True)
class Outcome:
    """What became of an image; all but ``job`` is None where it was there already.

    Attributes:
        found: what was found, None where it was written by rows.
        objects: how many objects, where they were asked for.
        error: what is wrong with it.
        rows: finished rows of an image that is written by rows, and all of them: it is not through yet where these
            differ.
        background: which share of a slide was left out, as it is no tissue; None where none was looked for.
        shrunk: pixels of the mask, down and across, to one of the overlay, where it was written by rows.
        microns: how large that one is, in µm down and across; None where nothing says so.
    """

    job: Job
    found: Prediction | None = None
    objects: int | None = None
    error: str | None = None
    rows: tuple[int, int] | None = None
    background: float | None = None
    shrunk: float | None = None
    microns: tuple[float, float] | None = None


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


@told_together()
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
        overwrite: do all of them anew. Otherwise an image is skipped whose files are there and whole, and whose mask
            says that the image has not changed since.
        tell: is called for each image when it is through, and after each strip of one that is written by rows. What
            it raises ends the call: it is no image's failure.

    Raises:
        ConfigError: the folder holds masks made with other settings, overlays of another kind, or files of one's own.
        InputError: two files would be written to one place, or over what somebody corrected.
        WriteError: the folder cannot be written.
    """
    outputs = outputs.of_model(predictor.config, predictor.split)
    check_outputs(jobs, outputs, predictor.config)
    if outputs.table is not None:
        check_table(outputs.table)
        check_place(outputs.table)  # or an error hours later
    ledger = Ledger(outputs.folder / LEDGER, overwrite)
    check_shared(outputs, predictor.config, ledger)
    _keep_record(outputs, settings, overwrite)
    report, tell = Report(), _Listener(tell)
    made_under = {SETTINGS: _digest(settings)}
    left = []
    for job in jobs:
        with _reported(report, job, tell):
            _refuse_by_rows(job, outputs, predictor)
            if not overwrite and _is_done(job, outputs, predictor.config, predictor.split, made_under):
                report.skipped.append(job.source)
                tell(Outcome(job))
            else:
                left.append(job)
    with ThreadPoolExecutor(READ_AHEAD) as readers, ThreadPoolExecutor(2) as writers:
        writing: deque[tuple[Job, Prediction, Future[int | None]]] = deque()
        for job, reading in _read_ahead(readers, left):
            with _reported(report, job, tell):
                source, mark = reading.result()
                mark = replace(mark, others=made_under)
                if isinstance(source, OpenedRows):
                    with source:
                        count = _write_rows(predictor, source, job, outputs, settings, tell, mark, ledger)
                    report.done.append(job.source)
                    left_out = None if source.tissue is None else 1 - source.tissue.share
                    rows = (source.height, source.height)
                    shrunk = shrinking(source.height, source.width) if outputs.overlays else None
                    size = None
                    if shrunk is not None and source.mpp is not None:
                        size = source.mpp[0] * shrunk, source.mpp[1] * shrunk
                    tell(Outcome(job, None, count, None, rows, left_out, shrunk, size))
                else:
                    found = predictor(source)
                    writing.append((job, found, writers.submit(_write, found, job, outputs, mark, ledger)))
            _settle(report, writing, READ_AHEAD, tell)
        _settle(report, writing, 0, tell)
    good = [job for job in jobs if job.source not in report.failed]
    write_of_all(good, outputs, predictor.config, predictor.split, ledger)
    write_table(good, outputs, predictor.config, predictor.split)
    return report


def _read_ahead(readers: ThreadPoolExecutor, jobs: Sequence[Job]) -> Iterator[tuple[Job, Future[tuple[Rows, Mark]]]]:
    """Give each job with its image being read, a few ahead of the one that is asked for."""
    waiting: deque[tuple[Job, Future[tuple[Rows, Mark]]]] = deque()
    for job in jobs:
        waiting.append((job, readers.submit(_read, job)))
        if len(waiting) > READ_AHEAD:
            yield waiting.popleft()
    yield from waiting


def _read(job: Job) -> tuple[Rows, Mark]:
    """Return an image, and the mark it has: from before it is read, so that one replaced since is another."""
    if is_by_rows(job):
        rows = opened(job)
        return rows, rows.mark
    mark = Mark.of(job.source)
    image = as_image(job.source, job.planes)
    image.mpp = image.mpp if job.mpp is None else (job.mpp, job.mpp)
    return image, mark


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
    except Exception as error:
        if tell.error is not None:
            raise tell.error from None  # perhaps behind another error, of the file that was being written
        message = str(error) if isinstance(error, UnetzooError) else f"{type(error).__name__}: {error}"
        # Many messages begin with the file's name, which stands before all of them.
        report.failed[job.source] = message.removeprefix(repr(str(job.source))).lstrip(": ").partition("\n")[0]
        tell(Outcome(job, error=report.failed[job.source]))


def _write(found: Prediction, job: Job, outputs: Outputs, mark: Mark, ledger: Ledger) -> int | None:
    """Write all that is wanted of an image, the mask last: where it is, all is. Return the number of objects."""
    count = write_of_image(found, job, outputs, ledger)
    others = outputs.others(job, found.config)
    if "overlays" in others:
        found.overlay(others["overlays"][0], outline=outputs.outline)
    if "probabilities" in others:
        found.save_probabilities(others["probabilities"][0])
    sizes = _sizes(job, others, outputs, found.config, found.split)
    write_masks(outputs.mask(job), found, replace(mark, others={**mark.others, **sizes}))
    return count


def _refuse_by_rows(job: Job, outputs: Outputs, predictor: Predictor) -> None:
    """Raise if an image is read by rows, and something is wanted of it that needs the whole mask in memory."""
    asked = ["probabilities"] if outputs.probabilities else []
    asked += [name for name in outputs.formats if name not in ("labels", "geojson")]
    asked += ["holes"] if predictor.holes else []
    if asked and is_by_rows(job):
        raise InputError(f"so large an image is written by rows, without {', '.join(asked)}: leave that out for it")


def _write_rows(
    predictor: Predictor,
    source: OpenedRows,
    job: Job,
    outputs: Outputs,
    settings: dict[str, Any],
    tell: Tell,
    mark: Mark,
    ledger: Ledger,
) -> int | None:
    """Write all that is wanted of an image by rows. Return the number of objects, as :func:`_write` does."""

    def finished(rows: int) -> None:
        if rows < source.height:
            tell(Outcome(job, rows=(rows, source.height)))

    places = outputs.annotations(job, predictor.config)
    for path in (path for paths in places.values() for path in paths.values()):
        ledger.check(path)
    overlay = outputs.others(job, predictor.config)["overlays"][0] if outputs.overlays else None
    beside = Beside(
        places.get("labels", {}), places.get("geojson", {}).get(None), overlay, outputs.outline, ledger.write
    )
    return predictor.write_rows(source, outputs.mask(job), settings, finished, mark, beside=beside)


def _keep_record(outputs: Outputs, settings: dict[str, Any], overwrite: bool) -> None:
    folder, path = outputs.folder, outputs.folder / RECORD
    if not path.exists() and folder.is_dir() and any(folder.iterdir()):
        what = "files that are not this command's, true masks perhaps"
        raise ConfigError(f"{folder} holds {what}: give a new out=…")
    now, shown = json.loads(json.dumps(settings)), outputs.shown
    if path.exists() and not overwrite:
        try:
            before = strict_json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(before, dict):
                raise ValueError(f"an object is needed, not {type(before).__name__}")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): give another out=…, or overwrite=True") from error
        changed = [
            f"{name}: {before.get(name)!r} there, {now[name]!r} now" for name in now if before.get(name) != now[name]
        ]
        if changed and any(other != path for other in folder.iterdir()):  # else nothing came of the call before
            raise ConfigError(
                f"{folder} holds masks made with other settings: give another out=…, or overwrite=True", changed
            )
        there = before.get(SHOWN)
        if None not in (there, shown) and there != shown:
            raise ConfigError(
                f"{folder / 'overlays'} holds overlays of another kind, {there} and not {shown}: give another out=…, "
                "or overwrite=True"
            )
        shown = shown or there
    write_file(path, json.dumps(settings if shown is None else {**settings, SHOWN: shown}, indent=2))


def _digest(settings: Mapping[str, Any]) -> int:
    """Return a number that is another for other settings; those that are None are as if they were not there."""
    given = {name: value for name, value in settings.items() if value is not None}
    return int(hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:12], 16)


def _is_done(job: Job, outputs: Outputs, config: ModelConfig, split: float, made_under: Mapping[str, int]) -> bool:
    """Return whether all that is wanted of an image is there, whole, and of the image as it is now.

    An ``overwrite`` that was ended early, or was given a part of the images, leaves masks of earlier settings beside
    its own: by their marks these are not done.

    Raises:
        InputError: what is there is another image's, or a file that unetzoo did not write.
    """
    mask, others = outputs.mask(job), outputs.others(job, config)
    masks = mask_paths(mask, config)
    if (job.slide is not None or job.source.suffix.lower() in SUFFIXES) and mask.exists():
        masks = [mask]  # one file, written by rows
    marks = {path: mark_in(path) for path in masks if path.exists()}
    stranger = [path for path, mark in marks.items() if mark is not None and mark.place != identity.place(job.source)]
    stranger += [path for paths in others.values() for path in paths if path.exists() and mark_in(path) is not None]
    if stranger:
        raise InputError(f"{printable(stranger[0])} is there, of another image: give another out=…, or overwrite=True")
    changed = [path for path, mark in marks.items() if mark is None and _is_whole(path)]
    if changed:
        what = "and not as it was written, corrected by hand perhaps"
        raise InputError(f"{printable(changed[0])} is there, {what}: move it away, or overwrite=True")
    try:
        now = Mark.of(job.source)
    except OSError:
        return False  # and reading it will say why
    if len(marks) < len(masks) or not all(mark is not None and mark.same_image(now) for mark in marks.values()):
        return False
    if not all(path.is_file() for paths in others.values() for path in paths):
        return False
    wanted = {**_sizes(job, others, outputs, config, split), **made_under}
    # Marks of earlier versions say nothing of settings.
    return all(wanted.items() <= {**made_under, **mark.others}.items() for mark in marks.values() if mark is not None)


def _sizes(
    job: Job, others: dict[str, list[Path]], outputs: Outputs, config: ModelConfig, split: float
) -> dict[str, int]:
    """Return the bytes of what is written with a mask, by the names that its mark has for it."""
    objects = shows_objects(config, split) and not is_by_rows(job)
    return {outputs.marked(kind, objects): sum(path.stat().st_size for path in paths) for kind, paths in others.items()}


def _is_whole(path: Path) -> bool:
    """Return whether a file is a mask that can be read."""
    if path.is_dir():
        return True
    if is_cut_off(path):
        return False
    if is_big(path):
        return True
    try:
        images.read_values(path)
    except InputError:
        return False
    return True
