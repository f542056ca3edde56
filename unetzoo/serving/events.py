"""Handles events on the page: uploads, moved sliders, pressed buttons."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unetzoo.errors import ConfigError
from unetzoo.objects.separating import separable
from unetzoo.objects.table import check_table
from unetzoo.prediction import Predictor
from unetzoo.prediction.results import shows_objects
from unetzoo.serving import counts, files, parts
from unetzoo.serving.answers import Segmented
from unetzoo.serving.limits import FILES, Limits
from unetzoo.serving.pictures import Picture, picture
from unetzoo.serving.samples import samples
from unetzoo.serving.tray import Entry, Tray
from unetzoo.serving.warnings import warnings

VIEWS = ("Coloured areas", "Outlines only", "Mask alone", "Image alone")
"""Ways to look at an image."""
ROWS = 2000
"""Most rows of the table of objects; files have all of them."""


class Events:
    """Handlers for uploads, sliders and buttons: they take the values of components and return new ones.

    Args:
        gradio: the module.
        predictor: of the model.
        limits: of images.
    """

    def __init__(self, gradio: Any, predictor: Predictor, limits: Limits) -> None:
        self.gradio = gradio
        self.predictor = predictor
        self.limits = limits
        self.samples = samples(predictor.config)
        self.invitation = parts.note(
            f"PNG, JPEG, TIFF, WebP, GIF or BMP; up to {FILES} images at once, together up to "
            f"{limits.megapixels:g} megapixels and {limits.megabytes:g} MB."
        )
        self.counts = shows_objects(predictor.config, predictor.split)
        # For a model that separates objects; if `split` was given, the server has refused already.
        missing = predictor.config.task == "instances" and not separable(predictor.split)
        self.uncounted = " Objects are not counted: this needs pip install 'unetzoo[objects]'." if missing else ""
        self.measures = self.counts and _can_measure()
        self.files = ["mask", "overlay", *(files.FORMATS if self.counts else ()), *(["table"] if self.measures else [])]

    def ask(
        self, paths: Sequence[str] | None, tray: Tray | None, turn: int, threshold: float, opacity: float, view: str
    ) -> list[Any]:
        """Segment the first waiting image; return the state, the turn, and what is shown.

        If the turn changes, the page calls this again, so that other visitors can be served in between.
        """
        tray = Tray() if tray is None else tray
        before = tray.current
        tray.follow(paths or [])
        left = tray.step(self.predictor, self.limits)
        if before is None or tray.current is not before:
            return [tray, turn + left, *self.shown(tray, threshold, opacity, view)]
        same = [self.gradio.update()] * 3
        return [tray, turn + left, *self._beside(tray), *same, *self._buttons(tray)]

    def choose(self, number: object, tray: Tray | None, threshold: float, opacity: float, view: str) -> list[Any]:
        """Show another image; return what is shown."""
        if tray is not None:
            tray.choose(number)
        return self.shown(tray, threshold, opacity, view)

    def repaint(self, tray: Tray | None, threshold: float, opacity: float, view: str) -> Any:
        """Return only the picture, with another opacity or view."""
        seen = None if tray is None else tray.seen(threshold)
        return "" if seen is None else self._view(seen, opacity, view)

    def shown(self, tray: Tray | None, threshold: float, opacity: float, view: str) -> list[Any]:
        """Return note, images to choose from, picture, legend, table, and whether each file can be downloaded.

        The network does not run.
        """
        tray = Tray() if tray is None else tray
        seen = tray.seen(threshold)
        middle = ["", "", ""]
        if seen is not None:
            middle = [self._view(seen, opacity, view), parts.legend_html(counts.legend(seen)), self._table(seen)]
        return [*self._beside(tray), *middle, *self._buttons(tray)]

    def sample(self, number: object, paths: Sequence[str] | None) -> list[str]:
        """Return the list of files with a sample image added; an invalid number adds nothing."""
        kept = list(paths or [])
        if type(number) is not int or not 0 <= number < len(self.samples):
            return kept
        drawn = self.samples[number]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / drawn.file
            file.write_bytes(drawn.content)
            return [*kept, self._kept(file)]

    def write(self, kind: str, tray: Tray | None, threshold: float, opacity: float, view: str) -> str:
        """Write a file for the current image, in full size; return its path."""
        seen = None if tray is None else tray.seen(threshold)
        if tray is None or seen is None or tray.current is None:
            raise self.gradio.Error("This image is no longer on the server: send it again.", print_exception=False)
        outline, name = view == VIEWS[1], tray.current.name
        writers: dict[str, Callable[[Path], Path]] = {
            "mask": lambda folder: files.write_masks(seen, folder),
            "overlay": lambda folder: files.write_overlay(seen, opacity, folder, outline=outline),
            "table": lambda folder: files.write_table([(name, seen)], folder / f"{Path(name).stem}_objects.csv"),
            "all": lambda folder: files.write_all(
                tray.all_seen(threshold), opacity, folder, outline=outline, measures=self.measures
            ),
        }
        if kind not in writers:
            writers[kind] = lambda folder: files.write_objects(seen, kind, folder)
        with tempfile.TemporaryDirectory() as folder:
            return self._kept(writers[kind](Path(folder)))

    def _beside(self, tray: Tray) -> list[Any]:
        """Return the note, and the images to choose from."""
        thumbnails = [
            parts.Thumbnail(entry.name, entry.thumbnail, "waiting" if entry.waits else "refused", entry is tray.current)
            for entry in tray.entries
        ]
        return [self._said(tray), parts.strip(thumbnails, "Your images")]

    def _said(self, tray: Tray) -> str:
        if not tray.entries:
            return self.invitation
        refused = "".join(parts.refusal(entry.refusal) for entry in tray.entries if entry.refusal is not None)
        said = self._done(tray.current) if tray.current is not None else ""
        if len(tray.entries) > 1:
            done = sum(not entry.waits for entry in tray.entries)
            said = f"{said} {done} of {len(tray.entries)} images are done."
        remarks = [remark for entry in tray.entries if entry.answer is not None for remark in entry.answer.remarks]
        warned = "".join(parts.warning(warning) for warning in warnings(remarks))
        return (parts.note(said.strip()) if said else "") + warned + refused

    def _done(self, entry: Entry) -> str:
        assert entry.answer is not None
        height, width = entry.answer.image.shape[1:]
        return f"{entry.name}: {width} × {height} pixels, segmented in {entry.seconds:.1f} s.{self.uncounted}"

    def _view(self, seen: Segmented, opacity: float, view: str) -> str:
        small, rows = picture(seen).fitted(), counts.legend(seen)
        shown = seen.prediction
        said = parts.description(shown.name or "image", shown.mask.shape[-2:], view.lower(), rows)
        return parts.view(_drawn(small, opacity, view), said)

    def _table(self, seen: Segmented) -> str:
        if seen.objects is None:
            return ""
        return parts.object_table(counts.measured(seen, ROWS), counts.intensity_names(seen), len(seen.objects))

    def _buttons(self, tray: Tray) -> list[Any]:
        return [self.gradio.update(interactive=tray.current is not None)] * (len(self.files) + 1)

    def _kept(self, file: Path) -> str:
        """Copy a file to where visitors can download it; return its path."""
        kept = os.environ["GRADIO_TEMP_DIR"]
        return str(self.gradio.processing_utils.save_file_to_cache(file, cache_dir=kept))


def _drawn(small: Picture, opacity: float, view: str) -> Any:
    if view == VIEWS[3]:
        return small.image
    return small.painted() if view == VIEWS[2] else small.overlaid(opacity, outline=view == VIEWS[1])


def _can_measure() -> bool:
    try:
        check_table("objects.csv")
    except ConfigError:  # a package to measure objects is not installed
        return False
    return True
