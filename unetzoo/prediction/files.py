"""Predicts folders of images: reads, computes and writes at the same time, and does nothing twice."""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unetzoo.errors import ConfigError, InputError, UnetzooError
from unetzoo.files import strict_json
from unetzoo.files.writing import write_file
from unetzoo.prediction.annotations import check_shared, write_of_all, write_of_image
from unetzoo.prediction.beside_rows import Beside
from unetzoo.prediction.differences import differences
from unetzoo.prediction.existing import SIZE, found_there, sizes_of
from unetzoo.prediction.inputs import Rows, as_image
from unetzoo.prediction.jobs import find_jobs as find_jobs, is_by_rows, opened
from unetzoo.prediction.ledger import Ledger
from unetzoo.prediction.marks import Mark
from unetzoo.prediction.opened import OpenedRows
from unetzoo.prediction.outputs import (
    LEDGER,
    RECORD as RECORD,
    Job as Job,
    Outputs as Outputs,
    check_outputs as check_outputs,
)
from unetzoo.prediction.overlay_by_rows import shrinking
from unetzoo.prediction.pixel_size import size_of
from unetzoo.prediction.predictor import Predictor
from unetzoo.prediction.remarks import told_together
from unetzoo.prediction.results import Prediction, write_masks
from unetzoo.prediction.tables import write_tables

SETTINGS = "settings"
"""Entry in the marks of masks: a hash of the settings."""
STORED = "mpp_stored"
"""Entry next to the settings in a folder's record: the size that was given for images whose files state none."""
SHOWN = "overlay"
"""Entry next to the settings in a folder's record: how its overlays show masks and objects, so that none are mixed."""
READ_AHEAD = 4
"""Largest number of images that wait for the network, and of masks that wait to be written."""


@dataclass(frozen=True)
class Outcome:
    """The result for an image; everything but ``job`` is None if its mask existed already.

    Attributes:
        found: the prediction; None if it was written by rows.
        objects: the number of objects, if they were requested.
        error: what is wrong with the image.
        rows: for an image that is written by rows, the finished rows and all rows; while they differ, the image is
            not done yet.
        background: the share of a slide that was left out because it is not tissue; None if tissue was not looked for.
        shrunk: how many pixels of the mask, in each direction, one pixel of the overlay covers, if written by rows.
        microns: the size of a pixel of the overlay in µm, down and across; None if unknown.
        corrected: whether its mask or label image existed, and was corrected by hand.
    """

    job: Job
    found: Prediction | None = None
    objects: int | None = None
    error: str | None = None
    rows: tuple[int, int] | None = None
    background: float | None = None
    shrunk: float | None = None
    microns: tuple[float, float] | None = None
    corrected: bool = False


Tell = Callable[[Outcome], object]


class _Listener:
    """Calls a listener, and keeps the listener's own errors (closed pipe, full disk) apart from those of images.

    Args:
        tell: the listener to call.

    Attributes:
        error: the exception that it raised.
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
    """The result for a folder.

    Attributes:
        done: images that were segmented.
        skipped: images whose masks existed already.
        corrected: those of them whose masks or label images were corrected by hand.
        failed: image → what is wrong with it.
    """

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    corrected: list[Path] = field(default_factory=list)
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
    """Segment images into a folder. A bad file does not stop the others, and existing masks are not computed again.

    Separate threads read images and write masks; at most ``READ_AHEAD`` of each are waiting.

    Args:
        predictor: segments the images.
        jobs: from :func:`find_jobs`.
        outputs: what is written, and where.
        settings: can be written as JSON; kept in the folder as ``.unetzoo.json``.
        overwrite: segment all images again. Otherwise an image is skipped if its files exist and are complete, and its
            mask shows that the image has not changed since.
        tell: called for each image when it is done, and after each strip of an image that is written by rows. An
            exception that it raises ends the call: it does not count as a failure of the image.

    Raises:
        ConfigError: the folder holds masks made with other settings, overlays of another kind, or files of your own.
        InputError: two files would be written to one place, or over a file that somebody corrected.
        WriteError: the folder cannot be written.
    """
    outputs = outputs.of_model(predictor.config, predictor.split)
    check_outputs(jobs, outputs, predictor.config)
    outputs.check_tables()
    ledger = Ledger(outputs.folder / LEDGER, overwrite)
    check_shared(outputs, predictor.config, ledger)
    stored = next((job.mpp for job in jobs if job.slide is None), None)
    _keep_record(outputs, settings, stored, overwrite)
    report, tell = Report(), _Listener(tell)
    made_under = {SETTINGS: _digest(settings), **({} if stored is None else {SIZE: round(stored * 1e6)})}
    left = []
    for job in jobs:
        with _reported(report, job, tell):
            _refuse_by_rows(job, outputs, predictor)
            there = None if overwrite else found_there(job, outputs, predictor, made_under, ledger)
            if there is not None:
                report.skipped.append(job.source)
                report.corrected += [job.source] if there.corrected else []
                tell(Outcome(job, corrected=there.corrected))
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
    write_tables(good, outputs, predictor.config, predictor.split, ledger)
    return report


def _read_ahead(readers: ThreadPoolExecutor, jobs: Sequence[Job]) -> Iterator[tuple[Job, Future[tuple[Rows, Mark]]]]:
    """Give each job with the future of its image, and start reading a few images ahead."""
    waiting: deque[tuple[Job, Future[tuple[Rows, Mark]]]] = deque()
    for job in jobs:
        # In a copy of the context, where the remarks on all images are collected.
        waiting.append((job, readers.submit(contextvars.copy_context().run, _read, job)))
        if len(waiting) > READ_AHEAD:
            yield waiting.popleft()
    yield from waiting


def _read(job: Job) -> tuple[Rows, Mark]:
    """Return an image, and its mark from before it is read: if the file is replaced meanwhile, the marks differ."""
    if is_by_rows(job):
        rows = opened(job)
        return rows, rows.mark
    mark = Mark.of(job.source)
    image = as_image(job.source, job.planes)
    image.mpp = size_of(image.name, image.mpp, job.mpp)
    return image, mark


def _settle(
    report: Report, writing: deque[tuple[Job, Prediction, Future[int | None]]], most: int, tell: _Listener
) -> None:
    """Wait until at most ``most`` masks are still being written."""
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
    # One image may fail, for lack of memory for example, where the next does not: each failure is in the report.
    except Exception as error:
        if tell.error is not None:
            raise tell.error from None  # it may be hidden by another error, of the file that was being written
        message = str(error) if isinstance(error, UnetzooError) else f"{type(error).__name__}: {error}"
        # Many messages begin with the file's name, which the report puts before all of them.
        report.failed[job.source] = message.removeprefix(repr(str(job.source))).lstrip(": ").partition("\n")[0]
        tell(Outcome(job, error=report.failed[job.source]))


def _write(found: Prediction, job: Job, outputs: Outputs, mark: Mark, ledger: Ledger) -> int | None:
    """Write all outputs of an image and return its number of objects. The mask is last: if it exists, all else does."""
    count = write_of_image(found, job, outputs, ledger)
    others = outputs.others(job, found.config)
    if "overlays" in others:
        found.overlay(others["overlays"][0], outline=outputs.outline)
    if "probabilities" in others:
        found.save_probabilities(others["probabilities"][0])
    sizes = sizes_of(job, others, outputs, found.config, found.split)
    write_masks(outputs.mask(job), found, replace(mark, others={**mark.others, **sizes}))
    return count


def _refuse_by_rows(job: Job, outputs: Outputs, predictor: Predictor) -> None:
    """Raise if an image is read by rows, and a requested output needs the complete mask in memory."""
    asked = ["probabilities"] if outputs.probabilities else []
    asked += [name for name in outputs.formats if name not in ("labels", "geojson")]
    asked += ["holes"] if predictor.holes else []
    if asked and is_by_rows(job):
        raise InputError(
            f"this image is so large that it is written by rows, without {', '.join(asked)}: leave that out for this "
            "image"
        )


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
    """Write all outputs of an image by rows. Return the number of objects, as :func:`_write` does."""

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


def _keep_record(outputs: Outputs, settings: dict[str, Any], size: float | None, overwrite: bool) -> None:
    folder, path = outputs.folder, outputs.folder / RECORD
    if not path.exists() and folder.is_dir() and any(folder.iterdir()):
        what = "files that this command did not write, perhaps ground truth"
        raise ConfigError(f"{folder} contains {what}: give a new out=…")
    now, shown = json.loads(json.dumps(settings)), outputs.shown
    if path.exists() and not overwrite:
        try:
            before = strict_json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(before, dict):
                raise ValueError(f"an object is needed, not {type(before).__name__}")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): give another out=…, or overwrite=True") from error
        if before.get(STORED) is not None:  # files without a size contradict none
            now[STORED] = size
        changed = differences(before, now)
        if changed and any(other != path for other in folder.iterdir()):  # else the call before wrote nothing
            raise ConfigError(
                f"{folder} holds masks made with other settings: give the same ones, another out=…, or overwrite=True, "
                "which loses what was corrected by hand",
                changed,
            )
        there = before.get(SHOWN)
        if None not in (there, shown) and there != shown:
            raise ConfigError(
                f"{folder / 'overlays'} holds overlays of another kind ({there}, not {shown}): give another out=…, "
                "or overwrite=True"
            )
        shown = shown or there
    more = {name: value for name, value in ((SHOWN, shown), (STORED, size)) if value is not None}
    write_file(path, json.dumps({**settings, **more}, indent=2))


def _digest(settings: Mapping[str, Any]) -> int:
    """Return a hash of the settings, as a number; settings that are None are ignored."""
    given = {name: value for name, value in settings.items() if value is not None}
    return int(hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:12], 16)
